"""The environment that a generation of Keras needs, and how the recording runs in it.

Keras 2.15 pins protobuf and ml_dtypes so low that neither a current onnx nor sn-graph can live beside it; tf_keras 2.21
shares tensorflow with Keras 3, and is chosen before tensorflow is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

from tools.golden_keras.cases import LIVE

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Environment:
    """What to install for a generation, and what must be set before it starts.

    Attributes:
        packages: With what they depend on.
        alone: Without: tf-keras depends on a second tensorflow.
        variables: Environment variables.
    """

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


ENVIRONMENTS = {
    # The last Keras that was tf.keras itself; tensorflow-cpu 2.15 exists for Python 3.9 to 3.11.
    "2.15": Environment(("tensorflow-cpu==2.15.1", "keras==2.15.0", "tf2onnx==1.17.0", "onnx==1.18.0", "numpy<2")),
    "2.21": Environment(
        ("tensorflow-cpu==2.21.0", "keras==3.15.0", "tf2onnx==1.17.0", "onnx==1.23.2"),
        ("tf-keras==2.21.0",),
        {"TF_USE_LEGACY_KERAS": "1"},
    ),
    LIVE: Environment(("tensorflow-cpu==2.21.0", "keras==3.15.0", "tf2onnx==1.17.0", "onnx==1.23.2")),
}

# One thread, no oneDNN and no hash seed: nothing is left that could change an order of additions or of names.
FIXED = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_USE_LEGACY_KERAS": "0",
}


def default_folder() -> Path:
    """Return where environments are built: in the user's cache, so that they outlive a checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sn-graph" / "golden-keras"


def interpreter(generation: str, folder: Path) -> Path:
    """Return the Python of a generation's environment, which is built if it is not there."""
    environment = ENVIRONMENTS[generation]
    place = folder / f"keras-{generation}"
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = place / "complete"  # an installation that was interrupted is made again
    if not done.is_file():
        print(f"building {place}", file=sys.stderr)
        venv.create(place, clear=True, with_pip=True)
        install = [str(python), "-I", "-m", "pip", "install", "--quiet"]  # -I: PYTHONPATH is another environment's
        subprocess.run([*install, *environment.packages], check=True)
        if environment.alone:
            subprocess.run([*install, "--no-deps", *environment.alone], check=True)
        done.touch()
    return python


def record(generation: str, python: Path, out: Path) -> None:
    """Run record.py in a generation's environment. Raises CalledProcessError where it fails."""
    variables = {**os.environ, **FIXED, **ENVIRONMENTS[generation].variables}
    variables.pop("PYTHONPATH", None)
    command = [str(python), "-W", "ignore", "-m", "tools.golden_keras.record", generation, str(out)]
    subprocess.run(command, cwd=ROOT, env=variables, check=True)
