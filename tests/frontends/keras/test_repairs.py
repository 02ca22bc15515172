"""What tf2onnx leaves to be put right, beside Keras itself: ellipses, gaps of transposed convolutions, its order."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sn_graph.frontends import keras as frontend
from sn_graph.frontends.keras.repairs import mend_paddings
from tests.support.keras_models import LayerCase, require_keras, set_random
from tests.support.places import ROOT

# Keras's own, when it saves or converts a variable under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
OUTPUT: dict[str, Any] = {"rtol": 1e-5, "atol": 5e-6}  # the bounds in float32

# A kernel shorter than its stride leaves gaps, and output_padding asks for one.
CASES = (
    LayerCase("gaps-2d", lambda k: k.Conv2DTranspose(2, (3, 2), strides=(2, 3)), (4, 5, 3)),
    LayerCase("gaps-2d-same", lambda k: k.Conv2DTranspose(2, 1, strides=3, padding="same"), (4, 5, 3)),
    LayerCase("gaps-2d-dynamic", lambda k: k.Conv2DTranspose(2, (2, 1), strides=(4, 2)), (None, None, 3)),
    LayerCase("gaps-2d-half-dynamic", lambda k: k.Conv2DTranspose(2, 2, strides=3, use_bias=False), (None, 5, 3)),
    LayerCase("gaps-1d", lambda k: k.Conv1DTranspose(2, 2, strides=5), (4, 3)),
    LayerCase("gaps-1d-dynamic", lambda k: k.Conv1DTranspose(2, 2, strides=5, padding="same"), (None, 3)),
    LayerCase("gaps-3d", lambda k: k.Conv3DTranspose(2, (1, 2, 3), strides=3), (2, 3, 4, 3)),
    LayerCase("output-padding", lambda k: k.Conv2DTranspose(2, 3, strides=2, output_padding=1), (4, 5, 3)),
    LayerCase("output-padding-dynamic", lambda k: k.Conv2DTranspose(2, 3, 2, output_padding=1), (None, None, 3)),
    LayerCase("einsum-last", lambda k: k.EinsumDense("...x,xy->...y", 4), (2, 3, 5)),
    LayerCase("einsum-last-2d", lambda k: k.EinsumDense("...x,xy->...y", 4), (5,)),
    LayerCase("einsum-heads", lambda k: k.EinsumDense("...x,xhy->...hy", (2, 4)), (3, 5)),
    LayerCase("einsum-first", lambda k: k.EinsumDense("ab...,bc->ac...", (4, 3)), (5, 3)),
)


@pytest.fixture(scope="session")
def keras() -> ModuleType:
    return require_keras()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_keras(case: LayerCase, keras: ModuleType) -> None:
    """Inference, and three training calls with k = 2: outputs, where every element has its bias, kernels, u."""
    rng = np.random.default_rng([31, CASES.index(case)])
    model = case.model(keras, 2)
    set_random(model, rng)
    exported = frontend.export(model)
    onnx.checker.check_model(exported.model.to_proto(), full_check=True)
    session = onnxruntime.InferenceSession(
        exported.model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = case.batch(rng)
    np.testing.assert_allclose(session.run(None, {"x": batch})[0], model(batch), **OUTPUT)
    result = frontend.parity(model, 3, {"x": batch}, rtol=OUTPUT["rtol"], atol=OUTPUT["atol"])
    result.raise_if_different()


def test_only_paddings_below_zero_change() -> None:
    def node(pads: list[int]) -> onnx.NodeProto:
        return onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], pads=pads, strides=[3, 3])

    graph = onnx.helper.make_graph([node([0, 1, 2, 3]), node([-1, 1, -1, 0]), node([0, 0, -1, 0])], "g", [], [])
    before = onnx.NodeProto.FromString(graph.node[0].SerializeToString())
    mend_paddings(graph)
    assert graph.node[0] == before
    attributes = [{one.name: list(one.ints) for one in node.attribute} for node in graph.node[1:]]
    assert attributes == [
        {"strides": [3, 3], "pads": [0, 1, 0, 0], "output_padding": [2, 0]},
        {"strides": [3, 3], "pads": [0, 0, 0, 0], "output_padding": [1, 0]},
    ]


def test_two_processes_write_the_same_file(keras: ModuleType, tmp_path: Path) -> None:
    """tf2onnx walks sets, whose order changes with the hash seed: of this model it made 35 nodes or 28."""
    k = keras.layers
    x = inputs = keras.Input((9, 9, 3), name="img")
    x = k.LeakyReLU()(k.BatchNormalization()(k.SpectralNormalization(k.Conv2D(6, 3), name="c")(x)))
    dense = k.SpectralNormalization(k.Dense(6), name="d")
    x = k.GlobalAveragePooling2D()(dense(dense(x)))
    model = keras.Model(inputs, k.SpectralNormalization(k.Dense(2), name="e")(x), name="disc")
    set_random(model, np.random.default_rng(32))
    model.save(tmp_path / "m.keras")
    program = "import sys; from sn_graph.frontends import keras as k; k.export(sys.argv[1]).save(sys.argv[2])"
    written = []
    for seed in ("0", "1", "2"):
        out = tmp_path / f"{seed}.onnx"
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "m.keras"), str(out)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        written.append(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(set(written)) == 1
