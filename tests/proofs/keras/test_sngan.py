"""The SN-GAN at the end of docs/keras.md, whose other blocks tests/test_documents.py runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.support.places import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tensorflow's own imports warn of each other
    pytest.importorskip("tf2onnx", reason="needs the extra keras")
    pytest.importorskip("keras", minversion="3", reason="needs Keras 3, of the extra keras")
    pytest.importorskip("tensorflow", reason="needs the extra keras")


def test_sngan(tmp_path: Path) -> None:
    """Trained, exported, continued and folded: the script itself ends with 1 where the three do not agree."""
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tools.examples.sngan_keras", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    logits = [float(one) for one in re.findall(r"^mean logit .*?(-?\d+\.\d+)$", done.stdout, re.MULTILINE)]
    assert len(logits) == 3
    # rtol 1e-5 and atol 5e-6 of logits of about 1, and one digit of the six printed
    assert max(logits) - min(logits) <= 2e-5
    assert {path.name for path in tmp_path.iterdir()} == {
        "disc.onnx",
        "disc.plan.json",
        "disc.u.safetensors",
        "disc.sn.onnx",
        "disc.folded.onnx",
    }
