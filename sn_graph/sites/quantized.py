"""Quantized weights: stored as integers or float8, W = (stored - zero_point) * scale.

https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html. Multiplying the scale multiplies W, exactly. Operators that
take the integers themselves have scale and zero point among their own inputs, or behind them: see `integers`.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.model import FLOAT_TYPES, Graph, Model, Node, Scope
from sn_graph.sites.layout import Atom, Layout
from sn_graph.sites.operators import QUANTS
from sn_graph.sites.rounding import NEAREST, Rounding

SCALE, ZERO_POINT = 1, 2
"""The inputs of DequantizeLinear behind the weight."""


class Packing(NamedTuple):
    """Integers of few bits, several in a byte, the lowest bits first: rows of bytes, each `size` integers long.

    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
    """

    bits: int
    rows: int
    size: int

    def unpack(self, packed: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return the integers, uint8 [rows, size]; what the last byte of a row holds besides is left out."""
        octets = packed.view(np.uint8).reshape(self.rows, -1)
        parts = [octets >> np.uint8(shift) & np.uint8(2**self.bits - 1) for shift in range(0, 8, self.bits)]
        return np.stack(parts, axis=-1).reshape(self.rows, -1)[:, : self.size]

    @property
    def middle(self) -> int:
        """The integer that stands for 0 where no zero point is given."""
        return 1 << self.bits - 1


