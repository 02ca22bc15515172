"""Weights that the graph quantizes: what their readers get, against onnx's reference and QONNX's formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import sn_graph as sn
from sn_graph.model import Model
from tests.support.builders import (
    Array,
    Weights,
    drawn,
    initializers,
    model,
    network,
    node,
    only_site,
    only_target,
    saved,
    value,
)
from tests.support.command_line import invoke
from tests.support.oracle import power_iteration, seeded, sigma_max
from tests.support.runs import close, evaluated, fold_file, run, strips_to

X = drawn(3, 6, seed=1)


def pair(zero: Array | None, scale: Array, **attributes: Any) -> tuple[list[onnx.NodeProto], Weights]:
    """w through QuantizeLinear and DequantizeLinear by one scale."""
    held: Weights = {"w": drawn(6, 4), "s": scale, **({} if zero is None else {"z": zero})}
    given = ["s", *(["z"] if zero is not None else [])]
    nodes = [node("QuantizeLinear", ["w", *given], ["q"], **attributes)]
    return [*nodes, node("DequantizeLinear", ["q", *given], ["d"], **attributes)], held


def assert_close(made: Model, expected: Array) -> None:
    """The weight is what the formula says, to a rounding of float32."""
    found: Array = only_target(made).array(made)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


TENSOR, CHANNELS = np.array(0.01, np.float32), np.array([0.004, 0.01, 0.02, 0.03], np.float32)


@pytest.mark.parametrize("kind", ["int8", "uint8", "none", "int16", "int4"])
@pytest.mark.parametrize("scale", [TENSOR, CHANNELS], ids=["tensor", "channel"])
def test_quantize_and_dequantize(scale: Array, kind: str, tmp_path: Path) -> None:
    """Folded by the scale of DequantizeLinear alone, of which QuantizeLinear keeps the original."""
    code = {"int8": 3, "uint8": 2, "none": 2, "int16": 5, "int4": 22}[kind]
    zero = None if kind == "none" else np.full(scale.shape, 5).astype(helper.tensor_dtype_to_np_dtype(code))
    nodes, held = pair(zero, scale)
    (full,) = evaluated(network(nodes, held, {}, ("d",), opset=21, ir=10), {})
    made = model([*nodes, node("MatMul", ["x", "d"])], held, opset=21)
    found = only_site(made)
    assert (found.id, found.status, found.site.via) == ("w", "eligible", ("QuantizeLinear", "DequantizeLinear"))
    assert_close(made, full)
    if kind == "int4":
        return  # of which this onnxruntime has no QuantizeLinear by channel
    proto = network([*nodes, node("MatMul", ["x", "d"])], held, {"x": (3, 6)}, opset=21, ir=10)
    proto.graph.output[0].CopyFrom(value("y", [3, 4]))
    written, _ = fold_file(proto, tmp_path)
    np.testing.assert_array_equal(initializers(written)["w"], held["w"])
    np.testing.assert_array_equal(initializers(written)["s"], scale)
    np.testing.assert_allclose(run(written, {"x": X})[0], X @ full / sigma_max(full), atol=3e-6)
    inserted = sn.insert(proto, convention="keras").to_proto()
    expected, _ = power_iteration(full.T, seeded("w", 4))
    close(run(inserted, {"x": X})[0], X @ full / expected, 1e-5, "y")
    strips_to(inserted, proto)


def test_quantized_for_an_integer_operator() -> None:
    held = {"w": drawn(6, 4), "s": CHANNELS, "z": np.zeros(4, np.int8), "o": TENSOR, "p": np.array(0, np.int8)}
    product = node("QLinearMatMul", ["x", "o", "p", "q", "s", "z", "o", "p"])
    made = model([node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=1), product], held)
    expected = np.clip(np.rint(held["w"] / CHANNELS), -128, 127) * CHANNELS
    assert_close(made, expected)


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ([node("QuantizeLinear", ["w", "x"], ["q"]), node("DequantizeLinear", ["q", "s"], ["d"])], "is not a constant"),
        ([node("QuantizeLinear", ["w", "s"], ["d"])], "with no DequantizeLinear behind it"),
        (
            [node("QuantizeLinear", ["w", "s", "f8"], ["q"]), node("DequantizeLinear", ["q", "s", "f8"], ["d"])],
            "gives float8e4m3fn, which sn-graph does not read",
        ),
        (
            [*pair(None, TENSOR)[0][:1], node("DequantizeLinear", ["q", "s"], ["e"]),
             node("QuantizeLinear", ["e", "s"], ["f"]), node("DequantizeLinear", ["f", "s"], ["d"])],
            "quantized twice on its way",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_skipped(chain: list[onnx.NodeProto], reason: str) -> None:
    held: Weights = {"w": drawn(6, 4), "s": TENSOR, "f8": helper.make_tensor("f8", 17, [], [0.0])}
    found = only_site(model([*chain, node("MatMul", ["x", "d"])], held, opset=21))
    assert (found.status, reason in (found.reason or "")) == ("skipped", True), found.reason


def test_a_weight_that_is_read_plainly_too() -> None:
    nodes, held = pair(None, TENSOR)
    both = [*nodes, node("MatMul", ["x", "d"], ["h"]), node("Gemm", ["h", "w"], transB=1)]
    assert only_site(model(both, held)).reason == "its uses dequantize it differently"


def quant(scale: Array, zero: float, bits: float, **attributes: Any) -> onnx.ModelProto:
    held = {"w": drawn(6, 4), "s": scale, "z": np.array(zero, np.float32), "b": np.array(bits, np.float32)}
    rounding = node("Quant", ["w", "s", "z", "b"], ["d"], domain="qonnx.custom_op.general", **attributes)
    proto = network([rounding, node("MatMul", ["x", "d"])], held, {"x": (3, 6)})
    proto.opset_import.append(helper.make_opsetid("qonnx.custom_op.general", 1))
    return proto


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(), (1,), (4,), (1, 4), (6, 1)]),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 2.0]),
    st.sampled_from(["ROUND", "FLOOR", "CEIL"]),
)
def test_quant(shape: tuple[int, ...], bits: int, signed: bool, narrow: bool, zero: float, rounding: str) -> None:
    scale = np.random.default_rng(0).uniform(0.05, 0.2, shape).astype(np.float32)
    proto = quant(scale, zero, bits, signed=int(signed), narrow=int(narrow), rounding_mode=rounding)
    steps = drawn(6, 4) / scale + np.float32(zero)
    rounded = {"ROUND": np.rint, "FLOOR": np.floor, "CEIL": np.ceil}[rounding](steps)
    highest = 2 ** (bits - signed) - 1 - (narrow and not signed)
    lowest = -(2 ** (bits - 1)) + narrow if signed else 0
    expected = (np.clip(rounded, lowest, highest) - zero) * scale
    made = Model.open(proto)
    assert only_site(made).status == "eligible"
    assert_close(made, expected)


def test_quant_is_inserted_and_not_folded(tmp_path: Path) -> None:
    """Its one scale rounds and multiplies, so a factor may round otherwise; dividing the input is exact."""
    path = saved(quant(np.full((1, 4), 0.1, np.float32), 0, 4), tmp_path / "in.onnx")
    (seen,) = invoke("inspect", path, "--json").json["sites"]
    exact = np.clip(np.rint(drawn(6, 4) / np.float32(0.1)), -8, 7) * 0.1
    assert seen["sigma"] == pytest.approx(sigma_max(exact), rel=1e-6)
    assert "fold leaves it as it is: its Quant rounds by the scale" in seen["notes"][0]
    ended = invoke("fold", path, "-o", tmp_path / "out.onnx")
    assert ended.code == 3
    ended = invoke("insert", path, "-o", tmp_path / "out.onnx", "--json")
    assert (ended.code, ended.json["verified"]) == (0, "structure")
    assert invoke("strip", tmp_path / "out.onnx", "-o", tmp_path / "back.onnx").code == 0
    assert (tmp_path / "back.onnx").read_bytes() == path.read_bytes()
