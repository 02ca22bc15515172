"""Weights that operators take as integers, in models quantized by onnxruntime: folded by scale, or left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import sn_graph as sn
from tests.support.builders import MICROSOFT, Array, drawn, initializers, network, node, saved, value
from tests.support.oracle import sigma_max
from tests.support.runs import fold_file, run

X, IMAGE = drawn(4, 6, seed=1), drawn(1, 3, 6, 6, seed=2)


def perceptron() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["a"]), node("MatMul", ["a", "v"])]
    proto = network(nodes, {"w": drawn(6, 5), "b": drawn(5, seed=3), "v": drawn(5, 4, seed=4)}, {"x": (4, 6)})
    proto.graph.output[0].CopyFrom(value("y", [4, 4]))
    return proto


def convolution(biased: bool) -> onnx.ModelProto:
    held = {"w": drawn(4, 3, 3, 3), **({"b": drawn(4, seed=3)} if biased else {})}
    proto = network([node("Conv", ["x", *held])], held, {"x": IMAGE.shape})
    proto.graph.output[0].CopyFrom(value("y", [1, 4, 4, 4]))
    return proto


class Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, *feeds: Array) -> None:
        self._feeds = iter([{"x": feed} for feed in feeds])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def statically(proto: onnx.ModelProto, sample: Array, folder: Path, **options: Any) -> onnx.ModelProto:
    source = saved(proto, folder / "float.onnx")
    quantize_static(source, folder / "static.onnx", Samples(sample, -sample), QuantFormat.QOperator, **options)
    return onnx.load(folder / "static.onnx")


def dynamically(proto: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    quantize_dynamic(saved(proto, folder / "float.onnx"), folder / "dynamic.onnx", **options)
    return onnx.load(folder / "dynamic.onnx")


def sigmas(proto: onnx.ModelProto) -> list[float]:
    return [site.sigma or 0.0 for site in sn.inspect(proto).sites if site.status == "eligible"]


def assert_folded(proto: onnx.ModelProto, feed: Array, folder: Path, weights: int) -> onnx.ModelProto:
    """Every weight gets norm 1 by its scale alone, and the outputs are those of the model with those scales."""
    written, result = fold_file(proto, folder)
    assert [site.status for site in result.sites].count("folded") == weights
    before, after = initializers(proto), initializers(written)
    for name, array in after.items():
        if name in before and np.dtype(array.dtype).kind in "iu":
            np.testing.assert_array_equal(array, before[name])
    np.testing.assert_allclose(sigmas(written), 1.0, rtol=2e-6)
    assert run(written, {"x": feed})[0].shape == run(proto, {"x": feed})[0].shape
    skipped = sn.insert(proto).sites
    assert all(site.status == "skipped" and "fold it" in str(site.reason) for site in skipped)
    return written


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic_products(per_channel: bool, weight_type: QuantType, tmp_path: Path) -> None:
    proto = dynamically(perceptron(), tmp_path, per_channel=per_channel, weight_type=weight_type)
    assert "MatMulInteger" in {one.op_type for one in proto.graph.node}
    exact = [sigma_max(drawn(6, 5)), sigma_max(drawn(5, 4, seed=4))]
    np.testing.assert_allclose(sigmas(proto), exact, rtol=2e-2)  # of 8 bits
    written = assert_folded(proto, X, tmp_path, 2)
    w, v = drawn(6, 5) / exact[0], drawn(5, 4, seed=4) / exact[1]
    np.testing.assert_allclose(run(written, {"x": X})[0], (X @ w + drawn(5, seed=3)) @ v, atol=5e-2)


@pytest.mark.parametrize("biased", [False, True])
def test_dynamic_convolutions(biased: bool, tmp_path: Path) -> None:
    proto = dynamically(convolution(biased), tmp_path, weight_type=QuantType.QUInt8)
    assert "ConvInteger" in {one.op_type for one in proto.graph.node}
    np.testing.assert_allclose(sigmas(proto), sigma_max(drawn(4, 3, 3, 3).reshape(4, -1)), rtol=2e-2)
    assert_folded(proto, IMAGE, tmp_path, 1)


@pytest.mark.parametrize("per_channel", [False, True])
def test_static_products(per_channel: bool, tmp_path: Path) -> None:
    proto = statically(perceptron(), X, tmp_path, per_channel=per_channel)
    assert "QLinearMatMul" in {one.op_type for one in proto.graph.node}
    found = sn.inspect(proto).sites
    assert any("keeps the scale that it was calibrated with" in note for note in found[0].notes)
    assert_folded(proto, X, tmp_path, 2)


@pytest.mark.parametrize("per_channel", [False, True])
def test_static_convolutions_without_a_bias(per_channel: bool, tmp_path: Path) -> None:
    assert_folded(statically(convolution(False), IMAGE, tmp_path, per_channel=per_channel), IMAGE, tmp_path, 1)


def test_a_bias_in_steps_of_the_scales_keeps_the_weight(tmp_path: Path) -> None:
    """A factor of the scale would be one of the bias too, so it is measured, and left alone with the reason."""
    proto = statically(convolution(True), IMAGE, tmp_path)
    (seen,) = sn.inspect(proto).sites
    assert seen.status == "eligible"
    assert seen.sigma == pytest.approx(sigma_max(drawn(4, 3, 3, 3).reshape(4, -1)), rel=2e-2)
    assert any("fold leaves it as it is: its bias is stored in steps of" in note for note in seen.notes)
    (kept,) = sn.fold(proto).sites
    assert kept.status == "skipped"
    assert "fold the floating-point model before quantizing it" in str(kept.reason)


def test_a_scale_of_two_products_is_copied(tmp_path: Path) -> None:
    """One weight is folded, and the other, whose scale was the same tensor, keeps its own."""
    quantize = node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"])
    ends = [node("Cast", [f"p{place}"], [f"c{place}"], to=1) for place in "wv"]
    scales = [node("Mul", ["xs", "s"], [f"s{place}"]) for place in "wv"]
    made = [node("Mul", [f"c{place}", f"s{place}"], [f"m{place}"]) for place in "wv"]
    products = [node("MatMulInteger", ["xq", place, "xz"], [f"p{place}"]) for place in "wv"]
    stored = [np.random.default_rng(seed).integers(-100, 100, (6, 5)).astype(np.int8) for seed in (0, 1)]
    held: dict[str, Any] = {"w": stored[0], "v": stored[1], "s": np.array(0.01, np.float32)}
    proto = network([quantize, *products, *ends, *scales, *made, node("Sub", ["mw", "mv"])], held, {"x": (4, 6)})
    proto.graph.output[0].CopyFrom(value("y", [4, 5]))
    written, _ = fold_file(proto, tmp_path, include=["^w$"])
    weights = [0.01 * array.astype(np.float64) for array in stored]
    expected = X @ (weights[0] / sigma_max(weights[0]) - weights[1])
    np.testing.assert_allclose(run(written, {"x": X})[0], expected, atol=0.1)  # 8 bits of activations
    np.testing.assert_array_equal(initializers(written)["s"], held["s"])


@pytest.mark.parametrize("zero", [False, True])
def test_packed_products(zero: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 16, (8, 32)).astype(np.uint8)
    scale, zeros = rng.uniform(0.01, 0.1, (8, 2)).astype(np.float32), rng.integers(0, 16, (8, 2)).astype(np.uint8)
    held: dict[str, Array] = {"w": (stored[:, ::2] | stored[:, 1::2] << 4).reshape(8, 2, 8), "s": scale.reshape(-1)}
    if zero:
        held["z"] = (zeros[:, 0] | zeros[:, 1] << 4).astype(np.uint8)
    nodes = [node("MatMulNBits", ["x", *held], domain=MICROSOFT, N=8, K=32, bits=4, block_size=16)]
    proto = network(nodes, held, {"x": (4, 32)})
    proto.graph.output[0].CopyFrom(value("y", [4, 8]))
    middle = np.repeat(zeros, 16, 1) if zero else 8
    full = (stored.astype(np.float64) - middle) * np.repeat(scale, 16, 1)
    assert sigmas(proto) == pytest.approx([sigma_max(full)], rel=1e-6)
    x = drawn(4, 32)
    np.testing.assert_allclose(run(proto, {"x": x})[0], x @ full.T, atol=1e-4)
    written = assert_folded(proto, x, tmp_path, 1)
    np.testing.assert_allclose(run(written, {"x": x})[0], x @ full.T / sigma_max(full), atol=1e-5)


@pytest.mark.parametrize("op_type", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_fused_products(op_type: str, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 255, (6, 5)).astype(np.uint8)
    held: dict[str, Any] = {"w": stored, "s": np.array(0.01, np.float32), "z": np.array(120, np.uint8)}
    if op_type == "DynamicQuantizeMatMul":
        nodes = [node(op_type, ["x", "w", "s", "z"], domain=MICROSOFT)]
    else:
        nodes = [
            node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
            node(op_type, ["xq", "w", "xs", "s", "xz", "z"], domain=MICROSOFT),
        ]
    proto = network(nodes, held, {"x": (4, 6)})
    proto.graph.output[0].CopyFrom(value("y", [4, 5]))
    full = (stored.astype(np.float64) - 120) * 0.01
    written = assert_folded(proto, X, tmp_path, 1)
    np.testing.assert_allclose(run(written, {"x": X})[0], X @ full / sigma_max(full), atol=5e-2)
