"""From kernels that are a graph's inputs to initializers: each in the layout that its consumer reads.

What tf2onnx puts between a kernel and its consumer (Transpose, Reshape, Squeeze, Unsqueeze, Identity) is followed as a
`Layout` of the kernel and done to its values once and for all; Casts stay, so that the stored type is the kernel's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sn_graph.errors import ModelError
from sn_graph.frontends.keras.canonical import key, make_canonical
from sn_graph.frontends.keras.recording import OUTSIDE, Kernel, Slot
from sn_graph.frontends.keras.repairs import pad_behind, set_attributes
from sn_graph.frontends.keras.tracing import Traced
from sn_graph.frontends.keras.wrappers import Wrapper, read
from sn_graph.model import Graph, Node, Reached, follow
from sn_graph.sites import Layout

CAPTURED = -1  # in place of an input's index: a subgraph of the node reads the value
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True, eq=False)
class Form:
    """What the chain has made of a kernel: its layout, its values in it, and the Casts that they pass."""

    layout: Layout
    values: NDArray[Any]
    casts: tuple[onnx.NodeProto, ...] = ()


@dataclass(frozen=True, eq=False)
class End:
    """Where a kernel's chain ends: input `index` of `node` reads `name`, which has this form.

    The index is CAPTURED where a subgraph of the node reads it.
    """

    node: onnx.NodeProto
    index: int
    name: str
    form: Form


@dataclass(frozen=True, eq=False)
class Placed:
    """What became of one wrapped kernel.

    Attributes:
        kernel: The kernel.
        wrapper: The SpectralNormalization around it.
        layout: The stored tensor's axes, as runs of the kernel's elements in Keras's order.
        calls: How often its wrapper is called.
        readers: The first output of each node that reads the kernel, in the order of the calls.
    """

    kernel: Kernel
    wrapper: Wrapper
    layout: Layout
    calls: int
    readers: tuple[str, ...]


def place_kernels(traced: Traced, kernels: Sequence[Kernel]) -> tuple[Placed, ...]:
    """Turn the kernels among a graph's inputs into initializers with their values; return the wrapped ones.

    Nodes come out in the order in which the wrappers are called.

    Raises:
        ModelError: A wrapped kernel is not read by exactly one node at each call of its wrapper, or is read
            elsewhere too.
    """
    graph = traced.proto.graph
    follower = _Follower(traced.proto)
    values = [read(kernel.variable) for kernel in kernels]
    ends = {slot: list(follower.follow(slot.name, values[slot.kernel])) for slot in traced.slots.values()}
    readers = {slot: [key(end.node) for end in found] for slot, found in ends.items()}
    placed = []
    for number, kernel in enumerate(kernels):
        own = {slot: found for slot, found in ends.items() if slot.kernel == number}
        if kernel.wrapper is None:
            _store_plain(graph, kernel, own[Slot(number, OUTSIDE)])
        else:
            placed.append(_store_wrapped(graph, kernel, kernel.wrapper, own, traced.calls))
    for value in [value for value in graph.input if value.name in traced.slots]:
        graph.input.remove(value)
    calls = [reader for slot in traced.calls for reader in readers[slot]]
    renamed = make_canonical(graph, calls, {kernel.name for kernel in kernels})
    return tuple(replace(one, readers=tuple(map(renamed, one.readers))) for one in placed)


def _store_wrapped(
    graph: onnx.GraphProto, kernel: Kernel, wrapper: Wrapper, ends: dict[Slot, list[End]], calls: Sequence[Slot]
) -> Placed:
    path = wrapper.path
    outside = next(found for slot, found in ends.items() if slot.call == OUTSIDE)
    own = [slot for slot in calls if slot in ends]
    if outside:
        raise ModelError(
            f"the kernel of '{path}' is read outside of its SpectralNormalization too (by "
            f"{_label(outside[0].node)}), where it would have the value of some call before",
            do="call the layer through its wrapper only",
        )
    if not any(ends[slot] for slot in own):
        raise ModelError(
            f"layer '{path}' has no part in the model's inference",
            "so its kernel is nowhere in the graph",
            "remove the layer, or use it when training=False too",
        )
    for slot in own:
        if len(ends[slot]) != 1 and len(own) > 1:
            raise ModelError(
                f"layer '{path}' is called {len(own)} times, and one call reads its kernel {len(ends[slot])} times",
                "which no plan can say",
                "call it once, or give it a layer that reads its kernel once",
            )
    found = [end for slot in own for end in ends[slot]]
    if any(end.index == CAPTURED for end in found):
        raise ModelError(f"the kernel of '{path}' is read inside a loop or branch", do="call the layer outside of it")
    if any(end.form.layout != found[0].form.layout for end in found):
        raise ModelError(
            f"the calls of layer '{path}' read its kernel in different layouts, and no one tensor can hold them",
            do="call it on inputs of one rank",
        )
    _store(graph, kernel.name, kernel, found)
    return Placed(kernel, wrapper, found[0].form.layout, len(own), tuple(key(end.node) for end in found))


def _store_plain(graph: onnx.GraphProto, kernel: Kernel, ends: Sequence[End]) -> None:
    """Store a kernel that nothing normalizes: once for each layout that is read."""
    layouts: dict[Layout, list[End]] = {}
    for end in ends:
        layouts.setdefault(end.form.layout, []).append(end)
    for number, group in enumerate(layouts.values()):
        _store(graph, kernel.name if number == 0 else f"{kernel.name}_{number}", kernel, group)


def _store(graph: onnx.GraphProto, name: str, kernel: Kernel, ends: Sequence[End]) -> None:
    taken = {tensor.name for tensor in graph.initializer} | {out for node in graph.node for out in node.output}
    if name in taken | {value.name for value in (*graph.input, *graph.output)}:
        raise ModelError(f"the graph has a value named '{name}' already, as the kernel is to be", do="rename the layer")
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(ends[0].form.values), name))
    groups = getattr(kernel.layer, "groups", 1)
    cast: dict[tuple[int, ...], str] = {}
    for end in ends:
        types = tuple(helper.get_node_attr_value(node, "to") for node in end.form.casts)
        if types and types not in cast:
            cast[types] = _cast(graph, name, end)
        stored = cast.get(types, name)
        if end.index == CAPTURED:
            graph.node.insert(len(types), helper.make_node("Identity", [stored], [end.name], name=end.name))
            continue
        end.node.input[end.index] = stored
        if end.node.op_type == "Conv" and groups > 1:
            set_attributes(end.node, group=groups)  # tf2onnx writes 1 for three dimensions
        if end.node.op_type == "ConvTranspose" and hasattr(kernel.layer, "output_padding"):
            pad_behind(end.node, kernel.layer)


def _cast(graph: onnx.GraphProto, name: str, end: End) -> str:
    """Put the Casts of a chain behind the stored tensor; return what they give."""
    for number, node in enumerate(end.form.casts):
        made = helper.make_node("Cast", [name], [f"{name}_cast_{number}"], to=helper.get_node_attr_value(node, "to"))
        made.name = made.output[0]
        graph.node.insert(number, made)
        name = made.output[0]
    return name


class _Follower:
    """Follows the kernels of one graph to their consumers."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._graph = proto.graph
        self._index = Graph(proto)  # as it was: `_fix_shape` takes out nodes
        self._opsets = {entry.domain: entry.version for entry in proto.opset_import}
        self._constants = dict(self._index.main.initializers)
        self._shapes: dict[str, tuple[int, ...]] = {}

    def follow(self, name: str, values: NDArray[Any]) -> Iterator[End]:
        """Yield where a kernel is read, nodes that only rearrange it left behind; its Shape becomes a constant."""
        self._shapes[name] = values.shape
        start = Reached(self._index.main, name, Form(Layout.stored(values.shape), values))
        for reading in follow(self._index, start, self._onward):
            node, index, scope = reading.use.node, reading.use.index, reading.use.scope
            while scope.owner is not None:
                node, index, scope = scope.owner, CAPTURED, scope.owner.scope
            if node is None:
                continue
            if node.op_type == "Shape":
                self._fix_shape(node.proto)
            else:
                yield End(node.proto, index, reading.value.name, reading.value.state)

    def _onward(self, at: Reached[Form], node: Node, index: int) -> Form | None:
        if index != 0 or node.scope is not self._index.main or node.proto.output[0] in self._index.main.outputs:
            return None
        behind = self._behind(at.state, node.proto)
        if behind is not None:
            self._shapes[node.proto.output[0]] = behind.values.shape
        return behind

    def _behind(self, at: Form, node: onnx.NodeProto) -> Form | None:
        """Return what a node makes of the kernel, or None where it does more than rearrange it."""
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Identity":
            return at
        if node.op_type == "Cast":
            return replace(at, casts=(*at.casts, node)) if attributes["to"] in _FLOATS else None
        if node.op_type == "Transpose":
            perm = attributes.get("perm", range(at.values.ndim)[::-1])
            return replace(at, layout=at.layout.transpose(perm), values=at.values.transpose(perm))
        if node.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
            arguments = [self._constant(name) for name in node.input[1:]]
            if any(argument is None for argument in arguments):
                return None
            # Of the shape alone, so that no element is moved to learn it.
            hollow = np.broadcast_to(np.zeros((), np.int8), at.values.shape)
            shape = self._evaluate(node, [hollow, *(argument for argument in arguments if argument is not None)]).shape
            layout = at.layout.reshape(shape)
            return None if layout is None else replace(at, layout=layout, values=at.values.reshape(shape))
        return None

    def _fix_shape(self, node: onnx.NodeProto) -> None:
        value = self._constant(node.output[0])
        assert value is not None, "the kernel's shape is known, which is all that it takes"
        self._constants[node.output[0]] = numpy_helper.from_array(value, node.output[0])
        self._graph.initializer.append(self._constants[node.output[0]])
        self._graph.node.remove(node)

    def _constant(self, name: str) -> NDArray[Any] | None:
        """Return a value that follows from constants and the shapes of kernels; None for any other."""
        if name in self._constants:
            return numpy_helper.to_array(self._constants[name])
        maker = self._index.main.producers.get(name)
        if maker is None or maker.op_type not in _SHAPE_ARITHMETIC:
            return None
        node = maker.proto
        if node.op_type == "Shape" and node.input[0] in self._shapes:
            return self._evaluate(node, [np.broadcast_to(np.zeros((), np.int8), self._shapes[node.input[0]])])
        arguments = [self._constant(argument) for argument in node.input]
        known = [argument for argument in arguments if argument is not None]
        return self._evaluate(node, known) if len(known) == len(arguments) else None

    def _evaluate(self, node: onnx.NodeProto, arguments: Sequence[NDArray[Any]]) -> NDArray[Any]:
        from onnx.reference import ReferenceEvaluator  # which takes as long to import as the rest of this room

        inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in names] for names in (node.input, node.output))
        evaluator = ReferenceEvaluator(helper.make_graph([node], "one", inputs, outputs), opsets=self._opsets)
        (value,) = evaluator.run(None, dict(zip(node.input, arguments, strict=True)))
        return np.asarray(value)


_SHAPE_ARITHMETIC = frozenset(
    {"Shape", "Constant", "Cast", "Gather", "Concat", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Identity"}
    | {"ReduceProd", "Mul", "Add", "Sub", "Div"}
)


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name}'"
