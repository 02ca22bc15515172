"""Recognition: the weights that a graph computes, each explained by structure and by number."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from onnx import AttributeProto, helper

from sn_graph.model import Model
from sn_graph.recognise.chains import Chain, chains
from sn_graph.recognise.divisors import Divisor, levels
from sn_graph.recognise.evaluate import Evaluator, NotComputable, Place
from sn_graph.recognise.explanation import Explanation
from sn_graph.recognise.forms import Form
from sn_graph.recognise.matrices import operands, transposed
from sn_graph.recognise.operations import Array, product
from sn_graph.recognise.sigma import Estimate, Matcher, Stored, is_leading
from sn_graph.recognise.trace import Tracer, Value, element_type
from sn_graph.recognise.weight_norm import normalized_weight
from sn_graph.sites import Site


def recognise(model: Model, sites: Iterable[Site]) -> dict[str, Explanation]:
    """Explain the weights that the graph computes from constants, by the ids of their sites.

    Args:
        model: The model.
        sites: Its sites, as `find_sites` gives them; those that the graph does not compute are passed over.
    """
    recogniser = _Recogniser(model)
    found = {}
    for site in sites:
        if site.is_computed:
            found[site.id] = recogniser.explain(site)
            model.let_go()
    return _by_turns(found)


def _by_turns(found: dict[str, Explanation]) -> dict[str, Explanation]:
    """Return explanations of which those of a layer that is called again count their own iterations alone.

    Exported in train mode, the second call goes on from the first one's u.
    """
    turns: dict[tuple[Place, tuple[str, ...]], list[str]] = {}
    for key, one in found.items():
        if one.k is not None and one.original is not None and one.u is not None:
            turns.setdefault((one.original.place, one.u), []).append(key)
    for keys in turns.values():
        before = 0
        for turn, key in enumerate(sorted(keys, key=lambda key: _half_steps(found[key]))):
            steps = _half_steps(found[key])
            if len(keys) > 1 and steps > before:
                note = f"use {turn + 1} of {len(keys)} of one weight, each with its own σ, which goes on from the last"
                k = (steps - before + 1) // 2
                found[key] = replace(found[key], k=k, turn=turn, notes=(*found[key].notes, note))
            before = steps
    return found


def _half_steps(found: Explanation) -> int:
    return 0 if found.estimate is None else found.estimate.half_steps


class _Recogniser:
    def __init__(self, model: Model) -> None:
        self._model = model

    def explain(self, site: Site) -> Explanation:
        # A tracer for each, so that no more than one weight's values are in memory.
        tracer = Tracer(self._model.graph, Evaluator(self._model))
        slot = Value(site.scope, site.weight)
        unknown = Explanation(Form.COMPUTED, "", slot, shape=site.shape, dtype=site.dtype)
        try:
            dtype = helper.tensor_dtype_to_np_dtype(element_type(tracer, slot)).name
            unknown = replace(unknown, shape=tracer.shape(slot), dtype=dtype)
            candidates = chains(tracer, slot)
            found = [self._normalized(tracer, chain) or self._otherwise(tracer, chain) for chain in candidates]
            if found and all(found):
                return self._joined(unknown, [one for one in found if one is not None])
            direction = normalized_weight(tracer, slot)
        except NotComputable:
            return unknown
        if direction is not None:
            note = "weight normalization, which lift --to fold stores"
            return replace(unknown, form=Form.WEIGHT_NORM, original=direction, notes=(note,))
        if any(self._scaled_by_itself(tracer, chain) for chain in candidates):
            return replace(unknown, why="divided by a norm of its own that is not the spectral norm of its matrix")
        return unknown

    def _joined(self, unknown: Explanation, found: list[Explanation]) -> Explanation:
        """Return the explanation of a slot by that of its parts, of which more than one are joined by Concat."""
        worst = next((one for one in found if not one.form.is_spectral_norm), found[0])
        notes = worst.notes
        if len(found) > 1:
            notes = (*notes, f"joined of {len(found)} weights, each with its own norm; σ is that of the first")
        parts = tuple(found)
        return replace(worst, slot=unknown.slot, shape=unknown.shape, dtype=unknown.dtype, notes=notes, parts=parts)

    def _normalized(self, tracer: Tracer, chain: Chain) -> Explanation | None:
        """Explain a chain by an estimate of the norm of a matrix of its tensor; None where there is none."""
        found = operands(tracer, chain.scalar, tracer.array(chain.tensor)) if self._has_product(tracer, chain) else None
        if found is None or not found.views:
            return None
        tensor = tracer.array(chain.tensor)
        vectors, small = _stored(tracer, chain)
        matcher = Matcher(tensor, found.views, vectors, small, found.depth)
        passed = []
        for level in levels(tracer, chain.scalar):
            estimate = matcher.match(level.number) if level.number else None
            if estimate is None:
                passed.append(level)
                continue
            shape = tracer.shape(level.value)
            divisor = Divisor(self._model, chain.scalar, chain.inverse, level.value, shape, tuple(passed))
            return self._spectral_norm(tracer, chain, divisor, estimate, tensor)
        return None

    def _has_product(self, tracer: Tracer, chain: Chain) -> bool:
        return any(node.op_type in ("MatMul", "Gemm", "Einsum") for node in tracer.nodes(chain.scalar))

    def _spectral_norm(
        self, tracer: Tracer, chain: Chain, divisor: Divisor, estimate: Estimate, tensor: Array
    ) -> Explanation:
        estimate = _oriented(estimate, tensor.shape)
        slot = chain.made
        original = _origin(tracer, chain.tensor)
        cap, gain = divisor.cap_and_gain()
        vectors = [one for one in (estimate.left, estimate.right) if one is not None]
        base = Explanation(
            Form.SPECTRAL_NORM,
            "",
            slot,
            original,
            chain=chain,
            divisor=divisor,
            estimate=estimate,
            tensor_shape=tuple(tensor.shape),
            sigma_graph=estimate.sigma,
            gain=_plain(gain * chain.gain),
            cap=cap,
            u=tuple(one.name for one in vectors),
        )
        if not is_leading(estimate.view.matrix(tensor), estimate):
            why = "divided by a singular value of its matrix that is not the largest (σ₂?), which lift leaves as it is"
            return replace(base, form=Form.NORMALIZED_OTHERWISE, why=why)
        if estimate.half_steps < 2:  # σ of the stored vectors themselves
            return base
        k = (estimate.half_steps + 1) // 2
        of_torch = _of_torch(vectors[0], original, tracer, chain)
        form = Form.SPECTRAL_NORM_TRAIN if of_torch else Form.SPECTRAL_NORM_ITERATED
        counted = f"{k} iteration{'s' if k > 1 else ''}"
        first = _first_sigma(estimate, tensor)
        note = (
            f"{counted} from the stored {vectors[0].name} in the graph: σ {estimate.sigma:.6g}, before them {first:.6g}"
        )
        return replace(base, form=form, k=k, notes=(note,))

    def _otherwise(self, tracer: Tracer, chain: Chain) -> Explanation | None:
        """Explain a chain whose tensor is divided by another norm of itself; None where it is no norm of a matrix."""
        what = _other_norm(tracer, chain)
        if what is None:
            return None
        why = f"divided by {what}, which is not the spectral norm of its matrix and which lift leaves as it is"
        original = _origin(tracer, chain.tensor)
        return Explanation(Form.NORMALIZED_OTHERWISE, why, chain.made, original, chain=chain)

    def _scaled_by_itself(self, tracer: Tracer, chain: Chain) -> bool:
        return not tracer.is_fixed(chain.scalar)


def _other_norm(tracer: Tracer, chain: Chain) -> str | None:
    nodes = tracer.nodes(chain.scalar)
    kinds = {node.op_type for node in nodes}
    own = {leaf.place for leaf in tracer.leaves(chain.tensor)}
    if not own & {leaf.place for leaf in tracer.leaves(chain.scalar)}:
        shape = tracer.shape(chain.tensor)
        if not any(np.prod(tracer.shape(leaf)) == np.prod(shape) for leaf in tracer.leaves(chain.scalar)):
            return None
    if kinds & {"Conv", "ConvTranspose"}:
        return "the norm of its convolution at one input size"
    if kinds & {"MatMul", "Gemm", "Einsum"}:
        return "a number that products with it give, no estimate of its largest singular value from a stored vector"
    tensor = np.abs(tracer.array(chain.tensor).astype(np.float64))
    matrix = tensor.reshape(tensor.shape[0], -1)
    bound = float(np.sqrt(matrix.sum(0).max() * matrix.sum(1).max()))
    if any(abs(level.number - bound) <= 1e-6 * bound for level in levels(tracer, chain.scalar)):
        return "√(‖W‖₁·‖W‖∞), an upper bound of its norm"
    return None


def _origin(tracer: Tracer, tensor: Value) -> Value | None:
    """Return the stored tensor that a value is a rearrangement or a multiple of; None where it is neither."""
    node = tracer.producer(tensor)
    if node is None or (node.is_standard and node.op_type == "Constant"):
        return tensor
    inputs = tracer.inputs(node)
    if node.op_type in ("Mul", "Div"):
        rest = [one for one in inputs if not tracer.is_fixed(one)]
        inputs = rest if len(rest) == 1 else inputs[:1]
    return _origin(tracer, inputs[0]) if inputs else None


def _stored(tracer: Tracer, chain: Chain) -> tuple[list[Stored], list[float]]:
    """Return the stored vectors that a chain's scalar is made of, and the small constants."""
    vectors, small, scalar = [], [], chain.scalar
    own = {leaf.place for leaf in tracer.leaves(chain.tensor)}
    for leaf in tracer.leaves(scalar):
        shape = tracer.shape(leaf)
        if leaf.place in own or sum(size > 1 for size in shape) > 1 or 0 in shape:
            continue
        array = tracer.array(leaf)
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            continue
        if array.size == 1 and 0.0 < float(array.reshape(-1)[0]) < _SMALL:
            small.append(float(array.reshape(-1)[0]))
        elif array.ndim:
            vectors.append(Stored(leaf.name, array.reshape(-1).astype(np.float64)))
    attributes = (
        node.attribute("min", AttributeProto.FLOAT) for node in tracer.nodes(scalar) if node.op_type == "Clip"
    )
    small += [float(floor) for floor in attributes if floor is not None and 0.0 < floor < _SMALL]
    return vectors, list(dict.fromkeys(small))


