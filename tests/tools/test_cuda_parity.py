"""The tool's logic with the CPU on both sides, and its way out where there is no CUDA."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import sn_graph
from sn_graph.model import Model
from tests.support.places import ROOT
from tools import cuda_parity
from tools.op_models import op_model


def case(**changes: Any) -> cuda_parity.Case:
    model = Model.open(op_model("MatMul", [2, 4], np.ones((4, 3), np.float32)))
    return cuda_parity.Case(**{"name": "m", "model": model, "op": "MatMul", **changes})


def test_cpu_against_cpu_writes_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models"
    models.mkdir()
    onnx.save(op_model("Gather", [5], np.ones((9, 3), np.float32), left=True), models / "table.onnx")
    record = tmp_path / "docs" / "parity.md"
    options = ["--left", "cpu", "--right", "cpu", "--models", str(models), "--output", str(record)]
    assert cuda_parity.main(options) == 0
    text = record.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[1][:3] == ["| models/table.onnx", "1", "yes"]
    assert rows[2][:3] == ["| models/table.onnx, inserted", "10", "yes"]
    assert len(rows) == 1 + 2 * (1 + len(list(cuda_parity.op_cases())))
    assert all(row[2] == "yes" and row[-1] == "– |" for row in rows[1:])
    for kind in ("Conv 3-D", "ConvTranspose 1-D", "Gemm, transA=1, transB=1", "Gather, float16", "If, captured weight"):
        assert kind in text
    assert "onnxruntime" in text
    assert "python -m tools.cuda_parity --left cpu" in text
    assert "agree; wrote" in capsys.readouterr().out


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a GPU build")
def test_without_cuda_it_ends_with_4_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.cuda_parity", "--output", str(tmp_path / "parity.md")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("cuda_parity: execution provider 'cuda' can't be used")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_op_case_holds_the_op_it_vouches_for() -> None:
    for one in cuda_parity.op_cases():
        nodes = list(one.model.proto.graph.node)
        bodies = [attribute.g for node in nodes for attribute in node.attribute if attribute.HasField("g")]
        assert one.op in {node.op_type for node in [*nodes, *(node for body in bodies for node in body.node)]}


def test_placement_counts_nodes_once_however_often_they_ran() -> None:
    def event(name: str, provider: str, op_name: str) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "args": {"provider": f"{provider}ExecutionProvider", "op_name": op_name}}

    node, other = event("a_kernel_time", "CUDA", "Conv"), event("b_kernel_time", "CPU", "Shape")
    noise: list[dict[str, Any]] = [{"cat": "Session", "name": "run"}]
    noise.append({"cat": "Node", "name": "a_fence_before", "args": {}})
    assert cuda_parity.count_nodes([node, other, node, *noise]) == {("cuda", "Conv"): 1, ("cpu", "Shape"): 1}


def test_steps_and_misplaced_ops() -> None:
    row = cuda_parity.measure_one(case(steps=3), "cpu", "cpu", 0)
    assert row.ok
    assert row.placement == Counter({("cpu", "MatMul"): 1})
    assert [one.step for one in row.off.comparisons] == [0, 1, 2]
    elsewhere = cuda_parity.measure_one(case(op="Conv"), "cpu", "cpu", 0)
    assert not elsewhere.ok
    assert "no: Conv ran elsewhere" in cuda_parity.render_row(elsewhere, "cpu")


def test_a_model_that_does_not_run_fails_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = cuda_parity.Case("broken", Model.open(op_model("NoSuchOp", [2], np.ones((2, 2), np.float32))))
    monkeypatch.setattr(cuda_parity, "op_cases", lambda: iter([case(), broken]))
    record = tmp_path / "r.md"
    assert cuda_parity.main(["--right", "cpu", "--models", str(tmp_path), "--output", str(record)]) == 1
    text = record.read_text(encoding="utf-8")
    assert "- 2 of 3 models agree" in text
    assert "- broken: onnxruntime can't load broken (cpu)" in text


def test_a_capture_is_compared_at_every_step() -> None:
    # Without a GPU the same options on both sides: the comparison must run, and find nothing.
    inserted = Model.open(sn_graph.insert(op_model("MatMul", [2, 4], np.ones((4, 3), np.float32))).to_proto())
    one = cuda_parity.captured(case(model=inserted, steps=3, name="models/m"), "cpu", 0, options={})
    assert one == cuda_parity.Captured("models/m", True, 0.0)
    assert "| models/m | yes |" in cuda_parity.render_graphs([one])
    assert cuda_parity.may_capture(case(steps=10, name="models/m"), "cuda")
    assert not cuda_parity.may_capture(case(steps=10, name="models/m"), "cpu")
