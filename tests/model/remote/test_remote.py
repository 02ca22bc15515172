"""Remote files: what belongs together is fetched together, a store has a file whole or not at all."""

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

import sn_graph as sn
from sn_graph import proofs
from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.fleet import find_inputs, run_many
from sn_graph.model import Storage
from sn_graph.model.checkpoint import Checkpoint
from sn_graph.model.remote import fetched, fetched_slice, is_url, local_path, publish
from tests.fleet.works import Counting
from tests.support.checkpoints import CONFIG, llama, save_sharded
from tests.support.places import MODELS
from tests.support.stores import bucket, memory, s3_server

__all__ = ["bucket", "memory", "s3_server"]

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture(params=["memory", "bucket"])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty folder, in memory and on an S3 server."""
    found: str = request.getfixturevalue(request.param)
    return found


def put(store: str, name: str, content: bytes) -> str:
    with fsspec.open(f"{store}/{name}", "wb") as file:
        file.write(content)
    return f"{store}/{name}"


def get(store: str, name: str) -> bytes:
    with fsspec.open(f"{store}/{name}", "rb") as file:
        content: bytes = file.read()
    return content


def names(store: str) -> list[str]:
    system, path = fsspec.core.url_to_fs(store, use_listings_cache=False)
    system.invalidate_cache()
    return sorted(name.removeprefix(path.rstrip("/") + "/") for name in system.find(path))


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("s3://bucket/a.onnx", True),
        ("memory://a.onnx", True),
        ("simplecache::s3://bucket/a.onnx", True),
        ("a.onnx", False),
        ("/a/b.onnx", False),
        ("C:\\models\\a.onnx", False),
        ("c://a.onnx", False),
        ("://a.onnx", False),
        (Path("s3://bucket/a.onnx"), False),
    ],
)
def test_urls_are_told_from_paths(location: Any, url: bool) -> None:
    assert is_url(location) is url


def test_file_urls_are_paths() -> None:
    assert local_path("file:///a%20b/c.onnx") == "/a b/c.onnx"
    assert local_path("file://localhost/c.onnx") == "/c.onnx"
    assert local_path("s3://b/c.onnx") == "s3://b/c.onnx"


def test_a_model_is_fetched_with_its_data(store: str, tmp_path: Path) -> None:
    model = onnx.load(MODELS / "keras_dcgan_discriminator.onnx")
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="sub.data", size_threshold=0)
    for name in ("a.onnx", "sub.data"):
        put(store, name, (tmp_path / name).read_bytes())
    seen: list[tuple[int, int]] = []
    with fetched(f"{store}/a.onnx", lambda _task, done, total: seen.append((done, total))) as found:
        assert found.path.name == "a.onnx"
        assert [path.name for path in found.beside] == ["sub.data"]
        wanted = sn.inspect(MODELS / "keras_dcgan_discriminator.onnx")
        assert sn.inspect(found.path).sites[0].sigma == wanted.sites[0].sigma
    assert not found.path.parent.exists()
    assert seen[-1][0] == seen[-1][1] == (tmp_path / "sub.data").stat().st_size


def test_an_index_is_fetched_with_its_shards(store: str, tmp_path: Path) -> None:
    save_sharded(tmp_path, llama())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for path in tmp_path.iterdir():
        put(store, path.name, path.read_bytes())
    wanted = sn.inspect(tmp_path / "model.safetensors.index.json", per_head=True)
    with fetched(f"{store}/model.safetensors.index.json") as found:
        assert sn.inspect(found.path, per_head=True).sites == wanted.sites


def test_a_slice_holds_some_tensors_and_a_hole(store: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((512, 512)).astype(np.float32) for name in ("a", "b", "c", "d")}
    save_file(weights, tmp_path / "w.safetensors")
    url = put(store, "w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    with fetched_slice(url, ["b"]) as found:
        assert {tensor.name for tensor in Checkpoint.open(found.path).weights} == set(weights)
        taken = {tensor.name: tensor.matrix() for tensor in Checkpoint.open(found.path).weights}
        assert (taken["b"] == weights["b"]).all()
        assert not taken["c"].any()
        assert found.path.stat().st_size == (tmp_path / "w.safetensors").stat().st_size
        assert found.path.stat().st_blocks * 512 < 2 * weights["b"].nbytes
    save_sharded(tmp_path, weights, shards=2)
    for path in tmp_path.glob("model*"):
        put(store, path.name, path.read_bytes())
    with fetched_slice(f"{store}/model.safetensors.index.json", ["c"]) as found:
        taken = {tensor.name: tensor.matrix() for tensor in Checkpoint.open(found.path).weights}
        assert (taken["c"] == weights["c"]).all()
        assert not taken["a"].any()


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"\xff" * 64, b"\x10" + b"\x00" * 7 + b"{" + b" " * 30])
def test_a_slice_of_something_else_is_refused(content: bytes, memory: str) -> None:
    url = put(memory, "w.safetensors", content)
    with pytest.raises(ModelError), fetched_slice(url):
        pass


def test_what_is_published_is_there_as_a_whole(store: str) -> None:
    with publish(f"{store}/out.onnx") as path:
        path.write_bytes(b"new" * 100_000)
        path.with_name("out.onnx.data").write_bytes(b"data")
        assert names(store) == []
    assert get(store, "out.onnx") == b"new" * 100_000
    assert names(store) == ["out.onnx", "out.onnx.data"]


def test_nothing_is_published_of_what_fails(store: str) -> None:
    put(store, "out.onnx", b"old")

    def fail() -> None:
        with publish(f"{store}/out.onnx") as path:
            path.write_bytes(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert get(store, "out.onnx") == b"old"
    with publish(f"{store}/out.onnx"):
        pass  # nothing written
    assert get(store, "out.onnx") == b"old"


def test_an_upload_that_breaks_off_leaves_the_old_file(store: str) -> None:
    put(store, "out.onnx", b"old")

    def breaking(_task: str, done: int, _total: int) -> None:
        if done > 0:
            raise OSError("the network is gone")

    with (
        pytest.raises(EnvironmentUnavailable, match="the network is gone"),
        publish(f"{store}/out.onnx", breaking) as path,
    ):
        path.write_bytes(b"new" * 4_000_000)
    assert get(store, "out.onnx") == b"old"
    assert names(store) == ["out.onnx"]


def test_data_never_take_the_place_of_data_that_a_model_uses(store: str) -> None:
    def publish_folded(bound: float) -> None:
        with publish(f"{store}/out.onnx") as path:
            sn.fold(MODELS / "keras_dcgan_discriminator.onnx", bound=bound).save(path, Storage.EXTERNAL)

    publish_folded(1.0)
    first = {name: get(store, name) for name in names(store)}
    publish_folded(2.0)
    assert len(names(store)) == 3
    assert all(get(store, name) == content for name, content in first.items() if name.endswith(".data"))
    with fetched(f"{store}/out.onnx") as found:
        assert sn.inspect(found.path).sites[0].sigma == pytest.approx(2.0, rel=1e-6)


def test_errors_of_stores_are_of_one_line(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ModelError, match=r"none\.onnx can't be read: there is no such file"),
        fetched(f"{store}/none.onnx"),
    ):
        pass
    with pytest.raises(UsageError, match="can't be opened"), fetched("nowhere://a.onnx"):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises((EnvironmentUnavailable, ModelError)) as caught, fetched("s3://models/a.onnx"):
        pass
    assert "\n" not in str(caught.value)


def test_files_on_s3_are_those_of_safetensors(bucket: str, tmp_path: Path) -> None:
    weights = llama()
    save_file(weights, tmp_path / "w.safetensors")
    url = put(bucket, "w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    with fetched(url) as found:
        assert all((load_file(found.path)[name] == value).all() for name, value in weights.items())


def test_models_are_folded_from_store_to_store(store: str, tmp_path: Path) -> None:
    source = MODELS / "keras_dcgan_discriminator.onnx"
    put(store, "in/a.onnx", source.read_bytes())
    save_file(llama(), tmp_path / "w.safetensors")
    put(store, "in/w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    assert proofs.save(sn.fold(f"{store}/in/a.onnx"), f"{store}/out/a.onnx").verified == "run"
    sn.fold(source).save(tmp_path / "a.onnx")
    assert get(store, "out/a.onnx") == (tmp_path / "a.onnx").read_bytes()
    folded = sn.fold_checkpoint(f"{store}/in/w.safetensors")
    assert proofs.save_checkpoint(folded, f"{store}/out/w.safetensors").verified == "structure"
    report = sn.inspect(f"{store}/out/w.safetensors", against=f"{store}/in/w.safetensors")
    assert report.model == f"{store}/out/w.safetensors"
    assert all(site.sigma == pytest.approx(1.0, abs=1e-6) for site in report.sites)
    assert all(site.sigma_base is not None and site.sigma_base > 1.0 for site in report.sites)
    assert names(f"{store}/out") == ["a.onnx", "w.safetensors"]


def test_a_copy_stays_as_long_as_its_model(memory: str) -> None:
    put(memory, "a.onnx", (MODELS / "keras_dcgan_discriminator.onnx").read_bytes())
    model = sn.Model.open(f"{memory}/a.onnx")
    twin, path = model.copy(), model.path
    assert path is not None
    del model
    assert path.exists()
    assert twin.name == f"{memory}/a.onnx"
    del twin
    gc.collect()
    assert not path.parent.exists()


def test_many_files_of_memory_are_worked_on_here(memory: str, tmp_path: Path) -> None:
    for number in range(3):
        put(memory, f"in/{number}.onnx", b"x" * (number + 1))
    (tmp_path / "notes").mkdir()
    work = Counting(tmp_path / "notes")
    inputs = find_inputs([f"{memory}/in"], [".onnx"], f"{memory}/out")
    for reused in (False, True):
        outcomes = run_many(work, inputs, jsonl=tmp_path / "l.jsonl")
        assert [outcome.reused for outcome in outcomes] == [reused] * 3
        assert [outcome.exit_code for outcome in outcomes] == [0] * 3
    assert names(f"{memory}/out") == ["0.onnx", "1.onnx", "2.onnx"]
    assert get(memory, "out/2.onnx") == b"3"
