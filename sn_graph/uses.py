"""The weight inputs that a constant reaches.

A constant is followed forwards, through the operators that only rearrange or retype it and into the local functions
that are called with it, to the inputs that `slots` knows.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx

from sn_graph.constants import ConstantValues
from sn_graph.model import Model
from sn_graph.model.graph import Graph, Node, Scope, Use
from sn_graph.quantized import Quantization, read_quantization
from sn_graph.slots import MICROSOFT, Step, chain_step, is_dequantize, quantized_inputs, weight_inputs, weight_slot
from sn_graph.views import Convention, Layout, Slot, SlotMatrix, slot_matrix

_VALUE_BLIND = frozenset({"Shape", "Size"})  # what reads a tensor's shape does not read its elements
# The attributes that decide the matrix; others, such as Gemm's alpha, may be references to a caller's.
_DECISIVE = frozenset(
    {"allowzero", "axis", "block_size", "group", "perm", "shape", "to"}
    | {"transA", "transB", "transBatchA", "transBatchB"}
)


@dataclass(frozen=True, eq=False)
class WeightUse:
    """One weight input that a constant reaches.

    Attributes:
        node, index: The consumer and its input.
        slot: What the consumer does with the weight; None where that can't be told.
        steps: The chain operators from the constant to it, each with the layout behind it.
        quantization: How a DequantizeLinear on the way reads the constant, or why that can't be told.
        calls: The calls through which the weight enters local functions on its way, the outermost first.
        reason: Why `slot` is None.
    """

    node: Node
    index: int
    slot: Slot | None
    steps: tuple[Step, ...] = ()
    quantization: Quantization | str | None = None
    calls: tuple[Node, ...] = ()
    reason: str | None = None

    @property
    def through_call(self) -> bool:
        """Whether the weight enters a local function on its way."""
        return bool(self.calls)

    @property
    def order(self) -> tuple[int, ...]:
        """What sorts uses in graph order; the body of a function stands where it is called."""
        return (*(call.order for call in self.calls), self.node.order, self.index)

    def matrix(self, shape: tuple[int, ...], convention: Convention) -> SlotMatrix:
        """Return the matrix that the consumer makes of the stored tensor of this shape."""
        assert self.slot is not None
        layout = self.steps[-1].layout if self.steps else Layout.stored(shape)
        return slot_matrix(self.slot, layout, shape, convention)


@dataclass(frozen=True, eq=False)
class _Reached:
    """A value that holds the constant. `blocked` says why its layout can't be told; `layout` is then the last known."""

    scope: Scope
    name: str
    layout: Layout
    steps: tuple[Step, ...] = ()
    quantization: Quantization | str | None = None
    calls: tuple[Node, ...] = ()
    blocked: str | None = None


