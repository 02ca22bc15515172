"""One axis of a convolution: its sizes, pads, and the dilation-free pieces that it falls apart into.

Every convolution node is a correlation A from a large to a small axis, or the adjoint of one:

    (A x)[j] = Σ_t W_t x[s j + d t − p],   0 ≤ j < m,   x = 0 outside 0 ≤ i < n

Conv is A with n its input and m its output; ConvTranspose is Aᵀ with m its input and n its output, whatever its
output_padding and cropping pads. Let g = gcd(s, d), s' = s/g, d' = d/g. Outputs j ≡ ρ (mod d') read only inputs
i ≡ sρ − p (mod d), and these sets differ for ρ = 0 … d'−1, so A is d' separate correlations of stride s' and dilation
1: with j = ρ + d'J and i = sρ − p + d c, the index of tap t is c = s'J + t.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """One dilation-free part of an axis, without the taps, inputs and outputs that take no part.

    Output J reads input s J + t − p for tap t, where 0 ≤ t < taps.

    Attributes:
        stride: s.
        taps: How many taps are left.
        offset: p, at least 0.
        small, large: m and n, how many outputs and inputs are left, at least 1.
        tap_slice, small_slice, large_slice: Where they stand on the axis that they came from.
    """

    stride: int
    taps: int
    offset: int
    small: int
    large: int
    tap_slice: slice
    small_slice: slice
    large_slice: slice

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """Everything that decides the piece's matrix, apart from the weights."""
        return self.stride, self.taps, self.offset, self.small, self.large, self.tap_slice.start

    @property
    def degree(self) -> int:
        """D, the degree of the symbol in this axis: the last tap's shift in whole strides."""
        return (self.taps - 1) // self.stride

    @property
    def interior(self) -> bool:
        """Whether some output reads all taps."""
        first = -(-self.offset // self.stride)
        return first < self.small and self.stride * first + self.taps - 1 - self.offset < self.large


def split_axis(large: int, small: int, stride: int, dilation: int, offset: int, taps: int) -> list[Piece]:
    """Split one axis into its dilation-free pieces, without those of which no output reads an input."""
    common = math.gcd(stride, dilation)
    step = dilation // common
    pieces = []
    for residue in range(min(step, small)):
        shift = stride * residue - offset
        first = max(0, -(shift // dilation))
        last = (large - 1 - shift) // dilation
        piece = _trimmed(
            large=last - first + 1,
            small=-(-(small - residue) // step),
            stride=stride // common,
            offset=first,
            taps=taps,
        )
        if piece is not None:
            pieces.append(_placed(piece, residue, step, shift + dilation * first, dilation))
    return pieces


def _trimmed(large: int, small: int, stride: int, offset: int, taps: int) -> Piece | None:
    # For tap t: the outputs J with 0 ≤ s J + t − p < n.
    reach = []
    for tap in range(taps):
        low = max(0, -((tap - offset) // stride))
        high = min(small - 1, (offset - tap + large - 1) // stride)
        if low <= high:
            reach.append((tap, low, high))
    if not reach:
        return None
    taps_from, taps_to = reach[0][0], reach[-1][0] + 1
    outputs_from, outputs_to = min(low for _, low, _ in reach), max(high for _, _, high in reach) + 1
    inputs_from = min(stride * low + tap for tap, low, _ in reach) - offset
    inputs_to = max(stride * high + tap for tap, _, high in reach) - offset + 1
    return Piece(
        # A single output has every tap in a phase of its own: then the symbol is constant, which is exact. A longer
        # stride would only be phases without taps, of which memory holds no 10⁹.
        stride=stride if outputs_to - outputs_from > 1 else taps_to - taps_from,
        taps=taps_to - taps_from,
        offset=offset - taps_from - stride * outputs_from + inputs_from,
        small=outputs_to - outputs_from,
        large=inputs_to - inputs_from,
        tap_slice=slice(taps_from, taps_to),
        small_slice=slice(outputs_from, outputs_to),
        large_slice=slice(inputs_from, inputs_to),
    )


def _placed(piece: Piece, small_start: int, small_step: int, large_start: int, large_step: int) -> Piece:
    return Piece(
        piece.stride,
        piece.taps,
        piece.offset,
        piece.small,
        piece.large,
        piece.tap_slice,
        _spread(piece.small_slice, small_start, small_step),
        _spread(piece.large_slice, large_start, large_step),
    )


def _spread(part: slice, start: int, step: int) -> slice:
    return slice(start + step * part.start, start + step * (part.stop - 1) + 1, step)


def conv_output(size: int, taps: int, stride: int, dilation: int, begin: int, end: int) -> int:
    """Return the length of Conv's output on one axis, 0 where the kernel does not fit."""
    return max(0, (size + begin + end - dilation * (taps - 1) - 1) // stride + 1)


def conv_transpose_output(
    size: int, taps: int, stride: int, dilation: int, begin: int, end: int, output_padding: int
) -> int:
    """Return the length of ConvTranspose's output on one axis."""
    return max(0, stride * (size - 1) + dilation * (taps - 1) + 1 + output_padding - begin - end)


def resolve_pads(
    auto_pad: str,
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """Return the pads (begins, then ends) that Conv's `auto_pad` stands for at a given input size.

    Args:
        auto_pad: "VALID", "SAME_UPPER" or "SAME_LOWER".
        input_size: One number an axis.
        kernel_size: One number an axis.
        strides: One number an axis.
        dilations: One number an axis.

    Where the kernel is shorter than the stride by more than a few places, onnxruntime 1.31 leaves out inputs on both
    sides, as done here (the begin is then negative); TensorFlow starts at the first input.

    >>> resolve_pads("SAME_UPPER", (5, 6), (3, 3), (1, 2), (1, 1))
    (1, 0, 1, 1)
    """
    if auto_pad == "VALID":
        return (0,) * (2 * len(input_size))
    totals = [
        (-(-size // stride) - 1) * stride + dilation * (taps - 1) + 1 - size
        for size, taps, stride, dilation in zip(input_size, kernel_size, strides, dilations, strict=True)
    ]
    # Measured for negative totals; int() rounds towards 0.
    begins = [int((total + (total < 0) + (auto_pad == "SAME_LOWER")) / 2) for total in totals]
    # Input cut off at the end is read by no output anyway.
    return (*begins, *(max(0, total - begin) for total, begin in zip(totals, begins, strict=True)))


def resolve_transposed_pads(
    auto_pad: str,
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    output_padding: Sequence[int],
    output_shape: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Return the pads (begins, then ends) that ConvTranspose's `auto_pad` and `output_shape` stand for.

    Args:
        auto_pad: "NOTSET" (with an output shape), "VALID", "SAME_UPPER" or "SAME_LOWER".
        input_size: One number an axis.
        kernel_size: One number an axis.
        strides: One number an axis.
        dilations: One number an axis.
        output_padding: One number an axis.
        output_shape: The spatial part of the attribute of that name, if the node has it.

    An output shape beyond the natural size is reached by a negative pad at the end, as onnxruntime 1.31 does; SAME
    never adds anything beyond it.
    """
    totals = []
    for axis, size in enumerate(input_size):
        natural = conv_transpose_output(
            size, kernel_size[axis], strides[axis], dilations[axis], 0, 0, output_padding[axis]
        )
        if output_shape is not None:
            totals.append(natural - output_shape[axis])
        else:
            totals.append(max(0, natural - size * strides[axis]))
    # To reach an output shape VALID crops as NOTSET does.
    lower = auto_pad == "NOTSET" or (auto_pad == "VALID" and output_shape is not None)
    return _halved("SAME_LOWER" if lower else auto_pad, totals)


def _halved(auto_pad: str, totals: Sequence[int]) -> tuple[int, ...]:
    if auto_pad == "VALID":
        return (0,) * (2 * len(totals))
    begins = [max(0, total // 2 if auto_pad == "SAME_UPPER" else total - total // 2) for total in totals]
    return (*begins, *(total - begin for total, begin in zip(totals, begins, strict=True)))
