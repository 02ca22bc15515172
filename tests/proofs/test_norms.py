"""The norm of each folded weight, looked at again: whoever estimated it wrongly is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import sn_graph as sn
from sn_graph.choices import NormChoice, SigmaChoice
from sn_graph.norms import Operators, divisor, matrix
from sn_graph.proofs import save
from sn_graph.proofs.norms import check_norms
from sn_graph.spectral.matrix import bracket as matrix_bracket
from sn_graph.spectral.matrix import norm_and_vector
from tests.support.builders import Array, Weights, drawn, network, node, saved
from tests.support.command_line import invoke

TYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def linear(weight: Array) -> onnx.ModelProto:
    dtype = weight.dtype.name
    return network([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, {"x": (2, len(weight))}, dtype=dtype)


def convolution(dtype: str = "float32") -> onnx.ModelProto:
    weight = drawn(8, 4, 3, 3).astype(TYPES[dtype])
    return network(
        [node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], {"w": weight}, {"x": (1, 4, 9, 9)}, dtype=dtype
    )


def quantized() -> onnx.ModelProto:
    integers = np.random.default_rng(0).integers(-127, 128, (30, 20), np.int8)
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    return network(nodes, {"q": integers, "s": np.array(0.0173, np.float32)}, {"x": (2, 30)}, opset=19)


def cast() -> onnx.ModelProto:
    nodes = [node("Cast", ["w"], ["c"], to=onnx.TensorProto.FLOAT16), node("MatMul", ["x", "c"], ["y"])]
    return network(nodes, {"w": drawn(30, 20)}, {"x": (2, 30)}, dtype="float16")


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{name: lambda name=name: linear(drawn(30, 20).astype(TYPES[name])) for name in TYPES},  # type: ignore[misc]
    "large": lambda: linear(drawn(200, 300)),
    "convolution": convolution,
    "quantized": quantized,
    "cast": cast,
}


@pytest.fixture(params=[0.99, 1.01, 1 - 1e-5, 1 + 1e-5])
def tampered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Every estimate that fold makes is off by this."""
    factor: float = request.param
    find, measure, bracket = norm_and_vector, Operators.enclose, matrix_bracket

    def enclose(operators: Operators, target: Any) -> Any:
        return measure(operators, target).times(factor)

    def leading(given: Array) -> Any:
        sigma, vector = find(given)
        return sigma * factor, vector

    def bracketed(given: Array) -> Any:
        found = bracket(given)
        return replace(found, lower=found.lower * factor, upper=found.upper * factor)

    monkeypatch.setattr(matrix, "norm_and_vector", leading)
    monkeypatch.setattr(divisor, "bracket", bracketed)
    monkeypatch.setattr(Operators, "enclose", enclose)
    return factor


@pytest.mark.usefixtures("tampered")
@pytest.mark.parametrize("name", MODELS)
def test_a_sigma_that_is_off(name: str, tmp_path: Path) -> None:
    path, out = saved(MODELS[name](), tmp_path / "in.onnx"), tmp_path / "out.onnx"
    ended = invoke("fold", path, "-o", out)
    assert ended.code == 1
    assert not out.exists()
    assert "was promised" in ended.err
    assert invoke("fold", path, "-o", out, "--no-verify").code == 0
    out.unlink()
    assert invoke("fold", path, "-o", out, "--force").code == 1
    assert out.exists()


@pytest.mark.parametrize("name", ["float32", "float64", "large", "convolution"])
@pytest.mark.parametrize("norm", ["matrix", "operator"])
def test_an_upper_bound_that_is_none(name: str, norm: str, tampered: float, tmp_path: Path) -> None:
    path, out = saved(MODELS[name](), tmp_path / "in.onnx"), tmp_path / "out.onnx"
    ended = invoke("fold", path, "-o", out, "--sigma", "upper", "--norm", norm)
    # One that is above the norm is a bound; an operator's may be wider than this fault.
    wrong = tampered < 1
    if norm == "operator" and name == "convolution" and 1 - 1e-3 < tampered < 1:
        return
    assert ended.code == int(wrong)
    assert out.exists() is not wrong


