"""What the export refuses: each named, in one line, and the model as it was before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sn_graph.errors import ModelError
from sn_graph.frontends import keras as frontend
from tests.support.keras_models import require_keras


@pytest.fixture(scope="session")
def keras() -> Any:
    return require_keras()


def called_outside(keras: Any) -> Any:
    k = keras.layers
    layer, x = k.Dense(4, name="inner"), keras.Input((4,))
    return keras.Model(x, layer(k.SpectralNormalization(layer, name="sn")(x)))


def wrapped_twice(keras: Any) -> Any:
    k = keras.layers
    layer, x = k.Dense(4, name="inner"), keras.Input((4,))
    first, second = (k.SpectralNormalization(layer, name=name) for name in ("first", "second"))
    return keras.Model(x, second(first(x)))


def wrapped_in_itself(keras: Any) -> Any:
    k = keras.layers
    x = keras.Input((4,))
    return keras.Model(x, k.SpectralNormalization(k.SpectralNormalization(k.Dense(3), name="inside"), name="around")(x))


def in_a_loop(keras: Any) -> Any:
    class Repeated(keras.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="repeated")
            self.inner = keras.layers.SpectralNormalization(keras.layers.Dense(4), name="sn")

        def build(self, shape: Any) -> None:
            self.inner.build(shape)

        def call(self, x: Any) -> Any:
            return keras.ops.fori_loop(0, 2, lambda _, value: self.inner(value), x)

    x = keras.Input((4,))
    return keras.Model(x, Repeated()(x))


def over_a_dynamic_time(keras: Any) -> Any:
    """Keras maps it over the steps, in graph mode over as many as the batch has samples."""
    x = keras.Input((None, 4))
    layer = keras.layers.SpectralNormalization(keras.layers.Dense(4), name="sn")
    return keras.Model(x, keras.layers.TimeDistributed(layer, name="time")(x))


def training_in_inference(keras: Any) -> Any:
    class Always(keras.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="always")
            self.inner = keras.layers.SpectralNormalization(keras.layers.Dense(4), name="sn")

        def call(self, x: Any) -> Any:
            return self.inner(x, training=True)

    x = keras.Input((4,))
    return keras.Model(x, Always()(x))


def unused_in_inference(keras: Any) -> Any:
    class Unused(keras.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="unused")
            self.inner = keras.layers.SpectralNormalization(keras.layers.Dense(4), name="sn")

        def build(self, shape: Any) -> None:
            self.inner.build(shape)

        def call(self, x: Any, training: bool = False) -> Any:
            return self.inner(x, training=training) if training else x + 1.0

    x = keras.Input((4,))
    return keras.Model(x, Unused()(x))


def with_kernel(keras: Any, use: Callable[[Any, Any], Any]) -> Any:
    """A wrapped layer of the user's, which does with its kernel what `use` does."""

    class Own(keras.Layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            self.kernel = self.add_weight(shape=(4, 4), name="kernel")

        def call(self, x: Any) -> Any:
            return use(x, self.kernel)

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    return keras.layers.SpectralNormalization(Own(name="own"), name="sn")


def not_a_product(keras: Any) -> Any:
    x = keras.Input((4, 4))
    return keras.Model(x, with_kernel(keras, lambda x, kernel: x * kernel)(x))


def computed_kernel(keras: Any) -> Any:
    x = keras.Input((4,))
    return keras.Model(x, with_kernel(keras, lambda x, kernel: keras.ops.matmul(x, keras.ops.exp(kernel)))(x))


def product_and_more(keras: Any) -> Any:
    x = keras.Input((4,))
    return keras.Model(x, with_kernel(keras, lambda x, k: keras.ops.matmul(x, k) + keras.ops.sum(k))(x))


def read_twice_in_two_calls(keras: Any) -> Any:
    def use(x: Any, kernel: Any) -> Any:
        return keras.ops.matmul(keras.ops.relu(keras.ops.matmul(x, kernel)), kernel)

    x = keras.Input((4,))
    layer = with_kernel(keras, use)
    return keras.Model(x, layer(layer(x)))


def two_layouts(keras: Any) -> Any:
    class Turning(keras.Layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            self.kernel = self.add_weight(shape=(4, 4), name="kernel")

        def call(self, x: Any) -> Any:
            kernel = self.kernel if len(x.shape) == 2 else keras.ops.transpose(self.kernel)
            return keras.ops.matmul(x, kernel)

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    layer = keras.layers.SpectralNormalization(Turning(name="turning"), name="sn")
    x = keras.Input((4,))
    return keras.Model(x, keras.layers.Flatten()(layer(keras.layers.Reshape((1, 4))(layer(x)))))


def in_bfloat16(keras: Any) -> Any:
    x = keras.Input((4,), dtype="float32")
    return keras.Model(
        x, keras.layers.SpectralNormalization(keras.layers.Dense(2, dtype="mixed_bfloat16"), name="sn")(x)
    )


def unknown_operation(keras: Any) -> Any:
    import tensorflow as tf

    x = keras.Input((4, 4))
    lowest = keras.layers.Lambda(lambda value: tf.linalg.svd(value, compute_uv=False), output_shape=(4,), name="svd")
    return keras.Model(x, keras.layers.SpectralNormalization(keras.layers.Dense(2), name="sn")(lowest(x)))


def failing(keras: Any) -> Any:
    class Failing(keras.Layer):  # type: ignore[misc]
        ready = False

        def call(self, x: Any) -> Any:
            if self.ready:
                raise RuntimeError("no luck\ntoday")
            return x

    layer, x = Failing(name="failing"), keras.Input((4,))
    model = keras.Model(x, layer(keras.layers.SpectralNormalization(keras.layers.Dense(4), name="sn")(x)))
    layer.ready = True
    return model


REFUSALS: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (called_outside, r"kernel of 'sn' is read outside of its SpectralNormalization too \(by MatMul"),
    (wrapped_twice, r"layers '(first|second)' and '(first|second)' normalize one kernel"),
    (wrapped_in_itself, "layers 'around' and 'around/inside' normalize one kernel"),
    (in_a_loop, "layer 'repeated/sn' is called inside a loop or branch"),
    (over_a_dynamic_time, "layer 'time/sn' is called inside a loop or branch"),
    (training_in_inference, "layer 'always/sn' is called with training=True in inference too"),
    (unused_in_inference, "layer 'unused/sn' has no part in the model's inference"),
    (not_a_product, "kernel of SpectralNormalization layer 'sn' is read by Mul"),
    (computed_kernel, "kernel of SpectralNormalization layer 'sn' is read by Exp"),
    (product_and_more, "kernel of SpectralNormalization layer 'sn' is read by .*Sum, which is not a product"),
    (read_twice_in_two_calls, "layer 'sn' is called 2 times, and one call reads its kernel 2 times"),
    (two_layouts, "calls of layer 'sn' read its kernel in different layouts"),
    (in_bfloat16, r"computes in bfloat16 \(at '.*'\), which tf2onnx would make float16 of"),
    (unknown_operation, r"tf2onnx has no ONNX operator for Svd"),
    (failing, "can't be traced: .*no luck today"),
)


@pytest.mark.parametrize(("make", "said"), REFUSALS, ids=lambda one: getattr(one, "__name__", ""))
def test_refused_by_name_and_left_alone(make: Callable[[Any], Any], said: str, keras: Any) -> None:
    import tensorflow as tf

    model = make(keras)
    before = [variable.numpy().copy() for variable in model.variables]
    layers = {id(layer): set(vars(layer)) for layer in model._flatten_layers()}
    with pytest.raises(ModelError, match=said) as refusal:
        frontend.export(model)
    assert "\n" not in str(refusal.value)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, strict=True)
    assert {id(layer): set(vars(layer)) for layer in model._flatten_layers()} == layers
    assert not tf.config.functions_run_eagerly()


