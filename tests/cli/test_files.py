"""Commands on many files: the summary, the exit code, the lines, gates, and what continuous integration reads."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from tests.fleet.test_gate import HOSTILE
from tests.support.checkpoints import llama
from tests.support.command_line import Cli, cli
from tests.support.places import MODELS

__all__ = ["cli"]


def small(path: Path, seed: int, scale: float = 1.0) -> None:
    """Write a model of one Gemm, whose σ is `scale`."""
    weight = np.random.default_rng(seed).standard_normal((4, 3))
    weight *= scale / np.linalg.norm(weight, 2)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "/gemm")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    for number in range(3):
        small(made / f"m{number}.onnx", number, scale=1.0 + number)
    return made


def test_three_broken_of_many_are_named_and_the_rest_is_done(cli: Cli, tmp_path: Path) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    for number in range(12):
        small(models / f"m{number:02}.onnx", number, scale=2.0)
    (models / "bad1.onnx").write_bytes(b"no model")
    (models / "bad2.onnx").write_bytes((models / "m00.onnx").read_bytes()[:-7])
    small(models / "bad3.onnx", 0, scale=np.inf)
    ended = cli("fold", models, "-o", out, "--jobs", 2, "--jsonl", tmp_path / "l.jsonl")
    assert ended.code == 3
    assert "12 of 15 files done" in ended.err
    assert "3 files failed" in ended.err
    for name in ("bad1", "bad2", "bad3"):
        assert f"{name}.onnx" in ended.err
        assert f"{name}.onnx" in ended.out
    assert sorted(path.name for path in out.iterdir()) == [f"m{number:02}.onnx" for number in range(12)]
    for path in out.iterdir():
        weight = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
        assert np.linalg.norm(weight.astype(np.float64), 2) == pytest.approx(1.0, rel=2e-6)
    lines = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert len(lines) == 15
    assert sum(line["error"] is None for line in lines) == 12
    assert all(line["error"]["exit_code"] == 3 for line in lines if line["error"] is not None)
    assert all(line["verified"] == "run" for line in lines if line["error"] is None)
    again = cli("fold", models, "-o", out, "--jobs", 2, "--jsonl", tmp_path / "l.jsonl")
    assert again.code == 3
    assert "12 of 15 files done, 15 of them before" in again.err
    assert len((tmp_path / "l.jsonl").read_text().splitlines()) == 15


def test_json_is_one_object_of_all_files(cli: Cli, folder: Path) -> None:
    (folder / "bad.onnx").write_bytes(b"no model")
    ended = cli("inspect", folder, "--json")
    assert ended.code == 3
    found = ended.json
    assert found["totals"] == {"files": 4, "done": 3, "failed": 1}
    assert found["error"]["exit_code"] == 3
    assert [line["input"] for line in found["files"]] == [
        str(folder / name) for name in ("bad.onnx", "m0.onnx", "m1.onnx", "m2.onnx")
    ]
    for number, line in enumerate(found["files"][1:]):
        assert line["sites"][0]["sigma"] == pytest.approx(1.0 + number, rel=1e-6)


def test_one_file_is_as_it_was(cli: Cli, folder: Path, tmp_path: Path) -> None:
    one = cli("inspect", folder / "m0.onnx", "--json")
    assert "files" not in one.json
    line = tmp_path / "l.jsonl"
    assert cli("fold", folder / "m1.onnx", "-o", tmp_path / "out.onnx", "--jsonl", line).code == 0
    assert (tmp_path / "out.onnx").is_file()
    assert json.loads(line.read_text())["output"] == str(tmp_path / "out.onnx")


def test_options_that_change_the_result_are_other_work(cli: Cli, folder: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "l.jsonl"
    for options, count in (([], 3), (["--sigma", "upper"], 6), ([], 6), (["--jobs", "2"], 6), (["-q"], 6)):
        assert cli("inspect", folder, "--jsonl", ledger, *options).code == 0
        assert len(ledger.read_text().splitlines()) == count
    save_file({"w.u": np.ones(3, np.float32)}, tmp_path / "s.safetensors")
    for value, count in ((1.0, 9), (1.0, 9), (2.0, 12)):
        save_file({"w.u": np.full(3, value, np.float32)}, tmp_path / "s.safetensors")
        assert cli("inspect", folder, "--jsonl", ledger, "--state", tmp_path / "s.safetensors").code == 0
        assert len(ledger.read_text().splitlines()) == count


@pytest.mark.parametrize("command", ["inspect", "fold", "insert", "verify", "certify"])
def test_each_command_takes_a_folder(command: str, cli: Cli, folder: Path, tmp_path: Path) -> None:
    out = ["-o", tmp_path / "out"] if command in ("fold", "insert") else []
    ended = cli(command, folder, *out, "--jobs", 2)
    assert ended.code == 0, ended.err
    assert "3 of 3 files done" in ended.err
    if out:
        assert len(list((tmp_path / "out").iterdir())) == 3


def test_lift_takes_a_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(MODELS / "torch_sngan_spectral_norm.onnx", tmp_path / "in")
    assert cli("lift", tmp_path / "in", "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out/torch_sngan_spectral_norm.onnx").is_file()


def test_what_is_one_file_is_refused_of_many(cli: Cli, folder: Path, tmp_path: Path) -> None:
    ended = cli("inspect", folder, "--plan", tmp_path / "plan.json")
    assert ended.code == 2
    assert "--plan is one file, where there are many models" in ended.err
    (tmp_path / "out.onnx").write_bytes(b"a file")
    ended = cli("fold", folder, "-o", tmp_path / "out.onnx")
    assert ended.code == 2
    assert "where many models need a folder" in ended.err
    assert (tmp_path / "out.onnx").read_bytes() == b"a file"


def test_a_condition_names_the_weights_that_break_it(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert cli("inspect", folder / "m0.onnx", "--assert", "sigma <= 1.001").code == 0
    ended = cli("inspect", folder / "m1.onnx", "--assert", "sigma <= 1.001", "--json")
    assert ended.code == 1
    assert "1 weight breaks 'sigma <= 1.001'" in ended.err
    assert ended.json["broken"][0]["id"] == "w"
    assert ended.json["error"]["exit_code"] == 1
    results, ledger = tmp_path / "r.xml", tmp_path / "l.jsonl"
    ended = cli("inspect", folder, "--assert", "sigma <= 1.001", "--junit", results, "--sarif", tmp_path / "r.sarif")
    assert ended.code == 1
    suites = ElementTree.parse(results).getroot()
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("6", "4", "0")
    failed = [case.get("classname") for case in suites.iter("testcase") if case.find("failure") is not None]
    assert set(failed) == {str(folder / "m1.onnx"), str(folder / "m2.onnx")}
    log = json.loads((tmp_path / "r.sarif").read_text())
    assert log["version"] == "2.1.0"
    found = log["runs"][0]["results"]
    assert [result["ruleId"] for result in found] == ["assert", "assert"]
    assert found[0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "w"
    # What was measured before is judged by the condition of now.
    assert cli("inspect", folder, "--jsonl", ledger, "--assert", "sigma <= 1.001").code == 1
    assert cli("inspect", folder, "--jsonl", ledger, "--assert", "sigma <= 9").code == 0
    assert cli("inspect", folder, "--jsonl", ledger).code == 0
    assert len(ledger.read_text().splitlines()) == 3


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\0" not in text], ids=lambda text: text[:30])
def test_hostile_conditions_are_usage_errors(text: str, cli: Cli, folder: Path) -> None:
    ended = cli("inspect", folder / "m0.onnx", f"--assert={text}")
    assert (ended.code, ended.out) == (2, "")
    assert not Path("/tmp/sn-graph-was-here").exists()


def test_results_are_written_of_what_fails(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert (
        cli("inspect", tmp_path / "bad.onnx", "--junit", tmp_path / "r.xml", "--sarif", tmp_path / "r.sarif").code == 3
    )
    assert ElementTree.parse(tmp_path / "r.xml").getroot().get("errors") == "1"
    assert json.loads((tmp_path / "r.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "error"


def test_names_that_act_are_harmless_in_results(cli: Cli, tmp_path: Path) -> None:
    save_file({"a\x1b[2J<b>&\"'\x00": np.ones((2, 2), np.float32)}, tmp_path / "w.safetensors")
    ended = cli("inspect", tmp_path / "w.safetensors", "--assert", "sigma < 1", "--junit", tmp_path / "r.xml")
    assert ended.code == 1
    assert "\x1b" not in ended.out + ended.err
    cases = [case.get("name") for case in ElementTree.parse(tmp_path / "r.xml").getroot().iter("testcase")]
    assert cases[0] == "a\\x1b[2J<b>&\"'\\x00"


def test_checkpoints_are_inspected_compared_and_folded(cli: Cli, tmp_path: Path) -> None:
    save_file(llama(0), tmp_path / "a.safetensors")
    save_file(llama(1), tmp_path / "b.safetensors")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4, "num_key_value_heads": 2}')
    found = cli(
        "inspect", tmp_path / "a.safetensors", "--against", tmp_path / "b.safetensors", "--per-head", "--json"
    ).json
    for site in found["sites"]:
        one, other = (load_file(tmp_path / f"{name}.safetensors")[site["id"]].astype(np.float64) for name in "ab")
        assert site["sigma_base"] == pytest.approx(np.linalg.norm(other, 2), rel=1e-6)
        assert site["sigma_delta"] == pytest.approx(np.linalg.norm(one - other, 2), rel=1e-6)
        assert len(site.get("sigma_heads", ())) == {"q_proj": 4, "k_proj": 2}.get(site["role"], 0)
    ended = cli("fold", tmp_path / "a.safetensors", "-o", tmp_path / "out.safetensors", "--include", "q_proj")
    assert ended.code == 0
    assert "2 folded, 14 skipped" in ended.err
    for name, value in load_file(tmp_path / "out.safetensors").items():
        if "q_proj" in name:
            assert np.linalg.norm(value.astype(np.float64), 2) == pytest.approx(1.0, rel=2e-6)
        else:
            assert (value == llama(0)[name]).all()
    for flag in ("--plan", "--html"):
        assert cli("inspect", tmp_path / "a.safetensors", flag, tmp_path / "x").code == 2
    assert cli("fold", tmp_path / "a.safetensors", "-o", tmp_path / "x", "--op-type", "Conv").code == 2
