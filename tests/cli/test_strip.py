"""`sn-graph strip`: the model before insert, byte for byte, or one line that says why not."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from tests.support.command_line import Cli, one_line


@pytest.fixture
def inserted(cli: Cli, model: Path) -> Path:
    path = model.with_name("sn.onnx")
    onnx.save(onnx.load(model), model)
    assert cli("insert", model, "-o", path).code == 0
    return path


def test_strip_gives_the_model_back(cli: Cli, model: Path, inserted: Path) -> None:
    out = model.with_name("back.onnx")
    ended = cli("strip", inserted, "-o", out)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"took the insertion out of {inserted} into {out}\n"
    assert onnx.load(out) == onnx.load(model)
    assert cli("strip", inserted, "-o", out, "--quiet").err == ""


def test_strip_in_place_and_to_other_storage(cli: Cli, model: Path, inserted: Path) -> None:
    proto = onnx.load(model)
    external = model.with_name("e.onnx")
    assert cli("strip", inserted, "-o", external, "--save-as-external-data").code == 0
    assert onnx.load(external).graph.node == proto.graph.node
    assert cli("strip", inserted, "-o", inserted).code == 0
    assert onnx.load(inserted) == proto
    assert "nothing that insert wrote" in one_line(cli("strip", inserted, "-o", inserted), 3)


def test_what_cannot_be_stripped_ends_with_3_and_writes_nothing(cli: Cli, model: Path, inserted: Path) -> None:
    out = model.with_name("out.onnx")
    assert "nothing that insert wrote" in one_line(cli("strip", model, "-o", out), 3)
    proto = onnx.load(inserted)
    del proto.graph.node[-1]
    onnx.save(proto, inserted)
    assert "changed by another tool" in one_line(cli("strip", inserted, "-o", out), 3)
    proto.metadata_props[0].value = "{"
    onnx.save(proto, inserted)
    assert "damaged metadata" in one_line(cli("strip", inserted, "-o", out), 3)
    assert one_line(cli("strip", model.with_name("nosuch"), "-o", out), 3)
    assert sorted(os.listdir(model.parent)) == ["model.onnx", "sn.onnx"]


def test_a_place_that_cannot_be_written_ends_with_4(cli: Cli, inserted: Path) -> None:
    assert "choose another place" in one_line(cli("strip", inserted, "-o", inserted.parent / "nosuch" / "out.onnx"), 4)


def test_help_teaches(cli: Cli) -> None:
    text = " ".join(cli("strip", "--help").out.split())
    assert "sn-graph strip disc.sn.onnx -o disc.onnx" in text
    assert "another tool" in text
