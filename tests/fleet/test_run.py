"""Runs: each file done once, whoever dies; one line a file; resumed where a run was stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sn_graph.errors import EnvironmentUnavailable, UsageError
from sn_graph.fleet import Input, Outcome, find_inputs, run_many
from tests.fleet.works import Counting, Letters
from tests.support.places import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    return made


@pytest.fixture
def work(tmp_path: Path) -> Counting:
    notes = tmp_path / "notes"
    notes.mkdir()
    return Counting(notes)


def fill(folder: Path, count: int, **special: str) -> None:
    for number in range(count):
        (folder / f"m{number:03}.onnx").write_text("x" * (number + 1))
    for name, content in special.items():
        (folder / f"{name}.onnx").write_text(content)


def inputs_of(folder: Path, output: Path | None = None) -> list[Input]:
    return find_inputs([str(folder)], [".onnx"], None if output is None else str(output))


def by_name(outcomes: list[Outcome]) -> dict[str, Any]:
    return {Path(outcome.line["input"]).stem: outcome for outcome in outcomes}


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_file_is_done_once_and_what_fails_stops_nothing(
    jobs: int, folder: Path, work: Counting, tmp_path: Path
) -> None:
    fill(folder, 6, bad="broken", fault="raise")
    seen: list[tuple[int, int]] = []
    outcomes = run_many(
        work,
        inputs_of(folder, tmp_path / "out"),
        jobs=jobs,
        progress=lambda _task, done, total: seen.append((done, total)),
    )
    found = by_name(outcomes)
    assert [outcome.line["input"] for outcome in outcomes] == sorted(outcome.line["input"] for outcome in outcomes)
    assert {name: outcome.exit_code for name, outcome in found.items() if outcome.exit_code} == {"bad": 3, "fault": 70}
    assert "a fault of ours" in found["fault"].line["error"]["what"]
    assert all(work.times(path.name) == 1 for path in folder.iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"m{number:03}.onnx" for number in range(6)]
    assert (tmp_path / "out/m004.onnx").read_text() == "5"
    assert found["m004"].line["blas"] == "1"
    assert found["m004"].line["output"] == str(tmp_path / "out/m004.onnx")
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_environment_of_this_process_stays(folder: Path, work: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    fill(folder, 1)
    run_many(work, inputs_of(folder))
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_process_that_dies_is_replaced_and_its_file_done_again(folder: Path, work: Counting) -> None:
    fill(folder, 4, once="kill 1", always="kill 9")
    found = by_name(run_many(work, inputs_of(folder), jobs=2))
    assert found["once"].exit_code == 0
    assert work.times("once.onnx") == 2
    assert found["always"].exit_code == 4
    assert "SIGKILL" in found["always"].line["error"]["what"]
    assert work.times("always.onnx") == 2
    assert [found[f"m{number:03}"].exit_code for number in range(4)] == [0] * 4
    assert all(work.times(f"m{number:03}.onnx") == 1 for number in range(4))


def test_lines_say_what_was_done_of_which_file(folder: Path, work: Counting, tmp_path: Path) -> None:
    fill(folder, 2, bad="broken")
    run_many(work, inputs_of(folder), jsonl=tmp_path / "l.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert {line["input"] for line in lines} == {str(path) for path in folder.iterdir()}
    for line in lines:
        path = Path(line["input"])
        digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
        assert line["sha256"] == digest
        assert line["command"] == "count"
        assert line["options"] == {}
        assert line["seconds"] >= 0.0
        assert line["model"] == line["input"]
        if path.stem == "bad":
            assert line["error"] == {
                "what": f"{path} is broken",
                "why": "because it says so",
                "do": "mend it",
                "exit_code": 3,
            }
        else:
            assert line["error"] is None


def test_what_is_there_is_not_done_again(folder: Path, work: Counting, tmp_path: Path) -> None:
    fill(folder, 3, bad="broken", fault="raise")
    ledger, out = tmp_path / "l.jsonl", tmp_path / "out"
    run_many(work, inputs_of(folder, out), jsonl=ledger)
    (folder / "m001.onnx").write_text("changed")
    (folder / "new.onnx").write_text("new")
    (out / "m002.onnx").unlink()
    found = by_name(run_many(work, inputs_of(folder, out), jsonl=ledger))
    assert {name for name, outcome in found.items() if outcome.reused} == {"m000", "bad"}
    assert found["bad"].exit_code == 3  # which counts as it did
    times = {path.stem: work.times(path.name) for path in folder.iterdir()}
    assert times == {"m000": 1, "m001": 2, "m002": 2, "bad": 1, "fault": 2, "new": 1}  # a fault of ours may be mended
    assert (out / "m001.onnx").read_text() == "7"
    assert len(ledger.read_text().splitlines()) == 9


def test_other_options_are_other_work(folder: Path, work: Counting, tmp_path: Path) -> None:
    fill(folder, 1)
    for options in ({"a": 1}, {"a": 2}, {"a": 1}, {"a": (1, 2)}, {"a": [1, 2]}):
        run_many(Counting(work.notes, options=options), inputs_of(folder), jsonl=tmp_path / "l.jsonl")
    assert work.times("m000.onnx") == 3


def test_what_a_kill_cut_off_is_taken_away(folder: Path, work: Counting, tmp_path: Path) -> None:
    fill(folder, 2)
    ledger = tmp_path / "l.jsonl"
    run_many(work, inputs_of(folder), jsonl=ledger)
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-20])
    run_many(work, inputs_of(folder), jsonl=ledger)
    assert [json.loads(line)["input"] for line in ledger.read_text().splitlines()].count(str(folder / "m000.onnx")) == 1
    assert sorted(work.times(path.name) for path in folder.iterdir()) == [1, 2]


@pytest.mark.parametrize("content", [b"not json\n", b"[1]\n", b'{"a": 1}\n', b"some text without an end", b"\xff\n"])
def test_a_file_of_something_else_is_not_appended_to(
    content: bytes, folder: Path, work: Counting, tmp_path: Path
) -> None:
    fill(folder, 1)
    (tmp_path / "l.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=r"l\.jsonl is not a list of results"):
        run_many(work, inputs_of(folder), jsonl=tmp_path / "l.jsonl")
    assert (tmp_path / "l.jsonl").read_bytes() == content
    assert work.times("m000.onnx") == 0


def test_two_runs_do_not_write_to_one_file(folder: Path, work: Counting, tmp_path: Path) -> None:
    from sn_graph.fleet import Ledger

    fill(folder, 1)
    with Ledger(tmp_path / "l.jsonl"), pytest.raises(EnvironmentUnavailable, match="another run writes to it"):
        run_many(work, inputs_of(folder), jsonl=tmp_path / "l.jsonl")


def test_a_file_that_is_missing_is_told_of(work: Counting, tmp_path: Path) -> None:
    inputs = find_inputs([str(tmp_path / "gone.onnx"), str(tmp_path / "none*.onnx")], [".onnx"])
    for _ in range(2):
        outcomes = run_many(work, inputs, jsonl=tmp_path / "l.jsonl")
        assert [outcome.exit_code for outcome in outcomes] == [3, 3]
    assert outcomes[0].line["sha256"] is None
    assert len((tmp_path / "l.jsonl").read_text().splitlines()) == 2
    (tmp_path / "gone.onnx").write_text("x")
    assert (
        run_many(work, find_inputs([str(tmp_path / "gone.onnx")], [".onnx"]), jsonl=tmp_path / "l.jsonl")[0].exit_code
        == 0
    )


def test_files_are_divided_among_processes(folder: Path, work: Counting, tmp_path: Path) -> None:
    (folder / "a.onnx").write_text("zyxwvuabc")
    (folder / "b.onnx").write_text("xy")
    (folder / "c.onnx").write_text("ab!cd")
    letters = Letters(work.notes)
    ledger = tmp_path / "l.jsonl"
    found = by_name(run_many(letters, inputs_of(folder), jobs=2, jsonl=ledger))
    assert found["a"].line["letters"] == "zyxwvuabc"
    assert found["b"].line["length"] == 2
    assert found["c"].exit_code == 3
    assert found["a"].line["sha256"] is not None
    again = run_many(letters, inputs_of(folder), jobs=2, jsonl=ledger)
    assert [outcome.reused for outcome in again] == [True, True, True]


RUN = """
import signal
import sys
from pathlib import Path
from sn_graph.fleet import find_inputs, run_many
from tests.fleet.works import Counting

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
    folder, notes, out, ledger, jobs, seconds = sys.argv[1:]
    run_many(
        Counting(Path(notes), float(seconds)),
        find_inputs([folder], [".onnx"], out),
        jobs=int(jobs),
        jsonl=Path(ledger),
    )
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_that_was_killed_goes_on_where_it_was(
    number: signal.Signals, folder: Path, work: Counting, tmp_path: Path
) -> None:
    fill(folder, 12)
    ledger, out = tmp_path / "l.jsonl", tmp_path / "out"
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(folder), str(work.notes), str(out), str(ledger), "2", "0.2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as running:
        while not ledger.exists() or len(ledger.read_bytes().splitlines()) < 4:
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(number)
        running.wait()
    pids = {int(pid) for note in work.notes.iterdir() for pid in note.read_text().split()}
    until = time.monotonic() + 10.0
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "a process outlived the run"
    done = [json.loads(line)["input"] for line in ledger.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 4 <= len(done) < 12
    before = {path.name: work.times(path.name) for path in folder.iterdir()}
    subprocess.run([*command[:-1], "0"], env=environment, check=True)
    lines = [json.loads(line)["input"] for line in ledger.read_text().splitlines()]
    assert sorted(lines) == sorted(str(path) for path in folder.iterdir())
    for path in folder.iterdir():
        again = work.times(path.name) - before[path.name]
        assert again == (0 if str(path) in done else 1)
    assert len(list(out.iterdir())) == 12