@dataclass(frozen=True, eq=False)
class Quantization:
    """How a weight is dequantized.

    Attributes:
        node: What reads the scale, at its input `scale_input`: a DequantizeLinear, the consumer, or a Mul behind it.
        scale: The scale's TensorProto, which `scale_owner` holds under the name `scale_name`.
        zero_point: Its TensorProto, which `zero_owner` holds under the name `zero_name`; None for 0.
        axis: The axis that scales for several channels, or a block, run along: of what `dims` describes.
        block_size: How many elements along `axis` share a scale; 0 where there are no blocks.
        output_type: The element type that it gives: that of the scale, or one that opset 23 lets it name.
        dims: What the stored tensor has become where it is dequantized: the axes of its layout.
        packing, zero_packing: How several integers, and zero points, share a byte; None where they don't.
        fixed: Why another scale would change more than the weight; None where it would not.
        quantizer: What makes the integers, where the tensor holds floats that are quantized in the graph.
        rounds: Whether its `quantizer` divides by the same scale, which `node` reads once.
        behind: Whether `node` is a DequantizeLinear that reads what the consumer looks up, and not the weight.
    """

    node: Node
    scale: onnx.TensorProto
    scale_owner: Scope
    scale_name: str
    zero_point: onnx.TensorProto | None
    axis: int
    block_size: int
    output_type: int
    dims: tuple[tuple[Atom, ...], ...]
    scale_input: int = SCALE
    zero_owner: Scope | None = None
    zero_name: str = ""
    packing: Packing | None = None
    zero_packing: Packing | None = None
    fixed: str | None = None
    quantizer: "Quantizer | None" = None
    rounds: bool = False
    behind: bool = False

    @property
    def layout(self) -> Layout:
        """What the stored tensor has become where it is dequantized."""
        return Layout(self.dims)

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves the whole weight."""
        return all(size == 1 for size in self.scale.dims)

    @property
    def is_dequantizer(self) -> bool:
        """Whether a DequantizeLinear on the way to the consumers reads the weight."""
        return not self.behind and (self.node.op_type == "DequantizeLinear" or self.node.op_type in QUANTS)

    def dequantize(
        self, model: Model, stored: NDArray[np.generic], factor: float | None = None
    ) -> NDArray[np.floating]:
        """Return the weight, of the shape of `stored` unpacked, in float32 (float64 for a float64 scale); read-only.

        Runtimes round that to `output_type`.

        Args:
            model, stored: The model, and the weight as its tensor holds it.
            factor: What the scale is multiplied by first: see `Model.array`.
        """
        return self.multiplied(model, stored, model.array(self.scale, factor))

    def multiplied(self, model: Model, stored: NDArray[np.generic], scale: NDArray[np.generic]) -> NDArray[np.floating]:
        """Return the weight as `dequantize` does, with these elements of its scale."""
        work = np.float64 if scale.dtype == np.float64 else np.float32
        if self.quantizer is not None:
            stored = self.quantizer.integers(model, stored)
        if self.packing is not None:
            stored = self.packing.unpack(stored)
        weight: NDArray[np.floating] = stored.astype(work)
        zero = self._zero_point(model)
        with np.errstate(over="ignore", invalid="ignore"):  # of a scale that is not finite; the weight is refused then
            if zero is not None:
                weight -= self.spread(zero.astype(work), stored.shape)
            weight *= self.spread(scale.astype(work), stored.shape)
        weight.flags.writeable = False
        return weight

    def _zero_point(self, model: Model) -> NDArray[np.generic] | None:
        if self.zero_point is None:
            return None if self.packing is None else np.array(self.packing.middle, np.uint8)
        zero = model.array(self.zero_point)
        return zero if self.zero_packing is None else self.zero_packing.unpack(zero)

    def same_reading(self, model: Model, other: "Quantization") -> bool:
        """Say whether another reading gives the same weight."""
        tensors = ((self.scale, other.scale), (self.zero_point, other.zero_point))
        mine, theirs = ((one.axis, one.block_size, one.dims) for one in (self, other))
        alike = (mine == theirs or (self.per_tensor and other.per_tensor)) and self.packing == other.packing
        types = (self.scale.data_type, self.output_type) == (other.scale.data_type, other.output_type)
        quantizers = (self.quantizer, other.quantizer)
        if quantizers != (None, None):
            first, second = quantizers
            if first is None or second is None or not first.same(model, second):
                return False
        return (
            alike
            and types
            and all(
                a is b or (a is not None and b is not None and np.array_equal(model.array(a), model.array(b)))
                for a, b in tensors
            )
        )

    def spread(self, values: NDArray[np.floating], stored_shape: tuple[int, ...]) -> NDArray[np.floating]:
        """Return scales or zero points as they stand beside the elements of the stored tensor."""
        shape = self.layout.shape
        if values.size == 1:
            return values.reshape(())
        if not self.block_size or (values.shape == (shape[self.axis],) and self.packing is None):
            spread = values.reshape([-1 if axis == self.axis else 1 for axis in range(len(shape))])
        else:
            blocks = [-(-size // self.block_size) if axis == self.axis else size for axis, size in enumerate(shape)]
            repeated = np.repeat(values.reshape(blocks), min(self.block_size, shape[self.axis]), self.axis)
            spread = repeated.take(range(shape[self.axis]), self.axis)
        if self.layout == Layout.stored(stored_shape):
            return spread
        return self.layout.stored_array(np.broadcast_to(spread, shape), stored_shape)


@dataclass(frozen=True, eq=False)
class Quantizer:
    """How a graph makes integers of a stored tensor of floats: round(W / scale) + zero_point, clipped.

    Attributes:
        reading: Its scale and zero point, and where they stand.
        least, greatest: The range of the integers.
        rounding: How it rounds.
        zero_first: Whether it adds the zero point before it rounds.
        divides: Whether it divides by the scale; what takes the sign alone does not.
    """

    reading: Quantization
    least: int
    greatest: int
    rounding: Rounding = NEAREST
    zero_first: bool = False
    divides: bool = True

    def integers(self, model: Model, stored: NDArray[np.generic]) -> NDArray[np.floating]:
        """Return the integers, in the wider of the types of scale and weight, or float32 at least."""
        scale, shift = self._spread(model, stored.shape, stored.dtype)
        steps: NDArray[np.floating] = stored.astype(scale.dtype)
        with np.errstate(all="ignore"):  # of a scale that is 0 or not finite; the weight is refused then
            if self.divides:
                steps = steps / scale
            rounded = self.rounding.of(steps + shift) if self.zero_first else self.rounding.of(steps) + shift
            found: NDArray[np.floating] = np.clip(rounded, self.least, self.greatest)
        return found

    def centred(self, model: Model, integers: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return floats in the middle of those that become these integers."""
        scale, shift = self._spread(model, integers.shape, integers.dtype)
        steps = self.rounding.middle(integers) if self.zero_first else self.rounding.middle(integers - shift) + shift
        found: NDArray[np.floating] = (steps - shift) * scale if self.divides else steps
        return found

    def _spread(
        self, model: Model, shape: tuple[int, ...], dtype: np.dtype[np.generic]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return scale and zero point as they stand beside the elements of a stored tensor of this shape and type."""
        scale, zero = model.array(self.reading.scale), self.reading.zero_point
        work = np.float64 if np.float64 in (scale.dtype, dtype) else np.float32
        shift = np.zeros((), work) if zero is None else self.reading.spread(model.array(zero).astype(work), shape)
        return self.reading.spread(scale.astype(work), shape), shift

    def by(self, scale: onnx.TensorProto) -> "Quantizer":
        """Return the quantizer with another scale, of the same shape."""
        return replace(self, reading=replace(self.reading, scale=scale))

    def same(self, model: Model, other: "Quantizer") -> bool:
        """Say whether another gives the same integers."""
        ways = ((one.least, one.greatest, one.rounding, one.zero_first, one.divides) for one in (self, other))
        return len(set(ways)) == 1 and self.reading.same_reading(model, other.reading)


def read_quantization(graph: Graph, node: Node, layout: Layout) -> Quantization | str:
    """Return how a DequantizeLinear reads a weight of this layout, or why that can't be told."""
    if not layout.dims:
        return "its DequantizeLinear reads a single number, which is no weight"
    axis = node.integer("axis", 1) % len(layout.dims)
    block_size = node.integer("block_size", 0)
    return read_scale(
        graph,
        node,
        layout,
        axis,
        "DequantizeLinear",
        (node, SCALE),
        ZERO_POINT,
        block_size=block_size,
        output_type=node.integer("output_dtype", 0),
    )


def read_scale(
    graph: Graph,
    node: Node,
    layout: Layout,
    axis: int,
    what: str,
    scale_at: tuple[Node, int],
    zero_index: int | None,
    *,
    block_size: int = 0,
    output_type: int = 0,
    tail: int | None = None,
    fixed: str | None = None,
) -> Quantization | str:
    """Return a weight's quantization, or why it can't be told.

    Args:
        graph: The index of the model.
        node: What reads the integers, and the zero point at its input `zero_index`.
        layout, axis, block_size, output_type, fixed: As `Quantization` has them; an output type of 0 is the scale's.
        what: The operator, as reasons name it.
        scale_at: What reads the scale, and at which input.
        zero_index: None where the operator takes no zero point.
        tail: Of a scale that is a factor of the output, how many axes that has behind the scaled one.
    """
    reader, scale_input = scale_at
    scale, owner, name = held_constant(graph, reader, scale_input)
    if scale is None or owner is None:
        return f"the scale of its {what} is not a constant"
    if scale.data_type not in FLOAT_TYPES:
        return f"the scale of its {what} is of a type that holds powers of two only"
    zero_point, zero_owner, zero_name = None, None, ""
    if zero_index is not None and len(node.proto.input) > zero_index and node.proto.input[zero_index]:
        zero_point, zero_owner, zero_name = held_constant(graph, node, zero_index)
        if zero_point is None:
            return f"the zero point of its {what} is not a constant"
    shape = layout.shape
    zero_tail = tail if reader is node else None  # what reads both broadcasts them alike
    for word, tensor, behind in (("scale", scale, tail), ("zero point", zero_point, zero_tail)):
        if tensor is not None and not _fits(tuple(tensor.dims), shape, axis, block_size, behind):
            return f"the {word} of its {what} has shape {list(tensor.dims)}, which does not fit the weight"
    given_type = output_type or scale.data_type
    return Quantization(
        reader, scale, owner, name, zero_point, axis, block_size, given_type, layout.dims, scale_input,
        zero_owner, zero_name, fixed=fixed,
    )  # fmt: skip


def held_constant(graph: Graph, node: Node, index: int) -> tuple[onnx.TensorProto | None, Scope | None, str]:
    """Return the constant at an input of a node, the scope that holds it and its name there."""
    name = node.proto.input[index] if len(node.proto.input) > index else ""
    holder = graph.holder(node.scope, name) if name else None
    return (graph.constant(node.scope, name), *holder) if holder is not None else (None, None, "")


def _fits(dims: tuple[int, ...], shape: tuple[int, ...], axis: int, block_size: int, tail: int | None) -> bool:
    if all(size == 1 for size in dims):
        return True
    if tail is not None:
        ahead = len(dims) - tail - 1
        return ahead >= 0 and dims == (*(1,) * ahead, shape[axis], *(1,) * tail)
    if dims == (shape[axis],):
        return True
    blocks = [-(-size // block_size) if block_size and i == axis else size for i, size in enumerate(shape)]
    return block_size > 0 and list(dims) == blocks
