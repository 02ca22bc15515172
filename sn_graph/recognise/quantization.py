"""Quantization of constants: DequantizeLinear and QuantizeLinear, whose reference has no versions below opset 19.

    DequantizeLinear   (x − zero point) · scale, computed in the scale's type
    QuantizeLinear     saturate(round(x / scale) + zero point), halves to even

Scales are one for all, one for each place of an axis, or one for each block of an axis: https://onnx.ai/onnx/operators/
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.model import Node

Array = NDArray[Any]


def dequantize(node: Node, inputs: list[Any]) -> Array:
    """Return what DequantizeLinear computes."""
    x, scale, *rest = inputs
    wide = x.astype(np.float32 if x.dtype.itemsize < 4 else np.float64)
    if rest and rest[0] is not None:
        wide = wide - _spread(node, rest[0].astype(wide.dtype), x.shape)
    spread = _spread(node, scale, x.shape)
    return np.asarray(wide.astype(np.result_type(scale.dtype, np.float32)) * spread).astype(scale.dtype)


def quantize(node: Node, inputs: list[Any]) -> Array:
    """Return what QuantizeLinear computes, for 8 and 16 bits. Raises ValueError for other types."""
    x, scale, *rest = inputs
    zero = rest[0] if rest and rest[0] is not None else np.zeros((), np.uint8)
    if zero.dtype.kind not in "iu" or zero.dtype.itemsize > 2:
        raise ValueError(f"QuantizeLinear to {zero.dtype.name}")
    bounds = np.iinfo(zero.dtype)
    rounded = np.rint(x / _spread(node, scale, x.shape)) + _spread(node, zero, x.shape).astype(np.float64)
    return np.asarray(np.clip(rounded, bounds.min, bounds.max).astype(zero.dtype))


def _spread(node: Node, given: Array, shape: tuple[int, ...]) -> Array:
    """Return scales or zero points as they broadcast with the tensor."""
    if given.size == 1:
        return given.reshape(())
    axis, block = node.integer("axis", 1) % len(shape), node.integer("block_size", 0)
    if block:
        repeated = np.repeat(given, block, axis)
        return repeated[(*(slice(None),) * axis, slice(0, shape[axis]))]
    return given.reshape(-1, *(1,) * (len(shape) - axis - 1))
