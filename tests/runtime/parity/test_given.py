"""Weights that are given at each run, against a session that holds them itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sn_graph.model import Model
from sn_graph.runtime import Side, make_feeds, with_given_weights
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


def test_memory_that_was_let_go_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sn_graph.model.payload._LARGE_FILE", 1)
    model = Model.open(ROOT / "models" / "torch_sngan_discriminator.onnx")
    arrays = [model.array(tensor) for tensor in model.proto.graph.initializer]
    before = [array.copy() for array in arrays]
    model.let_go()
    assert all(np.array_equal(one, other) for one, other in zip(arrays, before, strict=True))
    model.save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (ROOT / "models" / "torch_sngan_discriminator.onnx").read_bytes()
