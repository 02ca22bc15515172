"""The record: one line of JSON for each step that is done, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAME = "cuda-check.jsonl"


class Record:
    """What was found, by step; each result is on the disk before the next step begins.

    Attributes:
        header: What the results were got with.
        results: By the key of the step.
        resumed: How many results an earlier run had left.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Go on with the file if its header is the same but for the date; else begin it anew."""
        self._path = path
        self.header = dict(header)
        self.results: dict[str, dict[str, Any]] = {}
        lines = list(_lines(path))
        if lines and _same(lines[0], self.header):
            self.results = {line["key"]: line["result"] for line in lines[1:]}
        self.resumed = len(self.results)
        # Written whole: the last line of a run that was killed may be torn.
        rows: list[dict[str, Any]] = [self.header]
        rows += [{"key": key, "result": result} for key, result in self.results.items()]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Write down the result of a step."""
        finite = _finite(result)
        self.results[key] = finite
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps({'key': key, 'result': finite})}\n")

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the results of one kind, by what stands behind it in the key."""
        start = f"{kind}: "
        return {key.removeprefix(start): found for key, found in self.results.items() if key.startswith(start)}


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    own = ("date", "command")
    return {key: one.get(key) for key in other if key not in own} == {k: v for k, v in other.items() if k not in own}


def _finite(value: Any) -> Any:
    """NaN and infinity as words, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def sources() -> str:
    """Return a digest of the code whose results the record holds."""
    digest = hashlib.sha256()
    for folder in ("sn_graph", "passes", "tools", "models"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".onnx") and path.is_file():
                digest.update(path.relative_to(ROOT).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def gpu_name() -> str:
    """Return the GPU and its driver, by nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown (nvidia-smi gives no answer)"
    return ", driver ".join(part.strip() for part in answer.splitlines()[0].split(","))


def versions() -> str:
    """Return the versions of what was run; of onnxruntime that which is imported, if there are several."""
    import onnxruntime
    from onnxruntime.capi import build_and_package_info as built

    cuda = getattr(built, "cuda_version", None)
    parts = [f"{built.package_name} {onnxruntime.__version__}" + (f" for CUDA {cuda}" if cuda else "")]
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions() if dist.name}
    wanted = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "onnx", "numpy")
    parts += [f"{name} {installed[name]}" for name in wanted if name in installed]
    return ", ".join([*parts, f"Python {platform.python_version()}", platform.system()])
