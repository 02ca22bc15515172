"""`sn-graph run`: a registered pass by its name, written and proved as the pass's own command does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.cli.conftest import WEIGHTS
from tests.support.builders import initializers
from tests.support.command_line import Cli, one_line, usage_line
from tests.support.third_party import third_party

__all__ = ["third_party"]


@pytest.mark.parametrize(
    ("run", "own"),
    [
        (["run", "fold"], ["fold"]),
        (["run", "fold", "--set", "sigma=power", "--set", "seed=3"], ["fold", "--sigma", "power", "--seed", 3]),
        (
            ["run", "fold", "--set", "sigma=upper", "--bound", 2, "--clip"],
            ["fold", "--sigma=upper", "--bound=2", "--clip"],
        ),
        (["run", "insert", "--bound", 2], ["insert", "--bound", 2]),
        (
            ["run", "insert", "--set", "layout=per-weight", "--set", "mode=required", "--set", "scale=weight"],
            ["insert", "--state-layout", "per-weight", "--state-mode", "required", "--scale", "weight"],
        ),
        (
            ["run", "insert", "--set", "exact=true", "--power-iterations", 3],
            ["insert", "--sigma", "exact", "--power-iterations", 3],
        ),
        (["run", "fold", "--include", "conv", "--op-type", "Conv"], ["fold", "--include", "conv", "--op-type", "Conv"]),
    ],
)
def test_it_writes_and_says_what_the_command_does(
    run: list[object], own: list[object], cli: Cli, model: Path, out: Path
) -> None:
    ended, bytes_of = {}, {}
    for name, arguments in (("run", run), ("own", own)):
        done = cli(*arguments, model, "-o", out, "--json")
        assert done.code == 0, done.err
        ended[name], bytes_of[name] = (done.json, done.err), out.read_bytes()
        out.unlink()
    assert bytes_of["run"] == bytes_of["own"]
    assert ended["run"] == ended["own"]
    assert ended["run"][0]["verified"] == "run"


def test_the_table(cli: Cli, model: Path, out: Path) -> None:
    assert cli("run", "fold", model, "-o", out).out == cli("fold", model, "-o", out).out


def test_strip(cli: Cli, model: Path, out: Path) -> None:
    onnx.save(onnx.load(model), model)
    assert cli("insert", model, "-o", out).code == 0
    back = model.with_name("back.onnx")
    ended = cli("run", "strip", out, "-o", back, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["verified"] == "structure"
    assert back.read_bytes() == model.read_bytes()
    assert "nothing that insert wrote" in one_line(cli("run", "strip", model, "-o", out), 3)


def test_values_are_json_or_plain_words(cli: Cli, model: Path, out: Path) -> None:
    sigmas = '{"conv.weight": 2, "up.weight": 4.0}'
    assert cli("run", "fold", model, "-o", out, "--set", f"known={sigmas}").code == 0
    before, after = initializers(model), initializers(out)
    np.testing.assert_array_equal(after["conv.weight"], before["conv.weight"] / 2)
    np.testing.assert_array_equal(after["up.weight"], before["up.weight"] / 4)
    for word in ("sigma=power", 'sigma="power"'):
        assert cli("run", "fold", model, "-o", out, "--set", word).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "no pass 'nosuch' is installed: there are fold, insert, lift, strip; give one of them"),
        (["fold", "--set", "nosuch=1"], "pass 'fold' has no option 'nosuch': it has"),
        (["fold", "--set", "sigma=guess"], "option 'sigma' of pass 'fold' can't be 'guess'"),
        (["fold", "--set", "seed"], "--set seed is not OPTION=VALUE"),
        (["fold", "--set", "=3"], "--set =3 is not OPTION=VALUE"),
        (["strip", "--set", "seed=1"], "pass 'strip' has no options; leave seed out"),
        (["fold", "--set", "seed=three"], "'seed' of pass 'fold' can't be 'three'"),
        (["fold", "--set", "state=u.safetensors", "--set", "sigma=power"], "'state' of pass 'fold' can't be"),
        (["insert", "--set", "exact=maybe"], "'exact' of pass 'insert' can't be 'maybe'"),
        (["fold", "--bound", "0"], "a bound of 0"),
        (["fold", "--convention", "jax"], "jax"),
        ([], "Missing argument"),
    ],
)
def test_usage(arguments: list[str], said: str, cli: Cli, model: Path, out: Path) -> None:
    line = usage_line(cli("run", *arguments, *([model, "-o", out] if arguments else [])))
    assert said in line
    assert os.listdir(model.parent) == ["model.onnx"]


@pytest.mark.usefixtures("third_party")
def test_a_pass_of_another_package_is_proved_by_structure(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("run", "times", model, "-o", out, "--set", "factor=0.5", "--set", "direction=down", "--exclude", "up")
    assert ended.code == 0, ended.err
    first, last = ended.err.splitlines()
    assert first.startswith("verified by structure only: sn-graph does not know what this pass promises")
    assert last == f"1 unchanged, 2 skipped: {out}, verified by structure"
    before, after = initializers(model), initializers(out)
    np.testing.assert_array_equal(after["conv.weight"], before["conv.weight"] * 2)
    np.testing.assert_array_equal(after["up.weight"], before["up.weight"])
    told = cli("run", "times", model, "-o", out, "--json").json
    assert told["verified"] == "structure"
    assert len(told["sites"]) == len(WEIGHTS) + 1


@pytest.mark.usefixtures("third_party", "tampering")
def test_a_file_that_is_not_what_another_packages_pass_made_is_refused(cli: Cli, model: Path, out: Path) -> None:
    said = one_line(cli("run", "times", model, "-o", out), 1)
    assert "the written model is not the one that the pass made" in said
    assert "conv.weight" in said
    assert os.listdir(model.parent) == ["model.onnx"]
    ended = cli("run", "times", model, "-o", out, "--force", "--json", "--quiet")
    assert "as --force asks" in one_line(ended, 1)
    assert ended.json["verified"] == "no"
    out.unlink()
    assert cli("run", "times", model, "-o", out, "--no-verify", "--json").json["verified"] == "no"


@pytest.mark.usefixtures("third_party")
def test_a_fault_of_another_packages_pass_is_told_as_one(cli: Cli, model: Path, out: Path) -> None:
    said = one_line(cli("run", "forgetful", model, "-o", out), 70)
    assert "internal error: RuntimeError: pass 'forgetful' reports on 2 of 3 weights" in said
    assert not out.exists()


@pytest.mark.usefixtures("tampering")
def test_a_failed_verification_ends_with_1(cli: Cli, model: Path, out: Path) -> None:
    assert "'conv.weight' is not the original's divided by its norm" in one_line(
        cli("run", "fold", model, "-o", out), 1
    )
    assert os.listdir(model.parent) == ["model.onnx"]


def test_nothing_to_do(cli: Cli, model: Path, out: Path) -> None:
    for name in ("fold", "insert"):
        assert "nothing to do" in one_line(cli("run", name, model, "-o", out, "--include", "nosuch"), 3)
        assert not out.exists()
        assert cli("run", name, model, "-o", out, "--include", "nosuch", "--force").code == 0
        assert out.read_bytes() == model.read_bytes()
        out.unlink()


def test_storage_and_place(cli: Cli, model: Path, out: Path) -> None:
    proto = onnx.load(model)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((99, 99), np.float32), "large"))
    onnx.save(proto, model)
    assert cli("run", "fold", model, "-o", out, "--save-as-external-data").code == 0
    assert out.with_name("out.onnx.data").exists()
    plan = model.with_name("plan.json")
    plan.write_text("{}")
    assert "would overwrite the plan" in usage_line(cli("run", "fold", model, "-o", plan, "--plan", plan))


def test_help_teaches(cli: Cli) -> None:
    text = " ".join(cli("run", "--help").out.split())
    for words in ("sn_graph.passes", "--set OPTION=VALUE", "sn-graph run fold disc.onnx -o folded.onnx", "NAME"):
        assert words in text
