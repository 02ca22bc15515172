"""Quantized weights: stored as integers or float8 behind DequantizeLinear, W = (stored - zero_point) * scale.

https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html. Dividing the scale divides W, exactly.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.model import FLOAT_TYPES, Graph, Model, Node, Scope

SCALE, ZERO_POINT = 1, 2
"""The inputs of DequantizeLinear behind the weight."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """How DequantizeLinear reads a weight.

    Attributes:
        node: The DequantizeLinear.
        scale: The scale's TensorProto, which `scale_owner` holds under the name `scale_name`.
        zero_point: Its TensorProto, or None for 0.
        axis: The weight's axis that a scale of rank 1, or a block, runs along.
        block_size: How many elements along `axis` share a scale; 0 where there are no blocks.
        output_type: The element type that it gives: that of the scale, or one that opset 23 lets it name.
    """

    node: Node
    scale: onnx.TensorProto
    scale_owner: Scope
    scale_name: str
    zero_point: onnx.TensorProto | None
    axis: int
    block_size: int
    output_type: int

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves the whole weight."""
        return all(size == 1 for size in self.scale.dims)

    def dequantize(
        self, model: Model, stored: NDArray[np.generic], factor: float | None = None
    ) -> NDArray[np.floating]:
        """Return the weight, of the shape of `stored`, in float32 (float64 for a float64 scale); read-only.

        Runtimes round that to `output_type`.

        Args:
            model, stored: The model, and the weight as its tensor holds it.
            factor: What the scale is multiplied by first: see `Model.array`.
        """
        return self.multiplied(model, stored, model.array(self.scale, factor))

    def multiplied(self, model: Model, stored: NDArray[np.generic], scale: NDArray[np.generic]) -> NDArray[np.floating]:
        """Return the weight as `dequantize` does, with these elements of its scale."""
        work = np.float64 if scale.dtype == np.float64 else np.float32
        weight: NDArray[np.floating] = stored.astype(work)
        if self.zero_point is not None:
            weight -= self._spread(model.array(self.zero_point).astype(work), stored.shape)
        weight *= self._spread(scale.astype(work), stored.shape)
        weight.flags.writeable = False
        return weight

    def same_reading(self, model: Model, other: "Quantization") -> bool:
        """Say whether another DequantizeLinear gives the same weight."""
        tensors = ((self.scale, other.scale), (self.zero_point, other.zero_point))
        alike = (self.axis, self.block_size) == (other.axis, other.block_size) or (self.per_tensor and other.per_tensor)
        types = (self.scale.data_type, self.output_type) == (other.scale.data_type, other.output_type)
        return (
            alike
            and types
            and all(
                a is b or (a is not None and b is not None and np.array_equal(model.array(a), model.array(b)))
                for a, b in tensors
            )
        )

    def _spread(self, values: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
        if values.size == 1:
            return values.reshape(())
        if values.ndim == 1:
            return values.reshape([-1 if axis == self.axis else 1 for axis in range(len(shape))])
        return np.repeat(values, self.block_size, self.axis).take(range(shape[self.axis]), self.axis)


def read_quantization(graph: Graph, node: Node, shape: tuple[int, ...]) -> Quantization | str:
    """Return how a DequantizeLinear reads a weight of this shape, or why that can't be told."""
    names = list(node.proto.input)
    holder = graph.holder(node.scope, names[1]) if len(names) > 1 else None
    scale = graph.constant(node.scope, names[1]) if holder is not None else None
    if scale is None or holder is None:
        return "the scale of its DequantizeLinear is not a constant"
    if scale.data_type not in FLOAT_TYPES:
        return "the scale of its DequantizeLinear is of a type that holds powers of two only"
    zero_point = None
    if len(names) > 2 and names[2]:
        zero_point = graph.constant(node.scope, names[2])
        if zero_point is None:
            return "the zero point of its DequantizeLinear is not a constant"
    axis = int(node.attribute("axis", 1)) % len(shape)
    block_size = int(node.attribute("block_size", 0))
    for name, tensor in (("scale", scale), ("zero point", zero_point)):
        if tensor is not None and not _fits(tuple(tensor.dims), shape, axis, block_size):
            return f"the {name} of its DequantizeLinear has shape {list(tensor.dims)}, which does not fit the weight"
    output_type = int(node.attribute("output_dtype", 0)) or scale.data_type
    return Quantization(node, scale, *holder, zero_point, axis, block_size, output_type)


def _fits(dims: tuple[int, ...], shape: tuple[int, ...], axis: int, block_size: int) -> bool:
    if all(size == 1 for size in dims) or dims == (shape[axis],):
        return True
    blocks = [-(-size // block_size) if block_size and i == axis else size for i, size in enumerate(shape)]
    return block_size > 0 and list(dims) == blocks
