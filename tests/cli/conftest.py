"""What every command is tried on: a small model, and a writer that spoils what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.builders import network, node, saved, value
from tests.support.command_line import cli, program
from tests.support.tampering import tampering

WEIGHTS = {
    "conv.weight": (6, 3, 3, 3),
    "up.weight": (6, 4, 2, 2),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Conv, ConvTranspose, and a weight that the graph computes."""
    rng = np.random.default_rng(0)
    shapes = {**WEIGHTS, "raw": (4, 5)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        node("Conv", ["x", "conv.weight"], ["a"], name="/conv/Conv"),
        node("ConvTranspose", ["a", "up.weight"], ["b"], name="/up/ConvTranspose"),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["d"]),
        node("Tanh", ["raw"], ["t"]),
        node("MatMul", ["d", "t"], ["y"], name="/head/MatMul"),
    ]
    proto = network(nodes, weights, {"x": ["batch", 3, 8, 8]})
    proto.graph.output[0].CopyFrom(value("y", ["batch", 5]))
    del proto.opset_import[1:]
    return saved(proto, tmp_path / "model.onnx")


@pytest.fixture
def out(model: Path) -> Path:
    return model.with_name("out.onnx")


__all__ = ["cli", "program", "tampering"]
