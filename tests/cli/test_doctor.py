"""`sn-graph doctor`: versions, providers, conflicts, and what tools do to a state."""

from __future__ import annotations

from importlib import metadata

import pytest

from sn_graph.cli import doctor
from sn_graph.proofs import TOOLS
from tests.support.command_line import Cli


def test_json(cli: Cli) -> None:
    ended = cli("doctor", "--json")
    assert ended.code == 0
    content = ended.json
    assert content["packages"]["onnx"] == metadata.version("onnx")
    assert "cpu" in content["providers"]
    assert content["conflicts"] == []
    tools = {tool["name"]: tool for tool in content["tools"]}
    assert list(tools) == [tool.name for tool in TOOLS]
    surgeon = tools["onnx-graphsurgeon, import and export"]
    assert (surgeon["default"], surgeon["required"]) == ("frozen", "alive")
    assert surgeon["version"] == metadata.version("onnx-graphsurgeon")
    assert tools["onnxruntime-node"]["version"] is None


def test_the_tables(cli: Cli) -> None:
    ended = cli("doctor")
    assert (ended.code, ended.err) == (0, "")
    packages, tools = ended.out.split("\n\n")
    assert packages.splitlines()[-1].split()[0] == "providers"
    rows = {line[: line.index("  ")]: line.split()[-2:] for line in tools.splitlines()[1:]}
    assert rows == {tool.name: [tool.default, tool.required] for tool in TOOLS}
    assert " npm " in next(line for line in tools.splitlines() if line.startswith("onnxruntime-web"))


def test_a_conflict_ends_with_4(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "scipy" else "1.0")
    ended = cli("doctor", "--json")
    assert ended.code == 4
    assert "scipy is missing" in ended.err
    assert "onnxruntime and onnxruntime-gpu are both installed" in ended.err
    assert len(ended.json["conflicts"]) == 3
