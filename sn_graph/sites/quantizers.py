"""Quantizers: operators that quantize a stored tensor of floats in the graph.

    QuantizeLinear    round(W / scale) + zero_point, of integers, which DequantizeLinear or an integer operator reads
    Quant (QONNX)     (clip(round(W / scale + zero_point)) − zero_point) · scale, of floats

https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html,
https://github.com/fastmachinelearning/qonnx/blob/main/docs/qonnx-custom-ops/quant_op.md.
"""

from dataclasses import replace

import onnx

from sn_graph.model import Graph, Model, Node
from sn_graph.sites.layout import Layout
from sn_graph.sites.operators import QONNX
from sn_graph.sites.quantized import SCALE, ZERO_POINT, Quantization, Quantizer, held_constant, read_scale

_BITS = {name: int(name.removeprefix("U").removeprefix("INT")) for name in ("INT2", "INT4", "INT8", "INT16")}
_ROUNDINGS = {"ROUND": "rint", "FLOOR": "floor", "CEIL": "ceil", "ROUND_TO_ZERO": "trunc"}
_BIT_WIDTH = 3  # the input of Quant
_TWICE = (
    "its Quant rounds by the scale that it multiplies with, so that another scale may round to other integers; "
    "insert, which divides the input, or convert it to QuantizeLinear and DequantizeLinear first (qonnx's qcdq)"
)


def is_quantize(node: Node) -> bool:
    """Say whether a node is QuantizeLinear."""
    return node.op_type == "QuantizeLinear" and node.domain in ("", "com.microsoft")


def is_quant(node: Node) -> bool:
    """Say whether a node is QONNX's Quant."""
    return node.op_type == "Quant" and node.domain in QONNX


def read_quantizer(graph: Graph, node: Node, layout: Layout) -> Quantizer | str:
    """Return how a QuantizeLinear makes integers of a weight of this layout, or why that can't be told."""
    axis = node.integer("axis", 1) % len(layout.dims)
    blocks = node.integer("block_size", 0)
    read = read_scale(graph, node, layout, axis, "QuantizeLinear", (node, SCALE), ZERO_POINT, block_size=blocks)
    if isinstance(read, str):
        return read
    code = node.integer("output_dtype", 0) or onnx.TensorProto.UINT8
    name = onnx.TensorProto.DataType.Name(code if read.zero_point is None else read.zero_point.data_type)
    bits = _BITS.get(name.removeprefix("U"))
    if bits is None:
        return f"its QuantizeLinear gives {name.lower()}, which sn-graph does not read; quantize the weight beforehand"
    return Quantizer(read, *_range(bits, signed=not name.startswith("U"), narrow=False))


def read_quant(model: Model, graph: Graph, node: Node, layout: Layout) -> Quantization | str:
    """Return how a Quant rounds a weight of this layout, or why that can't be told."""
    scale, _, _ = held_constant(graph, node, SCALE)
    tail = 0 if scale is None else next((n for n, size in enumerate(reversed(scale.dims)) if size != 1), 0)
    rank = len(layout.dims)
    if tail >= rank:
        return f"the scale of its Quant has rank {len(scale.dims) if scale else 0}, which does not fit the weight"
    read = read_scale(graph, node, layout, rank - 1 - tail, "Quant", (node, SCALE), ZERO_POINT, tail=tail, fixed=_TWICE)
    width, _, _ = held_constant(graph, node, _BIT_WIDTH)
    rounded = _ROUNDINGS.get(node.text("rounding_mode", "ROUND"))
    if isinstance(read, str):
        return read
    if width is None or model.payload(width) is None or model.array(width).size != 1:
        return "the bit width of its Quant is not a constant"
    bits = float(model.array(width).reshape(()))
    if rounded is None or not bits.is_integer() or not 1 <= bits <= 32:
        return "its Quant has a bit width or a rounding mode that sn-graph does not read"
    if read.zero_point is not None and not all(size == 1 for size in read.zero_point.dims):
        return "the zero point of its Quant differs from channel to channel"
    signed, narrow = bool(node.integer("signed", 1)), bool(node.integer("narrow", 0))
    return replace(read, quantizer=Quantizer(read, *_range(int(bits), signed=signed, narrow=narrow), rounded))


def _range(bits: int, *, signed: bool, narrow: bool) -> tuple[int, int]:
    if signed:
        return -(1 << bits - 1) + narrow, (1 << bits - 1) - 1
    return 0, (1 << bits) - 1 - narrow