class Follower:
    """Follows the constants of one model."""

    def __init__(self, model: Model, graph: Graph, constants: ConstantValues) -> None:
        self._model = model
        self._graph = graph
        self._constants = constants

    def follow(self, scope: Scope, name: str, shape: tuple[int, ...]) -> Iterator[WeightUse | Use]:
        """Yield the weight inputs that the constant `name` of `scope` reaches, and every other reading of its value.

        Readings of the shape alone are none.
        """
        waiting = deque([_Reached(scope, name, Layout.stored(shape))])
        while waiting:
            at = waiting.popleft()
            for use in self._graph.uses(at.scope, at.name):
                node = use.node
                if node is None:
                    yield use
                    continue
                onward = self._onward(at, node, use.index)
                if onward is not None:
                    waiting.append(onward)
                elif self._is_weight_input(at, node, use.index):
                    yield self._weight_use(at, node, use.index)
                elif not (node.is_standard and node.op_type in _VALUE_BLIND):
                    yield use

    def _onward(self, at: _Reached, node: Node, index: int) -> _Reached | None:
        """Return the value behind a chain operator, or inside a function that is called with the constant."""
        if any(step.node is node for step in at.steps) or node in at.calls:
            return None  # a cycle, which only a corrupt model has
        function = self._graph.function(node)
        if function is not None:
            if index >= len(function.inputs):
                return None
            return replace(at, scope=function, name=function.inputs[index], calls=(*at.calls, node))
        resolved = self._resolve(node, at.calls)
        behind = chain_step(self._model, self._graph, resolved or node, index, at.layout)
        if behind is None or not node.proto.output:
            return None
        at = replace(at, scope=node.scope, name=node.proto.output[0])
        if resolved is None:
            behind = _given_by_callers(node)
        if isinstance(behind, str):
            return replace(at, steps=(*at.steps, Step(node, at.layout)), blocked=at.blocked or behind)
        if is_dequantize(node):
            at = replace(at, quantization=self._quantization(node, resolved or node, at))
        return replace(at, layout=behind, steps=(*at.steps, Step(node, behind)))

    def _is_weight_input(self, at: _Reached, node: Node, index: int) -> bool:
        if self._constants.all_inputs(node):
            return False
        if index in weight_inputs(node):
            return weight_slot(node, index, None if at.blocked else at.layout.shape) is not None
        return index in quantized_inputs(node) or _is_third_party(node)

    def _weight_use(self, at: _Reached, node: Node, index: int) -> WeightUse:
        use = WeightUse(node, index, None, at.steps, at.quantization, at.calls)
        if _is_third_party(node):
            return replace(use, reason=f"its consumer {node.domain}::{node.op_type} is no operator that sn-graph knows")
        if index not in weight_inputs(node):
            what = f"stored as integers for {node.op_type}; fold the floating-point model before quantizing it"
            return replace(use, reason=what)
        resolved = self._resolve(node, at.calls)
        if at.blocked or resolved is None:
            return replace(use, reason=at.blocked or _given_by_callers(node))
        return replace(use, slot=weight_slot(resolved, index, at.layout.shape))

    def _quantization(self, node: Node, resolved: Node, at: _Reached) -> Quantization | str:
        read = read_quantization(self._graph, resolved, at.layout.shape)
        moved = any(step.node.op_type in ("Transpose", "Reshape") for step in at.steps)
        if isinstance(read, Quantization) and moved and not read.per_tensor:
            return "its DequantizeLinear has a scale for each channel and stands behind a Transpose or Reshape"
        return replace(read, node=node) if isinstance(read, Quantization) else read

    def _resolve(self, node: Node, calls: tuple[Node, ...]) -> Node | None:
        """Return a node of a function with its attributes as the innermost of `calls` gives them.

        None where an attribute that decides the matrix is given by calls that are not known here.
        """
        if not any(attribute.ref_attr_name for attribute in node.proto.attribute):
            return node
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        del proto.attribute[:]
        for attribute in node.proto.attribute:
            if attribute.ref_attr_name and not calls:
                if attribute.name in _DECISIVE:
                    return None
                continue
            given = self._given(attribute, calls) if attribute.ref_attr_name else attribute
            if given is not None:
                copy = proto.attribute.add()
                copy.CopyFrom(given)
                copy.name = attribute.name
        return replace(node, proto=proto)

    def _given(self, attribute: onnx.AttributeProto, calls: tuple[Node, ...]) -> onnx.AttributeProto | None:
        """Return the attribute that a reference stands for; None where nobody gives it, so the operator's default."""
        while attribute.ref_attr_name and calls:
            name, call, calls = attribute.ref_attr_name, calls[-1], calls[:-1]
            function = self._graph.function(call)
            assert function is not None
            assert isinstance(function.proto, onnx.FunctionProto)
            found = [a for a in (*call.proto.attribute, *function.proto.attribute_proto) if a.name == name]
            if not found:
                return None
            attribute = found[0]
        return None if attribute.ref_attr_name else attribute


def _given_by_callers(node: Node) -> str:
    return f"its {node.op_type} stands in a local function whose callers give its attributes; inline it first"


def _is_third_party(node: Node) -> bool:
    return not (node.is_standard or node.domain == MICROSOFT or node.domain.startswith("ai.onnx."))
