"""What the models are run on to verify what is written: sizes of dynamic dimensions, and inputs of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.builders import drawn, network, node, saved
from tests.support.command_line import Cli, one_line

COMMANDS = [["fold"], ["insert"], ["run", "fold"]]


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A convolution that needs more than the two rows that a dynamic height has by itself."""
    proto = network([node("Conv", ["x", "w"])], {"w": drawn(4, 3, 7, 7)}, {"x": ["batch", 3, "height", "width"]})
    return saved(proto, tmp_path / "model.onnx")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_model_runs_at_the_sizes_given(command: list[str], cli: Cli, wide: Path) -> None:
    out = wide.with_name("out.onnx")
    found = cli(*command, wide, "-o", out, "--json")
    assert found.json["verified"] == "run"
    assert "sizes that fit the weights: x [" in found.err
    sizes = ["--dim", "height=9", "--dim", "width=8"]
    given = cli(*command, wide, "-o", out, *sizes, "--json")
    assert given.json["verified"] == "run"
    assert "sizes that fit" not in given.err
    wrong = cli(*command, wide, "-o", out, "--dim", "nosuch=3")
    assert wrong.code == 2
    assert "no input of the model has a dynamic dimension 'nosuch'" in wrong.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_model_runs_on_the_inputs_given(command: list[str], cli: Cli, wide: Path) -> None:
    out, inputs = wide.with_name("out.onnx"), wide.with_name("inputs.npz")
    np.savez(inputs, x=np.ones((1, 3, 9, 9), np.float32))
    assert cli(*command, wide, "-o", out, "--inputs", inputs, "--json").json["verified"] == "run"
    out.unlink()
    np.savez(inputs, z=np.ones(3, np.float32))
    assert "lacks the input 'x'" in one_line(cli(*command, wide, "-o", out, "--inputs", inputs), 3)
    assert not out.exists()
