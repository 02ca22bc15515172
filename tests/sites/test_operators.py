"""The table of operators: which inputs of which nodes take weights, and what else follows from a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from sn_graph.model import Node
from sn_graph.sites import DEFAULT_OP_TYPES, WEIGHT_OP_TYPES, Action, product_perm
from sn_graph.sites.operators import OPERATORS, Operator, operator_of
from sn_graph.sites.views import Slot
from tests.support.builders import MICROSOFT, drawn, model, node, sites


@pytest.mark.parametrize(
    ("reading", "shape"),
    [
        (node("Conv", ["x", "w"]), (3, 4)),
        (node("Conv", ["w", "k"]), (1, 3, 8, 8)),
        (node("Gemm", ["x", "y", "w"]), (3, 4)),
        (node("Gemm", ["x", "w"]), (2, 3, 4)),
        (node("LSTM", ["x", "y", "z", "w"]), (1, 12)),
        (node("LSTM", ["x", "w", "z"]), (4, 12)),
        (node("Add", ["x", "w"]), (3, 4)),
        (node("Slice", ["w", "x", "y"]), (3, 4)),
        (node("Attention", ["x", "y", "w"]), (3, 4)),
        (node("Einsum", ["x", "w"], equation="ab,bc->ac"), (3, 4)),
        (node("QLinearConv", ["w"] * 8, domain="com.microsoft"), (3, 4)),
    ],
)
def test_what_is_no_weight_input(reading: onnx.NodeProto, shape: tuple[int, ...]) -> None:
    if reading.domain:  # a quantized operator: its other inputs are none
        reading.input[3] = "x"
    reading.output[:] = ["out"]
    made = model([reading], {"w": drawn(*shape)}, inputs=("x", "y", "z", "k"), outputs=("out",))
    assert not sites(made)


# The inputs that take weights, by the operators' own documentation: as floats, and as integers.
FLOATS = {
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
INTEGERS = {
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
    (MICROSOFT, "GatherBlockQuantized"): (0,),
}


def one(op_type: str, domain: str = "", **attributes: Any) -> Node:
    (found,) = model([node(op_type, ["x"], domain=domain, **attributes)]).graph.main.nodes
    return found


def test_every_operator_has_its_inputs() -> None:
    assert {(row.domain, row.op_type) for row in OPERATORS} == FLOATS.keys() | INTEGERS.keys()
    for domain, op_type in FLOATS.keys() | INTEGERS.keys():
        row = operator_of(one(op_type, domain))
        assert row.weights == FLOATS.get((domain, op_type), ())
        assert row.integers == INTEGERS.get((domain, op_type), ())
    assert tuple(dict.fromkeys(op_type for _, op_type in FLOATS)) == WEIGHT_OP_TYPES
    assert set(WEIGHT_OP_TYPES) - DEFAULT_OP_TYPES == {"LSTM", "GRU", "RNN"}


@pytest.mark.parametrize("row", [row for row in OPERATORS if not row.domain], ids=lambda row: row.op_type)
def test_a_row_fits_the_schema_of_onnx(row: Operator) -> None:
    schema = onnx.defs.get_schema(row.op_type)
    assert max(row.weights + row.integers) < len(schema.inputs)
    assert row.decisive <= set(schema.attributes)
    assert row.alpha == ("alpha" in schema.attributes)
    assert row.is_convolution == ("group" in schema.attributes) or not row.weights


@pytest.mark.parametrize(
    ("op_type", "domain"), [("Conv", "local"), ("Scaler", "ai.onnx.ml"), ("QGemm", ""), ("Add", "")]
)
def test_what_is_not_in_the_table_has_no_weight_input(op_type: str, domain: str) -> None:
    row = operator_of(one(op_type, domain))
    assert (row.weights, row.integers, row.is_convolution) == ((), (), False)
    assert row.slot(one(op_type, domain), 1, (3, 4)) is None


def test_onnx_own_domain_has_two_names() -> None:
    assert operator_of(one("Gemm", "ai.onnx")) is operator_of(one("Gemm"))


def slot(op_type: str, index: int, shape: tuple[int, ...] | None, domain: str = "", **attributes: Any) -> Slot | None:
    asked = one(op_type, domain, **attributes)
    return operator_of(asked).slot(asked, index, shape)


def test_slots() -> None:
    assert slot("Conv", 1, (8, 1, 3, 3), group=8) == Slot(Action.CONVOLUTION, group=8)
    assert slot("ConvTranspose", 1, (8, 4, 3, 3)) == Slot(Action.TRANSPOSED_CONVOLUTION)
    assert slot("Gemm", 0, (3, 4), transA=1, transB=0) == Slot(Action.PRODUCT, left=True, perm=(1, 0))
    assert slot("Gemm", 1, (3, 4), transA=1, transB=0) == Slot(Action.PRODUCT)
    assert slot("MatMul", 1, (2, 3, 4)) == Slot(Action.PRODUCT)
    assert slot("Attention", 1, (4, 12), MICROSOFT) == Slot(Action.PRODUCT)
    assert slot("Gather", 0, (5, 3), axis=-2) == Slot(Action.LOOKUP)
    assert slot("GRU", 2, (1, 9, 3)) == Slot(Action.RECURRENCE)
    assert slot("EmbedLayerNormalization", 3, (5, 3), MICROSOFT) == Slot(Action.LOOKUP)


def test_an_unknown_shape_has_the_least_rank() -> None:
    assert slot("Gather", 0, None, axis=0) == Slot(Action.LOOKUP)
    assert slot("Gather", 0, None, axis=1) is None
    assert slot("MatMul", 0, None) == Slot(Action.PRODUCT, left=True)
    assert slot("Conv", 1, None) == Slot(Action.CONVOLUTION)
    assert slot("ConvInteger", 1, None) is None


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize(("rank", "batch"), [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1)])  # a matrix has no batch axis
def test_an_operand_is_transposed_as_onnxruntime_does(trans: int, batch: int, index: int, rank: int) -> None:
    """The batch axis moves behind the others first, then the last two change places."""
    operand = "AB"[index]
    attributes = {f"trans{operand}": trans, f"transBatch{operand}": batch}
    stored = drawn(*range(2, 2 + rank))
    moved = np.moveaxis(stored, 0, -2) if batch else stored
    expected = np.swapaxes(moved, -1, -2) if trans else moved
    perm = product_perm(one("FusedMatMul", MICROSOFT, **attributes), index, rank)
    np.testing.assert_array_equal(stored if perm is None else stored.transpose(perm), expected)
    assert product_perm(one("FusedMatMul", MICROSOFT, **attributes), 1 - index, rank) is None
