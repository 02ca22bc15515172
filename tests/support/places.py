"""Places: the checkout, what lies in it, and the corpus of public models beside it where there is one."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
ONNX_MODELS = sorted(MODELS.glob("*.onnx"))
GOLDEN = ROOT / "tests" / "golden"
CORPUS = ROOT.parent / "shared" / "corpus"
INDEX = CORPUS / "index.jsonl"


def corpus() -> list[dict[str, Any]]:
    """The rows of the corpus's index: none where the corpus is not here."""
    return [json.loads(line) for line in INDEX.read_text(encoding="utf-8").splitlines()] if INDEX.exists() else []


def require_corpus() -> None:
    if not corpus():
        pytest.skip(f"no corpus of real models beside the checkout (looked for shared/corpus/{INDEX.name})")
