"""Weights that are given at each run, against a session that holds them itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.runtime import Side, lean_side, make_feeds, with_overrides
from sn_graph.runtime.parity import with_given_weights
from tests.support.places import ROOT

MODELS = ("keras_dcgan_discriminator", "torch_sngan_discriminator", "torch_sngan_spectral_norm_torchscript")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("least", [1, 4096])
def test_the_outputs_are_those_of_the_model_itself(name: str, least: int) -> None:
    model = Model.open(ROOT / "models" / f"{name}.onnx")
    side = Side(model, "whole", optimize=False)
    given = with_given_weights(side, least)
    assert given.weights
    assert given.signature == side.signature
    assert not {tensor.name for tensor in given.model.proto.graph.initializer} & set(given.weights)
    feeds = make_feeds(model, steps=2)
    for ours, theirs in zip(given.run(feeds), side.run(feeds), strict=True):
        for output in theirs:
            np.testing.assert_allclose(ours[output], theirs[output], rtol=1e-5, atol=1e-6)  # other sums, in float32


def test_a_model_of_small_weights_stays_as_it_is() -> None:
    side = Side(Model.open(ROOT / "models" / "keras_dcgan_discriminator.onnx"), "whole")
    assert with_given_weights(side, 1 << 40) is side


@pytest.fixture
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sn_graph.runtime.parity.given._LARGE", 0)
    monkeypatch.setattr("sn_graph.runtime.engine.opening._IN_MEMORY", 0)
    monkeypatch.setattr(with_given_weights, "__defaults__", (1,))


@pytest.mark.usefixtures("all_is_large")
def test_weights_that_are_in_no_file_are_read_from_one_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = sn.fold(ROOT / "models" / "keras_dcgan_discriminator.onnx").model
    lean = lean_side(model, "lean")
    assert lean.weights
    assert not list(tmp_path.iterdir())
    feeds = make_feeds(model)
    ((output, theirs),) = next(Side(model, "whole", optimize=False).run(feeds)).items()
    for _ in range(2):  # what was read is given back behind each run
        np.testing.assert_allclose(next(lean.run(feeds))[output], theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("all_is_large")
@pytest.mark.parametrize("least", [1, 4000])  # at 4,000 bytes some are given, and some stay in the model
def test_overrides_reach_weights_wherever_they_are(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_given_weights, "__defaults__", (least,))
    path = ROOT / "models" / "keras_dcgan_discriminator.onnx"
    model, folded = Model.open(path), sn.fold(path).model
    floats = [tensor for tensor in folded.proto.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    arrays = {tensor.name: folded.array(tensor) for tensor in floats}
    side = with_overrides(lean_side(model, "lean"), arrays)
    assert bool(side.overrides) == (least > 1)
    feeds = make_feeds(model)
    ((output, expected),) = next(Side(folded, "folded", optimize=False).run(feeds)).items()
    np.testing.assert_allclose(next(side.run(feeds))[output], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("all_is_large")
def test_a_kernel_that_wants_a_constant_gets_it() -> None:
    node = helper.make_node("QLinearMatMul", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", 4]) for name in ("x", "y"))
    arrays = {"w": np.eye(4, dtype=np.uint8), "s": np.float32(1), "z": np.uint8(0)}
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "g", [x], [y], held)
    model = Model.open(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    side = lean_side(model, "lean")
    feeds = make_feeds(model)
    np.testing.assert_array_equal(next(side.run(feeds))["y"], feeds[0]["x"])


def test_memory_that_was_let_go_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sn_graph.model.payload._LARGE_FILE", 1)
    model = Model.open(ROOT / "models" / "torch_sngan_discriminator.onnx")
    arrays = [model.array(tensor) for tensor in model.proto.graph.initializer]
    before = [array.copy() for array in arrays]
    model.let_go()
    assert all(np.array_equal(one, other) for one, other in zip(arrays, before, strict=True))
    model.save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (ROOT / "models" / "torch_sngan_discriminator.onnx").read_bytes()
