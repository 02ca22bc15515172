"""Operators: one row for each ONNX operator that reads weights, with all that the other rooms ask of it.

https://onnx.ai/onnx/operators/ and https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. A new
operator is a row of `OPERATORS`; nothing else says where an operator's weights are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sn_graph.model import Node
from sn_graph.sites.views import Action, Slot

MICROSOFT = "com.microsoft"
QONNX = frozenset({"qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas"})
QUANTS = frozenset({"Quant", "IntQuant", "BipolarQuant"})
"""QONNX's domains, as tools have named them, and its quantizers that are read."""


@dataclass(frozen=True)
class Operator:
    """An operator that reads weights.

    Attributes:
        op_type, domain: Its name; the domain of ONNX's own operators is "".
        action: What it computes of a weight; None where it reads none.
        weights: The inputs where a floating-point weight may stand.
        integers: The inputs that take a weight as integers.
        scales: For each of those the inputs of its scale and its zero point; a scale of None is multiplied behind the
            operator. Empty where sn-graph can't read the integers.
        integer_bias: The input of a bias that is stored in steps of the scales of input and weight.
        packed: Whether several integers share a byte, as attributes N, K, bits and block_size say.
        ranks: The least and the greatest rank of a weight.
        linear: Whether the output is linear in the other input, bias and activation aside, so that X/σ stands for W/σ.
        alpha: Whether an attribute `alpha` multiplies the product.
        decisive: The attributes that decide the matrix.
        by_default: Whether its weights are normalized where `--op-type` does not name it.
    """

    op_type: str
    action: Action | None
    weights: tuple[int, ...] = ()
    integers: tuple[int, ...] = ()
    scales: tuple[tuple[int | None, int], ...] = ()
    integer_bias: int | None = None
    packed: bool = False
    ranks: tuple[int, int] = (2, 2)
    domain: str = ""
    linear: bool = True
    alpha: bool = False
    decisive: frozenset[str] = frozenset()
    by_default: bool = True

    @property
    def is_convolution(self) -> bool:
        """Whether it slides the weight over its input, in either direction."""
        return self.action in (Action.CONVOLUTION, Action.TRANSPOSED_CONVOLUTION)

    @property
    def is_matrix_product(self) -> bool:
        """Whether it multiplies two matrices and nothing of a higher rank."""
        return self.action is Action.PRODUCT and self.ranks == (2, 2)

    def slot(self, node: Node, index: int, shape: Sequence[int] | None) -> Slot | None:
        """Return what a node of this operator does with a weight of this shape, or None where that is not a weight.

        Args:
            node: The node.
            index: The input that the weight stands at.
            shape: The weight's shape as the node reads it; where it is not known (None), the least rank is assumed.
        """
        least, greatest = self.ranks
        rank = least if shape is None else len(shape)
        if index not in self.weights or not least <= rank <= greatest:
            return None
        if self.action is None or (self.action is Action.LOOKUP and node.integer("axis", 0) not in (0, -rank)):
            return None
        return self._slot(node, index, rank)

    def integer_slot(self, node: Node, index: int, shape: Sequence[int]) -> Slot | None:
        """Return what a node does with a weight that it takes as integers; None where sn-graph can't read those."""
        least, greatest = self.ranks
        if index not in self.integers or not self.scales or not least <= len(shape) <= greatest:
            return None
        return self._slot(node, index, len(shape))

    def _slot(self, node: Node, index: int, rank: int) -> Slot | None:
        if self.action is Action.PRODUCT:
            perm = (1, 0) if self.packed else product_perm(node, index, rank)
            return Slot(self.action, left=index == 0, perm=perm)
        if self.action is None:
            return None
        return Slot(self.action, group=node.integer("group", 1) if self.is_convolution else 1)


def product_perm(node: Node, index: int, rank: int) -> tuple[int, ...] | None:
    """Return how a product transposes an operand first; None where it does not."""
    perm, operand = list(range(rank)), "B" if index else "A"
    if node.integer(f"transBatch{operand}", 0):  # the first axis moves behind the other batch axes
        perm = [*perm[1:-1], perm[0], perm[-1]]
    if node.integer(f"trans{operand}", 0):
        perm[-2:] = perm[:-3:-1]
    return None if perm == sorted(perm) else tuple(perm)


_ANY = 99
_CONV = (3, _ANY)
_GROUP = frozenset({"group"})
_TRANSPOSES = frozenset({"transA", "transB"})
_BATCH_TRANSPOSES = frozenset({"transBatchA", "transBatchB"})

