"""Quantizers: operators that quantize a stored tensor of floats in the graph.

    QuantizeLinear    round(W / scale) + zero_point, of integers, which DequantizeLinear or an integer operator reads
    Quant, IntQuant   (clip(round(W / scale + zero_point)) − zero_point) · scale, of floats; QONNX's, as is
    BipolarQuant      ±scale, by the sign of W

https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html,
https://github.com/fastmachinelearning/qonnx/blob/main/docs/qonnx-custom-ops/overview.md. A Quant of one bit with a sign
is a BipolarQuant to QONNX's own implementation (qonnx/custom_op/general/intquant.py, 2026), and so it is here.
"""

from dataclasses import replace

import onnx

from sn_graph.model import Graph, Model, Node
from sn_graph.sites.layout import Layout
from sn_graph.sites.operators import QONNX, QUANTS
from sn_graph.sites.quantized import SCALE, ZERO_POINT, Quantization, Quantizer, held_constant, read_scale
from sn_graph.sites.rounding import ROUNDINGS, SIGNS

_BITS = {name: int(name.removeprefix("U").removeprefix("INT")) for name in ("INT2", "INT4", "INT8", "INT16")}
_BIT_WIDTH = 3  # the input of Quant
_WIDE = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE})


def is_quantize(node: Node) -> bool:
    """Say whether a node is QuantizeLinear."""
    return node.op_type == "QuantizeLinear" and node.domain in ("", "com.microsoft")


def is_quant(node: Node) -> bool:
    """Say whether a node is one of QONNX's quantizers that are read."""
    return node.op_type in QUANTS and node.domain in QONNX


def read_quantizer(graph: Graph, node: Node, layout: Layout) -> Quantizer | str:
    """Return how a QuantizeLinear makes integers of a weight of this layout, or why that can't be told."""
    if not layout.dims:
        return "its QuantizeLinear reads a single number, which is no weight"
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
    """Return how a Quant, IntQuant or BipolarQuant rounds a weight of this layout, or why that can't be told."""
    what, rank, bipolar = node.op_type, len(layout.dims), node.op_type == "BipolarQuant"
    scale, _, _ = held_constant(graph, node, SCALE)
    if scale is None:
        return (
            f"the scale of its {what} is not stored but computed or fed, so that nothing can be multiplied by it; "
            "evaluate it first (onnxsim, or qonnx's FoldConstants)"
        )
    tail = next((place for place, size in enumerate(reversed(scale.dims)) if size != 1), 0)
    if tail >= rank:
        return f"the scale of its {what} has rank {len(scale.dims)}, which does not fit the weight"
    fixed = None if bipolar or scale.data_type in _WIDE else _narrow(what)
    zero = None if bipolar else ZERO_POINT
    read = read_scale(graph, node, layout, rank - 1 - tail, what, (node, SCALE), zero, tail=tail, fixed=fixed)
    if isinstance(read, str):
        return read
    if bipolar:
        return replace(read, quantizer=Quantizer(read, -1, 1, SIGNS, divides=False))
    width, _, _ = held_constant(graph, node, _BIT_WIDTH)
    if width is None or model.payload(width) is None or model.array(width).size != 1:
        return f"the bit width of its {what} is not a constant"
    bits, rounding = float(model.array(width).reshape(())), ROUNDINGS.get(node.text("rounding_mode", "ROUND").upper())
    if rounding is None or not bits.is_integer() or not 1 <= bits <= 32:
        return f"its {what} has a bit width or a rounding mode that sn-graph does not read"
    read = replace(read, rounds=True)
    signed, narrow = bool(node.integer("signed", 1)), bool(node.integer("narrow", 0))
    if signed and bits == 1:
        return replace(read, quantizer=Quantizer(read, -1, 1, SIGNS, zero_first=True))
    limits = _range(int(bits), signed=signed, narrow=narrow)
    return replace(read, quantizer=Quantizer(read, *limits, rounding, zero_first=True))


def _narrow(what: str) -> str:
    return (
        f"its {what} divides by a scale of 16 bits, where runtimes differ about what it rounds to; "
        "use insert, or convert it to QuantizeLinear and DequantizeLinear first (qonnx's qcdq)"
    )


def _range(bits: int, *, signed: bool, narrow: bool) -> tuple[int, int]:
    if signed:
        return -(1 << bits - 1) + narrow, (1 << bits - 1) - 1
    return 0, (1 << bits) - 1 - narrow
