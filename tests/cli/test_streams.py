"""Standard streams in place of files, runs that write nothing, and skipped weights that count as failures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.support.command_line import Cli, one_line, usage_line

PLAIN = Path(__file__).parents[2] / "models" / "keras_dcgan_discriminator.onnx"


def piped(*arguments: object, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sn_graph", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def test_a_model_goes_from_stdin_to_stdout(cli: Cli, out: Path) -> None:
    done = piped("fold", "-", "-o", "-", given=PLAIN.read_bytes())
    assert done.returncode == 0, done.stderr
    assert cli("fold", PLAIN, "-o", out).code == 0
    assert done.stdout == out.read_bytes()
    assert done.stderr.decode() == "4 folded: <stdout>, verified by running it\n"
    again = piped("strip", "-", "-o", "-", given=piped("insert", "-", "-o", "-", given=PLAIN.read_bytes()).stdout)
    assert onnx.ModelProto.FromString(again.stdout) == onnx.load(PLAIN)


def test_stdin_is_called_so() -> None:
    done = piped("inspect", "-", "--json", given=PLAIN.read_bytes())
    assert b'"model": "<stdin>"' in done.stdout
    wrong = piped("inspect", "-", given=b"no model")
    assert (wrong.returncode, wrong.stdout) == (3, b"")
    assert wrong.stderr.decode().startswith("sn-graph: error: <stdin> is a text file, not an ONNX model")


def test_what_a_stream_cannot_take_is_said(cli: Cli, model: Path) -> None:
    assert "--json prints to stdout" in cli("fold", model, "-o", "-", "--json").err
    assert "- stands there twice" in usage_line(cli("verify", "-", "-"))


def test_a_file_is_not_put_on_stdout_where_the_command_fails() -> None:
    done = piped("strip", "-", "-o", "-", given=PLAIN.read_bytes())
    assert (done.returncode, done.stdout) == (3, b"")


@pytest.mark.parametrize("command", [["fold"], ["insert"], ["lift"], ["run", "fold"]], ids=" ".join)
def test_a_dry_run_proves_and_writes_nothing(command: list[str], cli: Cli, model: Path, out: Path) -> None:
    ended = cli(*command, model, "-o", out, "--dry-run", "--json")
    assert ended.code == 0
    assert ended.json["output"] is None
    assert ended.json["verified"] == ("structure" if command == ["lift"] else "run")
    assert ended.err.splitlines()[-1] == "a dry run: nothing was written"
    assert os.listdir(model.parent) == ["model.onnx"]
    told = cli(*command, model, "-o", out, "--dry-run").err
    assert "sn-graph-" not in told  # the folder where it was tried
    assert os.listdir(model.parent) == ["model.onnx"]


def test_a_dry_run_of_strip(cli: Cli, model: Path, out: Path) -> None:
    inserted = model.with_name("inserted.onnx")
    assert cli("insert", model, "-o", inserted, "-q").code == 0
    ended = cli("strip", inserted, "-o", out, "--dry-run", "--json")
    assert (ended.code, ended.json["output"]) == (0, None)
    assert not out.exists()


@pytest.mark.usefixtures("tampering")
def test_a_dry_run_fails_where_the_run_would(cli: Cli, model: Path, out: Path) -> None:
    one_line(cli("fold", model, "-o", out, "--dry-run"), 1)


@pytest.mark.parametrize("command", ["fold", "insert"])
def test_a_skipped_weight_fails_where_that_is_asked_for(command: str, cli: Cli, model: Path, out: Path) -> None:
    line = one_line(cli(command, model, "-o", out, "--strict"), 1)
    assert "1 of 3 weights are skipped: such as '" in line
    assert not out.exists()
    assert cli(command, model, "-o", out).code == 0
    assert cli(command, PLAIN, "-o", out, "--strict").code == 0
    chosen = cli(command, PLAIN, "-o", out, "--strict", "--include", "conv", "--exclude", "conv_32")
    assert chosen.code == 0, chosen


def test_lift_is_strict_about_what_is_computed(cli: Cli, model: Path, out: Path) -> None:
    assert cli("lift", PLAIN, "-o", out, "--strict").code == 0  # nothing to lift
    assert "are skipped" in one_line(cli("lift", model, "-o", out, "--strict"), 1)  # Tanh of a weight
