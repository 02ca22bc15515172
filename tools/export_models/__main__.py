"""Make models/ and its golden arrays again: `python -m tools.export_models [--check]`, from the repository's root.

Needs the extras `cpu`, `keras` and `torch`. The seeds are in the scripts; what must be fixed before Python starts
(hash seed, one thread, no oneDNN) is fixed here, and each framework gets a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tools.export_models import readme
from tools.export_models.catalogue import CATALOGUE, STATES

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
GOLDEN = ROOT / "tests" / "golden" / "models.npz"
FILES = (*(f"{name}.onnx" for name in CATALOGUE), *STATES)
FIXED = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def make(folder: Path) -> None:
    """Write all models, the u of those that have one, and models.npz into `folder`."""
    golden: dict[str, Any] = {}  # arrays; to its types savez would take one for its own flag
    for script in ("keras_models", "torch_models"):
        command = [sys.executable, "-W", "ignore", "-m", f"tools.export_models.{script}", str(folder)]
        subprocess.run(command, cwd=ROOT, env=os.environ | FIXED, check=True)
        part = folder / "golden.npz"
        with np.load(part) as arrays:
            golden.update(arrays)
        part.unlink()
    np.savez_compressed(folder / GOLDEN.name, **golden)


def install(folder: Path) -> None:
    """Put what was made into models/ and tests/golden/, and write the table."""
    for name in FILES:
        shutil.copyfile(folder / name, MODELS / name)
    shutil.copyfile(folder / GOLDEN.name, GOLDEN)
    readme.update(MODELS / "README.md", MODELS)


def different(folder: Path) -> list[str]:
    """Return the names of the files that are not byte for byte those that are kept."""
    pairs = [(folder / name, MODELS / name) for name in FILES] + [(folder / GOLDEN.name, GOLDEN)]
    return [kept.name for made, kept in pairs if not kept.is_file() or made.read_bytes() != kept.read_bytes()]


def main() -> int:
    """Make the models; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.export_models", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; tell which files come out different")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        if not check:
            install(folder)
            return 0
        names = different(folder)
    print(f"different: {', '.join(names)}" if names else f"all {len(FILES) + 1} files come out byte for byte the same")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
