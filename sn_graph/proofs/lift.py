"""Proving a lifted model before it takes its place.

Structure: every node and tensor of the written file is the source's, but for the arithmetic that is gone and the
weights that stand for it. Weights: onnxruntime computes the arithmetic of the source by itself, and gives what is
stored now; with exact σ, the matrix of each stored weight has the norm that was promised. Run: the outputs are the
source's; of a large model, which onnxruntime would hold several times over, the other two are the proof.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sn_graph.errors import ModelError, UsageError, VerificationFailed
from sn_graph.model import Graph, Model, Node, constants_by_key, random_ops
from sn_graph.passes import LiftedSigma, LiftResult
from sn_graph.proofs.proof import Proof, Terms
from sn_graph.recognise import Explanation
from sn_graph.rewrite import Settled
from sn_graph.runtime import compare_sides, lean_side, make_feeds
from sn_graph.runtime.engine import weights_size
from sn_graph.sites import cast_type
from sn_graph.spectral.matrix import spectral_norm

_CLOSE = 4e-6  # of the largest element: float32 sums of a badly started u cancel, and runtimes order them differently
_EXACT = 2e-6


def prove_lift(result: LiftResult, source: Model, written: Path, terms: Terms) -> Proof:
    """Prove that the file `written` is `source` with its computed weights stored. Raises VerificationFailed."""
    model = Model.open(written)
    if not result.settled:
        if model.to_proto() != source.to_proto():
            raise VerificationFailed("nothing was lifted, and yet the written model is not the one that was read")
        return Proof("structure", "there was nothing to lift, and it is the model as it was")
    _check_rest(source, model, result.settled)
    exact = result.options.sigma is LiftedSigma.EXACT
    if exact:
        _check_norms(result, model)
    drawn = random_ops(source)
    if drawn:
        return Proof("structure", f"it draws random numbers ({', '.join(drawn)}), so no two runs agree")
    try:
        passed = frozenset() if exact else _check_weights(source, model, result.settled)
        if weights_size(source) > _WHOLE and not any(one.scope for one in result.settled):
            return _loaded(model, exact)
        feeds = make_feeds(source, inputs=terms.inputs, dims=terms.dims)
        original = lean_side(source, "the original")
        list(original.run(feeds))
    except (ModelError, UsageError) as error:
        return Proof("structure", f"the original can't be run, so there is nothing to compare with: {error.reason}")
    lifted = lean_side(model, "the lifted model")
    try:
        if exact:
            list(lifted.run(feeds))
            why = "its outputs are not the export's, because σ is exact: each stored norm was looked at"
            return Proof("run", why).with_note(feeds.note)
        parity = compare_sides(original, lifted, feeds, rtol=terms.rtol, atol=terms.atol, passed=passed)
    except ModelError as error:
        raise VerificationFailed("the lifted model does not run", str(error)) from None
    parity.raise_if_different()
    return Proof("run", parity.doubt, parity=parity).with_note(feeds.note)


def _loaded(model: Model, exact: bool) -> Proof:
    """Return the proof of a large model: every weight was looked at, all else is the source's, and it can be loaded."""
    try:
        lean_side(model, "the lifted model").open()
    except ModelError as error:
        raise VerificationFailed("the lifted model can't be loaded", str(error)) from None
    looked = "each stored norm was looked at" if exact else "onnxruntime computed each weight as the original does"
    return Proof("run", f"{looked}; all else is the original's, and was not run as a whole")