_SMALL = 0.1


def _oriented(estimate: Estimate, shape: Sequence[int]) -> Estimate:
    """Return an estimate with u on the rows, as names tell.

    The rows of W [out, in], or of W [out, in, 1, 1], may be those of axis 1 just as well.
    """
    left, right = estimate.left, estimate.right
    if (left is not None and _is_called(left, "v")) or (right is not None and _is_called(right, "u")):
        return replace(estimate, view=transposed(estimate.view, shape), left=right, right=left)
    return estimate


def _first_sigma(estimate: Estimate, tensor: Array) -> float:
    """Return the σ that a stored vector gives before any iteration: the length of its image."""
    matrix = estimate.view.matrix(tensor)
    if estimate.left is not None:
        return float(np.linalg.norm(product(matrix.T, estimate.left.elements)))
    return 0.0 if estimate.right is None else float(np.linalg.norm(product(matrix, estimate.right.elements)))


def _is_called(vector: Stored, letter: str) -> bool:
    """Say whether a vector is named as frameworks name u or v: weight_u, 0._u, u, u0."""
    last = vector.name.rpartition(".")[2].rstrip("0123456789")
    return last == letter or last.endswith(f"_{letter}")


def _of_torch(vector: Stored, original: Value | None, tracer: Tracer, chain: Chain) -> bool:
    """Say whether a stored vector is torch's own, which iterates in train mode alone: by the names, or by its rank."""
    last = vector.name.rpartition(".")[2]
    named = original is not None and (original.name.endswith("_orig") or "parametrizations." in original.name)
    if named or last in ("_u", "_v", "weight_u", "weight_v"):
        return True
    if _is_called(vector, "u") or _is_called(vector, "v"):
        return False
    leaf = next(leaf for leaf in tracer.leaves(chain.scalar) if leaf.name == vector.name)
    return len(tracer.shape(leaf)) == 1


def _plain(number: float) -> float:
    """Return a number without the rounding of its way: 1 where it is as near."""
    return 1.0 if abs(number - 1.0) < 1e-6 else number


def reads_inputs(site: Site) -> bool:
    """Say whether a weight that a local function computes depends on the function's inputs."""
    waiting, seen = [site.weight], {site.weight}
    while waiting:
        name = waiting.pop()
        maker = site.scope.producers.get(name)
        if maker is None and name in site.scope.inputs:
            return True
        fresh = [] if maker is None else [one for one in maker.proto.input if one and one not in seen]
        seen.update(fresh)
        waiting += fresh
    return False
