"""Which inputs of which operators hold weights, and which operators a weight may pass on its way there."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import onnx

from sn_graph.model.graph import Graph, Node
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


def weight_slot(node: Node, index: int, shape: tuple[int, ...]) -> Slot | None:
    """Return what a node does with a weight of this shape at input `index`, or None where that is no weight."""
    if index not in weight_inputs(node):
        return None
    make, least, most = _READERS[node.op_type]
    return make(node, index, len(shape)) if least <= len(shape) <= most else None


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


def chain_step(graph: Graph, node: Node, index: int, layout: Layout) -> Layout | None:
    """Return the layout behind a chain operator that a weight enters at input `index`, or None for other operators."""
    if index != 0 or not (node.is_standard or is_dequantize(node)):
        return None
    if node.op_type in ("Identity", "Cast") or is_dequantize(node):
        return layout
    rank = len(layout.dims)
    if node.op_type == "Transpose":
        perm = node.attribute("perm", tuple(reversed(range(rank))))
        return layout.transpose(perm) if sorted(perm) == list(range(rank)) else None
    if node.op_type == "Reshape":
        shape = _reshape_target(graph, node, layout.shape)
        return layout.reshape(shape) if shape is not None else None
    return None


def is_dequantize(node: Node) -> bool:
    """Say whether a node is DequantizeLinear, ONNX's or onnxruntime's."""
    return node.op_type == "DequantizeLinear" and node.domain in ("", MICROSOFT)


def _reshape_target(graph: Graph, node: Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    wanted = node.attribute("shape")  # opset 1 to 4
    if wanted is None:
        tensor = graph.constant(node.scope, node.proto.input[1]) if len(node.proto.input) > 1 else None
        wanted = _small_integers(tensor) if tensor is not None else None
    if wanted is None:
        return None
    copies = not node.attribute("allowzero", 0)
    if any(size == 0 and (not copies or axis >= len(shape)) for axis, size in enumerate(wanted)):
        return None
    target = [shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    total, known = 1, 1
    for size in shape:
        total *= size
    for size in target:
        known *= size if size != -1 else 1
    if -1 in target and known and total % known == 0:
        target[target.index(-1)] = total // known
        known = total
    return tuple(target) if known == total and -1 not in target else None


def _small_integers(tensor: onnx.TensorProto) -> list[int] | None:
    # A shape is far below the size from which a tensor's data leaves the skeleton.
    if tensor.data_type != onnx.TensorProto.INT64 or not (tensor.raw_data or tensor.int64_data):
        return None
    return [int(size) for size in onnx.numpy_helper.to_array(tensor).reshape(-1)]
