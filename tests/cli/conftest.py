"""The command line in this process, and as a program of its own."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sn_graph.cli import app as application
from sn_graph.model.files import StagedFiles

for name in application._COMMANDS:
    importlib.import_module(f"sn_graph.cli.{name}")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `sn-graph ARGUMENTS…` in this process."""

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        try:
            application.app([str(argument) for argument in arguments], prog_name="sn-graph")
            code: Any = 0
        except SystemExit as end:
            code = end.code
        return Ended(code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def program() -> Cli:
    """Run `sn-graph ARGUMENTS…` as a process; `before` is Python run in it first."""

    def call(*arguments: object, before: str = "") -> Ended:
        code = f"{before}\nimport sys\nsys.argv[0] = 'sn-graph'\nfrom sn_graph.cli import main\nmain()"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


WEIGHTS = {
    "conv.weight": (6, 3, 3, 3),
    "up.weight": (6, 4, 2, 2),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Conv, ConvTranspose, and a weight that the graph computes."""
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in WEIGHTS.items()
    ]
    tensors.append(numpy_helper.from_array(rng.standard_normal((4, 5)).astype(np.float32), "raw"))
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], name="/conv/Conv"),
        helper.make_node("ConvTranspose", ["a", "up.weight"], ["b"], name="/up/ConvTranspose"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Tanh", ["raw"], ["t"]),
        helper.make_node("MatMul", ["d", "t"], ["y"], name="/head/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def one_line(ended: Ended, code: int) -> str:
    """The one line of an error of exit code 3 or 4."""
    assert ended.code == code, ended
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("sn-graph: error: ")
    return ended.err


@pytest.fixture
def tampering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that writes the model, and then changes a weight."""
    write = StagedFiles.write_model

    def spoil(self: StagedFiles, *arguments: Any) -> None:
        write(self, *arguments)
        proto = onnx.load(self.model)
        array = numpy_helper.to_array(proto.graph.initializer[0])
        proto.graph.initializer[0].raw_data = (array * np.float32(1.01)).tobytes()
        onnx.save(proto, self.model)

    monkeypatch.setattr(StagedFiles, "write_model", spoil)