@pytest.mark.parametrize("name", ["float32", "float64", "convolution"])
def test_an_operator_norm_that_is_off(name: str, tampered: float, tmp_path: Path) -> None:
    path, out = saved(MODELS[name](), tmp_path / "in.onnx"), tmp_path / "out.onnx"
    ended = invoke("fold", path, "-o", out, "--norm", "operator")
    if abs(tampered - 1) > 1e-3:
        assert ended.code == 1
        assert not out.exists()


def test_an_estimate_promises_nothing(tmp_path: Path) -> None:
    assert save(sn.fold(linear(drawn(30, 20)), sigma="power"), tmp_path / "out.onnx").verified == "run"


@pytest.mark.usefixtures("tampered")
def test_models_that_can_not_be_run_are_looked_at_too(tmp_path: Path) -> None:
    """bfloat16 has no MatMul on CPU; a model that draws random numbers is not run."""
    nodes = [node("RandomNormalLike", ["x"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    model = network(nodes, {"w": drawn(30, 20)}, {"x": (2, 30)})
    with pytest.raises(sn.VerificationFailed, match="was promised"):
        save(sn.fold(model), tmp_path / "out.onnx")


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    kind=st.sampled_from(["normal", "constant", "rank 1", "orthogonal", "positive", "tiny", "huge"]),
    bound=st.sampled_from([1.0, 0.3, 7.0, 1e-3]),
    sigma=st.sampled_from(["exact", "upper"]),
    norm=st.sampled_from(["matrix", "operator"]),
    seed=st.integers(0, 999),
)
def test_right_folds_are_not_refused(
    dtype: str, rows: int, cols: int, kind: str, bound: float, sigma: SigmaChoice, norm: NormChoice, seed: int
) -> None:
    weight = drawn(rows, cols, seed=seed, dtype=np.float64)
    if kind == "constant":
        weight = np.full((rows, cols), 0.3 + seed / 999)
    elif kind == "rank 1":
        weight = np.outer(weight[:, 0], weight[0])
    elif kind == "orthogonal":
        weight = np.linalg.qr(drawn(max(rows, cols), min(rows, cols), seed=seed, dtype=np.float64))[0]
    elif kind == "positive":
        weight = np.abs(weight)
    elif kind in ("tiny", "huge"):
        weight = weight * (1e-4 if kind == "tiny" else 1e3)
    result = sn.fold(linear(weight.astype(TYPES[dtype])), sigma=sigma, norm=norm, bound=bound)
    check(result)


def check(result: Any) -> None:
    """Check the norms of a result, without a file."""
    tensors = {("", one.name): numpy_helper.to_array(one) for one in result.to_proto().graph.initializer}
    reads = {(target.id, 0): frozenset({target.site.weight}) for target in result.plan.targets()}
    check_norms(result, result.source, reads, tensors)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sigma", ["exact", "upper"])
@pytest.mark.parametrize("norm", ["matrix", "operator"])
def test_right_models_are_not_refused(name: str, sigma: SigmaChoice, norm: NormChoice, tmp_path: Path) -> None:
    path = saved(MODELS[name](), tmp_path / "in.onnx")
    assert save(sn.fold(path, sigma=sigma, norm=norm), tmp_path / "out.onnx").verified in ("run", "structure")


def test_scaled_twice_in_memory(tmp_path: Path) -> None:
    for sigma in ("exact", "upper"):
        first = sn.fold(linear(drawn(30, 20).astype(np.float16)), bound=0.37)
        assert save(sn.fold(first.model, sigma=sigma), tmp_path / f"{sigma}.onnx").verified == "run"


def test_rounding_that_is_of_one_sign_is_not_a_fault() -> None:
    """Elements whose roundings all add to the norm: more than 2u of it, and no more than they can."""
    generator = np.random.default_rng(0)
    signs = np.sign(generator.standard_normal((60, 1)) @ generator.standard_normal((1, 60)))
    noise = np.sign(generator.standard_normal((60, 60)))
    # σ(noise) is about 15, that of the signs 60 · ε.
    weight = (noise + 0.3 * signs).astype(np.float64)
    for step in range(40):
        check(sn.fold(linear((weight * (1 + step * 1e-3)).astype(ml_dtypes.bfloat16))))


@pytest.mark.parametrize("bound", [1e-4, 1e-3])
@pytest.mark.usefixtures("tampered")
def test_small_bounds_in_16_bits_hide_nothing(bound: float) -> None:
    with pytest.raises(sn.VerificationFailed):
        check(sn.fold(linear(drawn(400, 400).astype(np.float16)), bound=bound))


@pytest.mark.parametrize("sigma", ["exact", "upper"])
@pytest.mark.parametrize("norm", ["matrix", "operator"])
def test_two_weights_that_share_a_scale(sigma: SigmaChoice, norm: NormChoice, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    integers = {name: generator.integers(-127, 128, (6, 6), np.int8) for name in ("q", "r")}
    integers["r"] //= 2
    nodes = [
        *(node("DequantizeLinear", [name, "s"], [f"{name}w"]) for name in integers),
        node("MatMul", ["x", "qw"], ["h"]),
        node("MatMul", ["h", "rw"], ["y"]),
    ]
    model = network(nodes, {**integers, "s": np.array(0.0173, np.float32)}, {"x": (2, 6)}, opset=19)
    proof = save(sn.fold(model, sigma=sigma, norm=norm), tmp_path / "out.onnx")
    assert proof.verified == "run"


def test_a_weight_read_by_scales_of_two_types_is_two_weights() -> None:
    integers = np.random.default_rng(0).integers(-127, 128, (6, 6), np.int8)
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["w"]),
        node("DequantizeLinear", ["q", "t"], ["v"]),
        node("MatMul", ["x", "w"], ["h"]),
        node("Cast", ["v"], ["vf"], to=onnx.TensorProto.FLOAT),
        node("MatMul", ["h", "vf"], ["y"]),
    ]
    scales: Weights = {"s": np.array(0.0156, np.float16).astype(np.float32), "t": np.array(0.0156, np.float16)}
    (record,) = sn.fold(network(nodes, {"q": integers, **scales}, {"x": (2, 6)}, opset=19), sigma="upper").sites
    assert record.status == "skipped"


@pytest.mark.parametrize("norm", ["matrix", "operator"])
def test_a_weight_that_is_infinite_where_it_is_read(norm: NormChoice) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Cast", ["w"], ["half"], to=onnx.TensorProto.FLOAT16),
        node("Cast", ["half"], ["back"], to=onnx.TensorProto.FLOAT),
        node("MatMul", ["h", "back"], ["y"]),
    ]
    model = network(nodes, {"w": np.eye(4, dtype=np.float32)}, {"x": (2, 4)})
    with pytest.raises(sn.ModelError, match="no divisor"):
        sn.fold(model, sigma="upper", bound=1e5, norm=norm)


