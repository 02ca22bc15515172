"""`--sigma upper`: the weights as stored are within the bound, by float64 SVD and without a tolerance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import sn_graph as sn
from sn_graph.choices import ConventionChoice, NormChoice
from sn_graph.errors import ModelError, UsageError
from sn_graph.plan import make_plan, save_plan
from sn_graph.runtime.session import StatefulSession
from tests.support.builders import Array, drawn, network, node
from tests.support.oracle import sigma_max

TYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# How far below the bound the norm may be: what rounding each element may do, 2^-p of it, beside 1e-8.
WIDTH = {"float64": 2e-8, "float32": 2e-6, "float16": 3e-3, "bfloat16": 3e-2}


def linear(weight: Array) -> onnx.ModelProto:
    dtype = weight.dtype.name
    return network([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, {"x": (2, len(weight))}, dtype=dtype)


def stored(model: onnx.ModelProto) -> Array:
    return numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12),
    cols=st.integers(1, 12),
    bound=st.floats(1e-2, 1e2),
    seed=st.integers(0, 999),
    kind=st.sampled_from(["normal", "equal", "rank 1", "graded"]),
)
def test_as_stored_within_the_bound(dtype: str, rows: int, cols: int, bound: float, seed: int, kind: str) -> None:
    matrix = drawn(rows, cols, seed=seed, dtype=np.float64)
    if kind == "equal":
        matrix = np.linalg.qr(drawn(max(rows, cols), min(rows, cols), seed=seed, dtype=np.float64))[0]
    elif kind == "rank 1":
        matrix = np.outer(matrix[:, 0], matrix[0])
    elif kind == "graded":
        matrix = matrix * np.logspace(0, -6, cols)
    weight = matrix.astype(TYPES[dtype])
    result = sn.fold(linear(weight), sigma="upper", bound=bound)
    (record,) = result.sites
    truth = sigma_max(weight.astype(np.float64))
    assert record.sigma == pytest.approx(truth, rel=1e-6)
    assert record.sigma_upper is not None
    assert record.sigma_used is not None
    assert truth * (1 - 1e-14) <= record.sigma_upper <= truth * (1 + 1e-6)
    assert record.sigma_used >= truth * (1 - 1e-14)
    reached = sigma_max(stored(result.to_proto()))
    assert reached <= bound * (1 + 1e-14)  # what the SVD itself may be off
    assert reached >= bound * (1 - WIDTH[dtype])


def test_a_quantized_weight_by_its_scale() -> None:
    integers = np.random.default_rng(0).integers(-127, 128, (6, 5), np.int8)
    for scale in (np.array(0.0173, np.float32), np.array(0.0173, np.float16)):
        names = {"scale": scale, "q": integers}
        nodes = [node("DequantizeLinear", ["q", "scale"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
        model = network(nodes, names, {"x": (2, 6)}, dtype=scale.dtype.name, opset=19)
        found = {one.name: one for one in sn.fold(model, sigma="upper").to_proto().graph.initializer}
        folded = numpy_helper.to_array(found["scale"]).astype(np.float64)
        reached = sigma_max(integers.astype(np.float64)) * float(folded)
        assert 1.0 - WIDTH[scale.dtype.name] <= reached <= 1.0 + 1e-7  # dequantized in float32


def test_clip_leaves_what_is_proven_to_be_within() -> None:
    weight = drawn(6, 5)
    truth = sigma_max(weight.astype(np.float64))
    for bound, status in ((truth * 1.001, "unchanged"), (truth * 0.999, "folded")):
        (record,) = sn.fold(linear(weight), sigma="upper", bound=bound, clip=True).sites
        assert record.status == status


def test_no_bound_that_the_type_does_not_hold() -> None:
    with pytest.raises(ModelError, match="larger --bound"):
        sn.fold(linear(drawn(4, 4).astype(np.float16)), sigma="upper", bound=1e-9)


def test_a_zero_weight_stays() -> None:
    (record,) = sn.fold(linear(np.zeros((3, 4), np.float32)), sigma="upper").sites
    assert (record.status, record.sigma_upper) == ("unchanged", 0.0)


def test_inspect_and_insert_report_the_bound() -> None:
    weight = drawn(6, 5)
    truth = sigma_max(weight.astype(np.float64))
    for result in (sn.inspect(linear(weight), sigma="upper"), sn.insert(linear(weight), sigma="upper")):
        (record,) = result.sites
        assert record.sigma_upper is not None
        assert truth <= record.sigma_upper <= truth * (1 + 1e-6)
    with pytest.raises(UsageError):
        sn.inspect(linear(weight), sigma="power")  # type: ignore[arg-type]


def test_what_one_step_gives_and_what_the_spectrum_looks_like() -> None:
    for weight, hints in (
        (np.eye(5, dtype=np.float32), ("clustered",)),
        (np.ones((5, 4), np.float32), ("rank 1",)),
        (np.zeros((5, 4), np.float32), ("zero",)),
        (np.diag([3.0, 2.0, 1.0]).astype(np.float32), ()),
    ):
        (record,) = sn.inspect(linear(weight)).sites
        assert record.hints == hints
        (folded,) = sn.fold(linear(weight), sigma="power").sites
        assert record.sigma_power == (folded.sigma_used or 0.0)


@pytest.mark.parametrize("convention", ["keras", "torch-parametrization"])
def test_inspect_starts_from_the_u_that_an_inserted_model_holds(convention: ConventionChoice) -> None:
    """A converged u gives σ in one step; one that leads elsewhere changes nothing."""
    left = np.linalg.qr(drawn(150, 150, dtype=np.float64))[0]
    matrix = (left * np.linspace(2.0, 0.1, 150) @ np.linalg.qr(drawn(200, 150, seed=1, dtype=np.float64))[0].T).T
    weight = matrix.astype(np.float32)
    truth = sigma_max(weight.astype(np.float64))
    converged = sn.insert(linear(weight), sigma="exact", convention=convention).to_proto()
    (record,) = sn.inspect(converged, convention=convention).sites
    assert record.sigma == pytest.approx(truth, rel=1e-6)
    assert record.sigma_power == pytest.approx(truth, rel=1e-6)
    second = np.linalg.svd(weight.astype(np.float64))[0][:, 1] if convention != "keras" else left[:, 1]
    astray = onnx.ModelProto()
    astray.CopyFrom(converged)
    for tensor in astray.graph.initializer:
        if tensor.name == "sn_u":
            tensor.CopyFrom(numpy_helper.from_array(second.astype(np.float32).reshape(-1, 1), "sn_u"))
    (record,) = sn.inspect(astray, convention=convention).sites
    assert record.sigma == pytest.approx(truth, rel=1e-6)
    assert record.sigma_power is not None
    assert record.sigma_power < truth * 0.999


def conv(**attributes: Any) -> onnx.ModelProto:
    return network([node("Conv", ["x", "w"], ["y"], **attributes)], {"w": drawn(3, 2, 3, 3)}, {"x": (1, 2, 6, 6)})


def test_the_plan_holds_the_norm(tmp_path: Path) -> None:
    onnx.save(conv(), tmp_path / "m.onnx")
    model = sn.Model.open(tmp_path / "m.onnx")
    save_plan(replace(make_plan(model), norm="operator"), tmp_path / "plan.json")
    (planned,) = sn.fold(model, plan=tmp_path / "plan.json").sites
    (asked,) = sn.fold(model, norm="operator").sites
    (other,) = sn.fold(model, plan=tmp_path / "plan.json", norm="matrix").sites
    assert planned.sigma_used == asked.sigma_used == asked.sigma_operator
    assert other.sigma_used == other.sigma != planned.sigma_used
    with pytest.raises(UsageError, match="no norm"):
        sn.fold(model, norm="frobenius")  # type: ignore[arg-type]


@pytest.mark.parametrize(("own", "other"), [("matrix", "operator"), ("operator", "matrix")])
def test_an_inserted_model_folds_by_another_norm_than_its_own(
    own: NormChoice, other: NormChoice, tmp_path: Path
) -> None:
    """Its u and σ are of no use there: u is drawn, as for the model before the insertion."""
    sn.insert(conv(), norm=own).save(tmp_path / "sn.onnx")
    (expected,) = sn.fold(conv(), norm=other, sigma="power").sites
    (found,) = sn.fold(tmp_path / "sn.onnx", norm=other, sigma="power").sites
    assert found.sigma_used == expected.sigma_used


def test_the_last_sigma_of_another_norm_is_not_taken(tmp_path: Path) -> None:
    weight = drawn(4, 3)
    gemm = network([node("Gemm", ["x", "w"], ["y"], alpha=2.0)], {"w": weight}, {"x": (1, 4)})
    session = StatefulSession(sn.insert(gemm, norm="operator").to_proto())
    session.normalize_weights()
    session.save_state(tmp_path / "u.safetensors")
    inserted = sn.insert(gemm, norm="operator").to_proto()
    (own,) = sn.fold(inserted, state=tmp_path / "u.safetensors").sites
    (matrix,) = sn.fold(inserted, state=tmp_path / "u.safetensors", norm="matrix").sites
    assert own.sigma_used == session.sigma["w"]
    assert matrix.sigma_used == matrix.sigma == pytest.approx(sigma_max(weight), rel=1e-6)


def test_the_state_of_an_operator_norm_is_saved_loaded_and_baked(tmp_path: Path) -> None:
    onnx.save(conv(pads=[1] * 4), tmp_path / "m.onnx")
    sn.insert(tmp_path / "m.onnx", norm="operator").save(tmp_path / "sn.onnx")
    session = StatefulSession(tmp_path / "sn.onnx")
    feed = {"x": drawn(1, 2, 6, 6, seed=1)}
    for _ in range(3):
        (y,) = session.run(None, feed)
    assert session.state()["w"].shape == (3 * 6 * 6,)
    session.save_state(tmp_path / "u.safetensors")
    (record,) = sn.fold(tmp_path / "sn.onnx", state=tmp_path / "u.safetensors").sites
    assert record.sigma_used == pytest.approx(session.sigma["w"])
    again = sn.insert(tmp_path / "m.onnx", norm="operator", state=tmp_path / "u.safetensors")
    np.testing.assert_array_equal(StatefulSession(again.to_proto()).run(None, feed), session.run(None, feed))
    with pytest.raises(ModelError, match=r"shape \[108\]"):
        sn.insert(tmp_path / "m.onnx", state=tmp_path / "u.safetensors")
    session.bake(tmp_path / "baked.onnx")
    assert np.isfinite(y).all()


def as_onnxruntime_reads(model: onnx.ModelProto) -> Array:
    """What the last node of a model reads as its weight, float64."""
    given = onnx.ModelProto()
    given.CopyFrom(model)
    weight = given.graph.node[-1].input[1]
    del given.graph.node[-1]
    del given.graph.input[:], given.graph.output[:]
    given.graph.node.append(helper.make_node("Cast", [weight], ["widened"], to=onnx.TensorProto.DOUBLE))
    given.graph.output.append(helper.make_tensor_value_info("widened", onnx.TensorProto.DOUBLE, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(given.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("norm", ["matrix", "operator"])
def test_a_model_in_memory_that_was_scaled_before(dtype: str, norm: NormChoice) -> None:
    """What is written is round(W f₁f₂), and not round(round(W f₁) f₂)."""
    for seed in range(60):
        generator = np.random.default_rng(seed)
        weight = drawn(*generator.integers(1, 12, 2), seed=seed).astype(TYPES[dtype])
        first = sn.fold(linear(weight), bound=float(generator.uniform(0.3, 3)))
        second = sn.fold(first.model, sigma="upper", bound=1.0, norm=norm)
        reached = sigma_max(stored(second.to_proto()))
        assert 1.0 - WIDTH[dtype] <= reached <= 1.0 + 1e-14, seed


CASTS = [("float32", "float16"), ("float32", "bfloat16"), ("float64", "float16"), ("float64", "float32")]


@pytest.mark.parametrize(("dtype", "read"), CASTS)
@pytest.mark.parametrize("norm", ["matrix", "operator"])
def test_behind_a_cast_to_a_narrower_type(dtype: str, read: str, norm: NormChoice) -> None:
    for seed in range(60):
        weight = drawn(*np.random.default_rng(seed).integers(1, 12, 2), seed=seed).astype(TYPES[dtype])
        code = helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[read]))
        nodes = [node("Cast", ["w"], ["read"], to=code), node("MatMul", ["x", "read"], ["y"])]
        model = network(nodes, {"w": weight}, {"x": (2, len(weight))}, dtype=read)
        folded = sn.fold(model, sigma="upper", norm=norm).to_proto()
        reached = sigma_max(as_onnxruntime_reads(folded))
        assert 1.0 - WIDTH[read] <= reached <= 1.0 + 1e-14, seed


@pytest.mark.parametrize("scale", [np.float16, np.float32])
@pytest.mark.parametrize("blocks", ["tensor", "axis"])
def test_integers_as_the_runtime_dequantizes_them(scale: Any, blocks: str) -> None:
    for seed in range(60):
        generator = np.random.default_rng(seed)
        rows, cols = (int(side) for side in generator.integers(1, 9, 2))
        integers = generator.integers(-128, 128, (rows, cols)).astype(np.int8)
        integers[0, 0] = 127
        steps = np.asarray(generator.uniform(1e-3, 5e-2, cols if blocks == "axis" else ()), scale)
        nodes = [node("DequantizeLinear", ["q", "s"], ["w"], axis=1), node("MatMul", ["x", "w"], ["y"])]
        given = network(nodes, {"q": integers, "s": steps}, {"x": (2, rows)}, dtype=np.dtype(scale).name, opset=19)
        reached = sigma_max(as_onnxruntime_reads(sn.fold(given, sigma="upper").to_proto()))
        assert 1.0 - WIDTH[np.dtype(scale).name] <= reached <= 1.0 + 1e-14, seed


def test_clip_does_not_keep_what_passes_the_bound_where_it_is_read() -> None:
    """0.99999 is within 1 as it is stored, and 1.0 behind a Cast: not within 0.99999."""
    weight = np.array([[0.99999]], np.float32)
    nodes = [node("Cast", ["w"], ["read"], to=onnx.TensorProto.FLOAT16), node("MatMul", ["x", "read"], ["y"])]
    model = network(nodes, {"w": weight}, {"x": (2, 1)}, dtype="float16")
    result = sn.fold(model, sigma="upper", bound=0.999995, clip=True)
    assert result.sites[0].status == "folded"
    assert sigma_max(as_onnxruntime_reads(result.to_proto())) <= 0.999995
    assert sn.fold(model, sigma="upper", bound=1.001, clip=True).sites[0].status == "unchanged"
