"""Ranges: the tables that a graph's inputs index, and the weights that they meet.

An input that reaches the indices of a Gather or its relatives, in any scope, must stay below the table's size; an
input of unknown rank takes the shape of the first weight it meets. Arithmetic ends the trail: whoever adds an
offset to an index knows the table better than we do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx

from sn_graph.model import Graph, Model, Node, Reached, Reading, Scope, constant_tensor, follow, origin

Shape = tuple[int | None, ...]

# Ops whose outputs hold values of some inputs and nothing else: of all of them, or of those at the positions given.
# fmt: off
_PASS_FIRST = {
    "Abs", "Cast", "CastLike", "Clip", "Compress", "DepthToSpace", "Dropout", "Expand", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Identity", "Optional", "OptionalGetElement", "Pad", "ReduceMax", "ReduceMin", "Relu",
    "Reshape", "ReverseSequence", "Round", "SequenceAt", "Slice", "Split", "SplitToSequence", "Squeeze", "Tile", "TopK",
    "Transpose", "Unsqueeze",
}
# fmt: on
_PASSES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(_PASS_FIRST, (0,)),
    **dict.fromkeys(("Concat", "ConcatFromSequence", "Max", "Min", "SequenceConstruct"), None),
    **dict.fromkeys(("Scatter", "ScatterElements", "ScatterND"), (0, 2)),
    "Where": (1, 2),
}
# op -> pairs of the position of indices and the position of the table that they index
_INDEXES: dict[str, tuple[tuple[int, int], ...]] = {
    "Gather": ((1, 0),),
    "GatherElements": ((1, 0),),
    "GatherND": ((1, 0),),
    "GatherBlockQuantized": ((1, 0),),
    "ArrayFeatureExtractor": ((1, 0),),
    "ScatterElements": ((1, 0),),
    "Scatter": ((1, 0),),
    "ScatterND": ((1, 0),),
    "EmbedLayerNormalization": ((0, 2), (1, 4), (8, 3)),
    "QEmbedLayerNormalization": ((0, 2), (1, 4)),
}
_KEEPS_SHAPE = {"Identity", "Cast", "DequantizeLinear", "QuantizeLinear"}
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_SPATIAL = 16  # the least size of an image of which not even the rank is known


@dataclass
class Trails:
    """`limits`: the smallest table each input indexes. `shapes`: a shape that fits the first weight it meets."""

    limits: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def trace(model: Model, shapes: Mapping[str, Shape], size: int = _SPATIAL) -> Trails:
    """Follow every graph input of `model`; `shapes` are those of the inputs, where known.

    An image of unknown rank gets `size`, or 16 where that is less.
    """
    graph, trails = model.graph, Trails()
    known = Shapes(graph, shapes)
    for name in graph.main.inputs:
        met = sorted(follow(graph, Reached(graph.main, name, True), _onward, _through), key=_order)
        sizes = [size for reading in met for size in _indexed_sizes(reading, known)]
        if sizes:
            trails.limits[name] = min(sizes)
        fitting = next((shape for reading in met if (shape := _fitting_shape(reading, known, size))), None)
        if fitting is not None:
            trails.shapes[name] = fitting
    return trails


def _through(_: Reading[bool]) -> bool:
    return True


def _onward(_: Reached[bool], node: Node, index: int) -> bool | None:
    if node.op_type not in _PASSES:
        return None
    positions = _PASSES[node.op_type]
    return True if positions is None or index in positions else None


def _order(reading: Reading[bool]) -> tuple[int, ...]:
    """What sorts readings as the model runs; the body of a function stands where it is called."""
    node = reading.use.node
    return (*(call.order for call in reading.value.calls), -1 if node is None else node.order)


def _indexed_sizes(reading: Reading[bool], known: Shapes) -> Iterator[int]:
    """Yield how many entries of tables the value chooses from at a use, by their shapes, as far as known."""
    node, index, calls = reading.use.node, reading.use.index, reading.value.calls
    if node is None:
        return
    for indices, table in _INDEXES.get(node.op_type, ()):
        if index == indices and table < len(node.proto.input):
            size = _indexed_size(node, *(known.of(node, place, calls) for place in (table, indices)))
            if size is not None:
                yield size


def _indexed_size(node: Node, table: Shape | None, indices: Shape | None) -> int | None:
    if not table:
        return None
    if node.op_type in ("GatherND", "ScatterND"):  # each index counts along its own axis: stay within the shortest
        batch = node.integer("batch_dims", 0)
        depth = indices[-1] if indices and indices[-1] is not None else len(table) - batch
        sizes = [size for size in table[batch : batch + depth] if size is not None]
        return min(sizes) if len(sizes) == depth > 0 else None
    if node.op_type == "ArrayFeatureExtractor":
        return table[-1]
    axis = node.integer("gather_axis" if node.op_type == "GatherBlockQuantized" else "axis", 0)
    return table[axis] if -len(table) <= axis < len(table) else None


def _fitting_shape(reading: Reading[bool], known: Shapes, size: int) -> tuple[int, ...]:
    """Return a shape for input 0 of a node that reads the value there; empty where its weight's is not known."""
    node = reading.use.node
    if node is None or reading.use.index != 0 or node.op_type not in _PRODUCTS or len(node.proto.input) < 2:
        return ()
    weight = known.of(node, 1, reading.value.calls) or ()
    if len(weight) < 2 or weight[0] is None or weight[1] is None:
        return ()
    spatial = [max(size, _SPATIAL)] * (len(weight) - 2)
    if node.op_type == "Conv":
        return (2, weight[1] * node.integer("group", 1), *spatial)
    if node.op_type == "ConvTranspose":
        return (2, weight[0], *spatial)
    transposed = node.op_type == "Gemm" and node.integer("transB", 0) == 1
    contracted = weight[1] if transposed else weight[-2]
    return (2, contracted) if contracted is not None else ()


