"""Adjoint nodes: the ONNX nodes that compute a convolution A and its adjoint Aᵀ, for an iteration through the node.

Conv and ConvTranspose read the same weight the same way: [small channels, large channels/group, k…], and each is the
adjoint of the other up to the sizes at the far end of each axis. With n inputs, m outputs, stride s, dilation d, k taps
and pads (p, q):

    Conv           m = ⌊(n + p + q − d(k−1) − 1)/s⌋ + 1     the remainder r of that division is input no tap reads, so
                                                           Aᵀ is ConvTranspose with the same pads, output_padding = r
    ConvTranspose  m = s(n−1) + d(k−1) + 1 + e − p − q      e = output_padding; Aᵀ is Conv with pads (p, max(0, q − e)),
                                                           cut to its first n outputs where e ≥ s makes it longer

Bias and fused activations are not part of A. A shape of the output or `auto_pad` is resolved to pads before
(`spectral.convolution.geometry`); ConvTranspose's negative pads at the end become output_padding. Pads of a
ConvTranspose that differ at the two ends, as of TensorFlow's SAME, are cut off behind it as far as they differ:
onnxruntime's CUDA provider leaves such a node to the CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution


@dataclass(frozen=True)
class LinearNode:
    """A node to emit: inputs are x and the weight.

    Attributes:
        op_type: "Conv" or "ConvTranspose".
        attributes: all that the node needs; kernel_shape is left to be inferred.
        crop: None, or the range (begin, end) of its output that is kept on each spatial axis (a Slice).
    """

    op_type: Literal["Conv", "ConvTranspose"]
    attributes: Mapping[str, int | tuple[int, ...]]
    crop: tuple[tuple[int, int], ...] | None = None


def forward_node(convolution: "Convolution") -> LinearNode:
    """Return the node that computes A x, of an input of known size and of pads that crop at most a ConvTranspose."""
    if not convolution.transposed:
        return LinearNode("Conv", _attributes(convolution, convolution.pads))
    begins, ends = _halves(convolution.pads)
    extra = convolution.output_padding or (0,) * convolution.rank
    pads = (*begins, *(max(0, end) for end in ends))
    padding = tuple(more + max(0, -end) for more, end in zip(extra, ends, strict=True))
    return _transposed(convolution, pads, padding, convolution.output_shape[1:])


def adjoint_node(convolution: "Convolution") -> LinearNode:
    """Return the node that computes Aᵀ y from y of the node's output shape, of the same weight."""
    if not convolution.transposed:
        return _transposed(convolution, convolution.pads, tuple(_unread(convolution)), convolution.input_shape[1:])
    from sn_graph.spectral.convolution import conv_output  # costs a third of the start of every command

    begins, ends = _halves(convolution.pads)
    extra = convolution.output_padding or (0,) * convolution.rank
    shortened = tuple(max(0, end - more) for end, more in zip(ends, extra, strict=True))
    size = convolution.input_shape[1:]
    lengths = tuple(
        conv_output(*taken)
        for taken in zip(
            convolution.output_shape[1:],
            convolution.kernel.shape[2:],
            convolution.strides,
            convolution.dilations,
            begins,
            shortened,
            strict=True,
        )
    )
    node = _attributes(convolution, (*begins, *shortened))
    return LinearNode("Conv", node, None if lengths == size else tuple((0, end) for end in size))


def _transposed(
    convolution: "Convolution", pads: tuple[int, ...], padding: tuple[int, ...], size: tuple[int, ...]
) -> LinearNode:
    """Return the ConvTranspose of an output size, with the same pads at both ends of each axis."""
    begins, ends = _halves(pads)
    same = tuple(map(min, begins, ends))
    node = {**_attributes(convolution, same * 2), "output_padding": padding}
    if begins == ends:
        return LinearNode("ConvTranspose", node)
    firsts = [begin - least for begin, least in zip(begins, same, strict=True)]
    return LinearNode("ConvTranspose", node, tuple((first, first + n) for first, n in zip(firsts, size, strict=True)))


def _attributes(convolution: "Convolution", pads: tuple[int, ...]) -> dict[str, int | tuple[int, ...]]:
    strides, dilations = convolution.strides, convolution.dilations
    return {"strides": strides, "dilations": dilations, "group": convolution.group, "pads": pads}


def _halves(pads: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return pads[: len(pads) // 2], pads[len(pads) // 2 :]


def _unread(convolution: "Convolution") -> list[int]:
    """How much of the padded input lies behind the last tap of the last output, for each axis."""
    begins, ends = _halves(convolution.pads)
    taps, size = convolution.kernel.shape[2:], convolution.input_shape[1:]
    return [
        (size[axis] + begins[axis] + ends[axis] - convolution.dilations[axis] * (taps[axis] - 1) - 1)
        % convolution.strides[axis]
        for axis in range(convolution.rank)
    ]
