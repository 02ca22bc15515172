"""The README and the docs: every block of code runs, and every output is the one that is printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from unittest import SkipTest

import pytest

from tests.support.documents import EVALUATORS, READ, blocks, documents, matches, parse, surroundings
from tests.support.places import ROOT

DOCUMENTS = [path for path in documents() if "```" in path.read_text(encoding="utf-8")]
IDS = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]


@pytest.mark.filterwarnings("ignore")  # of the frameworks that documents import
@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_every_block_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    pytest.importorskip("sybil", reason="needs sybil, which the extra [test] installs")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    monkeypatch.chdir(tmp_path)
    surroundings(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for example in parse(path).examples():
        with subtests.test(line=example.line):
            try:
                example.evaluate()
            except SkipTest as skipped:
                pytest.skip(str(skipped))


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_no_block_is_of_a_language_that_nothing_checks(path: Path) -> None:
    known = {"python", *EVALUATORS, *READ}
    text = path.read_text(encoding="utf-8")
    skipped = {
        found[1] for found in re.finditer(r'<!-- skip: next (?:"[^"]+"|if\(.*reason="[^"]+"\)) -->\n+```(\w+)', text)
    }
    assert set(blocks(text)) - known - skipped - DIRECTIVES == set()


DIRECTIVES = {"toctree", "include", "literalinclude", "eval-rst"}  # Sphinx reads these, strictly


def test_an_output_that_drifts_is_found() -> None:
    assert matches("σ 1.02…\n…\n11 folded", "σ 1.02969\n\nmore\n11 folded\n")
    assert not matches("σ 1.03\n11 folded", "σ 1.02969\n11 folded")
    assert not matches("11 folded", "11 folded\nand more")