_Turns = tuple[tuple[int, ...] | None, ...]  # the perm of each Transpose passed on the way back; None reverses the axes


class Shapes:
    """The shapes of values, as far as the model says or they follow from others."""

    def __init__(self, graph: Graph, inputs: Mapping[str, Shape]) -> None:
        self._graph = graph
        self._known = {scope: _declared(scope) | _stored(scope) for scope in graph.scopes}
        self._known[graph.main] = _declared(graph.main) | dict(inputs) | _stored(graph.main)

    def of(self, node: Node, index: int, calls: tuple[Node, ...]) -> Shape | None:
        """Return the shape of an input of a node that `calls` lead to: of its origin, where that is known."""
        at: Reached[_Turns] | None = Reached(node.scope, node.proto.input[index], (), calls)
        shape, seen = None, set()
        while at is not None and at.place not in seen:  # a cycle, which only a corrupt model has
            seen.add(at.place)
            known = self._known[at.scope].get(at.name)
            if known is not None:
                shape = _turned(known, at.state)
            at = origin(self._graph, at) or _source(at)
        return shape


def _declared(scope: Scope) -> dict[str, Shape]:
    if isinstance(scope.proto, onnx.FunctionProto):
        return {}
    declared = {info.name: info.type.tensor_type for info in scope.proto.value_info}
    return {
        name: tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
        for name, tensor in declared.items()
        if tensor.HasField("shape")
    }


def _stored(scope: Scope) -> dict[str, Shape]:
    constants = (node for node in scope.nodes if node.op_type == "Constant")
    held = {name: constant_tensor(node) for node in constants for name in node.proto.output}
    stored = held | scope.initializers | scope.sparse_initializers
    return {name: tuple(tensor.dims) for name, tensor in stored.items() if tensor is not None}


def _source(at: Reached[_Turns]) -> Reached[_Turns] | None:
    """Return the value whose shape decides that of a node's output."""
    node = at.scope.producers.get(at.name)
    if node is None or not node.proto.input:
        return None
    if node.op_type == "Transpose":
        return replace(at, name=node.proto.input[0], state=(*at.state, node.integers("perm")))
    return replace(at, name=node.proto.input[0]) if node.op_type in _KEEPS_SHAPE else None


def _turned(shape: Shape, turns: _Turns) -> Shape:
    for perm in reversed(turns):
        shape = shape[::-1] if perm is None else tuple(shape[axis] for axis in perm if -len(shape) <= axis < len(shape))
    return shape
