"""Where the weights of a model are: each constant that reaches a weight input, with all its uses.

What can't be normalized is a site too, with the reason.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.constants import ConstantValues, constants, sparse_constants
from sn_graph.model import Model
from sn_graph.model.graph import Graph, Scope, Use
from sn_graph.model.payload import FLOAT_TYPES
from sn_graph.quantized import Quantization
from sn_graph.slots import is_dequantize, quantized_inputs, weight_inputs, weight_slot
from sn_graph.uses import Follower, WeightUse

__all__ = ["Site", "WeightUse", "find_sites"]

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


@dataclass(frozen=True, eq=False)
class Site:
    """One weight and all its uses.

    Attributes:
        id: `weight` in the main graph, else `scope::weight`.
        weight: The initializer's name, the Constant node's output, or the computed value at a weight input.
        scope: The scope that holds it.
        dtype, shape: Of the stored tensor; None where the graph computes the weight.
        uses: The weight inputs that it reaches, in graph order; at least one.
        other_uses: Readings that are no weight inputs (arithmetic, graph outputs …).
        tensor: The TensorProto in the model's skeleton; None where the graph computes the weight.
        from_node: Whether a Constant node holds it.
        refusal: Why it can't be normalized, or None.
        notes: What a reader of the report should know.
    """

    id: str
    weight: str
    scope: Scope
    dtype: str | None
    shape: tuple[int, ...] | None
    uses: tuple[WeightUse, ...]
    other_uses: tuple[Use, ...] = ()
    tensor: onnx.TensorProto | None = None
    from_node: bool = False
    refusal: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def consumers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(use.node.path for use in self.uses))

    @property
    def op_types(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(use.node.op_type for use in self.uses))

    @property
    def via(self) -> tuple[str, ...]:
        """The operators between the stored tensor and its consumers."""
        steps = (step.node.op_type for use in self.uses for step in use.steps)
        return tuple(dict.fromkeys((*(("Constant",) if self.from_node else ()), *steps)))

    @property
    def groups(self) -> int:
        first = self.uses[0]
        if first.slot is not None:
            return first.slot.group
        return int(first.node.attribute("group", 1)) if "Conv" in first.node.op_type else 1

    @property
    def quantization(self) -> Quantization | None:
        """How the weight is dequantized, where it is."""
        found = self.uses[0].quantization
        return found if isinstance(found, Quantization) else None

    def array(self, model: Model) -> NDArray[np.generic]:
        """Return the weight in its stored shape, dequantized where it is quantized. Read-only."""
        assert self.tensor is not None
        stored = model.array(self.tensor)
        return stored if self.quantization is None else self.quantization.dequantize(model, stored)


def find_sites(model: Model) -> tuple[Site, ...]:
    """Return every weight of a model, in graph order of their first use.

    A weight that can't be normalized is among them, with its `refusal`.
    """
    finder = _Finder(model)
    sites = [*finder.stored(), *finder.sparse()]
    sites += finder.computed(sites)
    return tuple(sorted(sites, key=lambda site: site.uses[0].order))


class _Finder:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._graph = Graph(model.proto)
        self._constants = ConstantValues(self._graph)
        self._follower = Follower(model, self._graph, self._constants)

    def stored(self) -> Iterator[Site]:
        for scope, name, tensor, from_node in constants(self._graph):
            if len(tensor.dims) < 2 or tensor.data_type in _NO_NUMBERS:
                continue
            uses, others = self._uses(scope, name, tuple(tensor.dims))
            if tensor.data_type not in FLOAT_TYPES:
                uses = tuple(use for use in uses if _reads_integers(tensor, use))
            if any(use.slot is not None for use in uses):  # then what reads it as something else is no weight input
                others += tuple(Use(use.node, use.index) for use in uses if not _is_float_input(use))
                uses = tuple(filter(_is_float_input, uses))
            if uses:
                yield Site(
                    id=scope.qualified(name),
                    weight=name,
                    scope=scope,
                    dtype=_type_name(tensor.data_type),
                    shape=tuple(tensor.dims),
                    uses=uses,
                    other_uses=others,
                    tensor=tensor,
                    from_node=from_node,
                    refusal=self._refusal(tensor, uses),
                    notes=tuple(_notes(scope, name, others)),
                )

    def _uses(self, scope: Scope, name: str, shape: tuple[int, ...]) -> tuple[tuple[WeightUse, ...], tuple[Use, ...]]:
        found = list(self._follower.follow(scope, name, shape))
        uses = sorted((use for use in found if isinstance(use, WeightUse)), key=lambda use: use.order)
        return tuple(uses), tuple(use for use in found if isinstance(use, Use))

    def _refusal(self, tensor: onnx.TensorProto, uses: tuple[WeightUse, ...]) -> str | None:
        unknown = next((use.reason for use in uses if use.reason is not None), None)
        if unknown is not None:
            return unknown
        if 0 in tensor.dims:
            return "empty: its shape has a zero"
        readings = [use.quantization for use in uses]
        scales = [t for r in readings if isinstance(r, Quantization) for t in (r.scale, r.zero_point) if t is not None]
        if not all(map(self._has_data, (tensor, *scales))):
            return "no data stored; export the model with its weights"
        unread = next((reading for reading in readings if isinstance(reading, str)), None)
        if unread is not None:
            return unread
        first = readings[0]
        if isinstance(first, Quantization):
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
            if uses:
                yield Site(
                    id=scope.qualified(name),
                    weight=name,
                    scope=scope,
                    dtype=_type_name(sparse.values.data_type),
                    shape=tuple(sparse.dims),
                    uses=tuple(replace(use, slot=None) for use in uses),
                    other_uses=others,
                    refusal="stored as a sparse tensor; store it dense to normalize it",
                )

    def computed(self, sites: Iterable[Site]) -> Iterator[Site]:
        """Yield the weight inputs whose value the graph computes from constants."""
        reached = {(id(use.node), use.index) for site in sites for use in site.uses}
        found: dict[tuple[Scope, str], list[WeightUse]] = defaultdict(list)
        for scope in self._graph.scopes:
            for node in scope.nodes:
                for index in weight_inputs(node):
                    name = node.proto.input[index] if index < len(node.proto.input) else ""
                    owner = self._graph.owner(scope, name)
                    if owner is None or (id(node), index) in reached or not self._is_computed(owner, name):
                        continue
                    if not self._constants.all_inputs(node):
                        found[owner, name].append(WeightUse(node, index, None))
        for (owner, name), uses in found.items():
            dtype, shape = _declared(owner, name)
            fitting = tuple(use for use in uses if weight_slot(use.node, use.index, shape) is not None)
            if not fitting or dtype not in (None, *_FLOAT_NAMES):
                continue
            reason = "computed in the graph"
            if self._constants.looks_like_spectral_norm(owner, name):
                reason += "; looks like an exported spectral norm: run lift first"
            yield Site(owner.qualified(name), name, owner, dtype, shape, fitting, refusal=reason)

    def _is_computed(self, owner: Scope, name: str) -> bool:
        node = owner.producers.get(name)
        plain = node is None or (node.is_standard and node.op_type == "Constant")
        return not plain and self._constants.holds(owner, name)


def _is_float_input(use: WeightUse) -> bool:
    return use.index in weight_inputs(use.node)


def _reads_integers(tensor: onnx.TensorProto, use: WeightUse) -> bool:
    """Say whether a tensor that is not float is a weight to its reader, and no table of indices or counts."""
    if use.index in quantized_inputs(use.node):
        return True
    retyped = any(step.node.op_type == "Cast" or is_dequantize(step.node) for step in use.steps)
    return use.index in weight_inputs(use.node) and (retyped or tensor.data_type not in _INDICES)


def _notes(scope: Scope, name: str, others: Iterable[Use]) -> Iterator[str]:
    if name in scope.inputs:
        yield "also a graph input: what is normalized is its default value, which a fed value replaces"
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
