"""Models built to trap an exporter: equal and zero kernels, shared layers, BatchNormalization, nesting, half types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

import sn_graph as sn
from sn_graph.frontends import keras as frontend
from tests.support import keras_models
from tests.support.keras_models import Array, require_keras, set_random

# Keras's own, when it saves or converts a variable under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

OUTPUT: dict[str, Any] = {"rtol": 1e-5, "atol": 5e-6}  # the bounds in float32, of outputs
VECTOR: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}  # and of u


@pytest.fixture(scope="session")
def keras() -> Any:
    return require_keras()


def initializers(exported: frontend.KerasExport) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in exported.model.to_proto().graph.initializer}


def run(model: Any, *batch: Array) -> dict[str, Array]:
    """An exported model's outputs in onnxruntime, by name, for inputs in its order."""
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs = session.run(None, dict(zip(names, batch, strict=True)))
    return dict(zip([value.name for value in session.get_outputs()], outputs, strict=True))


def inserted(exported: frontend.KerasExport, folder: Path) -> sn.StatefulSession:
    exported.save(folder / "plain.onnx")
    plan, _ = frontend.sidecars(folder / "plain.onnx")
    return sn.StatefulSession(sn.insert(folder / "plain.onnx", plan=plan).to_proto())


def normalize(model: Any) -> None:
    """One step of every wrapper and nothing else: what training=True does but for BatchNormalization and Dropout."""
    for wrapper in frontend.wrappers(model):
        vector, kernel = wrapper.layer.normalized_weights()
        wrapper.layer.vector_u.assign(vector)
        wrapper.variable.assign(kernel)


def assert_steps(
    session: sn.StatefulSession, model: Any, batches: Sequence[Sequence[Array]], *, training: bool = True
) -> None:
    """Compare runs with training=True calls of Keras, or with inference after `normalize`."""
    names = [value.name for value in session.get_inputs()][: len(batches[0])]
    outputs = [value.name for value in session.get_outputs()]
    for batch in batches:
        if not training:
            normalize(model)
        theirs = model(batch[0] if len(batch) == 1 else list(batch), training=training)
        ours = dict(zip(outputs, session.run(None, dict(zip(names, batch, strict=True))), strict=True))
        named = theirs if isinstance(theirs, dict) else {outputs[0]: theirs}
        for name, value in named.items():
            np.testing.assert_allclose(ours[name], value, **OUTPUT, err_msg=name)
        state = session.state()
        for wrapper in frontend.wrappers(model):
            if wrapper.weight in state:
                np.testing.assert_allclose(state[wrapper.weight], wrapper.vector_u, **VECTOR, err_msg=wrapper.path)


def test_equal_kernels_stay_apart(keras: Any, tmp_path: Path) -> None:
    """Equal kernels would be one initializer in a plain export, the wrapped ones' and the other's."""
    model = keras_models.twins(keras)
    exported = frontend.export(model)
    assert [site.id for site in exported.plan.eligible()] == ["sn_a/kernel", "sn_b/kernel", "sn_zero/kernel"]
    stored = initializers(exported)
    kernel = model.get_layer("plain").kernel.numpy()
    equal = [name for name, value in stored.items() if np.array_equal(value, kernel)]
    assert len(equal) == 3
    assert {"sn_a/kernel", "sn_b/kernel"} < set(equal)
    assert not stored["sn_zero/kernel"].any()
    session = inserted(exported, tmp_path)
    assert set(session.state()) == {"sn_a/kernel", "sn_b/kernel"}  # a zero kernel is left alone, as Keras leaves it
    rng = np.random.default_rng(0)
    assert_steps(session, model, [[rng.standard_normal((3, 6)).astype(np.float32)] for _ in range(4)])
    np.testing.assert_array_equal(model.get_layer("plain").kernel, kernel)


