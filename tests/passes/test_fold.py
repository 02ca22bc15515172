"""Fold on every kind of op, type and storage: the weights it writes, the bytes it leaves alone, the outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sn_graph as sn
from sn_graph import proofs
from sn_graph.choices import ConventionChoice, SigmaChoice
from sn_graph.passes import PassResult
from tests.support.builders import DTYPES, drawn, initializers, network, node, saved
from tests.support.networks import CASES, CONVENTIONS, EPS, Case
from tests.support.oracle import sigma_max
from tests.support.runs import run

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
STORAGES = ("raw", "typed", "external")


def folded(source: Path, target: Path, **options: Any) -> PassResult:
    result = sn.fold(source, **options)
    result.save(target)
    return result


@CASE
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", STORAGES)
def test_weight_is_divided_by_its_norm(case: Case, dtype: str, storage: str, tmp_path: Path) -> None:
    weight = case.weight(dtype)
    source = saved(case.model(weight, dtype, storage == "typed"), tmp_path / "in.onnx", storage == "external")
    result = folded(source, tmp_path / "out.onnx", convention="keras")

    (site,) = result.sites
    sigma = sigma_max(case.matrix(weight, "keras"))
    assert (site.status, site.dtype, site.shape) == ("folded", dtype, case.shape)
    assert site.sigma == pytest.approx(sigma, rel=1e-6)
    assert site.sigma_used == site.sigma
    stored = initializers(tmp_path / "out.onnx")["w"]
    assert stored.dtype == weight.dtype
    wanted = weight.astype(np.float64) / sigma
    # The element's own rounding, and σ's 1e-6.
    np.testing.assert_allclose(stored.astype(np.float64), wanted, rtol=EPS[dtype] + 1.1e-6, atol=1e-7)
    assert sigma_max(case.matrix(stored, "keras")) == pytest.approx(1.0, abs=max(2 * EPS[dtype], 1.1e-6))
    assert (tmp_path / "out.onnx.data").exists() == (storage == "external")


@CASE
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_matrix_is_the_conventions(case: Case, convention: ConventionChoice) -> None:
    weight = case.weight()
    (site,) = sn.fold(case.model(weight), convention=convention).sites
    wanted = case.matrix(weight, convention)
    assert site.matrix is not None
    assert set(site.matrix) == set(wanted.shape)  # which side u is on, test_fold_power tells
    assert site.sigma == pytest.approx(sigma_max(wanted), rel=1e-6)
    for reading in site.readings:
        assert reading.sigma == pytest.approx(sigma_max(case.matrix(weight, reading.convention)), rel=1e-6)
    differ = not np.isclose(sigma_max(case.matrix(weight, "keras")), sigma_max(case.matrix(weight, "torch")), 1e-5)
    assert len(site.readings) == (3 if differ else 0)


@CASE
def test_outputs_are_those_of_the_original_with_its_weight_replaced(case: Case, tmp_path: Path) -> None:
    weight = case.weight()
    model = case.model(weight)
    folded(saved(model, tmp_path / "in.onnx"), tmp_path / "out.onnx", convention="torch")
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array((weight / sigma_max(case.matrix(weight, "torch"))).astype(np.float32), "w")
    )
    x = np.arange(4) if case.op_type == "Gather" else drawn(*case.x, seed=1)
    (expected,), (actual,) = run(model, {"x": x}), run(onnx.load(tmp_path / "out.onnx"), {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())  # σ within 1e-6


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_inline_file_differs_in_weight_bytes_only(dtype: str, typed: bool, tmp_path: Path) -> None:
    if typed and dtype == "float16":
        pytest.skip("16-bit floats in int32_data are varints, whose length changes")
    weight = CASES[1].weight(dtype)
    model = CASES[1].model(weight, dtype, typed)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(9), "unused"))
    model.metadata_props.add(key="who", value="someone")
    content = model.SerializeToString() + b"\xfa\x3e\x03odd"  # field 1007, which onnx does not know
    (tmp_path / "in.onnx").write_bytes(content)
    folded(tmp_path / "in.onnx", tmp_path / "out.onnx")

    written = (tmp_path / "out.onnx").read_bytes()
    assert len(written) == len(content)
    start = content.index(weight.tobytes())
    end = start + weight.nbytes
    assert written[:start] == content[:start]
    assert written[end:] == content[end:]
    assert written[start:end] != content[start:end]


def test_what_is_not_scaled_keeps_its_bytes_where_lengths_change(tmp_path: Path) -> None:
    source = saved(CASES[1].model(CASES[1].weight("bfloat16"), "bfloat16", typed=True), tmp_path / "in.onnx")
    folded(source, tmp_path / "out.onnx")
    before, after = onnx.load(source), onnx.load(tmp_path / "out.onnx")
    for model in (before, after):
        model.graph.initializer[0].ClearField("int32_data")
    assert after == before


def test_output_may_be_the_input(tmp_path: Path) -> None:
    source = saved(CASES[1].model(CASES[1].weight()), tmp_path / "in.onnx")
    folded(source, source)
    assert sigma_max(initializers(source)["w"].reshape(8, -1)) == pytest.approx(1.0, abs=1e-6)
    assert os.listdir(tmp_path) == ["in.onnx"]


def test_source_objects_are_not_changed() -> None:
    model = CASES[1].model(CASES[1].weight())
    before = model.SerializeToString()
    opened = sn.Model.open(model)
    assert sn.fold(opened).to_proto() != model
    assert model.SerializeToString() == before
    assert opened.to_proto() == model


def test_folding_twice_changes_nothing_that_rounding_does_not() -> None:
    once = sn.fold(CASES[1].model(CASES[1].weight())).to_proto()
    twice = sn.fold(once).to_proto()
    first, second = (numpy_helper.to_array(model.graph.initializer[0]) for model in (once, twice))
    np.testing.assert_allclose(second, first, rtol=1.2e-6)


def test_all_zeros_are_left_alone(tmp_path: Path) -> None:
    source = saved(CASES[1].model(np.zeros(CASES[1].shape, np.float32)), tmp_path / "in.onnx")
    result = folded(source, tmp_path / "out.onnx")
    (site,) = result.sites
    assert (site.status, site.sigma, site.sigma_used) == ("unchanged", 0.0, None)
    assert site.reason is not None
    assert "zeros" in site.reason
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("values", "counts"),
    [([np.nan], "1 NaN value,"), ([np.inf, -np.inf], "2 infinite values"), ([np.nan, np.inf], "1 NaN and 1 infinite")],
)
@pytest.mark.parametrize("sigma", ["exact", "power"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_that_is_not_finite_is_named_and_counted(
    values: list[float], counts: str, sigma: SigmaChoice, dtype: str
) -> None:
    weight = CASES[1].weight(dtype)
    weight.reshape(-1)[: len(values)] = values
    with pytest.raises(sn.ModelError, match=rf"^weight 'w' holds {counts}.*--exclude '\^w\$'"):
        sn.fold(CASES[1].model(weight, dtype), sigma=sigma)


def test_the_way_out_that_is_named_works() -> None:
    bad = np.full((3, 4), np.nan, np.float32)
    nodes = [node("MatMul", ["x", "a.b[0]"], ["h"]), node("MatMul", ["h", "w"])]
    model = network(nodes, {"a.b[0]": bad, "w": drawn(4, 5, seed=1)}, {"x": (2, 3)})
    with pytest.raises(sn.ModelError) as caught:
        sn.fold(model)
    exclude = str(caught.value).partition("--exclude '")[2].rstrip("'")
    assert [site.status for site in sn.fold(model, exclude=[exclude]).sites] == ["skipped", "folded"]


@pytest.mark.parametrize(("scale", "dtype"), [(1e-44, "float32"), (1e-320, "float64")])
def test_a_weight_too_small_to_scale_is_refused_by_name(scale: float, dtype: str) -> None:
    weight = (CASES[8].weight("float64") * scale).astype(dtype)
    if dtype == "float32":  # its factor is a float64 still
        stored = numpy_helper.to_array(sn.fold(CASES[8].model(weight)).to_proto().graph.initializer[0])
        assert sigma_max(stored) == pytest.approx(1.0, abs=1e-5)
        return
    with pytest.raises(sn.ModelError, match=r"weight 'w' of norm .*--exclude '\^w\$'"):
        sn.fold(CASES[8].model(weight, dtype))


def test_saving_verified_runs_the_file(tmp_path: Path) -> None:
    for number, case in enumerate(CASES):
        source = saved(case.model(case.weight()), tmp_path / f"{number}.onnx")
        proof = proofs.save(sn.fold(source), tmp_path / f"{number}.out.onnx")
        assert (proof.verified, proof.note, proof.failed) == ("run", None, False), case.name