def prove_carried(lifted: LiftResult) -> None:
    """Prove that an insertion goes on with the weights of an export. Raises VerificationFailed.

    What is stored is, but for a factor, what onnxruntime computes of the export's arithmetic; and the factor is the one
    that the target norm, or the cap, and the export's own σ give.
    """
    source, plan = lifted.source, lifted.plan
    if source is None or plan is None:
        return
    _check_rest(source, lifted.model, lifted.settled)
    carried = {one.id: one for one in lifted.carried}
    known = (site.explanation for site in plan.sites)
    found = {each.slot.place: each for each in known if each is not None}
    stored = constants_by_key(lifted.model.graph)
    for one in (one for one in lifted.settled if not one.scope):
        explanation = found[one.scope, one.value]
        target = carried[f"{one.holder}::{one.name}" if one.holder else one.name]
        if explanation.sigma_graph is None or explanation.gain is None:
            continue
        arithmetic = _arithmetic(source, one.value)
        try:
            made = next(iter(lean_side(arithmetic, "the original's weights").run([{}])))[one.value]
        except ModelError:
            return  # then the insertion's own proof says that nothing can be run
        weight = lifted.model.array(stored[one.holder, one.name])
        # Where there is a cap, the gain is in the stored weight, and in its σ.
        sigma = explanation.sigma_graph * (explanation.gain if target.clip else 1.0)
        divisor = sigma / target.bound
        divisor = max(1.0, divisor) if target.clip else divisor
        unit = max(map(_unit, [made.dtype, *_types(arithmetic)]))
        if weight.shape != made.shape or not _close(weight, made, max(_CARRIED, 4 * unit), divisor):
            raise VerificationFailed(f"weight '{one.name}' and its norm are not those of the original")
        source.let_go()


# An eps beside a cap is not carried on: torch's soft caps add 1e-5.
_CARRIED = 1e-4


def _check_rest(source: Model, model: Model, settled: tuple[Settled, ...]) -> None:
    """Raise where something else than the arithmetic of the lifted weights is not as it was."""
    new = {(one.holder, one.name) for one in settled}
    before = constants_by_key(source.graph)
    for key, tensor in constants_by_key(model.graph).items():
        if key in new:
            continue
        if key not in before or not _same_data(source, before[key], model, tensor):
            raise VerificationFailed(f"tensor '{key[1]}' is not the original's, though it was to stay")
    computed = {one.name: one.value for one in settled}
    known = {_key(node): node for scope in source.graph.scopes for node in scope.nodes}
    for scope in model.graph.scopes:
        for node in scope.nodes:
            made = [name for name in node.proto.output if name]
            if any((scope.id, name) in new for name in made):
                continue
            if node.op_type == "Identity" and made[0] in computed.values():
                continue
            if _key(node) not in known or not _same(known[_key(node)], node, computed):
                raise VerificationFailed(f"node '{node.path}' is not the original's, though it was to stay")


def _same_data(source: Model, before: onnx.TensorProto, model: Model, after: onnx.TensorProto) -> bool:
    left, right = source.payload(before), model.payload(after)
    if left is None or right is None:  # none, strings, or numbers that are not packed
        return left is right and before == after
    return before.dims == after.dims and source.array(before).tobytes() == model.array(after).tobytes()


def _key(node: Node) -> tuple[str, ...]:
    return node.scope.id, *node.proto.output


def _same(before: Node, after: Node, computed: Mapping[str, str]) -> bool:
    """Say whether a node is another that may read stored weights in place of computed ones."""
    pairs = zip(before.proto.input, after.proto.input, strict=False)
    alike = all(old == new or (new in computed) for old, new in pairs)
    return alike and before.op_type == after.op_type and len(before.proto.input) == len(after.proto.input)


def _check_weights(source: Model, model: Model, settled: tuple[Settled, ...]) -> frozenset[np.dtype[Any]]:
    """Raise where a stored weight is not what onnxruntime computes of the source's arithmetic.

    Returns:
        The floating-point types that the arithmetic rounds to.
    """
    passed = set[np.dtype[Any]]()
    wanted = {one.value: one for one in settled if not one.scope}
    stored = constants_by_key(model.graph)
    for value, one in wanted.items():  # one at a time, for they may be large
        arithmetic = _arithmetic(source, value)
        types = _types(arithmetic)
        part = lean_side(arithmetic, "the original's weights")
        array, computed = model.array(stored[one.holder, one.name]), next(iter(part.run([{}])))[value]
        if array.dtype != computed.dtype or array.shape != computed.shape:
            raise VerificationFailed(f"weight '{one.name}' has not the shape and type that the original computes")
        eps = max(_unit(array.dtype), *map(_unit, types))  # σ is rounded to the narrowest
        if not _close(array, computed, max(_CLOSE, 4 * eps)):
            raise VerificationFailed(f"weight '{one.name}' is not what the original computes")
        passed.update(dtype for dtype in types if _unit(dtype))
        source.let_go()
        model.let_go()
    return frozenset(passed)