def test_a_model_that_is_not_built(keras: Any) -> None:
    wrapped = keras.layers.SpectralNormalization(keras.layers.Dense(2), name="sn")
    with pytest.raises(ModelError, match="layer 'sn' is not built, so it has no kernel; call the model on data first"):
        frontend.export(keras.Sequential([wrapped]))
    with pytest.raises(ModelError, match="the inputs of model 'plain' are not known"):
        frontend.export(keras.Sequential([keras.layers.ReLU()], name="plain"))


def test_a_call_on_two_arguments(keras: Any) -> None:
    """Keras keeps the shape of the first only; wrapped as the message says, the model exports."""

    class Pair(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="pair")
            self.score = keras.layers.SpectralNormalization(keras.layers.Dense(3), name="score")

        def call(self, image: Any, label: Any, training: bool = False) -> Any:
            return self.score(image, training=training) * label

    model = Pair()
    model(np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float32))
    with pytest.raises(
        ModelError, match=r"model 'pair' is called on image, label, and Keras 3 keeps .* wrap it: x, y ="
    ):
        frontend.export(model)
    x, y = keras.Input((4,)), keras.Input((3,))
    exported = frontend.export(keras.Model([x, y], model(x, y)))
    assert [site.id for site in exported.plan.eligible()] == ["pair/score/kernel"]


def test_what_is_no_model(keras: Any) -> None:
    with pytest.raises(ModelError, match="this is not a Keras model but a Dense"):
        frontend.wrappers(keras.layers.Dense(2))
    with pytest.raises(ModelError, match="this is not a Keras model but a int"):
        frontend.export(3)
