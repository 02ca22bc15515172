"""The fuzzer: it makes the same of the same seed, its seeds are sound, and its judge sees what must not happen."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import sn_graph as sn
from tools.fuzz import guided, judging
from tools.fuzz.commands import Call, calls
from tools.fuzz.judging import judge
from tools.fuzz.mutate import mutate
from tools.fuzz.seeds import seeds
from tools.fuzz.structure import CHANGES, Change


def test_seeds_are_sound(tmp_path: Path) -> None:
    for seed in seeds():
        assert sn.inspect(onnx.ModelProto.FromString(seed)).sites
        (tmp_path / "case.onnx").write_bytes(seed)
        assert judge(tmp_path, random.Random(0), prove=True) == "ok"


def test_mutations_are_drawn_from_the_seed() -> None:
    corpus = seeds()[:3]
    twice = [[mutate(corpus[0], random.Random(number), corpus) for number in range(40)] for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(set(twice[0])) > 30


@pytest.mark.parametrize("one", dict.fromkeys(CHANGES), ids=lambda one: one.__name__)
def test_every_change_changes_models_and_raises_nothing(one: Change) -> None:
    corpus, changed = seeds(), 0
    for number in range(150):
        draw = random.Random(number)
        model = onnx.ModelProto.FromString(draw.choice(corpus))
        before = model.SerializeToString()
        one(model, draw)
        changed += model.SerializeToString() != before
    assert changed >= 5


def test_every_command_is_called_plain_and_with_options(tmp_path: Path) -> None:
    drawn = [call for number in range(300) for call in calls(tmp_path, random.Random(number), prove=number % 2 == 0)]
    for command in ("inspect", "fold", "insert", "strip", "lift", "verify", "certify"):
        lines = {call.arguments[1:] for call in drawn if call.command == command}
        assert any("--json" in line for line in lines)
        assert any("--json" not in line for line in lines)
    assert not any(call.runs for call in calls(tmp_path, random.Random(1), prove=False) if call.command != "certify")
    assert all(("--no-verify" in call.arguments) == (not call.runs) for call in drawn if call.command == "fold")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "no JSON object"),
        ("[1]", "no JSON object"),
        ('{"proven": NaN}', "no JSON object"),
        ('{"proven": 1.0} {}', "no JSON object"),
        ('{"proven": -1.0}', "the constant -1.0 is proven"),
        ('{"proven": 1.0, "attained": 2.0}', "2.0 is attained"),
    ],
)
def test_the_judge_reads_answers(answer: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certify = Call(("certify", "--json"), runs=True)
    monkeypatch.setattr(judging, "invoke", lambda _: (0, answer, ""))
    assert fault in judging.judge_call(tmp_path, certify)
    monkeypatch.setattr(judging, "invoke", lambda _: (0, '{"proven": 2.0, "attained": 1.5}', ""))
    assert judging.judge_call(tmp_path, certify) == "ok"


@pytest.mark.parametrize(
    ("code", "err", "fault"),
    [
        (70, "internal error", "exit 70"),
        (3, "one\ntwo\n", "in 2 lines"),
        (3, "\x1b[2J\n", "control characters"),
        (3, "error\n", "left output.onnx"),
        (3, "error (output.onnx was written all the same)\n", "ok"),
    ],
)
def test_the_judge_reads_endings(
    code: int, err: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(_: object) -> tuple[int, str, str]:
        if "error" in err:
            (tmp_path / "output.onnx").touch()
        return code, "", err

    monkeypatch.setattr(judging, "invoke", ended)
    assert fault in judging.judge_call(tmp_path, Call(("fold", "m.onnx"), runs=False))


def test_the_judge_sees_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sn_graph.api.fold", fail)
    (tmp_path / "case.onnx").write_bytes(seeds()[0])
    assert judge(tmp_path, random.Random(0), prove=False).startswith("fold -o output.onnx --no-verify: exit 70")


def test_what_is_guided_by_coverage_raises_faults_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = seeds()
    for number in range(30):
        guided.judge(mutate(corpus[0], random.Random(number), corpus), tmp_path / "case.onnx")

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sn, "lift", fail)
    with pytest.raises(ZeroDivisionError):
        guided.judge(corpus[0], tmp_path / "case.onnx")


def test_coverage_guides_where_atheris_is(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed; wheels are there for Linux")
    command = [sys.executable, "-m", "tools.fuzz.guided", str(tmp_path / "corpus"), "-runs=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Done" in done.stderr
