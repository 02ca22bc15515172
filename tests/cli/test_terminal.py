"""What a person sees: on a pseudo-terminal of 80 columns, tables that fit it, and progress on long work."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

MAIN = "from sn_graph.cli import main; main()"
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments: object, before: str = "", columns: int = 80) -> tuple[int, str, str]:
    """Exit code, what a terminal shows, and the same with its control sequences."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", f"{before}\n{MAIN}", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    content = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        content += chunk
    os.close(ours)
    raw = content.decode("utf-8").replace("\r\n", "\n")
    return process.wait(), STYLE.sub("", raw), raw


@pytest.fixture
def long_names(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    name = "discriminator_1/spectral_normalization_3/conv2d_transpose_3/conv_transpose/ReadVariableOp:0"
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", name], ["a"]), helper.make_node("Conv", ["a", "raw"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 128, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(rng.standard_normal((128, 64, 4, 4)).astype(np.float32), name),
            numpy_helper.from_array(np.zeros((2, 64, 1, 1), np.float32), "raw"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(columns: int, long_names: Path) -> None:
    code, shown, _ = on_terminal("inspect", long_names, columns=columns)
    assert code == 0
    lines = shown.partition("2 of 2 weights")[0].splitlines()
    assert max(map(len, lines)) <= columns
    header = next(line for line in lines if "weight" in line)
    steps = ["1", "step"] if columns > 80 else []  # columns that a narrow terminal has no room for
    others = ["stable", "rank", "σ·√(in/out)"] if columns > 80 else []
    assert header.split() == ["weight", "op", "shape", "matrix", "σ", *steps, *others, "status"]
    assert "128×64×4×4" in shown
    assert "ConvTranspose" in shown
    assert "as torch" in shown  # the other reading has a row of its own
    assert "2 of 2 weights can be normalized" in shown
    name = "".join(line[1:].split("  ")[0].strip() for line in lines)
    assert "discriminator_1/spectral_normalization_3/conv2d_transpose_3/conv_transpose/ReadVariableOp:0" in name


def test_remarks_stand_below_the_table(long_names: Path) -> None:
    _, shown, _ = on_terminal("fold", long_names, "-o", long_names.with_name("o.onnx"))
    assert "raw: all zeros: no spectral norm to divide by" in " ".join(shown.split())
    assert "1 folded, 1 unchanged" in shown


def test_power_has_its_own_column(long_names: Path) -> None:
    _, shown, _ = on_terminal("fold", long_names, "-o", long_names.with_name("o.onnx"), "--sigma", "power")
    assert "σ used" in shown


def test_verify_fits_the_terminal(long_names: Path) -> None:
    code, shown, _ = on_terminal("verify", long_names)
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 80 or len(str(long_names)) > 60
    assert "a:" in shown
    assert "yes" in shown


SLOW = """
import time, importlib
m = importlib.import_module("sn_graph.norms.inspect")  # the face has a function of that name
exact = m.exact_triplet
def slow(*arguments):
    time.sleep(0.8)
    return exact(*arguments)
m.exact_triplet = slow
"""


def test_progress_shows_after_a_second_and_goes(long_names: Path) -> None:
    _, shown, raw = on_terminal("inspect", long_names, before=SLOW)
    assert "measuring" in shown
    assert raw.count("\x1b[?25l") == raw.count("\x1b[?25h") == 1  # the cursor comes back
    _, shown, _ = on_terminal("inspect", long_names)
    assert "measuring" not in shown
    _, shown, _ = on_terminal("inspect", long_names, "--quiet", before=SLOW)
    assert "measuring" not in shown


def test_json_stays_json(long_names: Path) -> None:
    _, _, raw = on_terminal("inspect", long_names, "--json")
    assert "\x1b" not in raw
