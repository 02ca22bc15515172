"""Convolutions as nodes describe them: strides, dilations, groups and pads of a Conv or ConvTranspose."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.model import Node

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution

_MOST_AXES = 8  # onnxruntime takes three


def convolution_of(
    node: Node, kernel: NDArray[Any], input_size: tuple[int, ...] | None, *, transposed: bool
) -> "Convolution":
    """Return the map of a node by its attributes, `auto_pad` and `output_shape` apart: see `with_resolved_pads`.

    Args:
        node: The node.
        kernel: Its weight, as it reads it.
        input_size: The sizes of the input's spatial axes; None where one is not known.
        transposed: Whether it is a ConvTranspose.

    Raises:
        ModelError: An attribute does not have a number for each axis of the kernel, or those are more than any runtime
            convolves over.
    """
    from sn_graph.spectral.convolution import Convolution  # costs a third of the start of every command

    rank = kernel.ndim - 2
    if rank > _MOST_AXES:
        raise ModelError(
            f"node '{node.path}' convolves over {rank} axes",
            f"where at most {_MOST_AXES} are read",
            "repair the model (onnx.checker tells more)",
        )
    return Convolution(
        kernel=kernel,
        strides=_numbers(node, "strides", rank, 1),
        dilations=_numbers(node, "dilations", rank, 1),
        pads=_numbers(node, "pads", 2 * rank, 0),
        group=node.integer("group", 1),
        input_size=input_size,
        transposed=transposed,
        output_padding=_numbers(node, "output_padding", rank, 0) if transposed else (),
    )


def _numbers(node: Node, name: str, count: int, default: int) -> tuple[int, ...]:
    """Return an attribute with a number for each axis; `default` for all where the node lacks it, or has it empty."""
    given = node.integers(name) or (default,) * count
    if len(given) != count:
        raise ModelError(
            f"attribute '{name}' of node '{node.path}' has {len(given)} numbers",
            f"where its weight asks for {count}",
            "repair the model (onnx.checker tells more)",
        )
    return given


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