def test_a_layer_called_again_is_iterated_at_each_call(keras: Any, tmp_path: Path) -> None:
    model = keras_models.called_again(keras)
    set_random(model, np.random.default_rng(1))
    exported = frontend.export(model)
    shared, score = (next(s for s in exported.plan.eligible() if s.id == f"{n}/kernel") for n in ("shared", "score"))
    assert (shared.per_use, len(shared.uses)) == (True, 3)
    assert (score.per_use, len(score.uses)) == (False, 1)
    iterations = [site.power_iterations or exported.plan.power_iterations for site in (shared, score)]
    assert iterations == [2, 1]
    rng = np.random.default_rng(2)
    batches = [[rng.standard_normal((3, 6)).astype(np.float32) for _ in range(2)] for _ in range(5)]
    assert_steps(inserted(exported, tmp_path), model, batches)


@pytest.mark.parametrize("use_bias", [True, False])
def test_batchnorm_behind_a_convolution(use_bias: bool, keras: Any, tmp_path: Path) -> None:
    """Fused into the kernel it would change its norm. Dropout and BatchNormalization stay in inference."""
    model = keras_models.convolution_and_batchnorm(keras, use_bias=use_bias)
    exported = frontend.export(model)
    stored = initializers(exported)
    for name, layer in (("sn/kernel", model.get_layer("sn").layer), ("plain/kernel", model.get_layer("plain"))):
        np.testing.assert_array_equal(stored[name], layer.kernel.numpy().transpose(3, 2, 0, 1))
    rng = np.random.default_rng(3)
    batch = rng.standard_normal((2, 8, 8, 3)).astype(np.float32)
    (output,) = run(exported.model, batch).values()
    np.testing.assert_allclose(output, model(batch, training=False), **OUTPUT)
    session = inserted(exported, tmp_path)
    assert_steps(session, model, [[batch + step] for step in range(4)], training=False)


def test_nested_models(keras: Any, tmp_path: Path) -> None:
    """`block` is called twice; names repeat in other models; one is another's path with an underscore."""
    model = keras_models.nested(keras)
    exported = frontend.export(model)
    assert {site.id: site.per_use for site in exported.plan.eligible()} == {
        "block/sn_conv/kernel": True,
        "block_1/sn_conv/kernel": False,
        "sn_conv/conv/kernel": False,
        "block_sn_conv/kernel": False,
    }
    assert [wrapper.weight for wrapper in frontend.wrappers(model)] == [site.id for site in exported.plan.eligible()]
    rng = np.random.default_rng(4)
    batches = [[rng.standard_normal((2, 8, 8, 4)).astype(np.float32)] for _ in range(3)]
    assert_steps(inserted(exported, tmp_path), model, batches)


def test_what_is_not_wrapped_stays_bit_for_bit(keras: Any, tmp_path: Path) -> None:
    k = keras.layers
    x = inputs = keras.Input((6, 6, 4), name="x")
    for layer in (
        k.SeparableConv2D(4, 3, padding="same", use_bias=False),
        k.BatchNormalization(),
        k.DepthwiseConv2D(3, depth_multiplier=2, padding="same", use_bias=False),
        k.BatchNormalization(),
        k.Conv2D(4, 3, groups=2, use_bias=False),
        k.BatchNormalization(),
        k.Conv2DTranspose(3, 3, use_bias=False),
        k.BatchNormalization(),
    ):
        x = layer(x)
    features = x
    x = k.Reshape((36, 3))(x)
    x = k.MultiHeadAttention(2, 3)(k.LSTM(3, return_sequences=True)(x), x)
    score = k.SpectralNormalization(k.Dense(2), name="sn")(k.Flatten()(x))
    model = keras.Model(inputs, {"features": features, "score": score})
    rng = np.random.default_rng(5)
    set_random(model, rng)
    for layer in model.layers:
        if isinstance(layer, k.BatchNormalization):
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape).astype(np.float32))
    exported = frontend.export(model)
    stored = [np.sort(value.reshape(-1)) for value in initializers(exported).values()]
    kernels = [variable for variable in model.variables if variable.name.endswith("kernel") and variable.ndim > 2]
    kernels = [variable for variable in kernels if variable.ndim == 4]  # an LSTM's are joined, an attention's too
    assert len(kernels) == 5
    for variable in kernels:
        ordered = np.sort(variable.numpy().reshape(-1))
        assert any(np.array_equal(ordered, value) for value in stored), variable.path
    batch = rng.standard_normal((2, 6, 6, 4)).astype(np.float32)
    before = run(exported.model, batch)
    for name, value in model(batch).items():
        np.testing.assert_allclose(before[name], value, rtol=1e-5, atol=1e-5)
    session = inserted(exported, tmp_path)
    features_after, score_after = session.run(["features", "score"], {"x": batch})
    np.testing.assert_array_equal(features_after, before["features"])
    assert not np.array_equal(score_after, before["score"])


