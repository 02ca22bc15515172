"""The Python interface: sources, results, arguments that override a plan's."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sn_graph as sn
from sn_graph.api import build_plan
from sn_graph.model import Model, Storage
from sn_graph.passes.base import Pass, PassResult, load_pass
from sn_graph.passes.fold import Fold, FoldOptions
from sn_graph.plan import make_plan
from tests.passes.reference import CASES, saved, sigma_max

CONV = CASES[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(CONV.model(CONV.weight()), tmp_path / "in.onnx")


def test_everything_promised_is_there() -> None:
    for name in sn.__all__:
        assert getattr(sn, name) is not None
    assert set(sn.__all__) <= set(dir(sn))
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = sn.nosuch


@pytest.mark.parametrize("kind", ["str", "path", "proto", "model"])
def test_sources(kind: str, path: Path, tmp_path: Path) -> None:
    sources = {"str": str(path), "path": path, "proto": onnx.load(path), "model": sn.Model.open(path)}
    result = sn.fold(sources[kind])
    result.save(tmp_path / "out.onnx")
    assert (
        numpy_helper.to_array(result.to_proto().graph.initializer[0]).tobytes()
        == numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0]).tobytes()
    )
    assert result.report.model == ("<model>" if kind == "proto" else str(path))
    assert (result.report.output, result.report.verified) == (None, None)
    assert sn.inspect(sources[kind]).sites[0].sigma == pytest.approx(sigma_max(CONV.weight().reshape(8, -1)), rel=1e-6)


def test_result_is_frozen_data(path: Path) -> None:
    result = sn.fold(path)
    assert isinstance(result, PassResult)
    assert isinstance(result.sites, tuple)
    with pytest.raises(AttributeError):
        result.sites[0].sigma = 1.0  # type: ignore[misc]
    (rescaled,) = result.rescaled
    assert (rescaled.scope, rescaled.name, rescaled.original) == ("", "w", "w")
    assert rescaled.factor == pytest.approx(1 / sigma_max(CONV.weight().reshape(8, -1)), rel=1e-6)


def test_saving_as_external_data(path: Path, tmp_path: Path) -> None:
    large = CASES[8].model(np.ones((300, 5), np.float32))
    result = sn.fold(large)
    result.save(tmp_path / "out.onnx", Storage.EXTERNAL)
    assert sorted(os.listdir(tmp_path)) == ["in.onnx", "out.onnx", "out.onnx.data"]
    stored = numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0])
    assert sigma_max(stored) == pytest.approx(1.0, abs=1e-6)


def test_registered_passes_are_found() -> None:
    assert load_pass("fold") is Fold
    assert issubclass(Fold, Pass)
    assert Fold.name == "fold"
    with pytest.raises(sn.UsageError, match="no pass 'nosuch' is installed; there are: fold"):
        load_pass("nosuch")


def test_a_pass_applies_to_a_model_and_plan(path: Path) -> None:
    model = sn.Model.open(path)
    result = load_pass("fold")(FoldOptions()).apply(model, sn.make_plan(model))
    assert result.model is model
    assert [site.status for site in result.sites] == ["folded"]
    assert model.modified


def test_verified_saving_and_comparing(path: Path, tmp_path: Path) -> None:
    sn.fold(path).save(tmp_path / "out.onnx")
    assert sn.verify(tmp_path / "out.onnx").ok
    compared = sn.compare(path, tmp_path / "out.onnx")
    assert not compared.ok
    with pytest.raises(sn.VerificationFailed):
        compared.raise_if_different()


def test_the_number_of_iterations_given_beats_the_plan_and_its_sites() -> None:
    model = Model.open("models/keras_dcgan_discriminator.onnx")
    plan = make_plan(model)
    plan = replace(plan, power_iterations=2, sites=tuple(replace(site, power_iterations=3) for site in plan.sites))
    asked = build_plan(model, plan=plan, power_iterations=5)
    assert asked.power_iterations == 5
    assert {site.power_iterations for site in asked.sites} == {None}
    assert {site.power_iterations for site in build_plan(model, plan=plan).sites} == {3}


def test_what_only_some_runs_need_is_imported_by_those() -> None:
    """Starting up is most of what a small fold takes."""
    heavy = ["scipy.optimize", "sn_graph.spectral.exact", "sn_graph.spectral.convolution", "onnxruntime", "tensorflow"]
    code = f"import sys, sn_graph.api; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
