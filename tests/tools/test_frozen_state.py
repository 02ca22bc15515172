"""The tools that are installed here do to a state what the package and the record say of them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from sn_graph.choices import StateLayoutChoice
from sn_graph.proofs import TOOLS, Tool, verify_state
from tests.support.places import ROOT
from tools import frozen_state


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_what_a_tool_does_is_what_is_said_of_it(tool: Tool) -> None:
    if frozen_state.version(tool, ROOT) is None:
        pytest.skip(f"{tool.package} is not installed")
    found = frozen_state.measure(ROOT, [tool.name])
    for outcome in found[tool.name].values():
        if outcome.word == "absent":
            pytest.skip(outcome.detail)
    assert frozen_state.disagreements(found) == []


def test_the_record_says_the_same() -> None:
    text = (ROOT / "docs" / "frozen-state.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    recorded = {row[0]: (row[1], row[2].split()[0], row[3].split()[0]) for row in rows[1:]}
    assert recorded == {tool.name: (tool.tested, tool.default, tool.required) for tool in TOOLS}


def test_every_tool_has_a_way() -> None:
    assert list(frozen_state.ways(ROOT)) == [tool.name for tool in TOOLS]


@pytest.mark.parametrize("layout", frozen_state.LAYOUTS)
def test_the_tool_and_verify_agree_on_a_model_frozen_by_hand(layout: StateLayoutChoice, tmp_path: Path) -> None:
    path = frozen_state.make_models(tmp_path)["default", layout]
    assert frozen_state.judge(frozen_state.run_onnxruntime, path).word == "alive"
    assert verify_state(path).ok
    proto, frozen = onnx.load(path), tmp_path / "frozen.onnx"
    proto.graph.input.remove(proto.graph.input[-1])
    onnx.save(proto, frozen)
    found = frozen_state.judge(lambda _, feeds: frozen_state.run_onnxruntime(frozen, feeds), path)
    assert found.word == "frozen"
    assert found.detail.endswith("no input any more")
    assert not verify_state(frozen).ok


def test_disagreements_are_found_and_absent_tools_are_said() -> None:
    outcome = frozen_state.Outcome
    found = {tool.name: {mode: outcome(getattr(tool, mode)) for mode in frozen_state.MODES} for tool in TOOLS}
    assert frozen_state.disagreements(found) == []
    found["onnxslim"] = {"default": outcome("alive"), "required": outcome("absent")}
    assert frozen_state.disagreements(found) == ["onnxslim, default: TOOLS says frozen, found alive"]
    text = frozen_state.render(found, ROOT / "nowhere", "the command")
    assert "| onnxruntime-web | not installed | frozen | alive |  |" in text
    assert "`the command`" in text


def test_the_worse_layout_counts() -> None:
    outcome = frozen_state.Outcome
    alive, frozen = outcome("alive", "", 0.0), outcome("frozen", "gone")
    assert frozen_state.worse(alive, frozen) == outcome("frozen", "only per-weight: gone")
    assert frozen_state.worse(frozen, alive) == outcome("frozen", "only packed: gone")
    assert frozen_state.worse(alive, alive) == alive
