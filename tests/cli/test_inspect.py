"""`sn-graph inspect` and `sn-graph doctor`."""

from __future__ import annotations

import json
import os
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.cli.test_fold import check_types
from tests.support.command_line import Cli, one_line
from tests.support.oracle import sigma_max


def test_json(cli: Cli, model: Path) -> None:
    ended = cli("inspect", model, "--json")
    assert (ended.code, ended.err) == (0, "")
    content = ended.json
    check_types(content)
    assert (content["verified"], content["output"]) == (None, None)
    assert [site["status"] for site in content["sites"]] == ["eligible", "eligible", "skipped"]
    weight = numpy_helper.to_array(onnx.load(model).graph.initializer[0])
    assert content["sites"][0]["sigma"] == pytest.approx(sigma_max(weight.reshape(6, -1)), rel=1e-6)
    assert content["sites"][0]["sigma_used"] is None
    assert content["totals"] == {
        "sites": 3,
        "eligible": 2,
        "skipped": 1,
        "elements": sum(int(np.prod(site["shape"])) for site in content["sites"][:2]),
        "smallest_sigma": min(site["sigma"] for site in content["sites"][:2]),
        "largest_sigma": max(site["sigma"] for site in content["sites"][:2]),
    }
    assert os.listdir(model.parent) == ["model.onnx"]


def test_the_table_and_what_is_said_beside_it(cli: Cli, model: Path) -> None:
    ended = cli("inspect", model)
    assert len(ended.out.splitlines()) == 4
    assert "keras reads 6×16 with σ" in ended.out
    assert ended.err.splitlines() == [
        "2 of 3 weights can be normalized",
        "convention torch: weights are named like PyTorch's ('conv.weight')",
    ]


def test_names_that_look_like_markup_are_shown_as_they_are(cli: Cli, model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = "[red]é[/red]"
    onnx.save(proto, model)
    assert "[red]é[/red]" in cli("inspect", model).out
    assert cli("inspect", model, "--json").json["sites"][0]["id"] == "[red]é[/red]"


def test_a_model_without_weights(cli: Cli, model: Path) -> None:
    proto = onnx.load(model)
    del proto.graph.node[:]
    proto.graph.node.append(onnx.helper.make_node("Identity", ["x"], ["y"]))
    onnx.save(proto, model)
    ended = cli("inspect", model)
    assert (ended.code, ended.out) == (0, "")
    assert "0 of 0 weights" in ended.err
    assert cli("inspect", model, "--json").json["sites"] == []


def test_filters_narrow_the_plan(cli: Cli, model: Path) -> None:
    plan = model.with_name("plan.json")
    assert cli("inspect", model, "--exclude", "conv", "--plan", plan, "-q").err == ""
    assert [site["status"] for site in json.loads(plan.read_text())["sites"]] == ["skipped", "eligible", "skipped"]


def test_html(cli: Cli, model: Path) -> None:
    page = model.with_name("page.html")
    assert cli("inspect", model, "--html", page).code == 0
    content = page.read_text(encoding="utf-8")
    assert content.startswith("<!doctype html>")
    assert "conv.weight" in content


@pytest.mark.parametrize("flag", ["--plan", "--html"])
def test_a_place_that_cannot_be_written(flag: str, cli: Cli, model: Path) -> None:
    ended = cli("inspect", model, flag, model.with_name("nosuch") / "file")
    assert one_line(ended, 4)
    assert ended.out == ""


def test_doctor_tells_versions_and_providers(cli: Cli) -> None:
    ended = cli("doctor", "--json")
    assert ended.code == 0
    content = ended.json
    assert content.keys() == {"versions", "packages", "providers", "conflicts", "tools"}
    assert content["packages"]["onnx"] == onnx.__version__
    assert content["packages"]["numpy"] == np.__version__
    assert "cpu" in content["providers"]
    assert content["conflicts"] == []
    table = cli("doctor").out
    assert re.search(rf"^onnx +{re.escape(onnx.__version__)}", table, re.MULTILINE)


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Pretend that packages are there, or (None) not."""
    real = metadata.version

    def version(name: str) -> str:
        found = versions.get(name.replace("-", "_"), "real")
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return real(name) if found == "real" else found

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ({"onnxruntime_gpu": "1.31.1"}, "onnxruntime and onnxruntime-gpu are both installed"),
        ({"tensorflow": "2.21.0", "tensorflow_cpu": "2.21.0"}, "tensorflow and tensorflow-cpu are both installed"),
        ({"safetensors": None}, "safetensors is missing"),
    ],
)
def test_doctor_names_conflicts(
    packages: dict[str, str | None], said: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, **packages)
    ended = cli("doctor")
    assert said in one_line(ended, 4)
    assert "sn-graph" in ended.out
    assert said in cli("doctor", "--json").json["conflicts"][0]


def test_doctor_without_onnxruntime(program: Cli) -> None:
    before = "import sys; sys.modules['onnxruntime'] = None"
    hidden = "import importlib.metadata as m; v = m.version; m.version = lambda n: v('nosuch' if 'runtime' in n else n)"
    ended = program("doctor", before=f"{before}\n{hidden}")
    assert ended.code == 0
    assert "--no-verify" in ended.err
    broken = program("doctor", before=before)
    assert "can't be imported" in one_line_of(broken.err)
    assert broken.code == 4


def one_line_of(err: str) -> str:
    return next(line for line in err.splitlines() if line.startswith("sn-graph: error: "))


def test_what_kind_of_a_file_it_is(cli: Cli, out: Path) -> None:
    plain = Path(__file__).parents[2] / "models" / "keras_dcgan_discriminator.onnx"
    said = [" is inserted: ", "every weight has the norm", "normalized in the graph"]
    assert not any(sentence in cli("inspect", plain).err for sentence in said)
    assert cli("fold", plain, "-o", out, "--bound", 2).code == 0
    assert "every weight has the norm 2, as after fold\n" in cli("inspect", out).err
    assert cli("insert", plain, "-o", out).code == 0
    assert f"{out} is inserted: each run normalizes its weights" in cli("inspect", out).err
    held = plain.with_name("torch_sngan_spectral_norm.onnx")
    assert "7 weights are normalized in the graph" in cli("inspect", held).err


def test_a_name_that_an_exporter_made_up_stands_beside_its_node(cli: Cli, model: Path) -> None:
    proto = onnx.load(model)
    for tensor, new in (("conv.weight", "onnx::Conv_27"), ("up.weight", "val_3")):
        next(one for one in proto.graph.initializer if one.name == tensor).name = new
        next(one for one in proto.graph.node if tensor in one.input).input[1] = new
    onnx.save(proto, model)
    told = cli("inspect", model).out
    assert "onnx::Conv_27 ← /conv/Conv  " in told
    assert "val_3 ← /up/ConvTranspose  " in told
    assert cli("inspect", model, "--json").json["sites"][0]["id"] == "onnx::Conv_27"
