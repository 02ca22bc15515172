"""Follow the graph's inputs to the tables they index and the weights they meet.

An input that reaches the indices of a Gather or its relatives, in any scope, must stay below the table's size; an
input of unknown rank takes the shape of the first weight it meets. Arithmetic ends the trail: whoever adds an
offset to an index knows the table better than we do.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field

import onnx

from sn_graph.model import Model

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
_SPATIAL = 16  # the size of an image of which not even the rank is known


@dataclass
class Trails:
    """`limits`: the smallest table each input indexes. `shapes`: a shape that fits the first weight it meets."""

    limits: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Scope:
    """By value name: the inputs of the model that it holds values of, and its shape where that is known."""

    sources: MutableMapping[str, frozenset[str]]
    shapes: MutableMapping[str, Shape]

    def inner(self) -> _Scope:
        return _Scope(ChainMap({}, self.sources), ChainMap({}, self.shapes))

    def bind(self, inner: Iterable[str], outer: Iterable[str], source: _Scope) -> None:
        """Give the names `inner` what `source` knows of `outer`, pairwise."""
        for name, origin in zip(inner, outer, strict=False):
            self.sources[name] = self.sources.get(name, frozenset()) | source.sources.get(origin, frozenset())
            if origin in source.shapes:
                self.shapes[name] = source.shapes[origin]


def trace(model: Model, shapes: Mapping[str, Shape]) -> Trails:
    """Follow every graph input of `model`; `shapes` are those of the inputs, where known."""
    walk = _Walk({(function.domain, function.name): function for function in model.proto.functions}, Trails())
    graph = model.proto.graph
    scope = _Scope({info.name: frozenset({info.name}) for info in graph.input}, dict(shapes))
    walk.graph(graph, scope)
    return walk.trails


@dataclass(frozen=True)
class _Walk:
    functions: Mapping[tuple[str, str], onnx.FunctionProto]
    trails: Trails

    def graph(self, graph: onnx.GraphProto, scope: _Scope) -> None:
        for info in graph.value_info:
            if info.type.tensor_type.HasField("shape"):
                dims = info.type.tensor_type.shape.dim
                scope.shapes.setdefault(
                    info.name, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
                )
        for tensor in graph.initializer:
            scope.shapes[tensor.name] = tuple(tensor.dims)
        for sparse in graph.sparse_initializer:
            scope.shapes[sparse.values.name] = tuple(sparse.dims)
        self.nodes(graph.node, scope)

    def nodes(self, nodes: Iterable[onnx.NodeProto], scope: _Scope) -> None:
        for node in nodes:
            attributes = {attribute.name: attribute for attribute in node.attribute}
            if (node.domain, node.op_type) in self.functions:
                self._call(self.functions[node.domain, node.op_type], node, scope)
                continue
            for attribute in node.attribute:
                for body in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                    self._body(body, node, scope)
            self._meet(node, attributes, scope)
            self._pass(node, attributes, scope)

    def _call(self, function: onnx.FunctionProto, node: onnx.NodeProto, scope: _Scope) -> None:
        inside = _Scope({}, {})
        inside.bind(function.input, node.input, scope)
        self.nodes(function.node, inside)
        scope.bind(node.output, function.output, inside)

    def _body(self, body: onnx.GraphProto, node: onnx.NodeProto, scope: _Scope) -> None:
        """If, Loop, Scan: inputs and outputs of node and body match from the end (Loop's condition leads)."""
        inside = scope.inner()
        inside.bind([info.name for info in reversed(body.input)], reversed(node.input), scope)
        self.graph(body, inside)
        for name, origin in zip(reversed(node.output), reversed(body.output), strict=False):
            inner = inside.sources.get(origin.name, frozenset())
            scope.sources[name] = scope.sources.get(name, frozenset()) | inner

    def _meet(self, node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto], scope: _Scope) -> None:
        for indices, table in _INDEXES.get(node.op_type, ()):
            if max(indices, table) < len(node.input):
                size = _indexed_size(node, attributes, *(scope.shapes.get(node.input[at]) for at in (table, indices)))
                if size is not None:
                    for name in scope.sources.get(node.input[indices], ()):
                        self.trails.limits[name] = min(size, self.trails.limits.get(name, size))
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and len(node.input) > 1:
            fitting = _fitting_shape(node, attributes, scope.shapes.get(node.input[1], ()))
            for name in scope.sources.get(node.input[0], ()) if fitting else ():
                self.trails.shapes.setdefault(name, fitting)

    def _pass(self, node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto], scope: _Scope) -> None:
        if node.op_type in _PASSES:
            positions = _PASSES[node.op_type]
            read = node.input if positions is None else [node.input[i] for i in positions if i < len(node.input)]
            sources = frozenset().union(*(scope.sources.get(name, frozenset()) for name in read))
            scope.sources.update(dict.fromkeys(node.output, sources))
        shape = scope.shapes.get(node.input[0]) if node.input else None
        if node.op_type == "Constant" and "value" in attributes:
            scope.shapes[node.output[0]] = tuple(attributes["value"].t.dims)
        elif shape is not None and node.op_type in _KEEPS_SHAPE:
            scope.shapes[node.output[0]] = shape
        elif shape is not None and node.op_type == "Transpose":
            perm = attributes["perm"].ints if "perm" in attributes else range(len(shape) - 1, -1, -1)
            scope.shapes[node.output[0]] = tuple(shape[axis] for axis in perm)


def _indexed_size(
    node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto], table: Shape | None, indices: Shape | None
) -> int | None:
    """How many entries of a table the node's indices choose from; both by their shapes, as far as known."""
    if not table:
        return None
    if node.op_type in ("GatherND", "ScatterND"):  # each index counts along its own axis: stay within the shortest
        batch = attributes["batch_dims"].i if "batch_dims" in attributes else 0
        depth = indices[-1] if indices and indices[-1] is not None else len(table) - batch
        sizes = [size for size in table[batch : batch + depth] if size is not None]
        return min(sizes) if len(sizes) == depth > 0 else None
    if node.op_type == "ArrayFeatureExtractor":
        return table[-1]
    named = attributes.get("gather_axis" if node.op_type == "GatherBlockQuantized" else "axis")
    axis = named.i if named is not None else 0
    return table[axis] if -len(table) <= axis < len(table) else None


def _fitting_shape(
    node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto], weight: Shape
) -> tuple[int, ...]:
    """A shape for input 0 of a node whose weight has the shape given; empty where that is not known."""
    if len(weight) < 2 or weight[0] is None or weight[1] is None:
        return ()
    if node.op_type == "Conv":
        group = attributes["group"].i if "group" in attributes else 1
        return (2, weight[1] * group, *[_SPATIAL] * (len(weight) - 2))
    if node.op_type == "ConvTranspose":
        return (2, weight[0], *[_SPATIAL] * (len(weight) - 2))
    transposed = node.op_type == "Gemm" and "transB" in attributes and attributes["transB"].i == 1
    contracted = weight[1] if transposed else weight[-2]
    return (2, contracted) if contracted is not None else ()
