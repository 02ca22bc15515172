"""Fused projections: a matrix whose product is taken apart again into query, key and value, as exporters leave them.

    Y = X W (+ b),  W [inputs, q + k + v]

Y is cut in three along its last axis, or reshaped to (…, 3, …) and taken apart along that axis; two of the three meet
in a product, of which a Softmax is taken. Without that, three parts may be anything: heads, gates, colours.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, helper, numpy_helper

from sn_graph.model import Node, Scope
from sn_graph.plan import Target
from sn_graph.sites import WeightUse

_THREE = 3
_SAME_LAYOUT = frozenset({"Identity", "Cast", "DequantizeLinear"})
_ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention"})
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Einsum", "Gemm"})
_FAR = 24  # nodes one behind the other, from a part to where it meets another
_MANY = 256  # nodes that are looked at for one part


@dataclass(frozen=True)
class Fused:
    """A matrix of three: which axis of M the outputs are, and which of them make query, key and value."""

    axis: int
    outputs: tuple[NDArray[np.intp], ...]


def fused(target: Target) -> Fused | None:
    """Return how a weight's matrix holds query, key and value; None where it does not, or that can't be told."""
    use = target.uses[0]
    axis = _output_axis(target, use)
    if axis is None:
        return None
    count = (target.view.rows, target.view.cols)[axis]
    name = _behind_bias(use.node)
    found = _cut(use.node, name, count) or _reshaped(use.node, name, count)
    if found is None or not _attend(use.node.scope, found[0]):
        return None
    return Fused(axis, found[1])


_Cut = tuple[tuple[str, ...], tuple[NDArray[np.intp], ...]]  # the values that three parts are, and of which outputs


def _output_axis(target: Target, use: WeightUse) -> int | None:
    """Return which axis of M runs over the outputs of a product; None where the node is not one of a stored matrix."""
    if len(target.shape) != 2 or use.index != 1 or use.node.op_type not in ("MatMul", "Gemm"):
        return None
    axis = 0 if use.node.op_type == "Gemm" and use.node.integer("transB", 0) else 1
    for step in use.steps:
        if step.node.op_type == "Transpose":
            axis = 1 - axis
        elif step.node.op_type not in _SAME_LAYOUT:
            return None
    rows = target.shape[axis]
    return axis if rows == (target.view.rows, target.view.cols)[axis] and target.view.perm is None else 1 - axis


def _readers(scope: Scope, name: str) -> list[Node]:
    return [node for node in scope.readers.get(name, ()) if node.op_type != "Shape"]


def _behind_bias(node: Node) -> str:
    """Return what a product's value is called once the bias is added."""
    scope, name = node.scope, node.proto.output[0]
    for _ in range(_FAR):
        readers = _readers(scope, name)
        if len(readers) != 1 or name in scope.outputs:
            break
        (reader,) = readers
        others = [each for each in reader.proto.input if each != name]
        is_bias = reader.op_type == "Add" and len(others) == 1 and _is_stored(scope, others[0])
        if not is_bias and reader.op_type not in ("Identity", "Cast"):
            break
        name = reader.proto.output[0]
    return name


