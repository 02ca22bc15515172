"""The fuzzer: it makes the same of the same seed, its seeds are sound, and its judge sees what must not happen."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest

import sn_graph as sn
from tools.fuzz.__main__ import judge
from tools.fuzz.mutate import mutate
from tools.fuzz.seeds import seeds


def test_seeds_are_sound(tmp_path: Path) -> None:
    for seed in seeds():
        assert sn.inspect(onnx.ModelProto.FromString(seed)).sites
        (tmp_path / "case.onnx").write_bytes(seed)
        assert judge(tmp_path, prove=True) == "ok"


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
    assert judge(tmp_path, prove=False).startswith("fold: exit 70")
