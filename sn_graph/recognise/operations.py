"""Operations: what ONNX's operators that stand in the arithmetic of a weight compute, in NumPy.

https://onnx.ai/onnx/operators/; `axes`, `shape`, `starts` and the like are attributes in old opsets and inputs in new
ones. What is not here is left to onnx's reference implementation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto

from sn_graph.model import Node
from sn_graph.recognise.quantization import dequantize, quantize

Array = NDArray[Any]
Inputs = list[Any]
Operation = Callable[[Node, Inputs], Array | tuple[Array, ...]]

_BLOCK = 1 << 20  # elements that a product makes float64 at a time


def narrow(array: Array, inputs: Sequence[Array | None]) -> Array:
    """Return a result in the type of its first float input, to which an operator rounds."""
    first = next((one.dtype for one in inputs if one is not None and _is_float(one)), None)
    return array.astype(first, copy=False) if first is not None and _is_float(array) else array


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def product(left: Array, right: Array) -> Array:
    """Return the matrix product, summed in float32 at least; a large operand is widened by blocks of rows."""
    if left.ndim == 2 and left.size > _BLOCK and right.dtype == np.float64 and left.dtype != np.float64:
        step = max(1, _BLOCK // left.shape[1])
        parts = [left[row : row + step].astype(np.float64) @ right for row in range(0, left.shape[0], step)]
        return np.concatenate(parts)
    if right.ndim == 2 and right.size > _BLOCK and left.dtype == np.float64 and right.dtype != np.float64:
        return np.asarray(product(right.T, left.T).T) if left.ndim <= 2 else np.asarray(left @ right)
    wide = [one.astype(np.float32) if one.dtype.itemsize == 2 else one for one in (left, right)]
    return np.asarray(np.matmul(*wide))


def _matmul(_node: Node, inputs: Inputs) -> Array:
    return product(inputs[0], inputs[1])


def _gemm(node: Node, inputs: Inputs) -> Array:
    left = inputs[0].T if node.integer("transA", 0) else inputs[0]
    right = inputs[1].T if node.integer("transB", 0) else inputs[1]
    made = node.number("alpha", 1.0) * product(left, right)
    if len(inputs) > 2 and inputs[2] is not None:
        made = made + node.number("beta", 1.0) * inputs[2]
    return np.asarray(made)


def _einsum(node: Node, inputs: Inputs) -> Array:
    wide = [one.astype(np.float32) if one.dtype.itemsize == 2 else one for one in inputs]
    return np.asarray(np.einsum(node.text("equation", ""), *wide))


def _reshape(node: Node, inputs: Inputs) -> Array:
    wanted = node.integers("shape")
    sizes = [int(size) for size in (inputs[1] if wanted is None else wanted)]
    if not node.integer("allowzero", 0):
        sizes = [inputs[0].shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return np.asarray(inputs[0].reshape(sizes))


def _transpose(node: Node, inputs: Inputs) -> Array:
    return np.asarray(inputs[0].transpose(node.integers("perm")))


def _flatten(node: Node, inputs: Inputs) -> Array:
    axis, shape = node.integer("axis", 1), inputs[0].shape
    return np.asarray(inputs[0].reshape(math.prod(shape[: axis % (len(shape) + 1)]), -1))


def _axes(node: Node, inputs: Inputs, place: int = 1) -> tuple[int, ...] | None:
    given = node.integers("axes")
    if given is None and len(inputs) > place and inputs[place] is not None:
        given = inputs[place].reshape(-1)
    return None if given is None or (len(given) == 0) else tuple(int(axis) for axis in given)


def _squeeze(node: Node, inputs: Inputs) -> Array:
    return np.asarray(np.squeeze(inputs[0], _axes(node, inputs)))


def _unsqueeze(node: Node, inputs: Inputs) -> Array:
    return np.expand_dims(inputs[0], _axes(node, inputs) or ())


def _expand(_node: Node, inputs: Inputs) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in inputs[1]))
    return np.broadcast_to(inputs[0], shape)


def _concat(node: Node, inputs: Inputs) -> Array:
    return np.concatenate(inputs, node.integer("axis", 0))


def _slice(node: Node, inputs: Inputs) -> Array:
    data = inputs[0]
    given: Sequence[Any] = [node.integers("starts"), node.integers("ends"), node.integers("axes")]
    if given[0] is None:
        given = inputs[1:]
    starts, ends, axes, steps = (*given, None, None)[:4]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    chosen = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        start, end, step = int(start), int(end), int(step)
        size = data.shape[int(axis)]
        if step < 0 and end < -size:
            chosen[int(axis)] = slice(start, None, step)
        else:
            chosen[int(axis)] = slice(start, end, step)
    return np.asarray(data[tuple(chosen)])


def _gather(node: Node, inputs: Inputs) -> Array:
    return np.asarray(np.take(inputs[0], inputs[1].astype(np.int64), node.integer("axis", 0)))


def _split(node: Node, inputs: Inputs) -> tuple[Array, ...]:
    axis, sizes = node.integer("axis", 0), node.integers("split")
    if sizes is None and len(inputs) > 1 and inputs[1] is not None:
        sizes = inputs[1]
    if sizes is None:
        return tuple(np.array_split(inputs[0], len(node.proto.output), axis))
    return tuple(np.split(inputs[0], np.cumsum(sizes)[:-1], axis))


def _shape(node: Node, inputs: Inputs) -> Array:
    return np.array(inputs[0].shape[node.integer("start", 0) : node.attribute("end", AttributeProto.INT)], np.int64)


def _constant_of_shape(node: Node, inputs: Inputs) -> Array:
    held = node.attribute("value", AttributeProto.TENSOR)
    filling = np.zeros(1, np.float32) if held is None else onnx.numpy_helper.to_array(held)
    return np.full(tuple(int(size) for size in inputs[0]), filling.reshape(-1)[0], filling.dtype)


def _cast(node: Node, inputs: Inputs) -> Array:
    to = node.attribute("to", AttributeProto.INT, AttributeProto.STRING)
    code = onnx.TensorProto.DataType.Value(to.decode()) if isinstance(to, bytes) else to
    return np.asarray(inputs[0].astype(onnx.helper.tensor_dtype_to_np_dtype(code)))


def _cast_like(_node: Node, inputs: Inputs) -> Array:
    return np.asarray(inputs[0].astype(inputs[1].dtype))


def _reduced(reduce: Callable[..., Array], after: Callable[[Array], Array] | None = None) -> Operation:
    def run(node: Node, inputs: Inputs) -> Array:
        axes = _axes(node, inputs)
        if axes is None and node.integer("noop_with_empty_axes", 0):
            return np.asarray(inputs[0])
        data = inputs[0].astype(np.float32) if inputs[0].dtype.itemsize == 2 else inputs[0]
        made = reduce(data, axis=axes, keepdims=bool(node.integer("keepdims", 1)))
        return np.asarray(made if after is None else after(made))

    return run


def _l1(data: Array, **how: Any) -> Array:
    return np.asarray(np.abs(data).sum(**how))


def _l2(data: Array, **how: Any) -> Array:
    return np.asarray(np.sqrt(np.square(data).sum(**how)))


def _square_sum(data: Array, **how: Any) -> Array:
    return np.asarray(np.square(data).sum(**how))


def _lp_normalized(node: Node, inputs: Inputs) -> Array:
    order, axis = node.integer("p", 2), node.integer("axis", -1)
    return np.asarray(inputs[0] / np.linalg.norm(inputs[0], order, axis, keepdims=True))


def _binary(function: Callable[[Array, Array], Array]) -> Operation:
    return lambda _node, inputs: np.asarray(function(inputs[0], inputs[1]))


def _unary(function: Callable[[Array], Array]) -> Operation:
    return lambda _node, inputs: np.asarray(function(inputs[0]))


def _folded(function: Callable[[Array, Array], Array]) -> Operation:
    def run(_node: Node, inputs: Inputs) -> Array:
        made = inputs[0]
        for one in inputs[1:]:
            made = function(made, one)
        return np.asarray(made)

    return run


def _clip(node: Node, inputs: Inputs) -> Array:
    low, high = node.attribute("min", AttributeProto.FLOAT), node.attribute("max", AttributeProto.FLOAT)
    low = inputs[1] if len(inputs) > 1 and inputs[1] is not None else low
    high = inputs[2] if len(inputs) > 2 and inputs[2] is not None else high
    made = inputs[0]
    if low is not None:
        made = np.maximum(made, np.asarray(low, made.dtype))
    if high is not None:
        made = np.minimum(made, np.asarray(high, made.dtype))
    return np.asarray(made)


def _identity(_node: Node, inputs: Inputs) -> Array:
    return np.asarray(inputs[0])


REARRANGE = frozenset(
    {"Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice", "Split", "Concat"}
    | {"Gather", "Shape", "MatMul", "Gemm"}
)
"""The operators that take large tensors as they are: those that move elements, and the products."""

OPERATIONS: dict[str, Operation] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": dequantize,
    "Div": _binary(lambda a, b: np.floor_divide(a, b) if a.dtype.kind in "iu" else np.divide(a, b)),
    "Dropout": _identity,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": _identity,
    "LpNormalization": _lp_normalized,
    "MatMul": _matmul,
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "Pow": _binary(lambda a, b: np.power(a, b.astype(a.dtype))),
    "QuantizeLinear": quantize,
    "Reciprocal": _unary(lambda a: 1 / a),
    "ReduceL1": _reduced(_l1),
    "ReduceL2": _reduced(_l2),
    "ReduceMax": _reduced(np.max),
    "ReduceMean": _reduced(np.mean),
    "ReduceSum": _reduced(np.sum),
    "ReduceSumSquare": _reduced(_square_sum),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _unary(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
