"""The fuzzer: it makes the same of the same seed, its seeds are sound, and its judge sees what must not happen."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import sn_graph as sn
from tools.fuzz import guided
from tools.fuzz.judging import judge
from tools.fuzz.mutate import mutate
from tools.fuzz.seeds import seeds


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

    monkeypatch.setattr("sn_graph.api.lift", fail)
    with pytest.raises(ZeroDivisionError):
        guided.judge(corpus[0], tmp_path / "case.onnx")


def test_coverage_guides_where_atheris_is(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed; wheels are there for Linux")
    command = [sys.executable, "-m", "tools.fuzz.guided", str(tmp_path / "corpus"), "-runs=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Done" in done.stderr
