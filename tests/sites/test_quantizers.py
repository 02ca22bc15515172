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
from tests.support import qonnx
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
    value,
)
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


def quant(scale: Array, zero: Array, bits: float, op_type: str = "Quant", **attributes: Any) -> onnx.ModelProto:
    held = {"w": drawn(6, 4), "s": scale, "z": zero.astype(np.float32), "b": np.array(bits, np.float32)}
    given = ["s"] if op_type == "BipolarQuant" else ["s", "z", "b"]
    rounding = node(op_type, ["w", *given], ["d"], domain=qonnx.DOMAIN, **attributes)
    proto = network([rounding, node("MatMul", ["x", "d"])], held, {"x": (3, 6)})
    proto.opset_import.append(helper.make_opsetid(qonnx.DOMAIN, 1))
    return proto


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(), (1,), (4,), (1, 4), (6, 1)]),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.booleans(),
    st.sampled_from([*qonnx.MODES, "floor"]),
    st.sampled_from(["Quant", "IntQuant", "BipolarQuant"]),
)
def test_quant(
    shape: tuple[int, ...], bits: int, signed: bool, narrow: bool, zero: float, apart: bool, mode: str, op_type: str
) -> None:
    """Ties too: the zero point is added before it is rounded, so that they go to the even sum."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.05, 0.2, shape).astype(np.float32)
    zeros = zero + (rng.integers(0, 3, shape) if apart else np.zeros(shape))
    given = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": mode}
    attributes: dict[str, Any] = {} if op_type == "BipolarQuant" else given
    proto = quant(scale, zeros, bits, op_type, **attributes)
    steps = np.round(drawn(6, 4) / scale * 2) / 2  # integers and ties
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array((steps * scale).astype(np.float32), "w"))
    (expected,) = qonnx.evaluate(without_consumer(proto), {})
    made = Model.open(proto)
    assert only_site(made).status == "eligible"
    assert_close(made, expected)


def without_consumer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The quantizer alone, whose result is the output."""
    alone = onnx.ModelProto()
    alone.CopyFrom(proto)
    del alone.graph.node[1:], alone.graph.input[:]
    alone.graph.output[0].CopyFrom(value("d", [6, 4]))
    return alone


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (["Quant", ["w", "computed", "z", "b"]], "the scale of its Quant is not stored but computed or fed"),
        (["Trunc", ["w", "s", "z", "b", "b"]], "quantized in the graph by Trunc, which sn-graph does not read"),
        (["FloatQuant", ["w", "s", "b", "b", "b"]], "quantized in the graph by FloatQuant"),
    ],
)
def test_what_quantizers_of_qonnx_are_skipped_for(chain: list[Any], reason: str) -> None:
    op_type, inputs = chain
    proto = quant(TENSOR, np.zeros(()), 4)
    proto.graph.node[0].CopyFrom(node(op_type, inputs, ["d"], domain=qonnx.DOMAIN))
    proto.graph.node.insert(0, node("Mul", ["s", "s"], ["computed"]))
    found = only_site(Model.open(proto))
    assert (found.status, reason in (found.reason or "")) == ("skipped", True), found.reason
