"""`--html`: every command that shows something writes it as a page too."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import sn_graph as sn
from sn_graph.errors import VerificationFailed
from tests.support.command_line import Cli, one_line, usage_line
from tests.support.places import MODELS


def read(path: Path) -> str:
    """What a page says, as text."""
    body = path.read_text(encoding="utf-8").partition("<body>")[2]
    words = re.sub(r"<script>.*?</script>|<[^>]*>", "", body, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(words))


def test_each_command_says_what_it_did(cli: Cli, model: Path, out: Path) -> None:
    page = model.with_name("page.html")
    for command, said in {
        ("inspect", model): "2 of 3 weights can be normalized.",
        ("fold", model, "-o", out): f"2 folded, 1 skipped; {out} is verified by running it.",
        ("insert", model, "-o", out, "--force"): f"2 inserted, 1 skipped; {out} is verified by running it.",
        ("verify", model): "1 output agrees within what is allowed.",
    }.items():
        assert cli(*command, "--html", page).code == 0
        told = read(page)
        assert said in told
        assert "conv.weight" in told or command[0] == "verify"
        page.unlink()


def test_lift(cli: Cli, model: Path, out: Path) -> None:
    page = model.with_name("page.html")
    source = MODELS / "torch_sngan_spectral_norm_torchscript.onnx"
    assert cli("lift", source, "-o", out, "--html", page).code == 0
    assert "11 lifted" in read(page)
    assert "max|a−b|" in read(page), "the outputs that prove it"


def test_models_that_differ_have_a_page_too(cli: Cli, model: Path, out: Path) -> None:
    page = model.with_name("page.html")
    sn.fold(model).save(out)
    assert cli("verify", model, out, "--html", page).code == 1
    assert "1 of 1 outputs differ." in read(page)


@pytest.mark.parametrize("force", [False, True])
def test_a_failed_proof_has_a_page(
    force: bool, cli: Cli, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise VerificationFailed("tensor 'conv.weight' got lost")

    monkeypatch.setattr("sn_graph.proofs.proving.prove_fold", refuse)
    page = model.with_name("page.html")
    ended = cli("fold", model, "-o", out, "--html", page, *["--force"] * force)
    assert ended.code == 1
    assert out.exists() == force
    assert "failed 2 folded, 1 skipped; tensor 'conv.weight' got lost." in read(page)


def test_a_model_in_its_own_place(cli: Cli, model: Path) -> None:
    """The norms before are those of the model that is gone by the time the page is written."""
    before = sn.inspect(model).sites[0].sigma
    page = model.with_name("page.html")
    assert cli("fold", model, "-o", model, "--html", page).code == 0
    told = re.findall(r'data-key="(?:sigma|after)" data-value="([^"]+)"', page.read_text(encoding="utf-8"))
    assert float(told[0]) == pytest.approx(before, rel=1e-12)
    assert float(told[1]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("command", ["inspect", "fold", "insert", "lift", "verify"])
def test_a_page_takes_no_other_files_place(command: str, cli: Cli, model: Path, out: Path) -> None:
    written = ["-o", out] if command in ("fold", "insert", "lift") else []
    assert "would overwrite the model that is read" in usage_line(cli(command, model, *written, "--html", model))
    if written:
        assert "--output and --html are one file" in usage_line(cli(command, model, *written, "--html", out))
    assert one_line(cli(command, model, *written, "--html", model.with_name("no") / "page.html"), 4)
    assert not out.exists()


def test_a_state_is_not_compared(cli: Cli, model: Path, out: Path) -> None:
    sn.insert(model).save(out)
    assert "--html has no meaning" in usage_line(cli("verify", out, "--state", "--html", model.with_name("page.html")))


def test_weights_of_no_finite_norm(cli: Cli, model: Path) -> None:
    proto = onnx.load(model)
    weight = next(one for one in proto.graph.initializer if one.name == "conv.weight")
    weight.raw_data = np.full(6 * 27, 3e38, np.float32).tobytes()
    onnx.save(proto, model)
    page = model.with_name("page.html")
    assert cli("inspect", model, "--html", page).code == 0
    assert "conv.weight" in read(page)