def test_other_kinds_of_models(keras: Any) -> None:
    """A Sequential built by its first call, and a class of the user's."""
    k, rng = keras.layers, np.random.default_rng(6)

    class Critic(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden = k.SpectralNormalization(k.Dense(4), name="hidden")
            self.score = k.SpectralNormalization(k.Dense(1), name="score")

        def call(self, x: Any, training: bool = False) -> Any:
            return self.score(keras.ops.relu(self.hidden(x, training=training)), training=training)

    batch = rng.standard_normal((3, 5)).astype(np.float32)
    sequential = keras.Sequential([k.SpectralNormalization(k.Dense(4), name="hidden"), k.LeakyReLU()])
    for model, weights in ((Critic(), ["hidden/kernel", "score/kernel"]), (sequential, ["hidden/kernel"])):
        expected = model(batch)
        exported = frontend.export(model)
        assert [site.id for site in exported.plan.eligible()] == weights
        (output,) = run(exported.model, batch).values()
        np.testing.assert_allclose(output, expected, **OUTPUT)


def test_a_sequential_built_by_its_data_takes_any_batch(keras: Any) -> None:
    k, rng = keras.layers, np.random.default_rng(12)
    model = keras.Sequential([k.SpectralNormalization(k.Dense(4), name="hidden"), k.LeakyReLU()])
    model(np.zeros((2, 5), np.float32))
    batch = rng.standard_normal((7, 5)).astype(np.float32)
    (output,) = run(frontend.export(model).model, batch).values()
    np.testing.assert_allclose(output, model(batch), **OUTPUT)


def test_a_dict_of_inputs_gives_their_names(keras: Any) -> None:
    k, rng = keras.layers, np.random.default_rng(13)

    class Critic(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden = k.SpectralNormalization(k.Dense(3), name="hidden")

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self.hidden(inputs["image"], training=training) * inputs["gain"]

    model = Critic()
    feed = {"image": rng.standard_normal((2, 4)), "gain": rng.standard_normal((2, 3))}
    feed = {name: value.astype(np.float32) for name, value in feed.items()}
    expected = model(feed)
    proto = frontend.export(model).model.to_proto()
    assert {value.name for value in proto.graph.input} == {"image", "gain"}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, feed)[0], expected, **OUTPUT)


def test_a_layer_distributed_over_time_is_called_at_each_step(keras: Any, tmp_path: Path) -> None:
    k = keras.layers
    x = keras.Input((3, 8, 8, 2), name="x")
    model = keras.Model(x, k.TimeDistributed(k.SpectralNormalization(k.Conv2D(4, 3), name="sn"), name="time")(x))
    exported = frontend.export(model)
    (site,) = exported.plan.eligible()
    assert (site.id, site.per_use, len(site.uses)) == ("time/sn/kernel", True, 3)
    rng = np.random.default_rng(7)
    batches = [[rng.standard_normal((2, 3, 8, 8, 2)).astype(np.float32)] for _ in range(3)]
    assert_steps(inserted(exported, tmp_path), model, batches)


