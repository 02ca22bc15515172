"""Saving: every result is proved by the proof of the pass that made it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import sn_graph as sn
from sn_graph.errors import UsageError, VerificationFailed
from sn_graph.model import Model, Storage
from sn_graph.passes import Fold, FoldOptions, PassResult, Strip
from sn_graph.plan import make_plan, record_of
from sn_graph.proofs import Terms, prove, save
from tests.support.networks import branched, called, discriminator, quantized
from tests.support.runs import inserted
from tests.support.tampering import scale_first_weight, tamper
from tests.support.third_party import Times, TimesOptions

RESULTS: dict[str, tuple[Callable[[], PassResult], str]] = {
    "fold": (lambda: sn.fold(discriminator()), "run"),
    "fold of an inserted model": (lambda: sn.fold(inserted(discriminator())), "run"),
    "insert": (lambda: sn.insert(discriminator()), "run"),
    "strip": (lambda: sn.strip(inserted(discriminator())), "structure"),
    "times": (lambda: times(Model.open(discriminator())), "structure"),
}


def times(source: Model) -> PassResult:
    return Times(TimesOptions())(source, make_plan(source))


@pytest.mark.parametrize(("make", "verified"), RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("storage", list(Storage))
def test_every_result_is_proved(
    make: Callable[[], PassResult], verified: str, storage: Storage, tmp_path: Path
) -> None:
    result = make()
    proof = save(result, tmp_path / "out.onnx", storage)
    assert (proof.verified, proof.failed) == (verified, False)
    assert (proof.note is None) == (verified == "run")
    assert Model.open(tmp_path / "out.onnx").to_proto() == result.to_proto()


@pytest.mark.parametrize("make", [make for make, _ in RESULTS.values()], ids=RESULTS)
def test_no_tampered_result_takes_its_place(
    make: Callable[[], PassResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(monkeypatch, scale_first_weight)
    result = make()
    with pytest.raises(VerificationFailed):
        save(result, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []
    assert save(result, tmp_path / "out.onnx", verify=False).verified == "no"


@pytest.mark.parametrize("make", [discriminator, quantized, branched, called])
def test_what_apply_made_in_place_can_not_be_proved(make: Any, tmp_path: Path) -> None:
    model = Model.open(make())
    result = Fold(FoldOptions()).apply(model, make_plan(model))
    with pytest.raises(UsageError, match=r"can't be proved, because apply changed .*; call the pass itself"):
        save(result, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []
    assert save(result, tmp_path / "out.onnx", verify=False).verified == "no"
    with pytest.raises(UsageError, match="can't be proved"):
        save(Strip().apply(inserted(make())), tmp_path / "out.onnx")


def test_an_export_that_is_kept_plain_is_proved_as_a_fold_of_nothing(tmp_path: Path) -> None:
    source = Model.open(discriminator())
    plan = make_plan(source)
    plain = PassResult(source, plan, tuple(map(record_of, plan.sites)), source=source, name="plain")
    assert save(plain, tmp_path / "out.onnx").verified == "run"
    onnx.save(sn.fold(discriminator()).to_proto(), tmp_path / "folded.onnx")
    with pytest.raises(VerificationFailed):
        prove(plain, tmp_path / "folded.onnx", Terms())


def test_tolerances_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Terms] = []

    def look(result: PassResult, source: Model, written: Path, terms: Terms) -> None:
        seen.append(terms)
        raise VerificationFailed(f"{result.name} of {source.name} in {written.parent}")

    monkeypatch.setattr("sn_graph.proofs.proving.prove_fold", look)
    with pytest.raises(VerificationFailed, match="fold of <model>"):
        save(sn.fold(discriminator()), tmp_path / "out.onnx", rtol=0.5, atol=0.25)
    assert (seen[0].rtol, seen[0].atol) == (0.5, 0.25)


def test_dims_say_on_which_sizes_a_model_is_run(tmp_path: Path) -> None:
    proto = discriminator()
    result = sn.fold(proto)
    result.save(tmp_path / "out.onnx")
    assert prove(result, tmp_path / "out.onnx", Terms(dims={"n": 5})).verified == "run"
    with pytest.raises(UsageError, match="'m'"):
        prove(result, tmp_path / "out.onnx", Terms(dims={"m": 5}))