def test_a_scale_that_would_be_rounded_to_0() -> None:
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    weights: Weights = {"q": np.full((40, 40), 100, np.int8), "s": np.array(0.01, np.float16)}
    model = network(nodes, weights, {"x": (2, 40)}, dtype="float16", opset=19)
    for sigma in ("exact", "upper"):
        with pytest.raises(sn.ModelError, match=r"would become 0|no divisor"):
            sn.fold(model, sigma=sigma, bound=1e-4)


def test_an_upper_operator_norm_that_is_attained_above() -> None:
    """By less than a lower end of 1e-5 shows."""
    values = 1.0 - np.linspace(0, 1e-4, 200)
    left, _ = np.linalg.qr(drawn(200, 200, dtype=np.float64))
    result = sn.fold(linear((left * values).astype(np.float64)), sigma="upper", norm="operator")
    (record,) = result.sites
    assert record.sigma_used is not None
    assert result.source is not None
    for factor, ok in ((1.0, True), (1 - 2e-6, False)):
        weight = onnx.numpy_helper.to_array(result.to_proto().graph.initializer[0]) / factor
        wrong = replace(result, sites=(replace(record, sigma_used=record.sigma_used * factor),))
        reads = {("w", 0): frozenset({"w"})}
        if ok:
            check_norms(wrong, result.source, reads, {("", "w"): weight})
            continue
        with pytest.raises(sn.VerificationFailed):
            check_norms(wrong, result.source, reads, {("", "w"): weight})


def test_what_was_measured_is_what_is_looked_at() -> None:
    """The vectors that a measuring leaves are leading ones, and only where they cost nothing."""
    found = sn.fold(linear(drawn(200, 300)))
    (vector,) = found.vectors.values()
    weight = drawn(200, 300).astype(np.float64)
    assert np.linalg.norm(weight @ vector) == pytest.approx(np.linalg.norm(weight, 2), rel=1e-9)
    assert sn.fold(linear(drawn(30, 20))).vectors == {}
