"""The recorder of tests/golden/keras_*: its comparison, its environments, its table; and a recording made again."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.places import ROOT
from tools.golden_keras import __main__ as tool
from tools.golden_keras import environments, table
from tools.golden_keras.cases import CASES, GENERATIONS, LIVE, POWER_ITERATIONS, STEPS, cases_of
from tools.golden_keras.replay import Golden, load, replay

Arrays = dict[str, np.ndarray[Any, Any]]


def some_arrays() -> Arrays:
    return {
        "versions": np.array(["keras 2.15.0"]),
        "dense/kernel": np.array([[1.0, 2.0]], np.float32),
        "dense/onnx": np.array([1, 2, 3], np.uint8),
        "dense/k1/step10/kernel": np.array([[0.5, 4.0]], np.float32),
    }


def moved(key: str, by: float) -> Arrays:
    arrays = some_arrays()
    arrays[key] = (arrays[key] * (1 + by)).astype(arrays[key].dtype)
    return arrays


def test_equal_arrays_are_reported_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.report(some_arrays(), some_arrays(), "file") == 0
    assert capsys.readouterr().out == "file: 4 of 4 arrays come out bit for bit the same\n"


def test_rounding_of_another_processor_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.report(moved("dense/k1/step10/kernel", 1e-6), some_arrays(), "file") == 0
    assert "3 of 4 arrays" in (said := capsys.readouterr().out)
    assert "the others differ by at most 9." in said


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (moved("dense/k1/step10/kernel", 1e-4), "different: dense/k1/step10/kernel"),
        (moved("dense/kernel", 1e-6), "different: dense/kernel"),  # an input may not move at all
        (some_arrays() | {"dense/onnx": np.array([1, 2, 4], np.uint8)}, "different: dense/onnx"),
        (some_arrays() | {"dense/k1/step10/kernel": np.full((1, 2), np.nan, np.float32)}, "step10/kernel"),
        (some_arrays() | {"dense/k1/step10/kernel": np.ones(3, np.float32)}, "step10/kernel"),
        (some_arrays() | {"new": np.ones(1)}, "new only on one side"),
    ],
)
def test_what_is_not_reproduced_ends_with_1(made: Arrays, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.report(made, some_arrays(), "file") == 1
    assert named in capsys.readouterr().out


def test_every_layer_of_the_issue_is_a_case() -> None:
    kinds = {case.layer for case in CASES}
    convolutions = {f"Conv{rank}D{kind}" for rank in (1, 2, 3) for kind in ("", "Transpose")}
    assert kinds == convolutions | {"Dense", "DepthwiseConv2D", "Embedding", "EinsumDense"}
    assert {len(case.shape) for case in CASES if case.layer == "Dense"} == {2, 3, 4}
    given = {key for case in CASES for key in case.arguments} | {
        case.arguments["padding"] for case in CASES if "padding" in case.arguments
    }
    assert {"strides", "dilation_rate", "groups", "same", "causal"} <= given
    assert len({case.name for case in CASES}) == len(CASES)
    assert cases_of(LIVE) == CASES
    assert all(len(cases_of(generation)) == len(CASES) - 2 for generation in GENERATIONS)


def test_an_environment_is_built_once_and_again_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(
        "tools.golden_keras.environments.venv.create", lambda place, **_: place.mkdir(parents=True, exist_ok=True)
    )

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.golden_keras.environments.subprocess.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        environments.interpreter("2.21", tmp_path)
    monkeypatch.setattr("tools.golden_keras.environments.subprocess.run", lambda command, **_: ran.append(command))
    python = environments.interpreter("2.21", tmp_path)
    assert python.is_relative_to(tmp_path / "keras-2.21")
    assert [command[0] for command in ran] == [str(python)] * 2
    assert "tensorflow-cpu==2.21.0" in ran[0]
    assert "--no-deps" in ran[1]  # tf-keras would bring a second tensorflow
    environments.interpreter("2.21", tmp_path)
    assert len(ran) == 2


def test_flags_that_mean_nothing_together(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--generation", "2.15", "--table", "t.md"], ["--table", "t.md", "--check"]):
        with pytest.raises(SystemExit) as ended:
            tool.main(arguments)
        assert ended.value.code == 2
    assert "--check is of --generation" in capsys.readouterr().err


def test_the_table_goes_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        (case.name, calls, what): 3.2e-7 if what != "u" else 0.0
        for case in CASES
        for calls in STEPS
        for what in table.WHAT
    }
    monkeypatch.setattr(table, "live", lambda: found)
    monkeypatch.setattr(table, "recorded", lambda _: found | {("embedding", 1000, "kernel"): 4e-6})
    monkeypatch.setattr(table, "version", lambda _: "1.0")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nstale\n{table.END}\nafter\n", encoding="utf-8")
    table.write_table(page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{table.BEGIN}\n\nMeasured on ")
    assert text.endswith(f"\n{table.END}\nafter\n")
    assert "stale" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 * (len(CASES) - 2 + 2) + len(CASES) + 2
    assert "| embedding | 3e-07 | 3e-07 | 0 |" in text
    assert sum("| 4e-06 | 0 |" in row for row in rows) == 4  # the layer and the largest, in two tables
    table.write_table(page)
    assert page.read_text(encoding="utf-8") == text
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="does not hold"):
        table.write_table(page)


def test_what_is_recorded_is_what_the_table_takes() -> None:
    """One case in full, 1,000 calls: Keras's kernel drifts by no more than it was measured to."""
    case = next(case for case in CASES if case.name == "dense_2d")
    for generation in GENERATIONS:
        for iterations in POWER_ITERATIONS:
            steps = list(replay(load(generation), case, iterations))
            assert [step.step for step in steps] == list(STEPS)
            assert all(step.ok for step in steps)


RECORD = """
import sys
import numpy as np
from tools.golden_keras import record
from tools.golden_keras.cases import CASES
record.STEPS = (1, 10)
assert record.generation() == "2.21", record.generation()
case = next(case for case in CASES if case.name == sys.argv[1])
np.savez(sys.argv[2], **record.record(case))
"""


@pytest.mark.parametrize("name", ["conv2d_groups", "embedding"])
def test_a_recording_is_reproducible(name: str, tmp_path: Path) -> None:
    """Again with the tf_keras that is here; the whole of it is `--generation 2.21 --check`."""
    for package in ("tf_keras", "tensorflow", "tf2onnx"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install --no-deps tf-keras, beside the extra keras")
    made = tmp_path / "made.npz"
    variables = os.environ | environments.FIXED | environments.ENVIRONMENTS["2.21"].variables
    command = [sys.executable, "-W", "ignore", "-c", RECORD, name, str(made)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    arrays, kept = tool.read(made), load("2.21").arrays
    assert len(arrays) == 4 + 3 * 2 * 3
    if name == "conv2d_groups":
        # the model's bytes depend on the versions of onnx and tf2onnx, so what it computes is compared
        case = next(case for case in CASES if case.name == name)
        remade = Golden("2.21", {**kept, f"{name}/onnx": arrays[f"{name}/onnx"]})
        assert all(step.ok for step in replay(remade, case, 1, last=10))
    del arrays[f"{name}/onnx"]
    assert tool.report(arrays, {key: kept[key] for key in arrays}, name) == 0
