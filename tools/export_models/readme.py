"""Write the table of models/README.md: what each file is, its weights, size and hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tools.export_models.catalogue import CATALOGUE, STATES

BEGIN = "<!-- written by tools/export_models -->"
END = "<!-- end -->"
PACKAGES = ("torch", "onnxscript", "tensorflow-cpu", "keras", "tf2onnx", "onnx", "numpy")
WEIGHT_SLOTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "Gather": (0,)}


def update(readme: Path, folder: Path) -> None:
    """Replace what stands between the two markers of `readme` by the table of the files in `folder`."""
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table(folder)}\n{END}{after}", encoding="utf-8")


def table(folder: Path) -> str:
    """Return the table of the files in `folder`, with the versions that made them."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        f"Made with {versions}.",
        "",
        "| file | what it is | exporter | opset | sites | σ of stored weights | bytes | sha256 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in CATALOGUE.items():
        path = folder / f"{name}.onnx"
        model = onnx.load(path)
        opset = next(item.version for item in model.opset_import if item.domain == "")
        cells = (entry.architecture, entry.exporter, str(opset), *describe_weights(model), *_size_and_hash(path))
        lines.append(f"| `{path.name}` | {' | '.join(cells)} |")
    for name, description in STATES.items():
        path = folder / name
        cells = (description, "", "", "", "", *_size_and_hash(path))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def describe_weights(model: onnx.ModelProto) -> tuple[str, str]:
    """Return the weights counted by op type, and the range of their σ (first axis against the rest)."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    dynamic = {value.name for value in model.graph.input}
    stored: Counter[str] = Counter()
    computed: Counter[str] = Counter()
    sigmas = []
    for node in model.graph.node:
        if dynamic.isdisjoint(node.input):
            continue
        dynamic.update(node.output)
        for slot in WEIGHT_SLOTS.get(node.op_type, ()):
            name = node.input[slot]
            if name in weights:
                stored[node.op_type] += 1
                matrix = weights[name].reshape(len(weights[name]), -1)
                sigmas.append(float(np.linalg.norm(matrix.astype(np.float64), 2)))
            elif name not in dynamic:
                computed[node.op_type] += 1
    parts = [f"{count} {op}" for op, count in sorted(stored.items())]
    parts += [f"{count} {op} with a computed weight" for op, count in sorted(computed.items())]
    return ", ".join(parts), f"{min(sigmas):.2f} to {max(sigmas):.2f}" if sigmas else ""


def _size_and_hash(path: Path) -> tuple[str, str]:
    data = path.read_bytes()
    return f"{len(data):,}", f"`{hashlib.sha256(data).hexdigest()}`"
