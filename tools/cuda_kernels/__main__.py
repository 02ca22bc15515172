"""Find out which nodes onnxruntime's CUDA provider takes, on a machine without a GPU, and write the table.

    pip install --no-deps --target gpu-1.31.1 onnxruntime-gpu==1.31.1
    python -m tools.cuda_kernels gpu-1.24.4 gpu-1.31.1    # writes tools/cuda_check/kernels.json

Each folder holds an unpacked onnxruntime-gpu. Its provider is loaded over libraries that are called like CUDA's and do
nothing (`build.py`), and asked for one node after the other (`probe.py`). It needs gcc and binutils.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.cuda_check.kernels import TABLE
from tools.cuda_kernels.build import build

ROOT = Path(__file__).parents[2]
SOURCE = "the placement of one-node models by onnxruntime-gpu itself, asked by `python -m tools.cuda_kernels`"


def main() -> None:
    """Probe each folder and write the table."""
    parser = argparse.ArgumentParser(prog="cuda_kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="where onnxruntime-gpu is unpacked")
    options = parser.parse_args()
    answers = [ask(folder.resolve(), "tools.cuda_kernels.probe") for folder in options.folders]
    versions = {answer["version"]: answer["kernels"] for answer in answers}
    TABLE.write_text(rendered(versions), encoding="utf-8")
    print(f"wrote {TABLE}: {', '.join(versions)}", file=sys.stderr)


def rendered(versions: dict[str, dict[str, dict[str, list[str]]]]) -> str:
    """Return the table as JSON, a line for each version of an operator."""
    text = json.dumps({"source": SOURCE, "versions": versions}, indent=1)
    return re.sub(r"\[[^]]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def ask(wheel: Path, module: str) -> Any:
    """Run a module of the checkout with the onnxruntime of an unpacked wheel; return the JSON that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        build(wheel, Path(folder))
        environment = {**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": os.pathsep.join([str(wheel), str(ROOT)])}
        command = [sys.executable, "-m", module]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
