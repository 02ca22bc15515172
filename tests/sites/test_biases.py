"""Biases in units of the scales before them: what onnxruntime's integer operators make of them, and what fold does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import sn_graph as sn
from sn_graph.errors import ModelError
from sn_graph.proofs import save
from sn_graph.runtime import open_session
from tests.support.builders import Array, Weights, drawn, network, node

X_SCALE, W_SCALE = np.float32(0.03), np.float32(0.01)


def quantized(
    operator: str = "Gemm", between: Sequence[str] = (), last: str = "QuantizeLinear", unit: float = 1.0
) -> onnx.ModelProto:
    """One operator as quantize_static writes it; `unit` is the bias's scale in units of those before it."""
    rng = np.random.default_rng(0)
    shape, x = ((8, 3, 3, 3), (2, 3, 6, 6)) if operator == "Conv" else ((16, 8), (4, 16))
    weights: Weights = {
        "w": rng.integers(-99, 99, shape).astype(np.int8),
        "b": rng.integers(-9000, 9000, 8).astype(np.int32),
        "sx": X_SCALE,
        "sw": W_SCALE,
        "sb": np.float32(X_SCALE * W_SCALE * unit),
        "sy": np.float32(0.05),
        "z": np.int8(0),
        "zb": np.int32(0),
    }
    nodes = [node("QuantizeLinear", ["x", "sx", "z"], ["xq"])]
    nodes += [node("DequantizeLinear", ["xq", "sx", "z"], ["xd"]), node("DequantizeLinear", ["w", "sw", "z"], ["wd"])]
    nodes += [node("DequantizeLinear", ["b", "sb", "zb"], ["bd"]), node(operator, ["xd", "wd", "bd"], ["c0"])]
    nodes += [node(op, [f"c{place}"], [f"c{place + 1}"]) for place, op in enumerate(between)]
    nodes += [node(last, [f"c{len(between)}", *(["sy", "z"] if last == "QuantizeLinear" else [])], ["yq"])]
    nodes += [node("DequantizeLinear", ["yq", "sy", "z"])] if last == "QuantizeLinear" else [node("Neg", ["yq"])]
    return network(nodes, weights, {"x": x}, opset=13)


def outputs(model: onnx.ModelProto, *, optimize: bool) -> Array:
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    session = open_session(model.SerializeToString(), optimize=optimize)
    found: Array = session.run(None, {"x": drawn(*shape, seed=3)})[0]
    return found


@pytest.mark.parametrize(
    ("form", "skipped"),
    [
        ({}, True),
        ({"between": ("Sigmoid",)}, True),
        ({"last": "Tanh"}, True),
        ({"operator": "Conv"}, False),
        ({"operator": "Conv", "between": ("Relu",)}, False),
        ({"unit": 4.0}, False),
    ],
)
def test_what_fold_leaves_out(form: dict[str, object], skipped: bool, tmp_path: Path) -> None:
    """Where it folds, onnxruntime's optimizations change as much as they did before."""
    model = quantized(**form)  # type: ignore[arg-type]
    result = sn.fold(model)
    (site,) = result.sites
    assert (site.status == "skipped", "fold the floating-point model" in str(site.reason)) == (skipped, skipped)
    if not skipped and "unit" not in form:
        folded = result.to_proto()
        apart = np.abs(outputs(folded, optimize=True) - outputs(folded, optimize=False)).max()
        assert apart <= 0.051  # a quantum of the output
    assert save(sn.insert(model), tmp_path / "inserted.onnx").verified == "run"


def test_onnxruntime_divides_the_bias_along() -> None:
    """The fault that is avoided: with the scale divided as the file says, outputs move by much more than a quantum."""
    model = quantized()
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "sw")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(W_SCALE / 12), "sw"))
    assert np.abs(outputs(model, optimize=True) - outputs(model, optimize=False)).max() > 0.5


@pytest.mark.parametrize("form", [{}, {"operator": "Conv"}, {"last": "Tanh"}])
def test_inserted_ones_run_alike_with_optimizations(form: dict[str, object]) -> None:
    inserted = sn.insert(quantized(**form)).to_proto()  # type: ignore[arg-type]
    apart = np.abs(outputs(inserted, optimize=True) - outputs(inserted, optimize=False)).max()
    assert apart <= 0.051


def test_a_baked_session_says_why_it_can_not(tmp_path: Path) -> None:
    running = sn.StatefulSession(sn.insert(quantized()).model, providers=["CPUExecutionProvider"])
    running.run(None, {"x": drawn(4, 16, seed=3)})
    with pytest.raises(
        ModelError, match="weight 'w' can't be divided in the file, because its bias is stored as int32"
    ):
        running.bake(tmp_path / "baked.onnx")
    assert not list(tmp_path.iterdir())
    conv = sn.StatefulSession(sn.insert(quantized("Conv")).model, providers=["CPUExecutionProvider"])
    last = conv.run(None, {"x": drawn(2, 3, 6, 6, seed=3)})[0]
    conv.bake(tmp_path / "baked.onnx")
    again = outputs(onnx.load(tmp_path / "baked.onnx"), optimize=False)
    np.testing.assert_allclose(again, last, atol=0.11)  # a quantum of the output, and half of one
