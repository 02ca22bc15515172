"""Sessions: what they are opened from, on which providers, and what is said where they can't be."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.model import Model, Storage
from sn_graph.runtime import Side, open_session, run_named
from sn_graph.runtime.engine import source_of
from sn_graph.runtime.session import StatefulSession
from tests.support.networks import discriminator, weights, x_of
from tests.support.onnx_text import Build
from tests.support.runs import inserted

W = np.arange(16, dtype=np.float32).reshape(4, 4)
X = np.ones((1, 4), np.float32)

# A StatefulSession


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_sources(storage: Storage, tmp_path: Path) -> None:
    model, path = inserted(discriminator(weights())), tmp_path / "model.onnx"
    model.save(path, storage)
    for source in (path, str(path), onnx.load(path), Model.open(path), model):
        running = StatefulSession(source)
        running.run(None, {"x": x_of()})
        running.normalize_weights()
        running.bake(tmp_path / "baked.onnx")
        ort.InferenceSession(tmp_path / "baked.onnx").run(None, {"x": x_of()})


def test_a_model_without_an_insertion() -> None:
    with pytest.raises(ModelError, match=r"no inserted iteration.*sn-graph insert"):
        StatefulSession(discriminator(weights()))


def test_a_model_whose_state_a_tool_removed() -> None:
    for what in ("input", "output"):
        model = inserted(discriminator(weights()))
        values = getattr(model.proto.graph, what)
        values.remove(next(value for value in values if value.name.startswith("sn_u")))
        with pytest.raises(ModelError, match=r"lost its state 'sn_u.*--state-mode required"):
            StatefulSession(model)


def test_providers() -> None:
    model = inserted(discriminator(weights()))
    assert StatefulSession(model, [("CPUExecutionProvider", {})]).get_providers() == ["CPUExecutionProvider"]
    for bad in ([], "CPUExecutionProvider", ["TPUExecutionProvider"]):
        with pytest.raises(UsageError):
            StatefulSession(model, bad)
    for missing in ("CUDAExecutionProvider", "DmlExecutionProvider"):
        if missing not in ort.get_available_providers():
            with pytest.raises(EnvironmentUnavailable, match="can't be used"):
                StatefulSession(model, [missing, "CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
        (("CUDAExecutionProvider", {"device_id": 1}), {"use_tf32": "0", "device_id": 1}),
        (("CUDAExecutionProvider", {"use_tf32": "1"}), {"use_tf32": "1"}),
    ],
)
def test_a_provider_that_onnxruntime_replaces_in_silence(
    provider: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real, asked = inserted(discriminator(weights())), ort.InferenceSession, []

    def replaced(path: str, own: Any, providers: list[Any], **others: Any) -> ort.InferenceSession:
        asked.append((providers, others))
        return real(path, own, providers=["CPUExecutionProvider"])

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    monkeypatch.setattr(ort, "InferenceSession", replaced)
    with pytest.raises(EnvironmentUnavailable, match=r"'CUDAExecutionProvider' can't be used.*without an error"):
        StatefulSession(model, [provider, "CPUExecutionProvider"])
    chain = [("CUDAExecutionProvider", options), ("CPUExecutionProvider", {})]
    assert asked == [(chain, {"enable_fallback": 0})]


def test_a_model_that_onnxruntime_can_not_load(capfd: pytest.CaptureFixture[str]) -> None:
    model = inserted(discriminator(weights()))
    model.proto.graph.node.add(op_type="NoSuchOp", domain="com.microsoft", input=["y"], output=["z"])
    with pytest.raises(ModelError, match="NoSuchOp") as caught:
        StatefulSession(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


# What a model is opened from


def test_an_unmodified_model_is_opened_from_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    inserted(discriminator(weights())).save(path)
    with source_of(Model.open(path)) as own:
        assert own == path
    assert path.exists()


@pytest.mark.parametrize("limit", [1 << 20, 1 << 10])
@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_a_modified_model_is_opened_as_it_is(
    limit: int, storage: Storage, op: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its bytes, or from a temporary file where its weights are large, of which nothing is left."""
    path, w = tmp_path / "model.onnx", np.ones((64, 64), np.float32)
    Model.open(op("MatMul", [1, 64], w)).save(path, storage)
    model = Model.open(path)
    model.scale(model.proto.graph.initializer[0], 2.0)
    monkeypatch.setattr("sn_graph.runtime.engine.opening._IN_MEMORY", limit)
    with source_of(model) as source:
        assert isinstance(source, bytes if w.nbytes <= limit else Path)
        session = open_session(source)
    if isinstance(source, Path):
        assert source.parent != tmp_path
        assert not source.parent.exists()
    np.testing.assert_array_equal(run_named(session, {"x": w[:1]})["y"], np.full((1, 64), 128.0, np.float32))


