"""The code of docs/torch.md, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.places import ROOT

pytest.importorskip("torch", reason="torch is not installed: pip install torch onnxscript")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install torch onnxscript")

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "torch.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "docs/torch.md", "exec"), {})
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"disc.onnx", "disc.plan.json", "disc.u.safetensors", "disc.folded.onnx", "disc.sn.onnx"}
