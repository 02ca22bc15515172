"""Convolutions as nodes describe them: strides, dilations, groups and pads of a Conv or ConvTranspose."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sn_graph.model import Node

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution


def convolution_of(
    node: Node, kernel: NDArray[Any], input_size: tuple[int, ...] | None, *, transposed: bool
) -> "Convolution":
    """Return the map of a node by its attributes, `auto_pad` and `output_shape` apart: see `with_resolved_pads`.

    Args:
        node: The node.
        kernel: Its weight, as it reads it.
        input_size: The sizes of the input's spatial axes; None where one is not known.
        transposed: Whether it is a ConvTranspose.
    """
    from sn_graph.spectral.convolution import Convolution  # costs a third of the start of every command

    rank = kernel.ndim - 2
    plain = (1,) * rank
    return Convolution(
        kernel=kernel,
        strides=node.integers("strides") or plain,
        dilations=node.integers("dilations") or plain,
        pads=node.integers("pads") or (0,) * (2 * rank),
        group=node.integer("group", 1),
        input_size=input_size,
        transposed=transposed,
        output_padding=(node.integers("output_padding") or (0,) * rank) if transposed else (),
    )


def with_resolved_pads(node: Node, made: "Convolution", size: tuple[int, ...]) -> "Convolution":
    """Return the map with the pads that the node's attributes stand for at an input size."""
    from sn_graph.spectral.convolution import resolve_pads, resolve_transposed_pads

    auto_pad, taps = node.text("auto_pad", "NOTSET"), made.kernel.shape[2:]
    shape = node.integers("output_shape") if made.transposed else None
    if auto_pad == "NOTSET" and not shape:
        return made
    if not made.transposed:
        return replace(made, pads=resolve_pads(auto_pad, size, taps, made.strides, made.dilations))
    given = shape[-made.rank :] if shape else None
    pads = resolve_transposed_pads(auto_pad, size, taps, made.strides, made.dilations, made.output_padding, given)
    return replace(made, pads=pads)
