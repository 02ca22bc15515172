"""Dask: the same runs by the workers of a cluster, of which one is killed: nothing is lost, nothing there twice."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sn_graph.errors import EnvironmentUnavailable
from sn_graph.fleet import find_inputs, run_many
from tests.fleet.works import Counting, Letters

distributed = pytest.importorskip("distributed", reason="distributed is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of distributed's own processes and sockets


@pytest.fixture
def cluster() -> Iterator[Any]:
    with (
        contextlib.redirect_stderr(None),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as made,
    ):
        yield made


@pytest.fixture
def work(tmp_path: Path) -> Counting:
    (tmp_path / "notes").mkdir()
    (tmp_path / "models").mkdir()
    return Counting(tmp_path / "notes")


def test_a_worker_that_is_killed_loses_nothing(cluster: Any, work: Counting, tmp_path: Path) -> None:
    for number in range(16):
        (tmp_path / f"models/m{number:02}.onnx").write_text("x" * (number + 1))
    for number in range(3):
        (tmp_path / f"models/broken{number}.onnx").write_text("broken")
    ledger, out = tmp_path / "l.jsonl", tmp_path / "out"
    slow = Counting(work.notes, seconds=0.2)
    victim: list[int] = []

    def kill() -> None:
        while not ledger.exists() or len(ledger.read_bytes().splitlines()) < 5:
            time.sleep(0.02)
        victim.append(next(iter(cluster.workers.values())).pid)
        os.kill(victim[0], signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    inputs = find_inputs([str(tmp_path / "models")], [".onnx"], str(out))
    outcomes = run_many(slow, inputs, dask=cluster.scheduler_address, jsonl=ledger)
    killing.join()
    assert victim
    codes = sorted(outcome.exit_code for outcome in outcomes)
    assert codes == [0] * 16 + [3] * 3
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert sorted(line["input"] for line in lines) == sorted(str(each) for each in (tmp_path / "models").iterdir())
    assert sorted(path.name for path in out.iterdir()) == [f"m{number:02}.onnx" for number in range(16)]
    again = run_many(slow, inputs, dask=cluster.scheduler_address, jsonl=ledger)
    assert all(outcome.reused for outcome in again)
    assert len(ledger.read_text().splitlines()) == 19


def test_paths_are_relative_to_this_process(
    cluster: Any, work: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models/a.onnx").write_text("xy")
    monkeypatch.chdir(tmp_path)  # the workers stay where they were started
    (outcome,) = run_many(work, find_inputs(["models"], [".onnx"], "out"), dask=cluster.scheduler_address)
    assert (outcome.line["input"], outcome.line["output"]) == ("models/a.onnx", "out/a.onnx")
    assert (tmp_path / "out/a.onnx").read_text() == "2"


def test_files_are_divided_among_workers(cluster: Any, work: Counting, tmp_path: Path) -> None:
    (tmp_path / "models/a.onnx").write_text("zyxwvuabc")
    (tmp_path / "models/b.onnx").write_text("xy")
    inputs = find_inputs([str(tmp_path / "models")], [".onnx"])
    whole, small = run_many(Letters(work.notes), inputs, dask=cluster.scheduler_address)
    assert whole.line["letters"] == "zyxwvuabc"
    assert whole.line["sha256"] is not None
    assert small.line["length"] == 2


def test_a_cluster_that_is_not_there_is_said_to_be(work: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sn_graph.fleet.dask._PATIENCE", "500ms")
    with pytest.raises(EnvironmentUnavailable, match=r"the Dask scheduler tcp://127\.0\.0\.1:9 can't be reached"):
        run_many(work, [], dask="tcp://127.0.0.1:9")
