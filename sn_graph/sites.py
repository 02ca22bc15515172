"""Where the weights of a model are: each constant that reaches a weight input, with all its uses.

A constant is followed forwards, through the operators that only rearrange or retype it and into the local functions
that are called with it, to the inputs that `slots` knows. What can't be normalized is a site too, with the reason.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.constants import ConstantValues, constants
from sn_graph.model import Model
from sn_graph.model.graph import Graph, Node, Scope, Use
from sn_graph.model.payload import FLOAT_TYPES
from sn_graph.quantized import Quantization, read_quantization
from sn_graph.slots import Step, chain_step, is_dequantize, quantized_inputs, weight_inputs, weight_slot
from sn_graph.views import Convention, Layout, Slot, SlotMatrix, slot_matrix

_TYPE_NAMES = {code: name.lower() for name, code in onnx.TensorProto.DataType.items()} | {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
}
_COMPLEX = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128, onnx.TensorProto.STRING, onnx.TensorProto.BOOL)
_VALUE_BLIND = frozenset({"Shape", "Size"})  # what reads a tensor's shape does not read its elements


@dataclass(frozen=True, eq=False)
class WeightUse:
    """One weight input that a constant reaches.

    Attributes:
        node, index: The consumer and its input.
        slot: What the consumer does with the weight; None where that is not known.
        steps: The chain operators from the constant to it, each with the layout behind it.
        quantization: How a DequantizeLinear on the way reads the constant, or why that can't be told.
        through_call: Whether the weight enters a local function on its way.
    """

    node: Node
    index: int
    slot: Slot | None
    steps: tuple[Step, ...] = ()
    quantization: Quantization | str | None = None
    through_call: bool = False

    def matrix(self, shape: tuple[int, ...], convention: Convention) -> SlotMatrix:
        """Return the matrix that the consumer makes of the stored tensor of this shape."""
        assert self.slot is not None
        layout = self.steps[-1].layout if self.steps else Layout.stored(shape)
        return slot_matrix(self.slot, layout, shape, convention)


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
        return int(self.uses[0].node.attribute("group", 1)) if "Conv" in self.uses[0].node.op_type else 1

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
    return tuple(sorted(sites, key=lambda site: (site.uses[0].node.order, site.uses[0].index)))


class _Finder:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._graph = Graph(model.proto)
        self._constants = ConstantValues(self._graph)

    def stored(self) -> Iterator[Site]:
        for scope, name, tensor, from_node in constants(self._graph):
            if len(tensor.dims) < 2 or tensor.data_type in _COMPLEX:
                continue
            shape = tuple(tensor.dims)
            found = list(self._follow(scope, name, Layout.stored(shape), (), None, False))
            uses = tuple(use for use in found if isinstance(use, WeightUse))
            known = tuple(use for use in uses if use.slot is not None)
            others = tuple(use for use in found if isinstance(use, Use))
            if not known and tensor.data_type not in FLOAT_TYPES:
                uses = tuple(use for use in uses if use.index in quantized_inputs(use.node))
            elif known:
                others += tuple(Use(use.node, use.index) for use in uses if use.slot is None)
                uses = known
            if uses:
                yield Site(
                    id=scope.qualified(name),
                    weight=name,
                    scope=scope,
                    dtype=_TYPE_NAMES.get(tensor.data_type, str(tensor.data_type)),
                    shape=shape,
                    uses=uses,
                    other_uses=others,
                    tensor=tensor,
                    from_node=from_node,
                    refusal=self._refusal(tensor, uses),
                    notes=tuple(self._notes(scope, name, others)),
                )

    def _follow(
        self,
        scope: Scope,
        name: str,
        layout: Layout,
        steps: tuple[Step, ...],
        quantization: Quantization | str | None,
        called: bool,
    ) -> Iterator[WeightUse | Use]:
        for use in self._graph.uses(scope, name):
            node = use.node
            if node is None:
                yield use
                continue
            behind = chain_step(self._graph, node, use.index, layout)
            function = self._graph.function(node)
            if behind is not None:
                read = quantization
                if is_dequantize(node):
                    read = self._quantization(node, layout, steps)
                yield from self._follow(
                    node.scope, node.proto.output[0], behind, (*steps, Step(node, behind)), read, called
                )
            elif function is not None:
                if use.index < len(function.inputs):
                    formal = function.inputs[use.index]
                    yield from self._follow(function, formal, layout, steps, quantization, True)
            elif use.index in (*weight_inputs(node), *quantized_inputs(node)) or _is_third_party(node):
                slot = weight_slot(node, use.index, layout.shape)
                if self._constants.all_inputs(node) or (slot is None and use.index in weight_inputs(node)):
                    yield use
                else:
                    yield WeightUse(node, use.index, slot, steps, quantization, called)
            elif not (node.is_standard and node.op_type in _VALUE_BLIND):
                yield use

    def _quantization(self, node: Node, layout: Layout, steps: tuple[Step, ...]) -> Quantization | str:
        read = read_quantization(self._graph, node, layout.shape)
        moved = any(step.node.op_type in ("Transpose", "Reshape") for step in steps)
        if isinstance(read, Quantization) and moved and not read.per_tensor:
            return "its DequantizeLinear has a scale for each channel and stands behind a Transpose or Reshape"
        return read

    def _refusal(self, tensor: onnx.TensorProto, uses: tuple[WeightUse, ...]) -> str | None:
        unknown = next((use.node for use in uses if use.slot is None), None)
        unread = next((use.quantization for use in uses if isinstance(use.quantization, str)), None)
        readings = [use.quantization for use in uses]
        if unknown is not None and _is_third_party(unknown):
            return f"its consumer {unknown.domain}::{unknown.op_type} is not an operator that sn-graph knows"
        if unknown is not None:
            return f"stored as integers for {unknown.op_type}; fold the floating-point model before quantizing it"
        if 0 in tensor.dims:
            return "empty: its shape has a zero"
        if self._model.payload(tensor) is None:
            return "no data stored; export the model with its weights"
        if unread is not None:
            return unread
        if any(isinstance(read, Quantization) for read in readings):
            first = readings[0]
            same = isinstance(first, Quantization) and all(
                isinstance(read, Quantization) and first.same_reading(self._model, read) for read in readings
            )
            return None if same else "its uses dequantize it differently"
        if tensor.data_type not in FLOAT_TYPES:
            return f"its element type {_TYPE_NAMES.get(tensor.data_type)} needs a DequantizeLinear to be a weight"
        return None

    def _notes(self, scope: Scope, name: str, others: Iterable[Use]) -> Iterator[str]:
        if name in scope.inputs:
            yield "also a graph input: what is normalized is its default value, which a fed value replaces"
        readers = dict.fromkeys("a graph output" if use.node is None else use.node.path for use in others)
        if readers:
            yield f"also read by {', '.join(readers)}, where the original values stay"

    def sparse(self) -> Iterator[Site]:
        for scope in self._graph.scopes:
            for name, sparse in scope.sparse_initializers.items():
                uses = tuple(
                    WeightUse(use.node, use.index, None)
                    for use in self._graph.uses(scope, name)
                    if use.node is not None and weight_slot(use.node, use.index, tuple(sparse.dims)) is not None
                )
                if uses:
                    dtype = _TYPE_NAMES.get(sparse.values.data_type)
                    reason = "stored as a sparse tensor; store it dense to normalize it"
                    site_id = scope.qualified(name)
                    yield Site(site_id, name, scope, dtype, tuple(sparse.dims), uses, refusal=reason)

    def computed(self, sites: Iterable[Site]) -> Iterator[Site]:
        """Yield the weight inputs whose value the graph computes from constants."""
        reached = {(id(use.node), use.index) for site in sites for use in site.uses}
        slots: dict[tuple[int, str], list[WeightUse]] = defaultdict(list)
        owners = {}
        for scope in self._graph.scopes:
            for node in scope.nodes:
                for index in weight_inputs(node):
                    if (id(node), index) in reached or index >= len(node.proto.input):
                        continue
                    name = node.proto.input[index]
                    owner = self._graph.owner(scope, name)
                    if owner is not None and self._is_computed(owner, name) and not self._constants.all_inputs(node):
                        slots[id(owner), name].append(WeightUse(node, index, None))
                        owners[id(owner), name] = owner
        for (_, name), uses in slots.items():
            owner = owners[id(self._graph.owner(uses[0].node.scope, name)), name]
            reason = "computed in the graph"
            if self._constants.looks_like_spectral_norm(owner, name):
                reason += "; looks like an exported spectral norm: run lift first"
            dtype, shape = self._declared(owner, name)
            if (shape is None or len(shape) > 1) and dtype in (None, "float32", "float16", "float64", "bfloat16"):
                yield Site(owner.qualified(name), name, owner, dtype, shape, tuple(uses), refusal=reason)

    def _is_computed(self, owner: Scope, name: str) -> bool:
        node = owner.producers.get(name)
        plain = node is None or (node.is_standard and node.op_type == "Constant")
        return not plain and self._constants.holds(owner, name)

    def _declared(self, owner: Scope, name: str) -> tuple[str | None, tuple[int, ...] | None]:
        """Return the element type and shape that the model declares for a value, as far as it does."""
        value = next((value for value in owner.proto.value_info if value.name == name), None)
        if value is None or not value.type.HasField("tensor_type"):
            return None, None
        tensor = value.type.tensor_type
        sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        complete = tensor.HasField("shape") and len(sizes) == len(tensor.shape.dim)
        return _TYPE_NAMES.get(tensor.elem_type), tuple(sizes) if complete else None


def _is_third_party(node: Node) -> bool:
    return not (node.is_standard or node.domain.startswith(("com.microsoft", "ai.onnx")))
