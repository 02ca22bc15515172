"""Keras models to export: one for each layer that SpectralNormalization takes, and models built to trap an exporter.

Each function takes the `keras` module, Keras 3's or tf_keras, so that both generations build the same. Nothing here
imports a framework; `require_keras` does, or skips the test.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
WHY = "needs the extra keras: pip install 'sn-graph[cpu,keras]'"


def require_keras() -> ModuleType:
    """Return Keras 3 on TensorFlow, or skip the test where something of the extra is missing."""
    for name in ("tensorflow", "tf2onnx", "keras"):
        pytest.importorskip(name, reason=WHY)
    return importlib.import_module("keras")


@dataclass(frozen=True)
class LayerCase:
    """A layer to wrap.

    Attributes:
        name: What it tries.
        layer: Makes the layer, of a `layers` module.
        shape: Of its input, without the batch; None is a dynamic size.
        ids: Its input holds ids below this number.
        legacy: tf_keras's wrapper takes it too.
    """

    name: str
    layer: Callable[[Any], Any]
    shape: tuple[int | None, ...]
    ids: int | None = None
    legacy: bool = True

    def model(self, keras: Any, power_iterations: int = 1) -> Any:
        """Return a model of this layer alone, in its wrapper."""
        x = keras.Input(self.shape, name="x")
        wrapped = keras.layers.SpectralNormalization(
            self.layer(keras.layers), power_iterations=power_iterations, name="sn"
        )
        return keras.Model(x, wrapped(x))

    def batch(self, rng: np.random.Generator, size: int = 2) -> Array:
        """Return an input; ids as floats, for Keras 3 would truncate the output of whole ones."""
        shape = (size, *(side or 5 for side in self.shape))
        if self.ids is not None:
            return rng.integers(0, self.ids, shape).astype(np.float32)
        return rng.standard_normal(shape).astype(np.float32)


LAYERS = (
    LayerCase("dense-2d", lambda k: k.Dense(4), (5,)),
    LayerCase("dense-3d", lambda k: k.Dense(4, use_bias=False), (3, 5)),
    LayerCase("dense-4d", lambda k: k.Dense(4), (2, 3, 5)),
    LayerCase("dense-dynamic", lambda k: k.Dense(1), (None, 5)),
    LayerCase("conv1d-causal", lambda k: k.Conv1D(4, 3, padding="causal", dilation_rate=2), (9, 3)),
    LayerCase("conv1d-groups", lambda k: k.Conv1D(4, 3, groups=2), (9, 6)),
    LayerCase("conv2d-valid", lambda k: k.Conv2D(4, (3, 2)), (8, 9, 3)),
    LayerCase("conv2d-same-strides", lambda k: k.Conv2D(4, 3, strides=2, padding="same", use_bias=False), (9, 8, 3)),
    LayerCase("conv2d-dilation", lambda k: k.Conv2D(4, 3, dilation_rate=2, padding="same"), (9, 9, 3)),
    LayerCase("conv2d-groups", lambda k: k.Conv2D(4, 3, groups=2), (9, 9, 6)),
    LayerCase("conv2d-dynamic", lambda k: k.Conv2D(4, 3, padding="same"), (None, None, 3)),
    LayerCase("conv3d", lambda k: k.Conv3D(4, (3, 2, 1)), (5, 6, 7, 3)),
    LayerCase("conv3d-groups", lambda k: k.Conv3D(6, 3, groups=3), (5, 6, 7, 3)),
    LayerCase("conv1d-transpose", lambda k: k.Conv1DTranspose(4, 3, strides=2), (5, 3)),
    LayerCase("conv2d-transpose", lambda k: k.Conv2DTranspose(4, 3, strides=2, padding="same"), (5, 5, 3)),
    LayerCase("conv3d-transpose", lambda k: k.Conv3DTranspose(4, 3, strides=2), (4, 4, 4, 3)),
    LayerCase("depthwise-1d", lambda k: k.DepthwiseConv1D(3, depth_multiplier=2), (6, 3), legacy=False),
    LayerCase("depthwise-2d", lambda k: k.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 3), legacy=False),
    LayerCase("depthwise-2d-m1", lambda k: k.DepthwiseConv2D(3, strides=2), (7, 7, 3), legacy=False),
    LayerCase("embedding", lambda k: k.Embedding(7, 4), (3,), ids=7),
    LayerCase("einsum-heads", lambda k: k.EinsumDense("abc,cde->abde", output_shape=(None, 2, 5)), (3, 4)),
    LayerCase("einsum-joined", lambda k: k.EinsumDense("abcd,cde->abe", output_shape=(None, 5)), (3, 4, 2)),
    LayerCase("einsum-transposed", lambda k: k.EinsumDense("abc,dc->abd", output_shape=(None, 5)), (3, 4)),
)
REFUSED: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "SeparableConv2D": (lambda k: k.SeparableConv2D(4, 3), (5, 5, 3)),
    "LSTM": (lambda k: k.LSTM(4), (5, 3)),
    "ReLU": (lambda k: k.ReLU(), (5,)),
    "BatchNormalization": (lambda k: k.BatchNormalization(), (5,)),
}


def twins(keras: Any) -> Any:
    """Four layers of one shape: two wrapped ones and a plain one with equal kernels, and a wrapped zero kernel."""
    k, rng = keras.layers, np.random.default_rng(5)
    layers = {name: k.Dense(6, use_bias=False, name=name) for name in ("a", "plain", "b", "zero")}
    x = inputs = keras.Input((6,), name="x")
    for name, layer in layers.items():
        wrapped = layer if name == "plain" else k.SpectralNormalization(layer, name=f"sn_{name}")
        # Past the zero kernel too, so that the output tells something.
        x = k.Concatenate()([wrapped(x), x]) if name == "zero" else k.LeakyReLU()(wrapped(x))
    model = keras.Model(inputs, x)
    same = rng.standard_normal((6, 6)).astype(np.float32)
    for name, layer in layers.items():
        layer.kernel.assign(np.zeros_like(same) if name == "zero" else same)
    return model


def called_again(keras: Any) -> Any:
    """One layer called three times: on two inputs side by side, and on its own output.

    The call on `right` comes first, which a graph sorted by its inputs would not tell.
    """
    k = keras.layers
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    shared = k.SpectralNormalization(k.Dense(6, name="dense"), power_iterations=2, name="shared")
    first = shared(right)
    second = shared(left)
    third = shared(k.LeakyReLU()(first))
    joined = k.Concatenate()([second, first])
    score = k.SpectralNormalization(k.Dense(1), name="score")(joined)
    return keras.Model([left, right], {"score": score, "deep": third})


def convolution_and_batchnorm(keras: Any, *, use_bias: bool) -> Any:
    """A wrapped and a plain convolution, each before a BatchNormalization that has seen data; Dropout behind."""
    k, rng = keras.layers, np.random.default_rng(6)
    x = inputs = keras.Input((8, 8, 3), name="image")
    norms = [k.BatchNormalization(name=f"norm_{place}") for place in range(2)]
    wrapped = k.SpectralNormalization(k.Conv2D(4, 3, use_bias=use_bias, name="conv"), name="sn")
    plain = k.Conv2D(5, 3, use_bias=use_bias, name="plain")
    for layer, norm in zip((wrapped, plain), norms, strict=True):
        x = k.Dropout(0.5)(k.LeakyReLU()(norm(layer(x))))
    model = keras.Model(inputs, x)
    for norm in norms:
        for weight in norm.weights:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape).astype(np.float32))
    return model


def nested(keras: Any) -> Any:
    """Sequential in Functional, called twice; layers of one name in two of them, and one named like another's scope."""
    k = keras.layers

    def block(name: str) -> Any:
        return keras.Sequential(
            [
                keras.Input((8, 8, 4)),
                k.SpectralNormalization(k.Conv2D(4, 3, padding="same", name="conv"), name="sn_conv"),
                k.LeakyReLU(),
            ],
            name=name,
        )

    image = keras.Input((8, 8, 4), name="image")
    first, second = block("block"), block("block_1")
    x = second(first(first(image)))
    inner_input = keras.Input((8, 8, 4))
    inner = keras.Model(inner_input, k.SpectralNormalization(k.Conv2D(2, 3), name="conv")(inner_input), name="sn_conv")
    x = k.Flatten()(inner(x))
    return keras.Model(image, k.SpectralNormalization(k.Dense(2, name="kernel"), name="block_sn_conv")(x), name="outer")


def set_random(model: Any, rng: np.random.Generator) -> None:
    """Give every weight of a model random values: kernels of norms away from 1, u's that no training has seen."""
    for weight in model.weights:
        if "float" in str(weight.dtype):
            weight.assign(rng.normal(0.0, 0.5, weight.shape).astype(np.float32))