# fmt: off
OPERATORS: tuple[Operator, ...] = (
    Operator("Conv", Action.CONVOLUTION, (1,), ranks=_CONV, decisive=_GROUP),
    Operator("ConvTranspose", Action.TRANSPOSED_CONVOLUTION, (1,), ranks=_CONV, decisive=_GROUP),
    Operator("Gemm", Action.PRODUCT, (0, 1), alpha=True, decisive=_TRANSPOSES),
    Operator("MatMul", Action.PRODUCT, (0, 1), ranks=(2, _ANY)),
    Operator("Gather", Action.LOOKUP, (0,), decisive=frozenset({"axis"})),
    Operator("LSTM", Action.RECURRENCE, (1, 2), ranks=(3, 3), linear=False, by_default=False),
    Operator("GRU", Action.RECURRENCE, (1, 2), ranks=(3, 3), linear=False, by_default=False),
    Operator("RNN", Action.RECURRENCE, (1, 2), ranks=(3, 3), linear=False, by_default=False),
    Operator("FusedConv", Action.CONVOLUTION, (1,), ranks=_CONV, domain=MICROSOFT, decisive=_GROUP),
    Operator("FusedGemm", Action.PRODUCT, (0, 1), domain=MICROSOFT, alpha=True, decisive=_TRANSPOSES),
    Operator("FusedMatMul", Action.PRODUCT, (0, 1), ranks=(2, _ANY), domain=MICROSOFT, alpha=True,
             decisive=_TRANSPOSES | _BATCH_TRANSPOSES),
    Operator("Attention", Action.PRODUCT, (1,), domain=MICROSOFT, linear=False),
    Operator("EmbedLayerNormalization", Action.LOOKUP, (2, 3, 4), domain=MICROSOFT, linear=False),
    # Those that take a weight as integers only.
    Operator("QLinearConv", Action.CONVOLUTION, integers=(3,), scales=((4, 5),), integer_bias=8, ranks=_CONV,
             decisive=_GROUP),
    Operator("ConvInteger", Action.CONVOLUTION, integers=(1,), scales=((None, 3),), ranks=_CONV, decisive=_GROUP),
    Operator("QLinearMatMul", Action.PRODUCT, integers=(0, 3), scales=((1, 2), (4, 5))),
    Operator("MatMulInteger", Action.PRODUCT, integers=(0, 1), scales=((None, 2), (None, 3))),
    Operator("QLinearConv", Action.CONVOLUTION, integers=(3,), scales=((4, 5),), integer_bias=8, ranks=_CONV,
             domain=MICROSOFT, decisive=_GROUP),
    Operator("QGemm", Action.PRODUCT, integers=(0, 3), scales=((1, 2), (4, 5)), integer_bias=6, domain=MICROSOFT,
             alpha=True, decisive=_TRANSPOSES),
    Operator("QAttention", Action.PRODUCT, integers=(1,), scales=((4, 7),), domain=MICROSOFT),
    Operator("QEmbedLayerNormalization", Action.LOOKUP, integers=(2, 3, 4), scales=((8, 13), (9, 14), (10, 15)),
             domain=MICROSOFT),
    Operator("MatMulIntegerToFloat", Action.PRODUCT, integers=(0, 1), scales=((2, 4), (3, 5)), domain=MICROSOFT),
    Operator("DynamicQuantizeMatMul", Action.PRODUCT, integers=(1,), scales=((2, 3),), domain=MICROSOFT),
    Operator("DynamicQuantizeLSTM", Action.RECURRENCE, integers=(1, 2), domain=MICROSOFT),
    Operator("MatMulNBits", Action.PRODUCT, integers=(1,), scales=((2, 3),), packed=True, domain=MICROSOFT,
             decisive=frozenset({"N", "K", "bits", "block_size"})),
    Operator("GatherBlockQuantized", Action.LOOKUP, integers=(0,), domain=MICROSOFT),
    Operator("MatMulBnb4", Action.PRODUCT, integers=(1,), domain=MICROSOFT),
)
# fmt: on

_BY_NAME = {(operator.domain, operator.op_type): operator for operator in OPERATORS}
_NO_OPERATOR = Operator("", None)

WEIGHT_OP_TYPES = tuple(dict.fromkeys(operator.op_type for operator in OPERATORS if operator.weights))
QUANTIZED_OP_TYPES = tuple(dict.fromkeys(operator.op_type for operator in OPERATORS if operator.scales))
DEFAULT_OP_TYPES = frozenset(operator.op_type for operator in OPERATORS if operator.weights and operator.by_default)


def operator_of(node: Node) -> Operator:
    """Return the row of a node's operator; one without any weight input where the table has none."""
    return _BY_NAME.get((node.domain, node.op_type), _NO_OPERATOR)
