"""State that goes from a session to a Keras model and back; tf_keras's is tried by test_files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sn_graph.errors import ModelError
from sn_graph.frontends import keras as frontend
from tests.support.keras_models import LAYERS, LayerCase, require_keras, set_random
from tests.support.way_back import way_back

# Keras's own, when it converts a variable under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

ITERATIONS = (1, 3)


@pytest.fixture(scope="session")
def keras() -> ModuleType:
    return require_keras()


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_the_next_sigma_is_the_sessions(case: LayerCase, keras: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng([16, LAYERS.index(case)])
    model = case.model(keras, ITERATIONS[LAYERS.index(case) % 2])
    set_random(model, rng)
    sigma, vector = way_back(model, [case.batch(rng) for _ in range(4)], tmp_path)
    assert sigma <= 1e-6  # of float32 kernels, whose norms are taken in float64
    assert vector <= 1e-6


def test_nothing_changes_unless_all_fits(keras: ModuleType, tmp_path: Path) -> None:
    layers = keras.layers
    x = keras.Input((4,))
    first = layers.SpectralNormalization(layers.Dense(3), name="first")(x)
    model = keras.Model(x, layers.SpectralNormalization(layers.Dense(2), name="second")(first))
    set_random(model, np.random.default_rng(1))
    before = [one.vector_u for one in frontend.wrappers(model)]
    path = tmp_path / "u.safetensors"
    ones = np.ones(3, np.float32)
    save_file({"first/kernel.u": ones}, path)
    with pytest.raises(ModelError, match=r"holds no 'second/kernel\.u'"):
        frontend.load_state(model, path)
    save_file({"first/kernel.u": ones, "second/kernel.u": ones}, path)
    with pytest.raises(ModelError, match="second/kernel"):
        frontend.load_state(model, path)
    good = {"first/kernel.u": ones, "second/kernel.u": ones[:2]}
    save_file(good, path, {"sn_graph": "1", "convention": "torch", "step": "0"})
    with pytest.raises(ModelError, match="convention torch"):
        frontend.load_state(model, path)
    for one, vector in zip(frontend.wrappers(model), before, strict=True):
        np.testing.assert_array_equal(one.vector_u, vector)
    save_file(good, path)
    frontend.load_state(model, path)
    frontend.save_state(model, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == good.keys()
    assert all(np.array_equal(back[name], good[name]) for name in good)


def test_a_file_is_read_and_a_plain_model_refused(keras: ModuleType, tmp_path: Path) -> None:
    model = LAYERS[0].model(keras)
    model.save(tmp_path / "model.keras")
    frontend.save_state(tmp_path / "model.keras", tmp_path / "u.safetensors")
    (wrapper,) = frontend.wrappers(model)
    np.testing.assert_array_equal(load_file(tmp_path / "u.safetensors")[f"{wrapper.weight}.u"], wrapper.vector_u)
    x = keras.Input((4,))
    with pytest.raises(ModelError, match="no SpectralNormalization layer"):
        frontend.save_state(keras.Model(x, keras.layers.Dense(2)(x)), tmp_path / "u.safetensors")
