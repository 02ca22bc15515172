"""Proven saving: nothing takes its place before the prover has looked at the very file."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from sn_graph.errors import EnvironmentUnavailable, VerificationFailed
from sn_graph.model import Model, Storage
from sn_graph.proofs import Proof, save_proven
from tests.support.networks import discriminator


@pytest.fixture
def model() -> Model:
    return Model.open(discriminator())


def failing(_: Path) -> Proof:
    raise VerificationFailed("it is wrong", "because it says so", "mend it")


@pytest.mark.parametrize("storage", list(Storage))
def test_the_prover_sees_the_whole_file_before_it_is_there(storage: Storage, model: Model, tmp_path: Path) -> None:
    path, seen = tmp_path / "out.onnx", list[Path]()

    def prover(written: Path) -> Proof:
        seen.append(written)
        assert not path.exists()
        assert written.parent == tmp_path
        assert Model.open(written).to_proto() == discriminator()
        return Proof("structure", "a note")

    assert save_proven(model, path, storage, prover) == Proof("structure", "a note")
    assert len(seen) == 1
    assert not seen[0].exists()
    assert Model.open(path).to_proto() == discriminator()


def test_without_a_prover_nothing_is_verified(model: Model, tmp_path: Path) -> None:
    assert save_proven(model, tmp_path / "out.onnx", Storage.KEEP, None) == Proof("no")
    assert onnx.load(tmp_path / "out.onnx") == discriminator()


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
@pytest.mark.parametrize("before", [b"", b"what was there"])
def test_where_the_proof_fails_all_is_as_it_was(storage: Storage, before: bytes, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    if before:
        path.write_bytes(before)
    names = os.listdir(tmp_path)
    with pytest.raises(VerificationFailed, match="it is wrong, because it says so; mend it"):
        save_proven(model, path, storage, failing)
    assert os.listdir(tmp_path) == names
    assert not before or path.read_bytes() == before


def test_force_puts_it_in_place_and_keeps_what_the_proof_said(model: Model, tmp_path: Path) -> None:
    proof = save_proven(model, tmp_path / "out.onnx", Storage.KEEP, failing, force=True)
    assert (proof.verified, proof.failed) == ("no", True)
    assert "it is wrong, because it says so" in str(proof.note)
    assert onnx.load(tmp_path / "out.onnx") == discriminator()


@pytest.mark.parametrize("force", [False, True])
def test_any_other_error_of_the_prover_leaves_no_file(force: bool, model: Model, tmp_path: Path) -> None:
    def broken(written: Path) -> Proof:
        raise EnvironmentUnavailable(f"nothing reads {written.name}")

    with pytest.raises(EnvironmentUnavailable):
        save_proven(model, tmp_path / "out.onnx", Storage.EXTERNAL, broken, force=force)
    assert os.listdir(tmp_path) == []


def test_a_place_that_can_not_be_written_is_told_before_any_proof(model: Model, tmp_path: Path) -> None:
    def never(written: Path) -> Proof:
        raise AssertionError(written)

    with pytest.raises(EnvironmentUnavailable, match="choose another place"):
        save_proven(model, tmp_path / "nosuch" / "out.onnx", Storage.KEEP, never)


def test_progress_tells_the_bytes(model: Model, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    save_proven(model, tmp_path / "out.onnx", Storage.KEEP, None, progress=lambda *step: told.append(step))
    size = (tmp_path / "out.onnx").stat().st_size
    assert told[-1] == ("writing", size, size)