def _cut(product: Node, name: str, count: int) -> _Cut | None:
    """Return three parts of a value along its last axis, whose length is `count`."""
    readers = _readers(product.scope, name)
    if len(readers) == 1 and readers[0].op_type == "Split" and len(readers[0].proto.output) == _THREE:
        sizes = _integers(readers[0], "split", 1) or [count // _THREE] * _THREE
        axis = readers[0].integer("axis", 0)
        if len(sizes) != _THREE or sum(sizes) != count or not _is_last(product, axis):
            return None
        return tuple(readers[0].proto.output), _pieces(count, sizes)
    if len(readers) != _THREE or {node.op_type for node in readers} != {"Slice"} or count % _THREE:
        return None
    axes = [_integers(node, "axes", 3) for node in readers]
    if not all(axis is not None and len(axis) == 1 and _is_last(product, axis[0]) for axis in axes):
        return None
    return tuple(node.proto.output[0] for node in readers), _pieces(count, [count // _THREE] * _THREE)


def _pieces(count: int, sizes: Sequence[int]) -> tuple[NDArray[np.intp], ...]:
    return tuple(np.split(np.arange(count), np.cumsum(sizes)[:-1]))


def _is_last(product: Node, axis: int) -> bool:
    """Say whether an axis is a product's last; of one whose rank is not known, whether it is behind the first two."""
    if axis < 0:
        return axis == -1
    if product.op_type == "Gemm":
        return axis == 1
    rank = _rank(product)
    return axis == rank - 1 if rank else axis > 1


def _rank(product: Node) -> int | None:
    """Return the rank of a product, which is that of its first factor, where it is declared or was just transposed."""
    scope, factor = product.scope, product.proto.input[0]
    maker = scope.producers.get(factor)
    if maker is not None and maker.op_type == "Transpose" and (order := maker.integers("perm")) is not None:
        return len(order)
    return _declared_rank(scope, product.proto.output[0]) or _declared_rank(scope, factor)


def _declared_rank(scope: Scope, name: str) -> int | None:
    for value in (*scope.proto.value_info, *(() if scope.is_function else scope.proto.input)):
        if not isinstance(value, str) and value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


def _reshaped(product: Node, name: str, count: int) -> _Cut | None:
    """Return three parts of a value that is reshaped so that one of its axes counts them."""
    scope = product.scope
    readers = _readers(scope, name)
    if len(readers) != 1 or readers[0].op_type != "Reshape":
        return None
    shape = _integers(readers[0], "shape", 1) or _unflattened(product, readers[0], count)
    if not shape:
        return None
    first = next((at for at in range(len(shape)) if math.prod(shape[at:]) == count and min(shape[at:]) > 0), None)
    if first is None:
        return None
    for place in range(first, len(shape)):
        if shape[place] == _THREE:
            parts = _along(scope, readers[0].proto.output[0], place, len(shape))
            if parts is not None:
                numbered = np.arange(count).reshape(shape[first:])
                taken = (np.take(numbered, part, axis=place - first).reshape(-1) for part in range(_THREE))
                return parts, tuple(taken)
    return None


def _unflattened(product: Node, reshape: Node, count: int) -> list[int] | None:
    """Return a shape that PyTorch's `unflatten` put together of computed sizes and stored ones, 1 for the former."""
    scope, rank = product.scope, _rank(product)
    maker = scope.producers.get(reshape.proto.input[1]) if len(reshape.proto.input) > 1 else None
    if rank is None or maker is None or maker.op_type != "Concat":
        return None
    stored = (_integers(maker, "", place) for place in range(len(maker.proto.input)))
    last = next((sizes for sizes in stored if sizes and math.prod(sizes) == count), None)
    return None if last is None else [1] * (rank - 1) + last


def _along(scope: Scope, name: str, axis: int, rank: int) -> tuple[str, ...] | None:
    """Return the three values that a value of this rank is taken apart into along an axis."""
    for _ in range(_FAR):
        readers = _readers(scope, name)
        if len(readers) != 1 or readers[0].op_type == "Split":
            break
        (reader,) = readers
        axes = _integers(reader, "axes", 1) or ()
        if reader.op_type == "Transpose":
            order = list(reader.integers("perm") or range(rank)[::-1])
            if axis not in order:
                return None
            axis = order.index(axis)
        elif reader.op_type == "Unsqueeze" and axes:
            rank += len(axes)
            kept = [at for at in range(rank) if at not in {each % rank for each in axes}]
            axis = kept[axis]
        elif reader.op_type == "Squeeze" and axes and axis not in {each % rank for each in axes}:
            axis -= sum(each % rank < axis for each in axes)
            rank -= len(axes)
        elif reader.op_type not in ("Identity", "Cast"):
            return None
        name = reader.proto.output[0]
    if len(readers) == 1:
        is_split = len(readers[0].proto.output) == _THREE and readers[0].integer("axis", 0) % rank == axis
        return tuple(readers[0].proto.output) if is_split else None
    ways = [(node.op_type, _axis_taken(node)) for node in readers]
    if len(ways) != _THREE or any(
        way not in ("Gather", "Slice") or at is None or at % rank != axis for way, at in ways
    ):
        return None
    return tuple(node.proto.output[0] for node in readers)


def _axis_taken(node: Node) -> int | None:
    if node.op_type == "Gather":
        return node.integer("axis", 0)
    axes = _integers(node, "axes", 3) or ()
    return axes[0] if len(axes) == 1 else None


def _attend(scope: Scope, parts: Sequence[str]) -> bool:
    """Say whether two of the parts meet in attention: in an operator of it, or in a product under a Softmax."""
    met: set[int] = set()
    for part in parts:
        ends = {node.order: node for node in _reached(scope, part, _PRODUCTS | _ATTENTION)}
        for order in met & ends.keys():
            node = ends[order]
            if node.op_type in _ATTENTION or any(
                end.op_type == "Softmax" for end in _reached(scope, node.proto.output[0], _PRODUCTS | {"Softmax"})
            ):
                return True
        met |= ends.keys()
    return False


def _reached(scope: Scope, name: str, ends: frozenset[str]) -> Iterator[Node]:
    """Yield the nodes of the types `ends` that a value leads to, through none of them."""
    seen: set[int] = set()
    values = [name]
    for _ in range(_FAR):
        nodes = {node.order: node for value in values for node in _readers(scope, value) if node.order not in seen}
        seen |= nodes.keys()
        if not nodes or len(seen) > _MANY:
            return
        yield from (node for node in nodes.values() if node.op_type in ends)
        values = [each for node in nodes.values() if node.op_type not in ends for each in node.proto.output if each]


def _is_stored(scope: Scope, name: str) -> bool:
    at: Scope | None = scope
    while at is not None and not at.defines(name):
        at = at.parent
    if at is None or name in at.initializers:
        return at is not None
    return name in at.producers and at.producers[name].op_type in ("Constant", "DequantizeLinear", "Identity")


def _integers(node: Node, attribute: str, index: int) -> list[int] | None:
    """Return the few integers that a node is given by an attribute or a stored input; None where they are computed."""
    given = node.integers(attribute)
    if given is not None:
        return list(given)
    name = node.proto.input[index] if len(node.proto.input) > index else ""
    at: Scope | None = node.scope
    while name and at is not None and not at.defines(name):
        at = at.parent
    if not name or at is None:
        return None
    tensor = at.initializers.get(name)
    maker = at.producers.get(name)
    if maker is not None and maker.op_type == "Constant":
        if (several := maker.integers("value_ints")) is not None:
            return list(several)
        tensor = maker.attribute("value", AttributeProto.TENSOR)
    few = tensor is not None and math.prod(tensor.dims) <= _FAR and not tensor.external_data
    if tensor is None or not few or helper.tensor_dtype_to_np_dtype(tensor.data_type).kind != "i":
        return None
    return [int(each) for each in numpy_helper.to_array(tensor).reshape(-1)]
