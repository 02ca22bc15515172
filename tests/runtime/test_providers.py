"""Names, sessions and their errors."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.runtime import open_session, parse_providers, run_session
from sn_graph.runtime.providers import available_providers, one_line, require_provider

W = np.arange(16, dtype=np.float32).reshape(4, 4)
X = np.ones((1, 4), np.float32)


def test_importing_the_package_leaves_onnxruntime_alone():
    code = "import sys, sn_graph.runtime; sys.exit('onnxruntime' in sys.modules)"
    root = str(Path(__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}).returncode == 0


def test_provider_names():
    assert parse_providers(" cuda,cpu,CUDA") == ("cuda", "cpu")
    for text, told in (("cpu,tpu", "'tpu'"), ("", "no execution provider"), (" , ", "no execution provider")):
        with pytest.raises(UsageError, match=told):
            parse_providers(text)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnvironmentUnavailable, match=r"pip install 'sn-graph\[cpu\]'"):
        open_session(b"")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a GPU build")
def test_a_provider_that_was_not_built_in():
    assert available_providers() == ("cpu",)
    with pytest.raises(EnvironmentUnavailable, match=r"'cuda' can't be used.*offers only cpu"):
        require_provider("cuda")


def fake_cuda(monkeypatch, session):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def test_a_silently_replaced_provider(monkeypatch, op):
    real, asked = onnxruntime.InferenceSession, []

    def replaced(model, options, providers, **others):
        asked.extend([providers, others])
        return real(model, options, providers=["CPUExecutionProvider"])

    fake_cuda(monkeypatch, replaced)
    with pytest.raises(EnvironmentUnavailable, match="the CPU in its place"):
        open_session(op("MatMul", [1, 4], W).SerializeToString(), "cuda")
    assert asked[0][0] == ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert asked[1] == {"enable_fallback": 0}


def test_a_provider_that_fails_to_start_is_told_from_a_bad_model(monkeypatch, op):
    real = onnxruntime.InferenceSession

    def failing(model, options, providers, **others):
        if providers != ["CPUExecutionProvider"]:
            raise RuntimeError("libcudnn.so.9: cannot open\nshared object")
        return real(model, options, providers=providers)

    fake_cuda(monkeypatch, failing)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(EnvironmentUnavailable, match=r"libcudnn.so.9: cannot open shared object;"):
        open_session(op("MatMul", [1, 4], W).SerializeToString(), "cuda")
    with pytest.raises(ModelError):
        open_session(b"no model", "cuda")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x0a"])
def test_corrupt_models_and_missing_files(content, tmp_path, capfd):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    for source in (path, content, tmp_path / "missing.onnx"):
        with pytest.raises(ModelError) as caught:
            open_session(source)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file(op, tmp_path):
    data = op("MatMul", [1, 4], W).SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(data[:-20])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        open_session(tmp_path / "cut.onnx")


def test_an_operator_nobody_knows(text):
    model = text("g (float[2] x) => (float[2] y) { y = com.microsoft.NoSuchOp(x) }")
    with pytest.raises(ModelError, match="NoSuchOp"):
        open_session(model.SerializeToString())


@pytest.mark.parametrize("optimize", [True, False])
def test_overrides_replace_a_weight_that_the_optimizer_would_fold(text, op, optimize):
    """Transpose(W) is a constant: with optimizations on, onnxruntime folds it before it looks at overrides."""
    model = op("MatMul", [1, 4], W)
    model.graph.node[0].input[1] = "t"
    model.graph.node.insert(0, text("g (float[4,4] w0) => (float[4,4] t) { t = Transpose(w0) }").graph.node[0])
    other = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    session = open_session(model.SerializeToString(), optimize=optimize, overrides={"w0": other})
    np.testing.assert_allclose(run_session(session, {"x": X})[0], X @ other.T, rtol=1e-6)


def test_overrides_outlive_their_arrays(op):
    session = open_session(op("MatMul", [1, 4], W).SerializeToString(), overrides={"w0": W * 2})
    rubbish = [np.full((4, 4), 7, np.float32) for _ in range(100)]
    np.testing.assert_array_equal(run_session(session, {"x": X})[0], X @ W * 2)
    assert len(rubbish) == 100


def test_profile_goes_where_it_is_told(op, tmp_path):
    session = open_session(op("MatMul", [1, 4], W).SerializeToString(), profile_prefix=tmp_path / "p")
    run_session(session, {"x": X})
    assert Path(session.end_profiling()).parent == tmp_path


def test_one_line():
    noisy = "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/core/a.cc:3 it\n failed.\n"
    assert one_line(RuntimeError(noisy)) == "it failed"
    assert len(one_line(RuntimeError("x" * 999))) == 300
