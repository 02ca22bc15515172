"""`sn-graph fold`: what it writes, says and refuses; every option."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from safetensors.numpy import save_file

from tests.cli.conftest import WEIGHTS
from tests.support.builders import Array
from tests.support.command_line import Cli, one_line
from tests.support.networks import second
from tests.support.oracle import power_iteration, seeded, sigma_max

RECORD: dict[str, Any] = {
    "id": str,
    "weight": str,
    "scope": str,
    "op_types": list,
    "consumers": list,
    "dtype": (str, type(None)),
    "shape": (list, type(None)),
    "matrix": (list, type(None)),
    "groups": int,
    "via": list,
    "status": str,
    "reason": (str, type(None)),
    "sigma": (float, type(None)),
    "sigma_upper": type(None),
    "sigma_operator": type(None),
    "sigma_operator_upper": type(None),
    "sigma_used": (float, type(None)),
    "frobenius": (float, type(None)),
    "stable_rank": (float, type(None)),
    "sigma_scaled": (float, type(None)),
    "notes": list,
    "form": str | None,
}
COMPUTED = {"original", "sigma_graph", "gain", "cap", "k", "u"}  # of weights that the graph computes
HEAD: dict[str, Any] = {
    "model": str,
    "output": (str, type(None)),
    "opset": dict,
    "convention": str,
    "convention_reason": str,
    "verified": (str, type(None)),
    "sites": list,
}


def check_types(content: dict[str, object]) -> None:
    assert content.keys() - {"totals"} == HEAD.keys()  # and what only inspect finds
    assert all(isinstance(content[key], kind) for key, kind in HEAD.items())
    assert isinstance(content["sites"], list)
    for site in content["sites"]:
        assert site.keys() - {"readings", "sigma_power", "hints"} - COMPUTED == RECORD.keys()
        assert all(isinstance(site[key], kind) for key, kind in RECORD.items()), site
        for reading in site.get("readings", []):
            assert reading.keys() == {"convention", "matrix", "sigma"}


def weights(path: Path) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_json_is_one_object_of_the_fields_promised(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("fold", model, "-o", out, "--json")
    assert ended.code == 0
    content = ended.json
    check_types(content)
    assert {key: content[key] for key in ("model", "output", "opset", "convention", "verified")} == {
        "model": str(model),
        "output": str(out),
        "opset": {"": 17},
        "convention": "torch",
        "verified": "run",
    }
    assert "conv.weight" in content["convention_reason"]
    conv, up, computed = content["sites"]
    before = weights(model)
    sigma = sigma_max(before["conv.weight"].reshape(6, -1))
    assert conv["sigma"] == conv["sigma_used"] == pytest.approx(sigma, rel=1e-6)
    assert "readings" not in conv
    assert (conv["status"], conv["matrix"], conv["consumers"]) == ("folded", [6, 27], ["/conv/Conv"])
    assert [reading["convention"] for reading in up["readings"]] == ["keras", "torch", "torch-parametrization"]
    assert up["readings"][0]["matrix"] == [6, 16]
    assert up["sigma"] == up["readings"][1]["sigma"] == pytest.approx(sigma_max(second(before["up.weight"])), rel=1e-6)
    assert (computed["status"], computed["sigma"]) == ("skipped", None)
    assert "computed in the graph" in computed["reason"]


def test_a_pipe_gets_one_plain_line_a_weight(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("fold", model, "-o", out)
    assert ended.code == 0
    header, *lines = ended.out.splitlines()
    assert header.split() == ["weight", "op", "type", "shape", "matrix", "σ", "σ", "used", "status", "remarks"]
    assert [line.split()[0] for line in lines] == ["conv.weight", "up.weight", "t"]
    assert lines[0].split()[1:5] == ["Conv", "float32", "6×3×3×3", "6×27"]
    assert not set("\x1b│─┃") & set(ended.out)
    assert ended.err == f"2 folded, 1 skipped: {out}, verified by running it\n"


def test_power_seed_and_iterations(cli: Cli, model: Path, out: Path) -> None:
    cli("fold", model, "-o", out, "--sigma", "power", "--power-iterations", "3", "--seed", "9", "--json")
    for name, view in (("conv.weight", lambda w: w.reshape(6, -1)), ("up.weight", second)):
        m = view(weights(model)[name].astype(np.float64))
        sigma, _ = power_iteration(m, seeded(name, len(m), 9), 3)
        np.testing.assert_allclose(weights(out)[name], weights(model)[name] / sigma, rtol=1.2e-6)


def test_state(cli: Cli, model: Path, out: Path) -> None:
    state = model.with_name("u.safetensors")
    u = {"conv.weight.u": np.ones(6, np.float32), "up.weight.u": np.ones(4, np.float32)}
    save_file(u, state)
    assert cli("fold", model, "-o", out, "--sigma", "power", "--state", state).code == 0
    sigma, _ = power_iteration(weights(model)["conv.weight"].astype(np.float64).reshape(6, -1), np.ones(6), 1)
    np.testing.assert_allclose(weights(out)["conv.weight"], weights(model)["conv.weight"] / sigma, rtol=1.2e-6)
    out.unlink()
    save_file({"conv.weight.u": np.ones(6, np.float32)}, state)
    assert "up.weight.u" in one_line(cli("fold", model, "-o", out, "--sigma", "power", "--state", state), 3)
    state.write_bytes(b"nothing")
    assert "u.safetensors" in one_line(cli("fold", model, "-o", out, "--sigma", "power", "--state", state), 3)
    assert not out.exists()
    one_line(cli("fold", model, "-o", out, "--state", state), 3)  # not read where sigma is exact, but not passed over
    assert "--power-iterations changed nothing" in cli("fold", model, "-o", out, "--power-iterations", 3).err


def test_bound_clip_include_exclude_and_op_type(cli: Cli, model: Path, out: Path) -> None:
    def statuses(*options: object) -> list[str]:
        return [site["status"] for site in cli("fold", model, "-o", out, "--json", *options).json["sites"]]

    sigma = sigma_max(weights(model)["conv.weight"].reshape(6, -1))
    assert statuses("--bound", 2) == ["folded", "folded", "skipped"]
    assert sigma_max(weights(out)["conv.weight"].reshape(6, -1)) == pytest.approx(2, rel=2e-6)
    assert statuses("--clip", "--bound", sigma * 1.01, "--include", "conv") == ["unchanged", "skipped", "skipped"]
    assert out.read_bytes() == model.read_bytes()
    assert statuses("--exclude", "^conv", "--exclude", "nothing") == ["skipped", "folded", "skipped"]
    assert statuses("--include", "conv", "--include", "up") == ["folded", "folded", "skipped"]
    assert statuses("--op-type", "ConvTranspose") == ["skipped", "folded", "skipped"]
    assert statuses("--op-type", "ConvTranspose", "--op-type", "Conv") == ["folded", "folded", "skipped"]


@pytest.mark.parametrize("convention", ["keras", "torch", "torch-parametrization", "auto"])
def test_convention(convention: str, cli: Cli, model: Path, out: Path) -> None:
    content = cli("fold", model, "-o", out, "--convention", convention, "--json").json
    assert content["convention"] == ("torch" if convention == "auto" else convention)
    assert content["sites"][1]["matrix"] == ([6, 16] if convention == "keras" else [4, 24])


def test_a_plan_that_inspect_wrote_is_obeyed(cli: Cli, model: Path, out: Path) -> None:
    plan = model.with_name("plan.json")
    assert cli("inspect", model, "--plan", plan, "--convention", "keras").code == 0
    content = json.loads(plan.read_text())
    assert content["model"] == "model.onnx"
    content["sites"][0]["status"] = "skipped"
    content |= {"bound": 3.0, "clip": True}
    plan.write_text(json.dumps(content))

    report = cli("fold", model, "-o", out, "--plan", plan, "--json").json
    assert report["convention"] == "keras"
    assert [site["status"] for site in report["sites"]] == ["skipped", "folded", "skipped"]
    assert sigma_max(weights(out)["up.weight"].reshape(6, -1)) == pytest.approx(3.0, rel=2e-6)

    more = ("--bound", 100, "--no-clip", "--convention", "torch", "--json")  # flags win over the plan's parameters
    report = cli("fold", model, "-o", out, "--plan", plan, *more).json
    assert (report["convention"], report["sites"][1]["status"]) == ("torch", "folded")
    assert sigma_max(second(weights(out)["up.weight"])) == pytest.approx(100.0, rel=2e-6)
    unchanged = cli("fold", model, "-o", out, "--plan", plan, "--bound", 100, "--json").json
    assert unchanged["sites"][1]["status"] == "unchanged"
    assert "the plan skips it" in one_line(cli("fold", model, "-o", out, "--plan", plan, "--include", "conv"), 3)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "convention": "x", "sites": []}']
)
def test_a_bad_plan_ends_with_3(content: str, cli: Cli, model: Path, out: Path) -> None:
    plan = model.with_name("plan.json")
    plan.write_text(content)
    assert "plan.json" in one_line(cli("fold", model, "-o", out, "--plan", plan), 3)
    assert one_line(cli("fold", model, "-o", out, "--plan", plan.with_name("nosuch")), 3)
    assert not out.exists()


@pytest.mark.parametrize("options", [["--include", "nosuch"], ["--op-type", "LSTM"]])
def test_nothing_to_do(options: list[str], cli: Cli, model: Path, out: Path) -> None:
    line = one_line(cli("fold", model, "-o", out, *options), 3)
    assert "nothing to do" in line
    assert "--force copies the model" in line
    assert not out.exists()
    ended = cli("fold", model, "-o", out, *options, "--force", "--json")
    assert (ended.code, ended.json["verified"]) == (0, "run")
    assert out.read_bytes() == model.read_bytes()


def test_output_may_be_the_input(cli: Cli, model: Path) -> None:
    assert cli("fold", model, "-o", model).code == 0
    assert sigma_max(weights(model)["conv.weight"].reshape(6, -1)) == pytest.approx(1.0, abs=1e-6)
    assert os.listdir(model.parent) == ["model.onnx"]


@pytest.mark.parametrize("flag", ["--save-as-external-data", "--save-inline"])
def test_storage(flag: str, cli: Cli, model: Path, out: Path) -> None:
    proto = onnx.load(model)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((99, 99), np.float32), "large"))
    onnx.save(proto, model)
    assert cli("fold", model, "-o", out, flag).code == 0
    assert out.with_name("out.onnx.data").exists() == (flag == "--save-as-external-data")
    assert set(weights(out)) == {*WEIGHTS, "raw", "large"}


@pytest.mark.usefixtures("tampering")
def test_a_failed_verification_ends_with_1_and_writes_nothing(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("fold", model, "-o", out, "--json")
    assert "'conv.weight' is not the original's divided by its norm" in one_line(ended, 1)
    assert ended.json["error"]["what"] == "tensor 'conv.weight' is not the original's divided by its norm"
    assert os.listdir(model.parent) == ["model.onnx"]


@pytest.mark.usefixtures("tampering")
def test_force_writes_it_and_says_so(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("fold", model, "-o", out, "--force", "--json", "--quiet")
    assert "as --force asks" in one_line(ended, 1)
    assert ended.json["verified"] == "no"
    assert out.exists()


@pytest.mark.usefixtures("tampering")
def test_no_verify_does_not_look(cli: Cli, model: Path, out: Path) -> None:
    ended = cli("fold", model, "-o", out, "--no-verify", "--json")
    assert (ended.code, ended.json["verified"]) == (0, "no")


def test_what_is_no_plain_file_is_not_replaced(cli: Cli, model: Path) -> None:
    pipe = model.with_name("pipe")
    os.mkfifo(pipe)
    assert "no plain file" in one_line(cli("fold", model, "-o", pipe), 4)
    assert pipe.is_fifo()


def test_a_link_is_followed(cli: Cli, model: Path) -> None:
    link = model.with_name("link.onnx")
    link.symlink_to(model)
    before = weights(model)["conv.weight"].copy()
    assert cli("fold", link, "-o", link).code == 0
    assert link.is_symlink()
    assert not np.array_equal(weights(model)["conv.weight"], before)


@pytest.mark.parametrize(("flag", "name"), [("--plan", "plan"), ("--state", "state")])
def test_an_output_over_an_input_is_refused(flag: str, name: str, cli: Cli, model: Path) -> None:
    other = model.with_name("other")
    other.write_text("{}")
    ended = cli("fold", model, "-o", other, flag, other)
    assert ended.code == 2
    assert f"would overwrite the {name}" in " ".join(ended.err.replace("│", " ").split())
    assert other.read_text() == "{}"


def test_a_bound_that_rounds_everything_away_is_refused(cli: Cli, model: Path, out: Path) -> None:
    assert "give a larger --bound" in one_line(cli("fold", model, "-o", out, "--bound", "1e-46"), 3)


def test_a_hard_linked_data_file_is_read(cli: Cli, model: Path, out: Path) -> None:
    proto = onnx.load(model)
    external = model.with_name("external.onnx")
    onnx.save(proto, external, save_as_external_data=True, location="data.bin", size_threshold=0)
    os.link(external.with_name("data.bin"), external.with_name("twin.bin"))
    assert cli("fold", external, "-o", out).code == 0


def test_a_use_that_an_op_type_leaves_alone_is_noted(cli: Cli, tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    graph = onnx.parser.parse_graph(
        "g (int64[2] i, float[3,4] x) => (float[2,4] y, float[3,6] z) {y = Gather(w, i) z = Gemm<transB=1>(x, w)}"
    )
    graph.initializer.append(numpy_helper.from_array(table, "w"))
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "t.onnx",
    )
    ended = cli("fold", tmp_path / "t.onnx", "-o", tmp_path / "o.onnx", "--op-type", "Gemm", "--json")
    (site,) = ended.json["sites"]
    assert any("Gather#0" in note and "original values stay" in note for note in site["notes"])
