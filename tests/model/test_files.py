"""Putting files in place: the old model or the new one at any moment, and nothing left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sn_graph.errors import EnvironmentUnavailable
from sn_graph.model import Model, Storage, write_file
from sn_graph.model.files import StagedFiles


def weights_model(value: float, count: int = 2, size: int = 1000) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.full((size,), value, np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("Add", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, [size]) for i in (0, count)]
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights))


def save(path: Path, value: float, storage: Storage = Storage.EXTERNAL) -> None:
    Model.open(weights_model(value)).save(path, storage)


def value_of(path: Path) -> float:
    """The one value of all weights, as onnx loads them."""
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    (value,) = {float(v) for array in arrays for v in (array.min(), array.max())}
    return value


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_an_output_is_replaced_never_appended_to(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "out.onnx"
    sizes = set()
    for value in (1.0, 2.0, 3.0):
        save(path, value, storage)
        assert value_of(path) == value
        sizes.add(max(file.stat().st_size for file in tmp_path.iterdir()))
        assert len(names(tmp_path)) == (1 if storage is Storage.INLINE else 2)
    assert len(sizes) == 1


def test_a_data_file_gets_a_name_that_is_free(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    (tmp_path / "out.onnx.data").write_text("mine")
    save(path, 1.0)
    (data,) = names(tmp_path) - {"out.onnx", "out.onnx.data"}
    assert len(data.removeprefix("out.onnx.").removesuffix(".data")) == 8
    assert int(data.split(".")[2], 16) >= 0
    assert (tmp_path / "out.onnx.data").read_text() == "mine"
    assert value_of(path) == 1.0


def test_a_dangling_link_takes_a_name_too(tmp_path: Path) -> None:
    (tmp_path / "out.onnx.data").symlink_to("nowhere")
    save(tmp_path / "out.onnx", 1.0)
    assert value_of(tmp_path / "out.onnx") == 1.0
    assert "nowhere" not in names(tmp_path)


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_the_data_file_of_the_replaced_model_goes(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0)
    save(path, 2.0, storage)
    left = names(tmp_path) - {"out.onnx"}
    assert "out.onnx.data" not in left
    assert len(left) == (storage is Storage.EXTERNAL)


def test_a_data_file_that_another_model_uses_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "out.onnx", tmp_path / "other.onnx"
    save(path, 1.0)
    other.write_bytes(path.read_bytes())
    save(path, 2.0)
    assert value_of(other) == 1.0
    assert value_of(path) == 2.0
    assert "out.onnx.data" in names(tmp_path)


def test_a_file_outside_the_folder_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    outside = tmp_path / "data"
    outside.write_bytes(bytes(4000))
    path = tmp_path / "model" / "out.onnx"
    proto = weights_model(1.0)
    for tensor, location in zip(proto.graph.initializer, ("../data", "a\0b"), strict=True):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    path.write_bytes(proto.SerializeToString())
    save(path, 2.0, Storage.INLINE)
    assert outside.exists()


def test_neighbours_that_are_no_models_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0)
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    save(path, 2.0, Storage.INLINE)
    assert names(tmp_path) == {"out.onnx", "notes.txt", "folder", "pipe", "dangling"}


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_a_staged_model_loads_from_where_it_is_and_vanishes_if_dropped(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0)
    before = names(tmp_path)
    with Model.open(weights_model(2.0)).stage(path, storage) as staged:
        assert value_of(staged.model) == 2.0
        assert value_of(path) == 1.0
    assert names(tmp_path) == before
    assert value_of(path) == 1.0


def test_permissions_are_those_of_the_replaced_model(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0)
    path.chmod(0o600)
    save(path, 2.0)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
@pytest.mark.parametrize("parent", ["absent", "file"])
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, parent: str, storage: Storage) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EnvironmentUnavailable, match=r"out\.onnx can't be written: .*; choose another place"):
        save(tmp_path / parent / "out.onnx", 1.0, storage)
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("target", ["/", "", "..", "folder"])
def test_a_folder_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(EnvironmentUnavailable, match="it is a folder"):
        save(Path(target), 1.0)
    assert names(tmp_path) == {"folder"}


def test_a_full_disk_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EnvironmentUnavailable, match="No space left on device"):
        save(path, 2.0)
    assert value_of(path) == 1.0
    assert names(tmp_path) == {"out.onnx", "out.onnx.data"}


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
@pytest.mark.parametrize("tick", range(4))
def test_an_interrupted_save_leaves_nothing(tmp_path: Path, storage: Storage, tick: int) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0)
    seen = []

    def interrupt(_: str, done: int, total: int) -> None:
        seen.append(done / total)
        if len(seen) > tick:
            raise KeyboardInterrupt

    model = Model.open(weights_model(2.0, size=3 << 20))
    for tensor in model.proto.graph.initializer:
        model.scale(tensor, 2.0)
    with pytest.raises(KeyboardInterrupt):
        model.save(path, storage, progress=interrupt)
    assert names(tmp_path) == {"out.onnx", "out.onnx.data"}
    assert value_of(path) == 1.0
    assert 0 < seen[-1] < 1


@pytest.mark.parametrize("behind", [False, True])
def test_an_interrupt_around_the_last_rename_leaves_a_whole_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0)
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if behind:
            replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr("sn_graph.model.files.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(path, 2.0)
    assert value_of(path) == (2.0 if behind else 1.0)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_a_model_file_that_cannot_be_made_leaves_no_data_file(tmp_path: Path) -> None:
    with StagedFiles(tmp_path / "out") as staged:
        staged.write_data([memoryview(b"data")], lambda _: None)
        staged.model.mkdir()
        with pytest.raises(EnvironmentUnavailable):
            staged.write_model([memoryview(b"model")], lambda _: None)
        staged.model.rmdir()
    assert names(tmp_path) == set()


def test_an_interrupt_behind_the_data_files_rename_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr("sn_graph.model.files.os.rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "out.onnx", 2.0)
    assert names(tmp_path) == set()


CHILD = """
import itertools, sys, time
from sn_graph.model import Model, Storage

