"""The Python interface: sources, results, arguments that override a plan's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sn_graph as sn
from sn_graph import proofs
from sn_graph.model import Storage
from sn_graph.passes import PassResult
from tests.support.builders import initializers, saved
from tests.support.networks import CASES
from tests.support.oracle import sigma_max
from tests.support.third_party import TimesOptions, third_party

__all__ = ["third_party"]

CONV = CASES[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(CONV.model(CONV.weight()), tmp_path / "in.onnx")


def test_everything_promised_is_there() -> None:
    for name in sn.__all__:
        assert getattr(sn, name) is not None
    assert set(sn.__all__) <= set(dir(sn))
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = sn.nosuch  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["str", "path", "proto", "model"])
def test_sources(kind: str, path: Path, tmp_path: Path) -> None:
    sources: dict[str, Any] = {"str": str(path), "path": path, "proto": onnx.load(path), "model": sn.Model.open(path)}
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


def test_saving_as_external_data(tmp_path: Path) -> None:
    large = CASES[8].model(np.ones((300, 5), np.float32))
    result = sn.fold(large)
    result.save(tmp_path / "out.onnx", Storage.EXTERNAL)
    assert sorted(os.listdir(tmp_path)) == ["out.onnx", "out.onnx.data"]
    stored = numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0])
    assert sigma_max(stored) == pytest.approx(1.0, abs=1e-6)


def test_verified_saving_and_comparing(path: Path, tmp_path: Path) -> None:
    sn.fold(path).save(tmp_path / "out.onnx")
    assert sn.verify(tmp_path / "out.onnx").ok
    compared = sn.compare(path, tmp_path / "out.onnx")
    assert not compared.ok
    with pytest.raises(sn.VerificationFailed):
        compared.raise_if_different()


# Registered passes by name


@pytest.mark.parametrize(("name", "own"), [("fold", sn.fold), ("insert", sn.insert)])
def test_a_pass_by_name_does_what_its_function_does(name: str, own: Callable[..., PassResult], path: Path) -> None:
    options: dict[str, Any] = {"bound": 2.0, "convention": "torch", "power_iterations": 3}
    words = {"sigma": "power", "seed": 5} if name == "fold" else {"seed": 5}
    result = sn.apply(name, path, words, **options)
    expected = own(path, **options, **words)
    assert (result.name, result.options) == (name, expected.options)
    assert result.to_proto() == expected.to_proto()
    assert result.sites == expected.sites
    assert result.source is not None
    assert result.source.to_proto() == onnx.load(path)


def test_strip_by_name(path: Path) -> None:
    inserted = sn.insert(path).to_proto()
    result = sn.apply("strip", inserted)
    assert (result.name, result.plan, result.sites) == ("strip", None, ())
    assert result.to_proto() == onnx.load(path)


@pytest.mark.parametrize(
    ("name", "settings", "options", "said"),
    [
        ("nosuch", None, {}, "no pass 'nosuch' is installed"),
        ("fold", {"nosuch": 1}, {}, "pass 'fold' has no option 'nosuch'"),
        ("fold", {"sigma": "guess"}, {}, "'sigma' of pass 'fold' can't be 'guess'"),
        ("strip", {"seed": 1}, {}, "pass 'strip' has no options"),
        ("fold", None, {"convention": "jax"}, "no convention 'jax'"),
        ("insert", None, {"bound": 0.0}, "a bound of 0"),
    ],
)
def test_what_is_not_known_of_a_pass(
    name: str, settings: dict[str, Any] | None, options: dict[str, Any], said: str, path: Path
) -> None:
    with pytest.raises(sn.UsageError, match=said):
        sn.apply(name, path, settings, **options)


@pytest.mark.usefixtures("third_party")
def test_a_pass_of_another_package(path: Path, tmp_path: Path) -> None:
    """It is applied by the plan's filters, and its result is proved by its structure: that is all that is known."""
    told: list[tuple[str, int, int]] = []
    result = sn.apply("times", path, {"factor": 0.5}, include=["w"], progress=lambda *step: told.append(step))
    assert isinstance(result.options, TimesOptions)
    assert told == [("multiplying", 1, 1)]
    np.testing.assert_array_equal(initializers(result.to_proto())["w"], CONV.weight() / 2)
    proof = proofs.save(result, tmp_path / "out.onnx")
    assert (proof.verified, proof.failed) == ("structure", False)
    assert "does not know what this pass promises" in str(proof.note)
    np.testing.assert_array_equal(initializers(tmp_path / "out.onnx")["w"], CONV.weight() / 2)
    untouched = sn.apply("times", path, exclude=["w"])
    assert untouched.idle
    assert untouched.to_proto() == onnx.load(path)


@pytest.mark.usefixtures("third_party")
def test_a_fault_of_another_package_is_none_of_the_models(path: Path) -> None:
    with pytest.raises(RuntimeError, match="pass 'forgetful' reports on 0 of 1 weights"):
        sn.apply("forgetful", path)


def test_what_only_some_runs_need_is_imported_by_those() -> None:
    """Starting up is most of what a small fold takes."""
    heavy = [
        "scipy.optimize",
        "sn_graph.spectral.convolution.convolution",
        "onnxruntime",
        "tensorflow",
    ]
    code = f"import sys, sn_graph.api; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["inspect"], ["fold", "--no-verify", "-o"]])
def test_a_command_on_one_file_imports_nothing_of_pages_and_many_files(
    command: list[str], path: Path, tmp_path: Path
) -> None:
    unused = ("sn_graph.pages", "sn_graph.fleet.", "sn_graph.report.html", "sn_graph.report.drawing", "jinja2", "xml.")
    arguments = [command[0], str(path), *command[1:], *([str(tmp_path / "out.onnx")] if "-o" in command else [])]
    code = (
        "import sys\nfrom sn_graph.cli.app import app\n"
        f"sys.argv = ['sn-graph', *{arguments}]\n"
        "try:\n    app()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ended.stderr.splitlines()[-1].split()
    assert "sn_graph.api" in modules
    assert [name for name in modules if name.startswith(unused)] == []
    assert sum(name.startswith("sn_graph.") for name in modules) < 200


@pytest.mark.parametrize("first", ["sn_graph", "sn_graph.certify", "sn_graph.certify.steps", "sn_graph.api"])
def test_certify_is_the_function_whatever_was_imported_before(first: str) -> None:
    """Python binds a subpackage in its package when it is imported, and there is one of the function's name."""
    code = f"import {first}, sn_graph as sn; print(sn.certify.__module__); sn.certify; print(sn.certify.__module__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["sn_graph.api"] * 2