def test_a_temporary_file_that_can_not_be_written(op: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.open(op("MatMul", [1, 4], W))
    monkeypatch.setattr("sn_graph.runtime.engine.opening._IN_MEMORY", 0)
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(EnvironmentUnavailable, match=r"<model> can't be written.*No such file.*set TMPDIR"):
            Side(model, "m").open()

    def full(*_: object, **__: object) -> None:
        raise EnvironmentUnavailable("/tmp/model.onnx can't be written", "No space left on device", "choose another")

    monkeypatch.setattr(Model, "save", full)
    with pytest.raises(EnvironmentUnavailable, match=r"<model> can't be written.*: No space left.*set TMPDIR"):
        Side(model, "m").open()


# open_session


def fake_cuda(monkeypatch: pytest.MonkeyPatch, session: Callable[..., ort.InferenceSession]) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", session)


def test_a_silently_replaced_provider(monkeypatch: pytest.MonkeyPatch, op: Build) -> None:
    real, asked = ort.InferenceSession, list[Any]()

    def replaced(model: bytes, options: Any, providers: list[Any], **others: Any) -> ort.InferenceSession:
        asked.extend([providers, others])
        return real(model, options, providers=["CPUExecutionProvider"])

    fake_cuda(monkeypatch, replaced)
    with pytest.raises(EnvironmentUnavailable, match="put another in its place"):
        open_session(op("MatMul", [1, 4], W).SerializeToString(), "cuda")
    assert asked[0][0] == ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert asked[1] == {"enable_fallback": 0}


def test_a_provider_that_fails_to_start_is_told_from_a_bad_model(monkeypatch: pytest.MonkeyPatch, op: Build) -> None:
    real = ort.InferenceSession

    def failing(model: bytes, options: Any, providers: list[Any], **others: Any) -> ort.InferenceSession:
        if providers != [("CPUExecutionProvider", {})]:
            raise RuntimeError("libcudnn.so.9: cannot open\nshared object")
        return real(model, options, providers=providers, **others)

    fake_cuda(monkeypatch, failing)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EnvironmentUnavailable, match=r"libcudnn.so.9: cannot open shared object;"):
        open_session(op("MatMul", [1, 4], W).SerializeToString(), "cuda")
    with pytest.raises(ModelError):
        open_session(b"no model", "cuda")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x0a"])
def test_corrupt_models_and_missing_files(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    for source in (path, content, tmp_path / "missing.onnx"):
        with pytest.raises(ModelError) as caught:
            open_session(source)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file(op: Build, tmp_path: Path) -> None:
    data = op("MatMul", [1, 4], W).SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(data[:-20])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        open_session(tmp_path / "cut.onnx")


def test_an_operator_nobody_knows(text: Build) -> None:
    model = text("g (float[2] x) => (float[2] y) { y = com.microsoft.NoSuchOp(x) }")
    with pytest.raises(ModelError, match="NoSuchOp"):
        open_session(model.SerializeToString())


@pytest.mark.parametrize("optimize", [True, False])
def test_overrides_replace_a_weight_that_the_optimizer_would_fold(text: Build, op: Build, optimize: bool) -> None:
    """Transpose(W) is a constant: with optimizations on, onnxruntime folds it before it looks at overrides."""
    model = op("MatMul", [1, 4], W)
    model.graph.node[0].input[1] = "t"
    model.graph.node.insert(0, text("g (float[4,4] w0) => (float[4,4] t) { t = Transpose(w0) }").graph.node[0])
    other = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    session = open_session(model.SerializeToString(), optimize=optimize, overrides={"w0": other})
    np.testing.assert_allclose(run_named(session, {"x": X})["y"], X @ other.T, rtol=1e-6)


def test_overrides_outlive_their_arrays(op: Build) -> None:
    session = open_session(op("MatMul", [1, 4], W).SerializeToString(), overrides={"w0": W * 2})
    rubbish = [np.full((4, 4), 7, np.float32) for _ in range(100)]
    np.testing.assert_array_equal(run_named(session, {"x": X})["y"], X @ W * 2)
    assert len(rubbish) == 100


def test_profile_goes_where_it_is_told(op: Build, tmp_path: Path) -> None:
    session = open_session(op("MatMul", [1, 4], W).SerializeToString(), profile_prefix=tmp_path / "p")
    run_named(session, {"x": X})
    assert Path(session.end_profiling()).parent == tmp_path


def test_cuda_libraries_of_another_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    # onnxruntime looks for nvidia/…/lib beside itself; PyTorch's may stand elsewhere on the path.
    real = ort.InferenceSession
    fake_cuda(monkeypatch, lambda model, options, **_: real(model, options, providers=["CPUExecutionProvider"]))
    for package in ("cu13", "cudnn"):
        (tmp_path / "nvidia" / package / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    preloaded: list[str | None] = []

    def preload(directory: str | None = None) -> None:
        preloaded.append(directory)
        print("Failed to load libcublas.so.13")  # as onnxruntime does where it finds nothing

    monkeypatch.setattr(ort, "preload_dlls", preload, raising=False)
    with pytest.raises(EnvironmentUnavailable, match="put another in its place"):
        open_session(op("MatMul", [1, 4], W).SerializeToString(), "cuda")
    assert preloaded[0] is None
    ours = [str((tmp_path / "nvidia" / package / "lib").resolve()) for package in ("cu13", "cudnn")]
    assert [folder for folder in preloaded if folder in ours] == ours
    assert capsys.readouterr().out == ""


def test_a_model_that_can_not_be_captured_is_told_from_a_provider_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ort.InferenceSession

    class Cuda:
        """A session on CUDA, which captures nothing."""

        def __init__(self, model: bytes, options: Any, providers: list[Any], **_: Any) -> None:
            if any("enable_cuda_graph" in own for _, own in providers):
                raise RuntimeError("the model has control flow nodes")
            self.real, self.providers = real(model, options), [name for name, _ in providers]

        def get_providers(self) -> list[str]:
            return self.providers

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", Cuda)
    capture = ("CUDAExecutionProvider", {"enable_cuda_graph": "1"})
    with pytest.raises(
        ModelError, match=r"no CUDA graph can be captured of .*: the model has control flow nodes; open it"
    ):
        StatefulSession(inserted(discriminator(weights())), [capture])
