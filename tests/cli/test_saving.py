"""Every command that changes a model writes it alike: synced unless told not to, with a page of what went wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sn_graph.errors import VerificationFailed
from tests.support.command_line import Cli

ROOT = Path(__file__).parents[2]
PLAIN = ROOT / "models" / "torch_sngan_discriminator.onnx"
LIFTED = ROOT / "models" / "torch_sngan_spectral_norm_torchscript.onnx"
COMMANDS = {"fold": PLAIN, "insert": PLAIN, "lift": LIFTED, "run fold": PLAIN}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("waits", [True, False])
def test_the_disk_is_waited_for_unless_told_not_to(
    waits: bool, command: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    arguments = [*command.split(), COMMANDS[command], "-o", tmp_path / "out.onnx", "--no-verify"]
    assert cli(*arguments, *[] if waits else ["--no-sync"]).code == 0
    assert bool(synced) == waits


@pytest.mark.parametrize(("command", "prover"), [("insert", "prove_insertion"), ("lift", "prove_lift")])
def test_a_failed_proof_has_a_page(
    command: str, prover: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise VerificationFailed("tensor 'w' got lost")

    monkeypatch.setattr(f"sn_graph.proofs.proving.{prover}", refuse)
    page, out = tmp_path / "page.html", tmp_path / "out.onnx"
    assert cli(command, COMMANDS[command], "-o", out, "--html", page).code == 1
    assert not out.exists()
    assert "tensor 'w' got lost" in page.read_text(encoding="utf-8").replace("&#39;", "'")
