"""The tool that tries every command on a folder of models: its verdicts, and that its judges see what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sn_graph as sn
from tests.support.builders import drawn, network, node
from tests.support.command_line import invoke
from tools.robustness import judges
from tools.robustness.__main__ import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model to normalize, one with nothing to do, and one that is none."""
    path = tmp_path / "models" / "inner"
    path.mkdir(parents=True)
    model = network([node("MatMul", ["x", "w"])], {"w": drawn(6, 5)}, {"x": (2, 6)})
    onnx.save(model, path / "good.onnx")
    onnx.save(network([node("Neg", ["x"])], {}, {"x": (2, 6)}), path / "idle.onnx")
    (path / "broken.onnx").write_bytes(b"\x00not a model")
    return path.parent


def test_verdicts_and_going_on(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "verdicts.jsonl"
    assert main([str(folder), "--jobs", "1", "--jsonl", str(log), "--limit", "2"]) == 0
    assert "2 of 2 models" in capfd.readouterr().out
    assert main([str(folder), "--jobs", "1", "--jsonl", str(log)]) == 0
    rows = {Path(row["path"]).name: row["verdicts"] for row in map(json.loads, log.read_text().splitlines())}
    assert len(log.read_text().splitlines()) == 3
    assert {command: verdict for command, (verdict, _) in rows["good.onnx"].items()} == dict.fromkeys(
        ["inspect", "fold", "fold --sigma upper", "insert", "lift", "certify", "strip", "verify"], "right"
    )
    assert "nothing to do" in rows["idle.onnx"]["fold"][1]
    assert {verdict for verdict, _ in rows["broken.onnx"].values()} == {"refused"}
    assert main([str(folder), "--jsonl", str(log), "--seconds", "0"]) == 0
    assert main([str(tmp_path / "nothing")]) == 2


def test_a_command_that_hangs(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--jobs", "1", "--limit", "1", "--timeout", "0"]) == 1
    assert "hang" in capfd.readouterr().out


def test_judges_see_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    source, plan = folder / "inner" / "good.onnx", tmp_path / "plan.json"
    assert invoke("inspect", source, "--plan", plan, "--json").code == 0
    views = json.loads(plan.read_text())
    for command, judge in (("fold", judges.judge_fold), ("insert", judges.judge_insertion)):
        written = tmp_path / "out.onnx"
        ended = invoke(command, source, "-o", written, "--json")
        sites = ended.json["sites"]
        more = [views] if command == "fold" else []
        assert judge(source, written, sites, *more) is None
        model = onnx.load(written)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), "w"))
        onnx.save(model, written)
        assert judge(source, written, sites, *more)
        assert judges.judge_strip(source, written)
    assert judges.judge_strip(source, source) is None
    with pytest.raises(judges.Unjudged):
        judges.judge_outputs(sn.Model.open(folder / "inner" / "idle.onnx").proto, onnx.ModelProto())


def test_the_judge_of_certificates_and_lifts_sees_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    source = folder / "inner" / "good.onnx"
    answer = invoke("certify", source, "--json", "--level", "product", "--budget", "1").json
    assert judges.judge_certificate(source, answer) is None
    assert judges.judge_certificate(source, {**answer, "attained": None, "proven": answer["proven"] / 3.0})
    assert judges.judge_certificate(source, {**answer, "proven": answer["attained"] / 2.0})
    assert judges.judge_certificate(source, {**answer, "proven": None})
    unbounded = {**answer, "proven": None, "unbounded": {"node": "n", "op_type": "Mul", "reason": "a product"}}
    assert judges.judge_certificate(source, unbounded) is None
    written = tmp_path / "lifted.onnx"
    written.write_bytes(source.read_bytes())
    assert judges.judge_lift(source, written, [{"status": "skipped"}]) is None
    model = onnx.load(source)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), "w"))
    onnx.save(model, written)
    assert judges.judge_lift(source, written, [{"status": "skipped"}])
    assert judges.judge_lift(source, written, [{"status": "lifted"}])


@pytest.mark.parametrize("flat", [True, False])
def test_a_folded_sparse_weight_is_judged_as_the_dense_one(flat: bool, tmp_path: Path) -> None:
    dense = drawn(6, 5) * (drawn(6, 5, seed=1) > 0.0)
    model = network([node("MatMul", ["x", "w"])], {"w": dense}, {"x": (2, 6)})
    places = np.flatnonzero(dense) if flat else np.argwhere(dense)
    values = numpy_helper.from_array(dense[dense != 0.0], "w")
    indices = numpy_helper.from_array(places.astype(np.int64), "places")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, dense.shape))
    del model.graph.initializer[:]
    source, plan, written = tmp_path / "sparse.onnx", tmp_path / "plan.json", tmp_path / "out.onnx"
    onnx.save(model, source)
    assert invoke("inspect", source, "--plan", plan, "--json").code == 0
    sites, views = invoke("fold", source, "-o", written, "--json").json["sites"], json.loads(plan.read_text())
    assert [site["status"] for site in sites] == ["folded"]
    assert judges.judge_fold(source, written, sites, views) is None
    folded = onnx.load(written)
    held = folded.graph.sparse_initializer[0].values
    held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held) * np.float32(1.01), "w"))
    onnx.save(folded, written)
    assert judges.judge_fold(source, written, sites, views)
