"""Repairs of what tf2onnx 1.17 leaves: ellipses of Einsum, paddings below zero, an order that varies by run."""

from collections.abc import Iterator
from contextlib import contextmanager
from string import ascii_lowercase
from typing import Any

import onnx
from onnx import helper

from sn_graph.frontends.keras.frameworks import require


def expand_ellipses(graph: Any) -> Any:
    """Put letters for the ellipsis that one operand of an Einsum has, in a tf.compat.v1.GraphDef; return it.

    tf2onnx makes a product of matrices of `abx,xy->aby`, and leaves `...x,xy->...y` an Einsum.
    """
    found = [node for node in graph.node if node.op == "Einsum" and b"..." in node.attr["equation"].s]
    if not found:
        return graph
    tf = require("tensorflow", "a Keras model")
    with tf.Graph().as_default() as shapes:
        tf.import_graph_def(graph, name="")
    for node in found:
        ranks = [tensor.shape.rank for tensor in shapes.get_operation_by_name(node.name).inputs]
        node.attr["equation"].s = _expanded(node.attr["equation"].s.decode(), ranks).encode()
    return graph


def _expanded(equation: str, ranks: list[int | None]) -> str:
    terms = equation.partition("->")[0].split(",")
    places = [place for place, term in enumerate(terms) if "..." in term]
    rank = ranks[places[0]]
    if len(places) != 1 or rank is None:  # of several operands, an ellipsis may stand for axes that are broadcast
        return equation
    free = [letter for letter in ascii_lowercase if letter not in equation.lower()]  # tf2onnx makes letters small
    return equation.replace("...", "".join(free[: rank + 3 - len(terms[places[0]])]))


def mend_paddings(graph: onnx.GraphProto) -> None:
    """Give every ConvTranspose zeros behind its output in place of a padding below zero, which ONNX does not know.

    Along an axis the output has s·(n-1) + d·(k-1) + 1 - pads + output_padding elements. TensorFlow's may be more than
    without either, where the kernel is shorter than the stride: the elements that no input reaches are the last.
    """
    for node in graph.node:
        pads = next((list(one.ints) for one in node.attribute if one.name == "pads"), [])
        if node.op_type != "ConvTranspose" or min(pads, default=0) >= 0:
            continue
        axes = len(pads) // 2
        behind = [max(0, -(pads[axis] + pads[axis + axes])) for axis in range(axes)]
        pads = [0 if behind[place % axes] else pad for place, pad in enumerate(pads)]
        set_attributes(node, pads=pads, output_padding=behind)


def pad_behind(node: onnx.NodeProto, layer: Any) -> None:
    """Let a ConvTranspose of dynamic size write what its layer's output has behind the last element from an input.

    tf2onnx appends zeros there, after the bias has been added, which Keras adds to those elements too.
    """
    channels = int(layer.kernel.shape[-1])
    spatial = (_SIZE,) * len(layer.kernel_size)
    last = layer.data_format == "channels_last"
    shape = layer.compute_output_shape((1, *spatial, channels) if last else (1, channels, *spatial))
    sizes = tuple(shape)[1:-1] if last else tuple(shape)[2:]
    reached = (
        stride * (_SIZE - 1) + dilation * (kernel - 1) + 1
        for stride, dilation, kernel in zip(layer.strides, layer.dilation_rate, layer.kernel_size, strict=True)
    )
    behind = [max(0, int(size) - end) for size, end in zip(sizes, reached, strict=True)]
    if any(behind):
        axes = len(next(one.ints for one in node.attribute if one.name == "kernel_shape"))
        set_attributes(node, output_padding=[0] * (axes - len(behind)) + behind)  # one axis is done as two


_SIZE = 8  # any; the elements that no input reaches are as many for every size


def set_attributes(node: onnx.NodeProto, **values: Any) -> None:
    """Set attributes of a node, in place."""
    kept = [one for one in node.attribute if one.name not in values]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])


@contextmanager
def in_one_order() -> Iterator[None]:
    """Let tf2onnx go through the readers of a value by their names.

    It keeps them in sets, so what it finds to optimize changes with the hash seed: 35 nodes or 28 of one model.
    """
    graph = require("tf2onnx.graph", "the export").Graph
    own = graph.find_output_consumers

    def ordered(self: Any, name: str) -> list[Any]:
        return sorted(own(self, name), key=lambda node: str(node.name), reverse=True)  # backwards: the 28

    graph.find_output_consumers = ordered
    try:
        yield
    finally:
        graph.find_output_consumers = own
