"""Putting files in place: the old model or the new one at any moment, and nothing left behind."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


def point(path: Path, *locations: str) -> None:
    """Let the weights of a model file stand in data files of these names, there or not."""
    proto = weights_model(1.0, len(locations))
    for tensor, location in zip(proto.graph.initializer, locations, strict=True):
        content = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        place = path.parent / location
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            place.write_bytes(content)
    path.write_bytes(proto.SerializeToString())


OTHERS = ["thesis.docx", "sub/key.pem", "notes.data", "sub/out.onnx.data", "out.onnx.0123456.data", "OUT.onnx.data"]


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_of_what_the_replaced_model_names_only_our_own_data_files_go(tmp_path: Path, storage: Storage) -> None:
    ours = ["out.onnx.data", "out.onnx.01234abc.data"]
    path = tmp_path / "out.onnx"
    point(path, *OTHERS, *ours)
    save(path, 2.0, storage)
    assert all((tmp_path / name).exists() for name in OTHERS)
    assert not any((tmp_path / name).exists() for name in ours)
    assert value_of(path) == 2.0


def test_a_data_file_of_our_naming_that_the_replaced_model_did_not_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0, Storage.INLINE)
    (tmp_path / "out.onnx.data").write_text("mine")
    save(path, 2.0, Storage.INLINE)
    assert names(tmp_path) == {"out.onnx", "out.onnx.data"}


def _textual(folder: Path) -> None:
    (folder / "m" / "other.onnxtxt").write_text('key: "location" value: "out.onnx.data"')


def _above(folder: Path) -> None:
    point(folder / "all.onnx", "m/out.onnx.data")


def _below(folder: Path) -> None:
    (folder / "m" / "sub").mkdir()
    (folder / "m" / "sub" / "settings.json").write_text('{"weights": "../out.onnx.data"}')


def _hard_link(folder: Path) -> None:
    (folder / "elsewhere").hardlink_to(folder / "m" / "out.onnx.data")


def _link(folder: Path) -> None:
    (folder / "n").mkdir()
    (folder / "n" / "w.bin").symlink_to("../m/out.onnx.data")


@pytest.mark.parametrize("use", [_textual, _above, _below, _hard_link, _link])
def test_a_data_file_that_anything_in_sight_uses_stays(tmp_path: Path, use: Callable[[Path], None]) -> None:
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "out.onnx"
    save(path, 1.0)
    use(tmp_path)
    save(path, 2.0)
    assert (tmp_path / "m" / "out.onnx.data").exists()
    assert value_of(path) == 2.0


def test_two_writers_of_one_output_both_leave_a_whole_model(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    save(path, 1.0)
    staged = [Model.open(weights_model(value)).stage(path, Storage.EXTERNAL) for value in (2.0, 3.0, 4.0)]
    for writer, value in zip(staged[:2], (2.0, 3.0), strict=True):
        with writer:
            writer.commit()
        assert value_of(path) == value
    staged[2].discard()
    assert value_of(path) == 3.0
    assert len(names(tmp_path)) == 2


def test_a_name_that_another_writer_takes_first_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        if target.name == "out.onnx.data" and not target.exists():
            target.write_text("another's")
        link(source, target)

    monkeypatch.setattr("sn_graph.model.files.os.link", late)
    save(tmp_path / "out.onnx", 1.0)
    assert (tmp_path / "out.onnx.data").read_text() == "another's"
    assert value_of(tmp_path / "out.onnx") == 1.0


def test_what_another_process_put_in_place_of_the_data_is_not_removed(tmp_path: Path) -> None:
    staged = Model.open(weights_model(2.0)).stage(tmp_path / "out.onnx", Storage.EXTERNAL)
    (tmp_path / "out.onnx.data").unlink()
    (tmp_path / "out.onnx.data").write_text("another's")
    staged.discard()
    assert names(tmp_path) == {"out.onnx.data"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no links here")

    monkeypatch.setattr("sn_graph.model.files.os.link", refuse)
    path = tmp_path / "out.onnx"
    for value in (1.0, 2.0):
        save(path, value)
        assert value_of(path) == value
        assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("sync", [True, False])
def test_everything_is_on_the_disk_before_the_model_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix or "folder")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr("sn_graph.model.files.os.fsync", synced)
    monkeypatch.setattr("sn_graph.model.files.os.replace", replaced)
    Model.open(weights_model(1.0)).save(tmp_path / "out.onnx", Storage.EXTERNAL, sync=sync)
    assert calls == ([".tmp", ".data", "folder", "replace", "folder"] if sync else ["replace"])


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


def test_an_interrupt_behind_the_data_files_link_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def interrupted(source: Path, target: Path) -> None:
        link(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr("sn_graph.model.files.os.link", interrupted)
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
    assert seen <= {1.0, 2.0, 3.0}
    Model.open(weights_model(4.0)).save(target, storage)
    assert len(names(target.parent)) == (1 if storage is Storage.INLINE else 2)
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
