from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from sn_graph.model import Model
from sn_graph.plan import make_plan
from tests.support.builders import drawn, initializers, node, value
from tests.support.command_line import Cli, one_line
from tests.support.exported import convolution, in_eval, linear


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A normalized Conv, and a plain head."""
    proto = convolution(in_eval(drawn(8, 6, 3, 3)))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn(8, 8, 1, 1, seed=8), "head.weight"))
    proto.graph.node.append(node("Conv", ["y", "head.weight"], ["z"], name="/head/Conv"))
    proto.graph.output.append(value("z"))
    path = tmp_path / "mixed.onnx"
    onnx.save(proto, path)
    return path


def test_lift(mixed: Path, tmp_path: Path, cli: Cli) -> None:
    ended = cli("lift", mixed, "-o", tmp_path / "out.onnx", "--json")
    assert ended.code == 0
    assert ended.json["verified"] == "run"
    sites = {site["weight"]: site for site in ended.json["sites"]}
    assert (sites["c.weight"]["status"], sites["c.weight"]["form"]) == ("lifted", "spectral-norm")
    assert sites["c.weight"]["original"] == "c.weight_orig"
    assert sites["c.weight"]["sigma_used"] == sites["c.weight"]["sigma_graph"]
    assert (sites["head.weight"]["status"], sites["head.weight"]["form"]) == ("unchanged", None)
    assert set(initializers(tmp_path / "out.onnx")) == {"c.weight", "c.bias", "head.weight"}


def test_inspect_tells_the_form_and_both_norms(mixed: Path, cli: Cli) -> None:
    (site,) = (site for site in cli("inspect", mixed, "--json").json["sites"] if site["form"])
    assert site["status"] == "skipped"
    assert site["matrix"] == [8, 54]
    assert site["sigma"] >= site["sigma_graph"] > 0.5 * site["sigma"]
    assert (site["u"], site["gain"], site["cap"], site["k"]) == (["c.weight_u", "c.weight_v"], 1.0, None, None)


@pytest.mark.parametrize("command", ["fold", "insert"])
def test_half_a_file_is_not_normalized_by_accident(command: str, mixed: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out.onnx"
    said = one_line(cli(command, mixed, "-o", out), 3)
    assert "c.weight_orig" in said
    assert "sn-graph lift" in said
    assert not out.exists()
    for meant in (["--include", "head"], ["--op-type", "Conv"], ["--force"]):
        assert cli(command, mixed, "-o", out, *meant).code == 0, meant


def test_a_plan_says_what_is_meant(mixed: Path, tmp_path: Path, cli: Cli) -> None:
    plan = tmp_path / "plan.json"
    assert cli("inspect", mixed, "--plan", plan).code == 0
    assert cli("fold", mixed, "-o", tmp_path / "out.onnx", "--plan", plan).code == 0


def test_a_lifted_file_folds_and_inserts(mixed: Path, tmp_path: Path, cli: Cli) -> None:
    lifted = tmp_path / "lifted.onnx"
    cli("lift", mixed, "-o", lifted)
    for command in ("fold", "insert"):
        assert cli(command, lifted, "-o", tmp_path / "out.onnx").code == 0
    assert all(site.status == "eligible" for site in make_plan(Model.open(lifted)).sites)


def test_nothing_to_lift_is_written_as_it_was(tmp_path: Path, cli: Cli) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(linear(([node("Mul", ["c.weight", "c"], ["w"])], {"c.weight": drawn(8, 6), "c": drawn(1)})), path)
    ended = cli("lift", path, "-o", out)
    assert ended.code == 0
    assert "computed in the graph" in ended.out + ended.err
    assert out.read_bytes() == path.read_bytes()