_WHOLE = 1 << 27  # bytes of tensors


def _close(array: NDArray[Any], other: NDArray[Any], close: float, divisor: float = 1.0) -> bool:
    """Say whether two arrays of one shape, the first divided, agree to a part of the largest element of the second."""
    left, right = array.reshape(-1), other.reshape(-1)
    far = largest = 0.0
    for start in range(0, left.size, _BLOCK):  # so that no large copy is made in float64
        one = left[start : start + _BLOCK].astype(np.float64) / divisor
        two = right[start : start + _BLOCK].astype(np.float64)
        far = max(far, float(np.abs(one - two).max()))
        largest = max(largest, float(np.abs(two).max()))
    return far <= close * largest


_BLOCK = 1 << 18  # elements


def _types(model: Model) -> list[np.dtype[Any]]:
    """Return the types that a model's constants have, and that it casts to."""
    codes = [tensor.data_type for tensor in constants_by_key(model.graph).values()]
    codes += filter(None, (cast_type(node) for node in model.graph.main.nodes if node.op_type == "Cast"))
    return [np.dtype(helper.tensor_dtype_to_np_dtype(code)) for code in codes]


def _unit(dtype: np.dtype[Any]) -> float:
    """Return the relative spacing of a type's numbers; 0 of integers."""
    if dtype.kind != "f" and dtype.name != "bfloat16":
        return 0.0
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def _arithmetic(source: Model, value: str) -> Model:
    """Return the part of a model's main graph that computes a value of constants alone."""
    graph: Graph = source.graph
    waiting, nodes, names = [value], dict[int, Node](), set[str]()
    while waiting:
        name = waiting.pop()
        maker = graph.main.producers.get(name)
        if maker is None:
            names.add(name)
        elif maker.order not in nodes:
            nodes[maker.order] = maker
            waiting += filter(None, maker.proto.input)
    part = source.copy()
    body = part.proto.graph
    kept = [tensor for tensor in body.initializer if tensor.name in names]
    made = [nodes[order].proto for order in sorted(nodes)]
    for field in (body.initializer, body.node, body.input, body.output, body.value_info, part.proto.metadata_props):
        del field[:]
    body.initializer.extend(kept)
    body.node.extend(made)
    body.output.add().name = value
    part.proto.ir_version = max(4, part.proto.ir_version)
    part.edited()
    return part


def _check_norms(result: LiftResult, model: Model) -> None:
    """Raise where a weight that was divided by its exact norm has not the norm that was promised."""
    if result.plan is None:
        return
    known = (site.explanation for site in result.plan.sites)
    found = {each.slot.place: each for each in known if each is not None}
    stored = constants_by_key(model.graph)
    sigmas = {record.weight: record.sigma for record in result.sites}
    for one in result.settled:
        explanation, sigma = found[one.scope, one.value], sigmas.get(one.name)
        matrix = _matrix(explanation, model.array(stored[one.holder, one.name]))
        if matrix is None or sigma is None or explanation.divisor is None or explanation.chain is None:
            continue
        promised = abs(explanation.divisor.multiplier(sigma) * explanation.chain.gain) * sigma
        norm, eps = spectral_norm(matrix), float(ml_dtypes.finfo(matrix.dtype).eps)  # type: ignore[no-untyped-call]
        if not abs(norm - promised) <= promised * (_EXACT + eps * np.sqrt(min(matrix.shape))):
            raise VerificationFailed(f"weight '{one.name}' has norm {norm:.9g} where {promised:.9g} was promised")
        model.let_go()


def _matrix(found: Explanation, array: NDArray[Any]) -> NDArray[np.generic] | None:
    """Return the matrix of a stored weight whose elements stand as the chain's tensor has them; None of others."""
    chain, view = found.chain, found.view
    if chain is None or view is None or len(found.parts) != 1 or not chain.in_order or found.tensor_shape is None:
        return None
    return view.matrix(array.reshape(found.tensor_shape))
