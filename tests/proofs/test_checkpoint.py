import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sn_graph as sn
from sn_graph import proofs
from sn_graph.choices import SigmaChoice
from sn_graph.errors import EnvironmentUnavailable, VerificationFailed
from sn_graph.model.checkpoint import Checkpoint
from sn_graph.proofs.checkpoint import prove_checkpoint
from tests.support.checkpoints import llama


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64], ids=lambda d: np.dtype(d).name
)
@pytest.mark.parametrize("method", ["exact", "upper", "power"])
def test_right_files_are_proved(tmp_path: Path, dtype: Any, method: SigmaChoice) -> None:
    save_file(llama(dtype=dtype), tmp_path / "a.safetensors")
    result = sn.fold_checkpoint(tmp_path / "a.safetensors", sigma=method)
    assert proofs.save_checkpoint(result, tmp_path / "b.safetensors").verified == "structure"
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("method", ["exact", "upper"])
def test_a_wrong_factor_is_found_and_nothing_is_put_in_place(tmp_path: Path, method: SigmaChoice) -> None:
    save_file(llama(), tmp_path / "a.safetensors")
    result = sn.fold_checkpoint(tmp_path / "a.safetensors", sigma=method)
    factors = {name: factor * 1.001 for name, factor in result.factors.items()}
    with pytest.raises(VerificationFailed, match="norm"):
        proofs.save_checkpoint(replace(result, factors=factors), tmp_path / "b.safetensors")
    assert os.listdir(tmp_path) == ["a.safetensors"]
    proof = proofs.save_checkpoint(replace(result, factors=factors), tmp_path / "b.safetensors", force=True)
    assert (proof.failed, proof.verified) == (True, "no")


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    save_file(
        {"w": np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32), "n": np.arange(6)},
        tmp_path / "a.safetensors",
    )
    result = sn.fold_checkpoint(tmp_path / "a.safetensors")
    result.save(tmp_path / "b.safetensors")
    content = (tmp_path / "b.safetensors").read_bytes()
    prove_checkpoint(result, tmp_path / "b.safetensors")
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x40
        (tmp_path / "c.safetensors").write_bytes(changed)
        with pytest.raises((VerificationFailed, sn.ModelError)):
            prove_checkpoint(result, tmp_path / "c.safetensors")


def test_a_source_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    save_file(llama(), tmp_path / "a.safetensors")
    result = sn.fold_checkpoint(tmp_path / "a.safetensors")
    os.utime(tmp_path / "a.safetensors", ns=(1, 1))
    with pytest.raises(EnvironmentUnavailable, match="changed while it was read"):
        proofs.save_checkpoint(result, tmp_path / "b.safetensors")
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_what_is_saved_is_read_by_others(tmp_path: Path) -> None:
    save_file(llama(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    proofs.save_checkpoint(sn.fold_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert load_file(tmp_path / "b.safetensors").keys() == llama().keys()
    assert len(Checkpoint.open(tmp_path / "b.safetensors").tensors) == len(llama())
