"""`sn-graph insert`: what it writes, says and refuses; every option."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import save_file

from tests.support.command_line import Cli, one_line
from tests.support.networks import second
from tests.support.oracle import power_iteration, seeded
from tests.support.runs import session

KEYS = {"model", "output", "opset", "convention", "convention_reason", "verified", "sites"}
SITE_KEYS = {
    *("id", "weight", "scope", "op_types", "consumers", "dtype", "shape", "matrix", "groups", "via", "status"),
    *("reason", "sigma", "sigma_upper", "sigma_operator", "sigma_used", "notes"),
}
VIEWS: dict[str, Any] = {"conv.weight": lambda w: w.reshape(6, -1), "up.weight": second}


def metadata(path: Path) -> dict[str, Any]:
    (entry,) = onnx.load(path).metadata_props
    content: dict[str, Any] = json.loads(entry.value)
    return content


def sigmas(path: Path) -> list[float]:
    running = session(onnx.load(path))
    given: list[float] = running.run(["sn_sigma"], {"x": np.zeros((1, 3, 8, 8), np.float32)})[0].tolist()
    return given


def expected(model: Path, k: int = 1, seed: int = 0) -> list[float]:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    matrices = {name: view(weights[name]) for name, view in VIEWS.items()}
    return [power_iteration(m, seeded(name, len(m), seed), k)[0] for name, m in matrices.items()]


@pytest.mark.parametrize("mode", ["default", "required"])
def test_a_required_state_holds_no_exact_start_and_says_so(cli: Cli, model: Path, out: Path, mode: str) -> None:
    ended = cli("insert", model, "-o", out, "--sigma", "exact", "--state-mode", mode)
    assert ended.code == 0
    assert ("does not hold the leading singular vectors" in ended.err) is (mode == "required")


def test_json_is_one_object_of_the_fields_promised(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("insert", model, "-o", out, "--json")
    assert ended.code == 0
    content = ended.json
    assert content.keys() == KEYS
    assert (content["model"], content["output"], content["verified"]) == (str(model), str(out), "run")
    assert (content["convention"], content["opset"]) == ("torch", {"": 17})
    conv, up, computed = content["sites"]
    for site in content["sites"]:
        assert site.keys() >= SITE_KEYS
        assert (site["sigma"], site["sigma_used"]) == (None, None)
    assert [site["status"] for site in (conv, up, computed)] == ["inserted", "inserted", "skipped"]
    assert "computed in the graph" in computed["reason"]
    assert up["readings"][1]["matrix"] == [4, 24]
    np.testing.assert_allclose(sigmas(out), expected(model), rtol=1e-5)


def test_a_pipe_gets_one_plain_line_a_weight(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("insert", model, "-o", out)
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()[1:]] == ["conv.weight", "up.weight", "t"]
    assert "inserted" in ended.out
    assert ended.err == f"2 inserted, 1 skipped: {out}, verified by running it\n"
    assert sorted(os.listdir(model.parent)) == ["model.onnx", "out.onnx"]


def test_help_teaches(cli: Cli) -> None:
    text = " ".join(cli("insert", "--help").out.split())
    for word in ("sn_u.next", "strip", "sn-graph insert disc.onnx -o disc.sn.onnx", "--state-mode", "--scale"):
        assert word in text


def test_power_seed_and_iterations(cli: Cli, model: Path, out: Path) -> None:
    assert cli("insert", model, "-o", out, "--power-iterations", 3, "--seed", 9).code == 0
    np.testing.assert_allclose(sigmas(out), expected(model, 3, 9), rtol=1e-5)
    assert metadata(out)["power_iterations"] == 3
    assert cli("insert", model, "-o", out, "--power-iterations", 0).code == 2


def test_exact(cli: Cli, model: Path, out: Path) -> None:
    content = cli("insert", model, "-o", out, "--sigma", "exact", "--json").json
    assert content["verified"] == "run"
    np.testing.assert_allclose(sigmas(out), [site["sigma"] for site in content["sites"][:2]], rtol=1e-5)


def test_state(cli: Cli, model: Path, out: Path) -> None:
    state = model.with_name("u.safetensors")
    save_file({"conv.weight.u": np.ones(6, np.float32), "up.weight.u": np.ones(4, np.float32)}, state)
    assert cli("insert", model, "-o", out, "--state", state, "--state-mode", "required").code == 0
    assert metadata(out)["state"]["mode"] == "required"
    assert cli("insert", model, "-o", out, "--state", state, "--json").json["verified"] == "run"
    start = next(tensor for tensor in onnx.load(out).graph.initializer if tensor.name == "sn_u")
    assert set(numpy_helper.to_array(start).reshape(-1)) == {1.0}
    both = cli("insert", model, "-o", out, "--state", state, "--sigma", "exact")
    assert both.code == 2
    assert "give one" in both.err
    state.write_bytes(b"nothing")
    assert "u.safetensors" in one_line(cli("insert", model, "-o", out, "--state", state), 3)


def test_layout_mode_scale_bound_and_clip(cli: Cli, model: Path, out: Path) -> None:
    options = ["--state-layout", "per-weight", "--state-mode", "required", "--scale", "weight", "--bound", 2, "--clip"]
    assert cli("insert", model, "-o", out, *options, "--json").json["verified"] == "run"
    content = metadata(out)
    assert (content["bound"], content["clip"]) == (2.0, True)
    assert content["state"]["layout"] == "per-weight"
    names = [one.name for one in onnx.load(out).graph.input]
    assert names == ["x", "conv.weight.sn_u", "up.weight.sn_u"]
    for option, value in (("--scale", "both"), ("--state-mode", "maybe"), ("--state-layout", "any"), ("--bound", -1)):
        assert cli("insert", model, "-o", out, option, value).code == 2


def test_filters_convention_and_plan(cli: Cli, model: Path, out: Path) -> None:
    def statuses(*options: object) -> list[str]:
        return [site["status"] for site in cli("insert", model, "-o", out, "--json", *options).json["sites"]]

    assert statuses("--include", "conv") == ["inserted", "skipped", "skipped"]
    assert statuses("--exclude", "^conv") == ["skipped", "inserted", "skipped"]
    assert statuses("--op-type", "ConvTranspose") == ["skipped", "inserted", "skipped"]
    assert statuses("--convention", "keras") == ["inserted", "inserted", "skipped"]
    assert metadata(out)["sites"][1]["u"] == [6, 6]
    plan = model.with_name("plan.json")
    assert cli("inspect", model, "--plan", plan).code == 0
    content = json.loads(plan.read_text())
    content["sites"][0]["status"] = "skipped"
    plan.write_text(json.dumps(content))
    assert statuses("--plan", plan) == ["skipped", "inserted", "skipped"]
    plan.write_text("{}")
    assert "plan.json" in one_line(cli("insert", model, "-o", out, "--plan", plan), 3)


@pytest.mark.parametrize("options", [["--include", "nosuch"], ["--op-type", "LSTM"]])
def test_nothing_to_do(options: list[str], cli: Cli, model: Path, out: Path) -> None:
    line = one_line(cli("insert", model, "-o", out, *options), 3)
    assert "nothing to do" in line
    assert "--force copies the model" in line
    assert not out.exists()
    assert cli("insert", model, "-o", out, *options, "--force", "--json").code == 0
    assert out.read_bytes() == model.read_bytes()


def test_weights_of_zeros_are_done_without_an_insertion(cli: Cli, model: Path, out: Path) -> None:
    proto = onnx.load(model)
    for tensor in proto.graph.initializer[:2]:
        tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(proto, model)
    ended = cli("insert", model, "-o", out, "--json")
    assert ended.code == 0
    assert [site["status"] for site in ended.json["sites"]] == ["unchanged", "unchanged", "skipped"]
    assert onnx.load(out).graph == proto.graph
    assert cli("strip", out, "-o", out).code == 0
    assert out.read_bytes() == model.read_bytes()


def test_models_that_cannot_be_used_end_with_3(cli: Cli, model: Path, out: Path) -> None:
    assert cli("insert", model, "-o", out).code == 0
    twice = model.with_name("twice.onnx")
    assert "strip first" in one_line(cli("insert", out, "-o", twice), 3)
    proto = onnx.load(model)
    proto.opset_import[0].version = 6
    onnx.save(proto, twice)
    assert "convert_version" in one_line(cli("insert", twice, "-o", out.with_name("new.onnx")), 3)
    proto = onnx.load(model)
    proto.graph.initializer[0].raw_data = np.full(162, np.nan, np.float32).tobytes()
    onnx.save(proto, twice)
    assert "162 NaN values" in one_line(cli("insert", twice, "-o", out.with_name("new.onnx")), 3)
    assert one_line(cli("insert", model.with_name("nosuch"), "-o", out.with_name("new.onnx")), 3)
    assert sorted(os.listdir(model.parent)) == ["model.onnx", "out.onnx", "twice.onnx"]


@pytest.mark.usefixtures("tampering")
def test_a_failed_verification_ends_with_1(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("insert", model, "-o", out, "--json")
    assert "strip does not give the original back" in one_line(ended, 1)
    assert ended.json["error"]["why"] == "so the insertion is not what it should be"
    assert os.listdir(model.parent) == ["model.onnx"]
    forced = cli("insert", model, "-o", out, "--json", "--force", "--quiet")
    assert "as --force asks" in one_line(forced, 1)
    assert forced.json["verified"] == "no"
    out.unlink()
    trusting = cli("insert", model, "-o", out, "--json", "--no-verify")
    assert (trusting.code, trusting.json["verified"]) == (0, "no")


def test_output_may_be_the_input_and_storage_may_change(cli: Cli, model: Path, out: Path) -> None:
    assert cli("insert", model, "-o", out, "--save-as-external-data").code == 0
    assert cli("insert", model, "-o", model).code == 0
    assert metadata(model)["kind"] == "inserted"
