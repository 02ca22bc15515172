"""Temporary files of dead processes: removed by the next writer, and nothing else is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from sn_graph.model import Model, Storage, write_file
from sn_graph.model.temporary import collect, identity, note_of, temporary_path
from tests.model.test_files import names, save, value_of, weights_model
from tests.support.places import ROOT

KILLS = """
import os, shutil, signal, sys
from pathlib import Path
from sn_graph.model import Storage
from tests.model.test_files import names, save, value_of

folder, storage = Path(sys.argv[1]), Storage(sys.argv[2])
path = folder / "out.onnx"

def kill_at(call, turn):
    real = getattr(os, call)
    def deadly(*arguments, **named):
        nonlocal turn
        turn -= 1
        if turn < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    setattr(os, call, deadly)

for call in ("link", "unlink", "replace", "fsync", "open", "chmod", "lstat"):
    turn = 0
    while True:
        save(path, 1.0, storage)
        whole = len(names(folder))
        child = os.fork()
        if not child:
            kill_at(call, turn)
            save(path, 2.0, storage)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert value_of(path) in (1.0, 2.0)
        save(path, 3.0, storage)
        assert (value_of(path), len(names(folder))) == (3.0, whole), (call, turn, names(folder))
        if os.WIFEXITED(status):
            break
        turn += 1
    print(call, turn)
"""


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_a_kill_at_any_call_leaves_a_whole_model_and_nothing_after_the_next_save(
    tmp_path: Path, storage: Storage
) -> None:
    folder = tmp_path / "apart" / "alone"  # each save looks at what stands beside its folder and above
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", KILLS, str(folder), storage.value]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    kills = {call: int(turns) for call, turns in map(str.split, done.stdout.splitlines())}
    assert kills["replace"] == 1
    assert kills["fsync"] >= 3
    assert kills["unlink"] >= (storage is Storage.EXTERNAL)


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def renamed(path: Path, **parts: str) -> Path:
    """The same temporary name with another process, start or host."""
    match = re.fullmatch(
        r"(\.sn-graph\.)(?P<pid>\d+)-(?P<start>\d+)-(?P<host>[0-9a-f]{8})(\.[0-9a-f]{8}\.tmp)", path.name
    )
    assert match is not None
    pid, start, host = (parts.get(name, match[name]) for name in ("pid", "start", "host"))
    return path.with_name(f"{match[1]}{pid}-{start}-{host}{match[5]}")


def test_only_temporary_files_of_dead_processes_of_this_host_go(tmp_path: Path) -> None:
    dead = str(dead_process())
    here = temporary_path(tmp_path)
    kept = [
        here,
        renamed(temporary_path(tmp_path), pid="1", start="0"),
        renamed(temporary_path(tmp_path), pid=dead, host="0" * 8),
        tmp_path / f".sn-graph.{dead}.tmp",
        tmp_path / f"{renamed(temporary_path(tmp_path), pid=dead).name}.bak",
        tmp_path / "mine.tmp",
    ]
    gone = [renamed(temporary_path(tmp_path), pid=dead), renamed(temporary_path(tmp_path), start="1")]
    for path in kept + gone:
        path.write_text("x")
    (folder := renamed(temporary_path(tmp_path), pid=dead)).mkdir()
    (link := renamed(temporary_path(tmp_path), pid=dead)).symlink_to("mine.tmp")
    write_file(tmp_path / "plan.json", b"{}")
    assert set(tmp_path.iterdir()) == {*kept, folder, link, tmp_path / "plan.json"}


def test_a_note_of_a_dead_process_removes_unused_data_files_alone(tmp_path: Path) -> None:
    for name in ("unused.data", "used.data", "other.data", "thesis.docx", "twice.data"):
        (tmp_path / name).write_bytes(b"w" * 4000)
    proto = weights_model(1.0, 1)
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], "used.data", 0, 4000)
    proto.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "twice").hardlink_to(tmp_path / "twice.data")
    named = [(path.name, identity(path)) for path in tmp_path.iterdir() if path.name != "other.data"]
    named += [("other.data", (0, 1)), ("../x.data", (1, 1)), ("absent.data", (1, 1))]
    note = renamed(temporary_path(tmp_path), pid=str(dead_process()))
    note.write_bytes(note_of(named) + b"1 x torn")
    collect(tmp_path)
    assert names(tmp_path) == {"used.data", "other.data", "thesis.docx", "twice.data", "twice", "m.onnx"}


def test_a_folder_that_is_not_there_is_no_matter(tmp_path: Path) -> None:
    collect(tmp_path / "absent")
    collect(Path(os.devnull))


def test_the_next_save_sees_to_what_a_killed_one_left_in_memory_of_the_input(tmp_path: Path) -> None:
    """The input itself may be the output, with its data file named like our own."""
    path = tmp_path / "m.onnx"
    save(path, 1.0)
    model = Model.open(path)
    for tensor in model.proto.graph.initializer:
        model.scale(tensor, 3.0)
    model.save(path)
    assert value_of(path) == 3.0
    assert len(names(tmp_path)) == 2
    assert numpy_helper.to_array(onnx.load(path).graph.initializer[0]).shape == (1000,)
