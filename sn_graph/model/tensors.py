"""Tensors: every TensorProto of a ModelProto, with its place, in the order of the fields."""

from collections.abc import Iterable, Iterator

import onnx

from sn_graph.model.wire import TensorPath

Found = Iterator[tuple[TensorPath, onnx.TensorProto]]


def walk_tensors(model: onnx.ModelProto) -> Found:
    """Yield (path, tensor): initializers, sparse ones, attributes, in subgraphs, functions and training info.

    The paths are those that `wire.rewrite` gives for the serialized model.
    """
    yield from _graph(model.graph, ((7, 0),))
    for index, info in enumerate(model.training_info):
        yield from _graph(info.initialization, ((20, index), (1, 0)))
        yield from _graph(info.algorithm, ((20, index), (2, 0)))
    for index, function in enumerate(model.functions):
        here: TensorPath = ((25, index),)
        yield from _nodes(function.node, here, 7)
        yield from _attributes(function.attribute_proto, here, 11)


def _graph(graph: onnx.GraphProto, path: TensorPath) -> Found:
    yield from _nodes(graph.node, path, 1)
    for index, tensor in enumerate(graph.initializer):
        yield (*path, (5, index)), tensor
    for index, sparse in enumerate(graph.sparse_initializer):
        yield from _sparse(sparse, (*path, (15, index)))


def _sparse(sparse: onnx.SparseTensorProto, path: TensorPath) -> Found:
    if sparse.HasField("values"):
        yield (*path, (1, 0)), sparse.values
    if sparse.HasField("indices"):
        yield (*path, (2, 0)), sparse.indices


def _nodes(nodes: Iterable[onnx.NodeProto], path: TensorPath, number: int) -> Found:
    for index, node in enumerate(nodes):
        if node.attribute:
            yield from _attributes(node.attribute, (*path, (number, index)), 5)


def _attributes(attributes: Iterable[onnx.AttributeProto], path: TensorPath, number: int) -> Found:
    for index, attribute in enumerate(attributes):
        here = (*path, (number, index))
        if attribute.HasField("t"):
            yield (*here, (5, 0)), attribute.t
        if attribute.HasField("g"):
            yield from _graph(attribute.g, (*here, (6, 0)))
        for i, tensor in enumerate(attribute.tensors):
            yield (*here, (10, i)), tensor
        for i, graph in enumerate(attribute.graphs):
            yield from _graph(graph, (*here, (11, i)))
        if attribute.HasField("sparse_tensor"):
            yield from _sparse(attribute.sparse_tensor, (*here, (22, 0)))
        for i, sparse in enumerate(attribute.sparse_tensors):
            yield from _sparse(sparse, (*here, (23, i)))


_DATA = (
    "float_data",
    "int32_data",
    "int64_data",
    "raw_data",
    "double_data",
    "uint64_data",
    "external_data",
    "data_location",
)


def without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model whose tensors have names, types and shapes, but no data and no place for it."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for _, tensor in walk_tensors(bare):
        for name in _DATA:
            tensor.ClearField(name)
    return bare
