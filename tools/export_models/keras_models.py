"""Train and export the Keras discriminators of models/ (DCGAN, U-Net with SpectralNormalization) by tf2onnx.

Run through `python -m tools.export_models`, which fixes what must be fixed before Python starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keras import layers, ops
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save

from tools.export_models.finish import write_model
from tools.export_models.images import CLASSES, fake_images, real_images
from tools.export_models.renumber import renumber

DCGAN_SEED = 20151119
UNET_SEED = 20200228
BATCH = 16

Golden = dict[str, NDArray[np.generic]]
Inputs = dict[str, NDArray[np.float32]]
Batches = Callable[[], tuple[Inputs, Inputs]]


def dcgan_discriminator() -> keras.Model:
    """Radford et al., 2015, https://arxiv.org/abs/1511.06434: image [N,32,32,3] to logits [N,1]."""
    image = x = keras.Input((32, 32, 3), name="image")
    for channels in (32, 64, 96):
        initializer = keras.initializers.RandomNormal(0.0, 0.02)
        x = layers.Conv2D(channels, 5, 2, "same", kernel_initializer=initializer, name=f"conv_{channels}")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
        x = layers.Dropout(0.3)(x)
    logits = layers.Dense(1, name="logits")(layers.Flatten()(x))
    return keras.Model({"image": image}, {"logits": logits}, name="discriminator")