source, target, storage = sys.argv[1:]
print("ready", flush=True)
for factor in itertools.cycle([2.0, 3.0]):
    model = Model.open(source)
    for tensor in model.proto.graph.initializer:
        model.scale(tensor, factor)
    model.save(target, Storage(storage), progress=lambda *_: time.sleep(0.002))
"""


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_a_kill_at_any_moment_leaves_a_whole_model(tmp_path: Path, storage: Storage) -> None:
    source, target = tmp_path / "in" / "in.onnx", tmp_path / "out" / "out.onnx"
    source.parent.mkdir()
    target.parent.mkdir()
    Model.open(weights_model(1.0, count=3, size=4 << 20)).save(source, Storage.INLINE)
    Model.open(weights_model(1.0)).save(target, storage)
    rng = random.Random(7)
    seen, torn = set(), 0
    for _ in range(10):
        command = [sys.executable, "-c", CHILD, str(source), str(target), storage.value]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.6))
            child.send_signal(signal.SIGKILL)
        seen.add(value_of(target))
        torn += len([name for name in names(target.parent) if name.endswith(".tmp")])
        for leftover in target.parent.glob(".*.tmp"):
            leftover.unlink()
    assert seen <= {1.0, 2.0, 3.0}
    assert torn  # else no kill came in the middle of a save, and nothing was shown


def test_a_small_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"plan.json"}
    with pytest.raises(EnvironmentUnavailable, match="can't be written"):
        write_file(tmp_path / "absent" / "plan.json", b"new")


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[int] = []
    with StagedFiles(tmp_path / "out") as staged:
        staged.write_data([memoryview(bytes(20 << 20)), memoryview(b"")], seen.append)
        staged.write_model([memoryview(b"model")], seen.append)
        staged.commit()
    assert sum(seen) == (20 << 20) + 5
    assert names(tmp_path) == {"out", "out.data"}
