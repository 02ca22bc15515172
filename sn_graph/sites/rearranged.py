"""Rearranged weights: a stored tensor cut into slices that are joined again in another order, such as an LSTM's gates.

PyTorch orders the gates of an LSTM otherwise than ONNX, and exporters leave the rearrangement in the graph. It changes
the order of the rows of M, or of its columns, and neither changes a singular value. Whether it does no more than that
is seen by running the operators, by onnx's own reference, on the places of the stored elements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sn_graph.model import Graph, Model, Node, Scope
from sn_graph.sites.chain import Step
from sn_graph.sites.layout import Layout
from sn_graph.sites.site import WeightUse
from sn_graph.sites.views import Action, Convention, Slot, slot_matrix

_CUTS = frozenset({"Slice", "Split", "Concat"})
_MOVES = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_LARGEST = 1 << 26  # elements, whose places take 512 MB
_LONGEST = 256  # operators


@dataclass(frozen=True, eq=False)
class Rearranged:
    """A stored tensor behind operators that only change its elements' order.

    Attributes:
        scope, name, tensor: Where it is held, under what name, and the TensorProto.
        nodes: The operators.
        use: The weight input, as one of the tensor itself.
    """

    scope: Scope
    name: str
    tensor: onnx.TensorProto
    nodes: frozenset[Node]
    use: WeightUse


def rearranged(model: Model, graph: Graph, use: WeightUse, scope: Scope, name: str) -> Rearranged | None:
    """Return the one stored tensor whose rows or columns the value at a weight input has in another order, if any.

    Args:
        model, graph: The model and its index.
        use: The weight input.
        scope, name: The value there, and the scope that makes it.
    """
    nodes = _makers(graph, scope, name)
    if nodes is None or not any(node.op_type in _CUTS for node in nodes):
        return None
    given = [(node.scope, name) for node in nodes for name in node.proto.input]
    holders = {holder for at in given if (holder := _weight(graph, *at)) is not None}
    if len(holders) != 1 or not _read_by(graph, nodes, use):
        return None
    (holder,) = holders
    tensor = graph.constant(*holder)
    if tensor is None or 0 in tensor.dims or np.prod(tensor.dims, dtype=float) > _LARGEST:
        return None
    dims = tuple(tensor.dims)
    places = _places(model, graph, nodes, holder, dims, name)
    slot = None if places is None else use.operator.slot(use.node, use.index, places.shape)
    if places is None or slot is None or not (slot.action is Action.RECURRENCE or places.ndim == 2):
        return None
    path, stored = _path(graph, scope, name, holder), Layout.stored(dims)
    for layout in (stored.reshape(places.shape), stored.transpose(range(len(dims))[::-1]).reshape(places.shape)):
        if layout is not None and _same_singular_values(slot, layout, places, dims):
            found = WeightUse(use.node, use.index, slot, tuple(Step(node, layout) for node in path))
            return Rearranged(*holder, tensor, frozenset(nodes), found)
    return None


def _makers(graph: Graph, scope: Scope, name: str) -> list[Node] | None:
    """Return the operators that a value is rearranged by, the first first; None where any does something else."""
    found: dict[int, Node] = {}
    waiting = [(scope, name)]
    for at, value in waiting:  # grows as it goes
        node = graph.producer(at, value)
        if node is None or id(node) in found or graph.holder(at, value) is not None:
            continue
        if not node.is_standard or node.op_type not in _CUTS | _MOVES or node.scope is not scope:
            return None
        if len(found) >= _LONGEST or any(attribute.ref_attr_name for attribute in node.proto.attribute):
            return None
        found[id(node)] = node
        waiting += [(node.scope, given) for given in node.proto.input if given]
    return sorted(found.values(), key=lambda node: node.order)


def _weight(graph: Graph, scope: Scope, name: str) -> tuple[Scope, str] | None:
    """Return the holder of a constant of floats; None for another value."""
    tensor = graph.constant(scope, name) if name else None
    is_weight = tensor is not None and tensor.data_type in _FLOATS and len(tensor.dims) > 1
    return graph.holder(scope, name) if is_weight else None


_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})


def _read_by(graph: Graph, nodes: list[Node], use: WeightUse) -> bool:
    """Say whether nobody but the operators themselves and the weight input reads what they make."""
    own = {id(node) for node in nodes}
    readers = (reader for node in nodes for out in node.proto.output for reader in graph.uses(node.scope, out))
    return all(
        reader.node is not None and (id(reader.node) in own or (reader.node is use.node and reader.index == use.index))
        for reader in readers
    )


def _places(
    model: Model, graph: Graph, nodes: list[Node], holder: tuple[Scope, str], dims: tuple[int, ...], name: str
) -> NDArray[np.int64] | None:
    """Return which stored element stands where in the value `name`; None where some are left out, or twice there."""
    count = int(np.prod(dims))
    given: dict[str, NDArray[Any]] = {}
    for node in nodes:
        for value in filter(None, node.proto.input):
            found = graph.holder(node.scope, value)
            tensor = graph.constant(node.scope, value)
            if found == holder:
                given[value] = np.arange(count).reshape(dims)
            elif tensor is not None and model.payload(tensor) is not None:
                given[value] = model.array(tensor)
    for node in nodes:
        read = [given[value] for value in node.proto.input if value in given]
        if node.op_type == "Concat" and sum(array.size for array in read) > count:
            return None  # before it grows beyond all bounds
        made = _evaluated(graph, node, given)
        if made is None:
            return None
        given |= dict(zip(node.proto.output, made, strict=False))
    places = given[name]
    whole = places.dtype == np.int64 and places.size == count
    return places if whole and np.array_equal(np.sort(places, axis=None), np.arange(count)) else None


def _evaluated(graph: Graph, node: Node, given: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]] | None:
    """Return what a node makes of values; None where it is not valid, or the reference can't run it."""
    read = {name: given[name] for name in node.proto.input if name in given}
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in read.items()}
    inputs = [helper.make_tensor_value_info(name, code, None) for name, code in types.items()]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in node.proto.output]
    from onnx.reference import ReferenceEvaluator  # 14 ms to import, for the few models that need it

    proto = helper.make_graph([node.proto], "places", inputs, outputs)
    opset = helper.make_opsetid("", graph.opset() or 1)
    try:
        made = ReferenceEvaluator(helper.make_model(proto, opset_imports=[opset])).run(None, read)
    except Exception:  # of any type: the reference checks nothing beforehand
        return None
    return [np.asarray(array) for array in made]


def _path(graph: Graph, scope: Scope, name: str, holder: tuple[Scope, str]) -> list[Node]:
    """Return the operators from the stored tensor to a value by their first inputs, as a chain has them."""
    path: list[Node] = []
    while graph.holder(scope, name) != holder and (node := graph.producer(scope, name)) is not None:
        path.append(node)
        scope, name = node.scope, node.proto.input[0]
    return path[::-1]


def _same_singular_values(slot: Slot, layout: Layout, places: NDArray[np.int64], dims: tuple[int, ...]) -> bool:
    """Say whether what is read has the matrices of `layout`, but for the order of their rows and columns."""
    stored = np.arange(places.size).reshape(dims)
    for convention in Convention:
        kept = slot_matrix(slot, layout, dims, convention).view.matrix(stored)
        read = slot_matrix(slot, Layout.stored(places.shape), places.shape, convention).view.matrix(places)
        if kept.shape != read.shape or not np.array_equal(_ordered(kept), _ordered(read)):
            return False
    return True


def _ordered(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix of different numbers with its rows and columns in the order of their least ones."""
    return matrix[np.argsort(matrix.min(axis=1))][:, np.argsort(matrix.min(axis=0))]
