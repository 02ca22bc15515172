"""Each layer that SpectralNormalization takes, exported: inference, kernels, training steps beside Keras 3 itself."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import sn_graph as sn
from sn_graph.errors import ModelError, UsageError
from sn_graph.frontends import keras as frontend
from sn_graph.norms import plan_state
from sn_graph.plan import load_plan
from tests.support.keras_models import LAYERS, REFUSED, Array, LayerCase, require_keras, set_random
from tests.support.oracle import sigma_max

# Keras's own, when it saves or converts a variable under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

# float32 products in another order: the bounds for outputs and u.
OUTPUT: dict[str, Any] = {"rtol": 1e-5, "atol": 5e-6}
VECTOR: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}
ITERATIONS = (1, 2, 5)


@pytest.fixture(scope="session")
def keras() -> Any:
    return require_keras()


def run(model: Any, feed: Array, name: str = "x") -> Array:
    """The first output of an exported model in onnxruntime."""
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {name: feed})[0]
    return output


def seeded(case: LayerCase) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(case.name.encode()))


@pytest.fixture(scope="session")
def made(keras: Any) -> Callable[[LayerCase], tuple[Any, frontend.KerasExport]]:
    """A model of each case with random weights, and its export; power_iterations 1, 2 and 5 in turn."""
    kept: dict[str, tuple[Any, frontend.KerasExport]] = {}

    def make(case: LayerCase) -> tuple[Any, frontend.KerasExport]:
        if case.name not in kept:
            model = case.model(keras, ITERATIONS[LAYERS.index(case) % len(ITERATIONS)])
            set_random(model, seeded(case))
            kept[case.name] = model, frontend.export(model)
        return kept[case.name]

    return make


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_inference_as_stored(case: LayerCase, made: Callable[..., tuple[Any, frontend.KerasExport]]) -> None:
    model, exported = made(case)
    batch = case.batch(seeded(case))
    np.testing.assert_allclose(run(exported.model, batch), model(batch, training=False), **OUTPUT)


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_the_kernel_and_its_matrix_bit_for_bit(
    case: LayerCase, made: Callable[..., tuple[Any, frontend.KerasExport]]
) -> None:
    """M from the file is K.reshape(-1, K.shape[-1]), or its transpose, up to the order along the other side."""
    model, exported = made(case)
    (wrapper,) = frontend.wrappers(model)
    (target,) = exported.plan.targets()
    assert target.id == wrapper.weight
    kernel = wrapper.kernel.reshape(-1, wrapper.kernel.shape[-1])
    matrix = target.matrix(exported.model)
    own = matrix if target.view.side == "rows" else matrix.T
    np.testing.assert_array_equal(np.sort(own, axis=1), np.sort(kernel.T, axis=1))
    assert sigma_max(matrix) == pytest.approx(sigma_max(kernel), rel=1e-6)
    np.testing.assert_array_equal(exported.state.u[target.id], wrapper.layer.vector_u.numpy().reshape(-1))


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_steps_of_training(case: LayerCase, keras: Any, tmp_path: Path) -> None:
    """Outputs and u of the inserted model beside real calls with training=True, on other inputs at each."""
    rng = np.random.default_rng([7, LAYERS.index(case)])
    model = case.model(keras, ITERATIONS[(LAYERS.index(case) + 1) % len(ITERATIONS)])
    set_random(model, rng)
    frontend.export(model).save(tmp_path / "plain.onnx")
    plan, _ = frontend.sidecars(tmp_path / "plain.onnx")
    session = sn.StatefulSession(sn.insert(tmp_path / "plain.onnx", plan=plan).to_proto())
    (wrapper,) = frontend.wrappers(model)
    for _ in range(10):
        batch = case.batch(rng)
        (output,) = session.run(None, {"x": batch})
        np.testing.assert_allclose(output, model(batch, training=True), **OUTPUT)
        np.testing.assert_allclose(session.state()[wrapper.weight], wrapper.vector_u, **VECTOR)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_wrapper_refuses_it_refuses_itself(name: str, keras: Any) -> None:
    make, shape = REFUSED[name]
    wrapped = keras.layers.SpectralNormalization(make(keras.layers))
    with pytest.raises(ValueError, match=f"{name} object has no attribute 'kernel' nor 'embeddings'"):
        wrapped(keras.Input(shape))


def test_iterations_below_one_are_refused_in_the_wrappers_words(keras: Any, tmp_path: Path) -> None:
    """In a constructor Keras itself refuses them; in a model changed since, and in a file, the export does."""
    model = LAYERS[0].model(keras)
    model.get_layer("sn").power_iterations = 0
    words = "`power_iterations` should be greater than zero. Received: `power_iterations=0`"
    with pytest.raises(ModelError, match=words):
        frontend.export(model)
    model.save(tmp_path / "zero.keras")
    with pytest.raises(ModelError, match=words):
        frontend.load(tmp_path / "zero.keras")


def test_the_model_stays_as_it_was(keras: Any) -> None:
    model = LAYERS[6].model(keras)
    model.compile(optimizer=keras.optimizers.Adam(), loss="mse")
    rng = np.random.default_rng(1)
    batch = LAYERS[6].batch(rng)
    model.fit(batch, rng.standard_normal((2, *model.output_shape[1:])), verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    before = [variable.numpy().copy() for variable in variables]
    layers = {layer.name: dict(vars(layer)) for layer in model.layers}
    frontend.export(model)
    assert len(before) > 6  # Adam's moments and step among them
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, strict=True)
    for layer in model.layers:
        assert vars(layer).keys() == layers[layer.name].keys()


def test_names_types_and_sizes(keras: Any) -> None:
    k = keras.layers
    image, label = keras.Input((None, 8, 3), name="image"), keras.Input((), name="label", dtype="int32")
    x = k.GlobalAveragePooling2D()(k.SpectralNormalization(k.Conv2D(4, 3, name="conv"), name="sn")(image))
    y = k.Embedding(5, 4)(label)
    model = keras.Model({"image": image, "label": label}, {"score": k.Dense(1)(x), "joined": x * y}, name="critic")
    graph = frontend.export(model).model.proto.graph

    def described(values: Any) -> dict[str, tuple[int, list[Any]]]:
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    assert graph.name == "critic"
    assert described(graph.input) == {
        "image": (onnx.TensorProto.FLOAT, ["batch", "image_1", 8, 3]),
        "label": (onnx.TensorProto.INT32, ["batch"]),
    }
    assert described(graph.output) == {
        "score": (onnx.TensorProto.FLOAT, ["score_0", 1]),
        "joined": (onnx.TensorProto.FLOAT, ["joined_0", 4]),
    }


@pytest.mark.parametrize("opset", [9, 12, 13, 18])
def test_operator_sets(opset: int, keras: Any) -> None:
    """Squeeze and Unsqueeze take their axes as attributes before 13, Reshape and Shape gain attributes after."""
    k, rng = keras.layers, np.random.default_rng(opset)
    x = inputs = keras.Input((12, 3), name="x")
    for layer in (
        k.Conv1D(4, 3),
        k.DepthwiseConv1D(3, depth_multiplier=2),
        k.EinsumDense("abc,cde->abde", (8, 2, 3)),
    ):
        x = k.SpectralNormalization(layer)(x)
    model = keras.Model(inputs, x)
    set_random(model, rng)
    exported = frontend.export(model, opset=opset)
    assert {entry.domain: entry.version for entry in exported.model.proto.opset_import}[""] == opset
    assert len(exported.plan.eligible()) == 3
    batch = rng.standard_normal((2, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(run(exported.model, batch), model(batch), **OUTPUT)


@pytest.mark.parametrize("opset", [8, 99])
def test_operator_sets_that_are_not_written(opset: int, keras: Any) -> None:
    with pytest.raises(UsageError, match=f"no opset {opset}; choose one from 9 to"):
        frontend.export(LAYERS[0].model(keras), opset=opset)


def test_files_beside_each_other(keras: Any, tmp_path: Path) -> None:
    model = LAYERS[-3].model(keras, 2)
    exported = frontend.export(model)
    exported.save(tmp_path / "heads.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "heads.onnx",
        "heads.plan.json",
        "heads.u.safetensors",
    ]
    content = json.loads((tmp_path / "heads.plan.json").read_text())
    assert content["model"] == "heads.onnx"
    assert content["state"] == "heads.u.safetensors"
    assert content["power_iterations"] == 2
    written = sn.Model.open(tmp_path / "heads.onnx")
    plan = load_plan(tmp_path / "heads.plan.json", written)
    (read,), (own,) = plan.eligible(), exported.plan.eligible()
    assert (read.id, read.view, read.per_use) == (own.id, own.view, own.per_use)
    state = plan_state(plan, written)
    np.testing.assert_array_equal(state.u[own.id], frontend.wrappers(model)[0].vector_u)
    assert state.convention == "keras"


def test_a_second_export_is_the_same(keras: Any) -> None:
    model = LAYERS[16].model(keras)
    first = frontend.export(model).model.to_proto().SerializeToString(deterministic=True)
    assert frontend.export(model).model.to_proto().SerializeToString(deterministic=True) == first