def unet_discriminator() -> keras.Model:
    """U-Net discriminator with a label projection; every weight is in keras.layers.SpectralNormalization.

    Schönfeld et al., 2020, https://arxiv.org/abs/2002.12655; Miyato and Koyama, 2018, https://arxiv.org/abs/1802.05637.
    image [N,32,32,3], label [N] to logits [N,1], pixel_logits [N,32,32,1].
    """

    def normalized(layer: keras.Layer) -> keras.Layer:
        return layers.SpectralNormalization(layer, name=f"sn_{layer.name}")

    def activated(x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.LeakyReLU(negative_slope=0.2)(x)

    image = keras.Input((32, 32, 3), name="image")
    # float: the wrapper casts its output to its input's dtype, so integer labels would give a truncated int32 embedding
    label = keras.Input((), name="label", dtype="float32")
    down1 = activated(normalized(layers.Conv2D(32, 4, 2, "same", name="down1"))(image))
    down2 = activated(normalized(layers.Conv2D(64, 4, 2, "same", name="down2"))(down1))
    down3 = activated(normalized(layers.Conv2D(96, 4, 2, "same", name="down3"))(down2))
    code = activated(normalized(layers.Dense(64, name="code"))(ops.mean(down3, axis=(1, 2))))
    embedding = normalized(layers.Embedding(CLASSES, 64, name="embedding"))(label)
    projection = ops.sum(code * embedding, axis=1, keepdims=True)
    logits = normalized(layers.Dense(1, name="score"))(code) + projection
    up1 = activated(normalized(layers.Conv2DTranspose(64, 4, 2, "same", name="up1"))(down3))
    up2 = activated(normalized(layers.Conv2DTranspose(32, 4, 2, "same", name="up2"))(ops.concatenate([up1, down2], 3)))
    up3 = activated(normalized(layers.Conv2DTranspose(16, 4, 2, "same", name="up3"))(ops.concatenate([up2, down1], 3)))
    pixel_logits = normalized(layers.Conv2D(1, 1, name="pixels"))(up3)
    return keras.Model(
        {"image": image, "label": label}, {"logits": logits, "pixel_logits": pixel_logits}, name="discriminator"
    )


def train(model: keras.Model, batches: Batches, steps: int, learning_rate: float, *, training: bool = True) -> None:
    """Train by the hinge loss on every output; each training=True call normalizes the kernels and advances u."""
    optimizer = keras.optimizers.Adam(learning_rate, beta_1=0.5)

    def step(real: dict[str, tf.Tensor], fake: dict[str, tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            positive = [tf.reduce_mean(tf.nn.relu(1 - y)) for y in model(real, training=training).values()]
            negative = [tf.reduce_mean(tf.nn.relu(1 + y)) for y in model(fake, training=training).values()]
            loss = tf.add_n(positive + negative)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    compiled = tf.function(step)
    for _ in range(steps):
        loss = compiled(*batches())
    print(f"hinge loss {float(loss):.3f} after {steps} steps")


def run(model: keras.Model, inputs: Inputs, *, training: bool = False) -> Golden:
    """Return the outputs of a model by name."""
    return {name: value.numpy() for name, value in model(inputs, training=training).items()}


def export(model: keras.Model, name: str, inputs: Inputs, folder: Path, golden: Golden) -> onnx.ModelProto:
    """Write `<name>.onnx` in inference mode, and keep Keras's own outputs."""
    signature = [tf.TensorSpec((None, *value.shape[1:]), tf.float32, name=key) for key, value in inputs.items()]

    def inference(*values: tf.Tensor) -> Any:
        return model(dict(zip(inputs, values, strict=True)), training=False)

    compiled = tf.function(inference, input_signature=signature)
    proto: onnx.ModelProto
    proto, _ = tf2onnx.convert.from_function(compiled, input_signature=signature, opset=17)
    renumber(proto)
    outputs = run(model, inputs)
    write_model(proto, folder / f"{name}.onnx", inputs, outputs)
    golden.update({f"{name}/input/{key}": value for key, value in inputs.items()})
    golden.update({f"{name}/output/{key}": value for key, value in outputs.items()})
    return proto


def make_dcgan(folder: Path, golden: Golden) -> None:
    """Train and write the DCGAN discriminator."""
    keras.utils.set_random_seed(DCGAN_SEED)
    rng = np.random.default_rng(DCGAN_SEED)

    def batches() -> tuple[Inputs, Inputs]:
        labels = rng.integers(0, CLASSES, BATCH)
        return {"image": real_images(rng, labels)}, {"image": fake_images(rng, labels)}

    model = dcgan_discriminator()
    train(model, batches, 60, 1e-3)
    export(model, "keras_dcgan_discriminator", one_of_each(*batches()), folder, golden)


def make_unet(folder: Path, golden: Golden) -> None:
    """Train and write the U-Net discriminator with its u, and keep Keras's further calls."""
    keras.utils.set_random_seed(UNET_SEED)
    rng = np.random.default_rng(UNET_SEED)

    def batches() -> tuple[Inputs, Inputs]:
        labels = rng.integers(0, CLASSES, BATCH)
        label = labels.astype(np.float32)
        return (
            {"image": real_images(rng, labels), "label": label},
            {"image": fake_images(rng, labels), "label": label},
        )

    model = unet_discriminator()
    train(model, batches, 40, 1e-3)
    # fine-tuned without normalizing: σ leaves 1, u stays as training left it
    train(model, batches, 40, 2e-3, training=False)
    inputs = one_of_each(*batches())
    proto = export(model, "keras_sn_mixed", inputs, folder, golden)
    (folder / "keras_sn_mixed.u.safetensors").write_bytes(save(u_by_initializer(model, proto)))
    for step in range(1, 11):  # each training=True call divides the kernels once more and advances every u
        outputs = run(model, inputs, training=True)
        if step in (1, 10):
            golden.update({f"keras_sn_mixed/step_{step}/{key}": value for key, value in outputs.items()})


def one_of_each(real: Inputs, fake: Inputs) -> Inputs:
    """Return the first real picture and the second that is not."""
    return {key: np.concatenate((real[key][:1], fake[key][1:2])) for key in real}


def u_by_initializer(model: keras.Model, proto: onnx.ModelProto) -> Golden:
    """Return each wrapper's u, shape [n], under `<initializer>.u`; kernels are told by their values, all different."""
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    vectors: Golden = {}
    for layer in model.layers:
        if isinstance(layer, layers.SpectralNormalization):
            kernel = layer.kernel.numpy()
            weight = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel
            (name,) = (key for key, value in initializers.items() if np.array_equal(value, weight))
            vectors[f"{name}.u"] = layer.vector_u.numpy().reshape(-1)
    return dict(sorted(vectors.items()))


def main(folder: Path) -> None:
    """Make the Keras models and golden.npz in `folder`."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    golden: dict[str, Any] = {}  # arrays; to its types savez would take one for its own flag
    make_dcgan(folder, golden)
    make_unet(folder, golden)
    np.savez(folder / "golden.npz", **golden)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
