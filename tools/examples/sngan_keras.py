"""Train a small SN-GAN in Keras, take its discriminator to ONNX with its live u, go on normalizing there, fold it.

    python -m tools.examples.sngan_keras [FOLDER]      # needs the extras `cpu` and `keras`; about half a minute

Three numbers must agree at the end: Keras's mean logit after CALLS more calls with training=True, that of the same runs
in onnxruntime, and that of the folded model, which holds the weights of the last run and no state. docs/keras.md walks
through it. Miyato et al., 2018, https://arxiv.org/abs/1802.05957; the hinge loss is its equation 16 and 17.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
from keras import layers

import sn_graph as sn
from sn_graph.frontends import keras as sn_keras

SIZE, NOISE, BATCH = 16, 8, 32
STEPS, CALLS = 60, 10
SEED = 20180216


def real_images(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return images [count, 16, 16, 1] of one soft blob each, float32 within [-1, 1]."""
    y, x = np.mgrid[:SIZE, :SIZE]
    center = rng.uniform(4, SIZE - 4, (2, count, 1, 1))
    width = rng.uniform(2, 4, (count, 1, 1))
    blobs = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / width**2)
    images: np.ndarray = (2 * blobs - 1)[..., None].astype(np.float32)
    return images


def generator() -> keras.Model:
    """Return a model of noise [N, 8] to images [N, 16, 16, 1]."""
    return keras.Sequential(
        [
            keras.Input((NOISE,), name="noise"),
            layers.Dense(4 * 4 * 32, activation="relu"),
            layers.Reshape((4, 4, 32)),
            layers.Conv2DTranspose(16, 4, 2, "same", activation="relu"),
            layers.Conv2DTranspose(1, 4, 2, "same", activation="tanh"),
        ],
        name="generator",
    )


def discriminator() -> keras.Model:
    """Return a model of images [N, 16, 16, 1] to logits [N, 1]; every weight is spectrally normalized."""
    image = x = keras.Input((SIZE, SIZE, 1), name="image")
    for channels in (16, 32):
        x = layers.SpectralNormalization(layers.Conv2D(channels, 4, 2, "same"), name=f"conv_{channels}")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    logits = layers.SpectralNormalization(layers.Dense(1), name="logits")(layers.Flatten()(x))
    return keras.Model(image, logits, name="discriminator")


def train(critic: keras.Model, maker: keras.Model, rng: np.random.Generator) -> None:
    """Train both by the hinge loss; a call of the critic with training=True normalizes its kernels and advances u."""
    ours, theirs = (keras.optimizers.Adam(2e-4, beta_1=0.5) for _ in range(2))

    def step(real: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            fake = critic(maker(noise, training=True), training=True)
            loss = tf.reduce_mean(tf.nn.relu(1 - critic(real, training=True))) + tf.reduce_mean(tf.nn.relu(1 + fake))
        ours.apply(tape.gradient(loss, critic.trainable_variables), critic.trainable_variables)
        with tf.GradientTape() as tape:
            fooled = -tf.reduce_mean(critic(maker(noise, training=True), training=True))
        theirs.apply(tape.gradient(fooled, maker.trainable_variables), maker.trainable_variables)
        return loss, fooled

    compiled = tf.function(step)
    for _ in range(STEPS):
        noise = rng.standard_normal((BATCH, NOISE)).astype(np.float32)
        loss, fooled = compiled(real_images(rng, BATCH), noise)
    print(
        f"after {STEPS} steps: hinge loss of the discriminator {float(loss):.3f}, of the generator {float(fooled):.3f}"
    )


def main(folder: Path) -> None:
    """Train, export, continue and fold; write the files to `folder`. Raises SystemExit where the three do not agree."""
    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    critic = discriminator()
    train(critic, generator(), rng)

    # The export: inference as stored, the plan, and the u that training has left in each layer.
    sn_keras.export(critic).save(folder / "disc.onnx")
    sn.insert(folder / "disc.onnx", plan=folder / "disc.plan.json").save(folder / "disc.sn.onnx")

    # Go on normalizing, in onnxruntime and in Keras.
    images = real_images(rng, BATCH)
    session = sn.StatefulSession(folder / "disc.sn.onnx")
    for _ in range(CALLS):
        (inserted,) = session.run(None, {"image": images})
        expected = critic(images, training=True).numpy()

    # Fold: the weights of that last run, and no state left.
    session.bake(folder / "disc.folded.onnx")
    (folded,) = onnxruntime.InferenceSession(folder / "disc.folded.onnx").run(None, {"image": images})

    print(f"mean logit after {CALLS} more calls, by Keras:       {expected.mean():.6f}")
    print(f"mean logit after {CALLS} more runs, by onnxruntime:  {inserted.mean():.6f}")
    print(f"mean logit of the folded model:                {folded.mean():.6f}")
    worst = max(float(np.abs(other - expected).max()) for other in (inserted, folded))
    print(f"furthest logit: {worst:.1e} of {np.abs(expected).max():.3f}")
    if worst > 1e-5 * np.abs(expected).max() + 5e-6:
        raise SystemExit("they do not agree")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
