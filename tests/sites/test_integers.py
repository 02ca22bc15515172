"""Weights that operators take as integers: what they become, against the operators as onnxruntime runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from sn_graph.model import Model
from tests.support.builders import MICROSOFT, Array, Weights, model, node, only_site, only_target

RNG = np.random.default_rng(0)
KERNEL = RNG.integers(-100, 100, (4, 3, 2, 2)).astype(np.int8)
MATRIX = RNG.integers(0, 200, (6, 4)).astype(np.uint8)
CHANNELS = np.linspace(0.01, 0.05, 4).astype(np.float32)
ONE = np.array(0.5, np.float32)
ZEROS = np.array([3, 0, 100, 255], np.uint8)


def weight_of(made: Model) -> Array:
    found = only_site(made)
    assert found.status == "eligible", found.reason
    return only_target(made).array(made)


@pytest.mark.parametrize("domain", ["", MICROSOFT])
@pytest.mark.parametrize("scale", [ONE, CHANNELS], ids=["tensor", "channel"])
def test_qlinear_conv(scale: Array, domain: str) -> None:
    reading = node("QLinearConv", ["x", "xs", "xz", "w", "s", "z", "ys", "yz"], domain=domain, group=1)
    made = model([reading], {"w": KERNEL, "s": scale, "z": np.zeros(scale.shape, np.int8)})
    expected = KERNEL * scale.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(weight_of(made), expected)
    np.testing.assert_array_equal(only_target(made).matrix(made), expected.reshape(4, -1))


@pytest.mark.parametrize("zero", [None, np.array(7, np.uint8), ZEROS], ids=["none", "tensor", "channel"])
@pytest.mark.parametrize("scale", [ONE, CHANNELS], ids=["tensor", "channel"])
@pytest.mark.parametrize(
    ("op_type", "domain", "inputs"),
    [
        ("QLinearMatMul", "", ["x", "xs", "xz", "w", "s", "z", "ys", "yz"]),
        ("QGemm", MICROSOFT, ["x", "xs", "xz", "w", "s", "z", "", "ys", "yz"]),
        ("QAttention", MICROSOFT, ["x", "w", "b", "xs", "s", "", "xz", "z"]),
        ("MatMulIntegerToFloat", MICROSOFT, ["x", "w", "xs", "s", "xz", "z"]),
        ("DynamicQuantizeMatMul", MICROSOFT, ["x", "w", "s", "z"]),
    ],
)
def test_products(op_type: str, domain: str, inputs: list[str], scale: Array, zero: Array | None) -> None:
    held: Weights = {"w": MATRIX, "s": scale, **({} if zero is None else {"z": zero})}
    inputs = [name if name != "z" or zero is not None else "" for name in inputs]
    made = model([node(op_type, inputs, domain=domain)], held)
    shift = np.float32(0) if zero is None else zero.astype(np.float32)
    expected = (MATRIX.astype(np.float32) - shift) * scale
    np.testing.assert_array_equal(weight_of(made), expected)
    target = only_target(made)
    np.testing.assert_array_equal(target.matrix(made), expected)
    assert target.view.side == "cols"
    assert only_site(made, op_types=[op_type]).status == "eligible"


def test_the_left_operand_and_a_transposed_one() -> None:
    left = node("QLinearMatMul", ["w", "s", "z", "x", "xs", "xz", "ys", "yz"])
    rows = np.linspace(0.1, 0.6, 6).astype(np.float32)
    made = model([left], {"w": MATRIX, "s": rows, "z": np.array(1, np.uint8)})
    np.testing.assert_array_equal(weight_of(made), (MATRIX.astype(np.float32) - 1) * rows[:, None])
    gemm = node("QGemm", ["x", "xs", "xz", "w", "s", "z", "", "ys", "yz"], domain=MICROSOFT, transB=1)
    made = model([gemm], {"w": MATRIX, "s": rows, "z": np.array(1, np.uint8)})
    np.testing.assert_array_equal(weight_of(made), (MATRIX.astype(np.float32) - 1) * rows[:, None])
    assert only_target(made).view.side == "rows"


def test_tables() -> None:
    inputs = ["i", "j", "w", "p", "q", "g", "b", "", "s", "ps", "qs", "gs", "bs", "z", "pz", "qz"]
    made = model([node("QEmbedLayerNormalization", inputs, domain=MICROSOFT)], {"w": MATRIX, "s": ONE, "z": ZEROS[:1]})
    np.testing.assert_array_equal(weight_of(made), (MATRIX.astype(np.float32) - 3) * ONE)


def dynamic(scale_first: bool, product: onnx.NodeProto, swapped: bool = False) -> list[onnx.NodeProto]:
    """What dynamic quantization writes, the scales multiplied before the product is, or one by one."""
    quantize = node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"])
    cast = node("Cast", ["p"], ["c"], to=TensorProto.FLOAT)
    if scale_first:
        scales = ["s", "xs"] if swapped else ["xs", "s"]
        return [quantize, product, cast, node("Mul", scales, ["both"]), node("Mul", ["c", "both"], ["y"])]
    first, second = ("s", "xs") if swapped else ("xs", "s")
    return [quantize, product, cast, node("Mul", [first, "c"], ["h"]), node("Mul", ["h", second], ["y"])]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("scale_first", [False, True])
@pytest.mark.parametrize("scale", [ONE, CHANNELS, CHANNELS.reshape(1, 4)], ids=["tensor", "channel", "row"])
def test_the_scale_behind_matmul_integer(scale: Array, scale_first: bool, swapped: bool) -> None:
    product = node("MatMulInteger", ["xq", "w", "xz", "z"], ["p"])
    made = model(dynamic(scale_first, product, swapped), {"w": MATRIX, "s": scale, "z": ZEROS})
    expected = (MATRIX.astype(np.float32) - ZEROS.astype(np.float32)) * scale.reshape(-1)
    np.testing.assert_array_equal(weight_of(made), expected)


@pytest.mark.parametrize("scale", [ONE, CHANNELS.reshape(4, 1, 1), CHANNELS.reshape(1, 4, 1, 1)], ids=str)
def test_the_scale_behind_conv_integer(scale: Array) -> None:
    product = node("ConvInteger", ["xq", "w", "xz"], ["p"])
    made = model(dynamic(True, product), {"w": KERNEL, "s": scale})
    np.testing.assert_array_equal(weight_of(made), KERNEL * scale.reshape(-1, 1, 1, 1))


CAST = node("Cast", ["p"], ["c"], to=TensorProto.FLOAT)
PRODUCT = node("MatMulInteger", ["xq", "w", "xz"], ["p"])
QUANTIZE = node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"])


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([QUANTIZE, PRODUCT], "with no Cast and Mul right behind it"),
        ([QUANTIZE, PRODUCT, CAST, node("Mul", ["c", "xs"])], "with no Mul behind it that tells the scale"),
        ([QUANTIZE, PRODUCT, CAST, node("Mul", ["c", "x"])], "multiplied with what is no scale"),
        (
            [node("QuantizeLinear", ["x", "t"], ["xq"]), node("MatMulInteger", ["xq", "w"], ["p"]), CAST,
             node("Mul", ["c", "s"])],
            "whose scale is multiplied into that of the input",
        ),
        # the product of the scales is another's too, which a factor would change
        (
            [*dynamic(True, PRODUCT), node("Relu", ["both"], ["also"])],
            "multiplied with what is no scale",
        ),
        # along another axis of the output
        ([*dynamic(True, node("MatMulInteger", ["w", "xq"], ["p"]))], "has shape [4], which does not fit"),
    ],
)  # fmt: skip
def test_scales_that_cannot_be_told(nodes: list[onnx.NodeProto], reason: str) -> None:
    found = only_site(model(nodes, {"w": MATRIX, "s": CHANNELS, "t": ONE}))
    assert found.status == "skipped"
    assert (found.reason or "").startswith("stored as integers for MatMulInteger")
    assert reason in (found.reason or "")
    assert "fold the floating-point model before quantizing it" in (found.reason or "")


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (["x", "xs", "xz", "w", "x", "z", "ys", "yz"], "the scale of its QLinearMatMul is not a constant"),
        (["x", "xs", "xz", "w", "s", "x", "ys", "yz"], "the zero point of its QLinearMatMul is not a constant"),
        (["x", "xs", "xz", "w", "five", "z", "ys", "yz"], "has shape [5], which does not fit the weight"),
    ],
)
def test_inputs_that_cannot_be_read(inputs: list[str], reason: str) -> None:
    held: Weights = {"w": MATRIX, "s": ONE, "z": ZEROS, "five": np.ones(5, np.float32)}
    found = only_site(model([node("QLinearMatMul", inputs)], held))
    assert (found.status, reason in (found.reason or "")) == ("skipped", True)


def packed(matrix: Array, bits: int, block: int) -> Array:
    """Rows of integers below 2**bits in bytes, the lowest bits first, each row padded to whole blocks."""
    rows, size = matrix.shape
    blocks = -(-size // block)
    padded = np.zeros((rows, blocks * block), np.uint8)
    padded[:, :size] = matrix
    parts = padded.reshape(rows, blocks, -1, 8 // bits)
    return sum((parts[..., place] << (place * bits) for place in range(8 // bits)), np.zeros((), np.uint8))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", ["none", "packed", "float"])
@pytest.mark.parametrize("flat", [False, True])
def test_matmul_n_bits(bits: int, zero: str, flat: bool) -> None:
    rows, size, block = 5, 40, 16
    stored = RNG.integers(0, 2**bits, (rows, size)).astype(np.uint8)
    scale = RNG.uniform(0.01, 0.1, (rows, 3)).astype(np.float32)
    zeros = RNG.integers(0, 2**bits, (rows, 3)).astype(np.uint8)
    held: dict[str, Any] = {"w": packed(stored, bits, block), "s": scale.reshape(-1) if flat else scale}
    if zero == "packed":
        held["z"] = packed(zeros, bits, 8 // bits).reshape(rows, -1)
    elif zero == "float":
        held["z"] = zeros.astype(np.float32)
    else:
        zeros = np.full_like(zeros, 2 ** (bits - 1))
    inputs = ["x", "w", "s", *(["z"] if zero != "none" else [])]
    made = model([node("MatMulNBits", inputs, domain=MICROSOFT, N=rows, K=size, bits=bits, block_size=block)], held)
    spread = [np.repeat(each.astype(np.float32), block, 1)[:, :size] for each in (zeros, scale)]
    np.testing.assert_array_equal(weight_of(made), (stored - spread[0]) * spread[1])
    found = only_site(made)
    assert found.view is not None
    assert (found.site.shape, found.view.rows, found.view.cols, found.view.side) == ((5, 40), 5, 40, "rows")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"N": 5, "K": 40, "bits": 3, "block_size": 16}, "in 3 bits"),
        ({"N": 5, "K": 90, "bits": 4, "block_size": 16}, "does not fit its N, K and block_size"),
        ({"N": 5, "K": 40, "bits": 4, "block_size": 0}, "blocks of 0"),
    ],
)
def test_packed_weights_that_cannot_be_read(attributes: dict[str, Any], reason: str) -> None:
    held: Weights = {"w": np.zeros((5, 3, 8), np.uint8), "s": np.ones(15, np.float32)}
    found = only_site(model([node("MatMulNBits", ["x", "w", "s"], domain=MICROSOFT, **attributes)], held))
    assert (found.status, reason in (found.reason or "")) == ("skipped", True)


@pytest.mark.parametrize("op_type", ["DynamicQuantizeLSTM", "MatMulBnb4", "GatherBlockQuantized"])
def test_forms_that_are_not_read_are_listed_with_the_reason(op_type: str) -> None:
    inputs = ["w", "x", "s"] if op_type == "GatherBlockQuantized" else ["x", "w", "s"]
    found = only_site(model([node(op_type, inputs, domain=MICROSOFT)], {"w": MATRIX, "s": CHANNELS}))
    assert (found.site.id, found.status) == ("w", "skipped")
    assert found.reason == (
        f"stored as integers for {op_type}, whose form sn-graph does not read; "
        "fold the floating-point model before quantizing it"
    )
