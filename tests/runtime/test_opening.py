"""What a session is opened from, and on which providers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.model import Model
from sn_graph.model.storage import Storage
from sn_graph.runtime.session import StatefulSession
from tests.inserted import (
    inserted,
    network,
    weights,
    x_of,
)

# Opening


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_sources(storage: Storage, tmp_path: Path) -> None:
    model, path = inserted(network(weights())), tmp_path / "model.onnx"
    model.save(path, storage)
    for source in (path, str(path), onnx.load(path), Model.open(path), model):
        running = StatefulSession(source)
        running.run(None, {"x": x_of()})
        running.normalize_weights()
        running.bake(tmp_path / "baked.onnx")
        ort.InferenceSession(tmp_path / "baked.onnx").run(None, {"x": x_of()})


def test_a_model_without_an_insertion() -> None:
    with pytest.raises(ModelError, match=r"no inserted iteration.*sn-graph insert"):
        StatefulSession(network(weights()))


def test_a_model_whose_state_a_tool_removed() -> None:
    for what in ("input", "output"):
        model = inserted(network(weights()))
        values = getattr(model.proto.graph, what)
        values.remove(next(value for value in values if value.name.startswith("sn_u")))
        with pytest.raises(ModelError, match=r"lost its state 'sn_u.*--state-mode required"):
            StatefulSession(model)


def test_providers() -> None:
    model = inserted(network(weights()))
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
    model, real, asked = inserted(network(weights())), ort.InferenceSession, []

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
    model = inserted(network(weights()))
    model.proto.graph.node.add(op_type="NoSuchOp", domain="com.microsoft", input=["y"], output=["z"])
    with pytest.raises(ModelError, match="NoSuchOp") as caught:
        StatefulSession(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
