"""Finding: each constant of a model that reaches a weight input, with all its uses.

What can't be normalized is a site too, with the reason.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import onnx

from sn_graph.model import FLOAT_TYPES, MAX_RANK, ConstantValues, Model, Scope, Use, constants, sparse_constants
from sn_graph.sites.chain import is_dequantize
from sn_graph.sites.computed import computed_reason
from sn_graph.sites.follow import Follower
from sn_graph.sites.handed import handed_reason
from sn_graph.sites.operators import operator_of
from sn_graph.sites.pieces import piece_notes
from sn_graph.sites.quantized import Quantization
from sn_graph.sites.rearranged import rearranged
from sn_graph.sites.site import Site, WeightUse
from sn_graph.sites.sparse import Sparse
from sn_graph.sites.views import Action

_TYPE_NAMES = {code: name.lower() for name, code in onnx.TensorProto.DataType.items()} | {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
}


_FLOAT_NAMES = frozenset(_TYPE_NAMES[code] for code in FLOAT_TYPES)


_NO_NUMBERS = {
    onnx.TensorProto.STRING,
    onnx.TensorProto.BOOL,
    onnx.TensorProto.COMPLEX64,
    onnx.TensorProto.COMPLEX128,
}


_INDICES = {onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64}


def find_sites(model: Model) -> tuple[Site, ...]:
    """Return every weight of a model, in graph order of their first use.

    A weight that can't be normalized is among them, with its `refusal`.
    """
    finder = _Finder(model)
    sites = [*finder.stored(), *finder.sparse()]
    sites += finder.computed(sites)
    return tuple(sorted(sites, key=lambda site: site.uses[0].order))


def locate_sites(model: Model, weights: Collection[str]) -> dict[str, Site]:
    """Return the sites of some constants of the main graph, by their names, as the model is now."""
    return {site.weight: site for site in _Finder(model).stored(weights) if not site.scope.id}


class _Finder:
    def __init__(self, model: Model) -> None:
        self._model = model
        model.edited()  # by whoever had it before, as far as is known here
        self._graph = model.graph
        self._constants = ConstantValues(self._graph)
        self._follower = Follower(model, self._constants)

    def stored(self, wanted: Collection[str] | None = None) -> Iterator[Site]:
        for scope, name, tensor, from_node in constants(self._graph):
            if wanted is not None and name not in wanted:
                continue
            if len(tensor.dims) < 2 or tensor.data_type in _NO_NUMBERS:
                continue
            uses, others = self._uses(scope, name, tuple(tensor.dims))
            if tensor.data_type not in FLOAT_TYPES:
                uses = tuple(use for use in uses if _reads_integers(tensor, use))
            if any(use.slot is not None for use in uses):  # then what reads it as something else is not a weight input
                others += tuple(Use(use.node.scope, use.node, use.index) for use in uses if not _is_float_input(use))
                uses = tuple(filter(_is_float_input, uses))
            if uses:
                yield Site(
                    id=scope.qualified(name),
                    weight=name,
                    scope=scope,
                    dtype=_type_name(tensor.data_type),
                    shape=_unpacked(tensor, uses),
                    uses=uses,
                    other_uses=others,
                    tensor=tensor,
                    from_node=from_node,
                    refusal=self._refusal(tensor, uses),
                    notes=tuple(_notes(scope, name, others, uses)),
                )

    def _uses(self, scope: Scope, name: str, shape: tuple[int, ...]) -> tuple[tuple[WeightUse, ...], tuple[Use, ...]]:
        found = list(self._follower.follow(scope, name, shape))
        uses = sorted((use for use in found if isinstance(use, WeightUse)), key=lambda use: use.order)
        return tuple(uses), tuple(use for use in found if isinstance(use, Use))

    def _refusal(self, tensor: onnx.TensorProto, uses: tuple[WeightUse, ...]) -> str | None:
        unknown = next((use.reason for use in uses if use.reason is not None), _too_many_axes(tensor.dims, uses))
        if unknown is not None:
            return unknown
        groups = min((use.slot.group for use in uses if use.slot is not None), default=1)
        if groups < 1:
            return f"its convolution has {groups} groups, which none has; export the model again"
        if 0 in tensor.dims:
            return "empty: its shape has a zero"
        readings = [use.quantization for use in uses]
        parts = [
            part for r in readings if isinstance(r, Quantization) for part in (r, r.quantizer and r.quantizer.reading)
        ]
        scales = [t for part in parts if part for t in (part.scale, part.zero_point) if t is not None]
        if not all(map(self._has_data, (tensor, *scales))):
            return "no data stored; export the model with its weights"
        unread = next((reading for reading in readings if isinstance(reading, str)), None)
        if unread is not None:
            return unread
        first = next((reading for reading in readings if isinstance(reading, Quantization)), None)
        if first is not None:
            same = all(isinstance(r, Quantization) and first.same_reading(self._model, r) for r in readings)
            return None if same else "its uses dequantize it differently"
        if tensor.data_type not in FLOAT_TYPES:
            return f"stored as {_type_name(tensor.data_type)}, with no DequantizeLinear that tells its scale"
        return None

    def _has_data(self, tensor: onnx.TensorProto) -> bool:
        payload = self._model.payload(tensor)
        return payload is not None and payload.size > 0

    def sparse(self) -> Iterator[Site]:
        for scope, name, sparse in sparse_constants(self._graph):
            uses, others = self._uses(scope, name, tuple(sparse.dims))
            places = Sparse(sparse.indices, tuple(sparse.dims))
            if uses:
                yield Site(
                    id=scope.qualified(name),
                    weight=name,
                    scope=scope,
                    dtype=_type_name(sparse.values.data_type),
                    shape=tuple(sparse.dims),
                    # Integers may be packed, so that their shape is not that of a matrix.
                    uses=tuple(use if use.quantization is None else replace(use, slot=None) for use in uses),
                    other_uses=others,
                    tensor=sparse.values,
                    from_node=name not in scope.sparse_initializers,
                    refusal=self._sparse_refusal(places, sparse.values, uses),
                    notes=tuple(_notes(scope, name, others, uses)),
                    sparse=places,
                )

    def _sparse_refusal(self, places: Sparse, values: onnx.TensorProto, uses: tuple[WeightUse, ...]) -> str | None:
        reason = next((use.reason for use in uses if use.reason is not None), _too_many_axes(places.shape, uses))
        if reason is None and any(use.quantization is not None or use.takes_integers for use in uses):
            return "stored as a sparse tensor, and quantized; store it dense to normalize it"
        return reason or places.refusal(self._model, values)

    def computed(self, sites: Iterable[Site]) -> Iterator[Site]:
        """Yield the weight inputs whose value the graph computes from constants, or its bodies hand on from them."""
        reached = {(id(use.node), use.index) for site in sites for use in site.uses}
        found: dict[tuple[Scope, str], list[WeightUse]] = defaultdict(list)
        for scope in self._graph.scopes:
            for node in scope.nodes:
                for index in operator_of(node).weights:
                    name = node.proto.input[index] if index < len(node.proto.input) else ""
                    owner = self._graph.owner(scope, name)
                    if owner is not None and (id(node), index) not in reached and not self._constants.all_inputs(node):
                        found[owner, name].append(WeightUse(node, index, None))
        for (owner, name), uses in found.items():
            dtype, shape = _declared(owner, name)
            fitting = tuple(use for use in uses if use.operator.slot(use.node, use.index, shape) is not None)
            if not fitting or dtype not in (None, *_FLOAT_NAMES):
                continue
            reason = self._why_computed(owner, name, fitting)
            stored = self._rearranged(owner, name, fitting) if reason is not None else None
            if stored is not None and not any(stored.tensor is site.tensor for site in sites):
                yield stored
            elif reason is not None:
                computed = self._constants.holds(owner, name)
                yield Site(
                    owner.qualified(name), name, owner, dtype, shape, fitting, refusal=reason, is_computed=computed
                )

    def _why_computed(self, owner: Scope, name: str, uses: Iterable[WeightUse]) -> str | None:
        """Return why a value at a weight input can't be normalized; None where it does not come of constants."""
        node = owner.producers.get(name)
        if node is not None and self._constants.holds(owner, name):
            plain = node.is_standard and node.op_type == "Constant"
            return None if plain else computed_reason(self._graph, owner, name)
        if all(self._multiplies_a_constant(use) for use in uses):
            return None  # a recurrent state, whose weight the other operand is
        return handed_reason(self._graph, self._constants, owner, name)

    def _rearranged(self, owner: Scope, name: str, uses: tuple[WeightUse, ...]) -> Site | None:
        """Return the site of the stored tensor whose rows or columns a computed weight only has in another order."""
        found = rearranged(self._model, self._graph, uses[0], owner, name) if len(uses) == 1 else None
        if found is None:
            return None
        scope, held, tensor = found.scope, found.name, found.tensor
        _, others = self._uses(scope, held, tuple(tensor.dims))
        if any(use.node not in found.nodes for use in others):
            return None  # who would read a weight that is not its own
        return Site(
            id=scope.qualified(held),
            weight=held,
            scope=scope,
            dtype=_type_name(tensor.data_type),
            shape=tuple(tensor.dims),
            uses=(found.use,),
            tensor=tensor,
            from_node=held in scope.producers,
            refusal=self._refusal(tensor, (found.use,)),
            notes=tuple(_notes(scope, held, ())),
        )

    def _multiplies_a_constant(self, use: WeightUse) -> bool:
        others = [name for index, name in enumerate(use.node.proto.input[:2]) if index != use.index]
        product = use.operator.action is Action.PRODUCT
        return product and any(self._constants.holds(use.node.scope, name) for name in others)