def test_integer_ids_are_truncated_as_keras_3_does(keras: Any) -> None:
    ids = keras.Input((3,), dtype="int32", name="ids")
    layer = keras.layers.SpectralNormalization(keras.layers.Embedding(7, 4), name="sn")
    model = keras.Model(ids, layer(ids))
    layer.kernel.assign(np.random.default_rng(8).normal(0.0, 3.0, (7, 4)).astype(np.float32))
    exported = frontend.export(model)
    (note,) = exported.notes
    assert note.startswith("sn: Keras 3 casts the output of SpectralNormalization to its input's type")
    batch = np.array([[0, 3, 6]], np.int32)
    (output,) = run(exported.model, batch).values()
    expected = np.asarray(model(batch))
    assert expected.dtype == np.int32
    assert expected.any()
    np.testing.assert_array_equal(output, expected, strict=True)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_layer_that_never_trains_is_named(frozen: bool, keras: Any) -> None:
    k, rng = keras.layers, np.random.default_rng(14)

    class Critic(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden = k.SpectralNormalization(k.Dense(4), name="hidden")
            self.dropout = k.Dropout(0.5)
            self.norm = k.BatchNormalization()
            self.score = k.SpectralNormalization(k.Dense(1), name="score")

        def call(self, x: Any, training: bool = False) -> Any:
            x = self.norm(self.hidden(x, training=training and not frozen), training=training)
            return self.score(self.dropout(x, training=training))

    model = Critic()
    model(rng.standard_normal((3, 5)).astype(np.float32), training=True)
    before = [variable.numpy().copy() for variable in model.variables]
    notes = frontend.export(model).notes
    assert [note.split(":")[0] for note in notes] == (["hidden"] if frozen else [])
    assert all("Keras never normalizes it" in note for note in notes)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, strict=True)


HALF = (
    1e-2  # of the largest value: `verify`'s for float16; Keras rounds to 11 bits at each of three layers and five calls
)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_half_precision_within_what_is_documented(policy: str, keras: Any, tmp_path: Path) -> None:
    k = keras.layers
    keras.config.set_dtype_policy(policy)
    try:
        x = inputs = keras.Input((8, 8, 3), name="x", dtype="float32")
        for layer in (k.Conv2D(4, 3, name="conv"), k.DepthwiseConv2D(3, name="depthwise")):
            x = k.SpectralNormalization(layer, name=f"sn_{layer.name}")(x)
        x = k.SpectralNormalization(k.Dense(2), name="sn_dense")(k.Flatten()(x))
        model = keras.Model(inputs, k.Activation("linear", dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy("float32")
    set_random(model, np.random.default_rng(9))
    exported = frontend.export(model)
    assert len(exported.notes) == 3
    assert all("Keras iterates in float16" in note for note in exported.notes)
    # The kernel keeps the type in which Keras keeps it.
    assert {site.site.dtype for site in exported.plan.eligible()} == {"float16" if policy == "float16" else "float32"}
    batch = np.random.default_rng(10).standard_normal((4, 8, 8, 3)).astype(np.float32)
    (output,) = run(exported.model, batch).values()
    assert_near(output, model(batch), HALF)
    session = inserted(exported, tmp_path)
    for _ in range(5):
        (output,) = session.run(None, {"x": batch})
        assert_near(output, model(batch, training=True), HALF)


def assert_near(ours: Array, theirs: Any, tolerance: float) -> None:
    wide = np.asarray(theirs, np.float32)
    assert np.abs(ours.astype(np.float32) - wide).max() <= tolerance * np.abs(wide).max()


def test_double_precision(keras: Any, tmp_path: Path) -> None:
    keras.config.set_dtype_policy("float64")
    try:
        x = keras.Input((5,), name="x", dtype="float64")
        model = keras.Model(x, keras.layers.SpectralNormalization(keras.layers.Dense(4), name="sn")(x))
    finally:
        keras.config.set_dtype_policy("float32")
    exported = frontend.export(model)
    batch = np.random.default_rng(11).standard_normal((3, 5))
    (output,) = run(exported.model, batch).values()
    np.testing.assert_allclose(output, model(batch), rtol=1e-13, atol=1e-15)
    session = inserted(exported, tmp_path)
    for _ in range(3):  # u and σ go in and out as float32
        (output,) = session.run(None, {"x": batch})
        np.testing.assert_allclose(output, model(batch, training=True), rtol=1e-5)
