"""Which inputs of which operators hold weights, and which operators a weight may pass on its way there."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from sn_graph.model import Model
from sn_graph.model.graph import Graph, Node
from sn_graph.model.payload import FLOAT_TYPES
from sn_graph.views import Layout, Slot

MICROSOFT = "com.microsoft"
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})

_SLOTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "Conv"): (1,),
    ("", "ConvTranspose"): (1,),
    ("", "Gemm"): (0, 1),
    ("", "MatMul"): (0, 1),
    ("", "Gather"): (0,),
    ("", "LSTM"): (1, 2),
    ("", "GRU"): (1, 2),
    ("", "RNN"): (1, 2),
    (MICROSOFT, "FusedConv"): (1,),
    (MICROSOFT, "FusedGemm"): (0, 1),
    (MICROSOFT, "FusedMatMul"): (0, 1),
    (MICROSOFT, "Attention"): (1,),
    (MICROSOFT, "EmbedLayerNormalization"): (2, 3, 4),
}
_QUANTIZED_SLOTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "QLinearConv"): (3,),
    ("", "ConvInteger"): (1,),
    ("", "QLinearMatMul"): (0, 3),
    ("", "MatMulInteger"): (0, 1),
    (MICROSOFT, "QLinearConv"): (3,),
    (MICROSOFT, "QGemm"): (0, 3),
    (MICROSOFT, "QAttention"): (1,),
    (MICROSOFT, "QEmbedLayerNormalization"): (2, 3, 4),
    (MICROSOFT, "MatMulIntegerToFloat"): (0, 1),
    (MICROSOFT, "DynamicQuantizeMatMul"): (1,),
    (MICROSOFT, "DynamicQuantizeLSTM"): (1, 2),
    (MICROSOFT, "MatMulNBits"): (1,),
    (MICROSOFT, "MatMulBnb4"): (1,),
}
WEIGHT_OP_TYPES = tuple(dict.fromkeys(op_type for _, op_type in _SLOTS))


def weight_inputs(node: Node) -> tuple[int, ...]:
    """Return the inputs of a node where a floating-point weight may stand."""
    return _SLOTS.get((node.domain, node.op_type), ())


def quantized_inputs(node: Node) -> tuple[int, ...]:
    """Return the inputs of a node that take a weight as integers, which has no place for a factor of its own."""
    return _QUANTIZED_SLOTS.get((node.domain, node.op_type), ())


def weight_slot(node: Node, index: int, shape: tuple[int, ...] | None) -> Slot | None:
    """Return what a node does with a weight of this shape at input `index`, or None where that is no weight.

    Where the shape is not known (None), it is taken to have the least rank that such a weight can have.
    """
    if index not in weight_inputs(node):
        return None
    make, least, most = _READERS[node.op_type]
    rank = least if shape is None else len(shape)
    return make(node, index, rank) if least <= rank <= most else None


def _conv(node: Node, index: int, rank: int) -> Slot:
    return Slot("conv_transpose" if node.op_type == "ConvTranspose" else "conv", group=node.attribute("group", 1))


def _gemm(node: Node, index: int, rank: int) -> Slot:
    transposed = node.attribute("transB" if index else "transA", 0)
    return Slot(_operand(index), (1, 0) if transposed else None)


def _matmul(node: Node, index: int, rank: int) -> Slot:
    perm = list(range(rank))
    if node.op_type == "FusedMatMul":
        operand = "B" if index else "A"
        if node.attribute(f"transBatch{operand}", 0):  # the first axis moves behind the other batch axes
            perm = [*perm[1:-1], perm[0], perm[-1]]
        if node.attribute(f"trans{operand}", 0):
            perm[-2:] = perm[:-3:-1]
    return Slot(_operand(index), None if perm == sorted(perm) else tuple(perm))


def _operand(index: int) -> Literal["matmul_left", "matmul_right"]:
    return "matmul_right" if index else "matmul_left"


def _attention(node: Node, index: int, rank: int) -> Slot:
    return Slot("matmul_right")


def _gather(node: Node, index: int, rank: int) -> Slot | None:
    return Slot("gather") if node.op_type != "Gather" or node.attribute("axis", 0) in (0, -rank) else None


def _recurrent(node: Node, index: int, rank: int) -> Slot:
    return Slot("rnn")


_ANY = 99
# op type: how to read it, and the ranks that its weight may have
_READERS: dict[str, tuple[Callable[[Node, int, int], Slot | None], int, int]] = {
    "Conv": (_conv, 3, _ANY),
    "FusedConv": (_conv, 3, _ANY),
    "ConvTranspose": (_conv, 3, _ANY),
    "Gemm": (_gemm, 2, 2),
    "FusedGemm": (_gemm, 2, 2),
    "MatMul": (_matmul, 2, _ANY),
    "FusedMatMul": (_matmul, 2, _ANY),
    "Attention": (_attention, 2, 2),
    "Gather": (_gather, 2, 2),
    "EmbedLayerNormalization": (_gather, 2, 2),
    **dict.fromkeys(RECURRENT, (_recurrent, 3, 3)),
}


class Step(NamedTuple):
    """An operator between a weight and its consumer, and the layout behind it."""

    node: Node
    layout: Layout


_FLOATS = frozenset({*FLOAT_TYPES, b"FLOAT", b"FLOAT16", b"DOUBLE", b"BFLOAT16"})  # as words below opset 6


def chain_step(model: Model, graph: Graph, node: Node, index: int, layout: Layout) -> Layout | str | None:
    """Return what a chain operator makes of a weight that enters it at input `index`.

    Returns:
        The layout behind it; why that can't be told; or None where this is no operator of a chain.
    """
    if index != 0 or not (node.is_standard or is_dequantize(node)):
        return None
    rank = len(layout.dims)
    if node.op_type == "Identity" or is_dequantize(node):
        return layout
    if node.op_type == "Cast":
        return layout if node.attribute("to") in _FLOATS else None
    if node.op_type == "Transpose":
        perm = node.attribute("perm", tuple(reversed(range(rank))))
        return layout.transpose(perm) if sorted(perm) == list(range(rank)) else "its Transpose does not fit its shape"
    if node.op_type == "Reshape":
        wanted = _reshape_sizes(model, graph, node)
        if wanted is None:
            return "the shape that its Reshape takes is not stored as a constant; simplify the model first"
        shape = _resolve_sizes(wanted, layout.shape, bool(node.attribute("allowzero", 0)))
        if shape is None:
            return f"its Reshape to {list(wanted)} does not fit its shape"
        return (
            layout.reshape(shape) or "its Reshape cuts across the axes of a Transpose, which no matrix view can follow"
        )
    return None


def is_dequantize(node: Node) -> bool:
    """Say whether a node is DequantizeLinear, ONNX's or onnxruntime's."""
    return node.op_type == "DequantizeLinear" and node.domain in ("", MICROSOFT)


def _reshape_sizes(model: Model, graph: Graph, node: Node) -> Sequence[int] | None:
    """Return the shape that a Reshape is given: an attribute up to opset 4, then a value."""
    given: Sequence[int] | None = node.attribute("shape")
    if given is not None or len(node.proto.input) < 2:
        return given
    name = node.proto.input[1]
    maker = graph.producer(node.scope, name)
    if maker is not None and maker.is_standard and maker.op_type == "Constant" and maker.attribute("value_ints"):
        sizes: Sequence[int] = maker.attribute("value_ints")
        return sizes
    tensor = graph.constant(node.scope, name)
    if tensor is None or model.payload(tensor) is None:
        return None
    return [int(size) for size in model.array(tensor).reshape(-1)]


def _resolve_sizes(wanted: Sequence[int], shape: Sequence[int], allow_zero: bool) -> tuple[int, ...] | None:
    """Return the shape that Reshape gives a tensor of `shape`: 0 copies a size, one -1 is what is left."""
    if any(size < -1 or (size == 0 and not allow_zero and axis >= len(shape)) for axis, size in enumerate(wanted)):
        return None
    sizes = [shape[axis] if size == 0 and not allow_zero else size for axis, size in enumerate(wanted)]
    total, known = math.prod(shape), math.prod(size for size in sizes if size != -1)
    if -1 in sizes and known and total % known == 0:
        sizes[sizes.index(-1)] = total // known
    return tuple(sizes) if -1 not in sizes and math.prod(sizes) == total else None