def _too_many_axes(dims: Sequence[int], uses: Iterable[WeightUse]) -> str | None:
    """Return why a tensor can't be read that has more axes, as it is stored or where it is used, than arrays have."""
    most = max(len(dims), *(len(use.layout(tuple(dims)).dims) for use in uses))
    return f"of rank {most}, where sn-graph reads {MAX_RANK} at most; reshape it first" if most > MAX_RANK else None


def _is_float_input(use: WeightUse) -> bool:
    return use.index in use.operator.weights or isinstance(use.quantization, Quantization)


def _unpacked(tensor: onnx.TensorProto, uses: Iterable[WeightUse]) -> tuple[int, ...]:
    """Return the shape of the weight that a tensor holds, in which several integers may share a byte."""
    readings = (use.quantization for use in uses)
    packing = next((read.packing for read in readings if isinstance(read, Quantization) and read.packing), None)
    return tuple(tensor.dims) if packing is None else (packing.rows, packing.size)


def _reads_integers(tensor: onnx.TensorProto, use: WeightUse) -> bool:
    """Say whether a tensor that is not float is a weight to its reader, and no table of indices or counts."""
    if use.index in use.operator.integers:
        return True
    retyped = any(step.node.op_type == "Cast" or is_dequantize(step.node) for step in use.steps)
    return use.index in use.operator.weights and (retyped or tensor.data_type not in _INDICES)


def _notes(scope: Scope, name: str, others: Iterable[Use], uses: Iterable[WeightUse] = ()) -> Iterator[str]:
    if name in scope.inputs:
        yield "also a graph input: what is normalized is its default value, which a fed value replaces"
    yield from dict.fromkeys(told for use in uses for told in piece_notes(use))
    readers = dict.fromkeys("a graph output" if use.node is None else use.node.path for use in others)
    if readers:
        yield f"also read by {', '.join(readers)}, where the original values stay"


def _declared(owner: Scope, name: str) -> tuple[str | None, tuple[int, ...] | None]:
    """Return the element type and shape that the model declares for a value, as far as it does."""
    value = next((value for value in owner.proto.value_info if value.name == name), None)
    if value is None or not value.type.HasField("tensor_type"):
        return None, None
    tensor = value.type.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
    complete = tensor.HasField("shape") and len(sizes) == len(tensor.shape.dim)
    return _type_name(tensor.elem_type), tuple(sizes) if complete else None


def _type_name(data_type: int) -> str:
    return _TYPE_NAMES.get(data_type, f"type {data_type}")
