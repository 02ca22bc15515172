"""Small generated pictures: what the discriminators of models/ are trained on, and the inputs of their golden runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES = 10

Images = NDArray[np.float32]


def real_images(rng: np.random.Generator, labels: NDArray[np.int64], size: int = 32) -> Images:
    """Draw a striped disc on a shaded ground for each label.

    The label sets the stripes' direction and period; place, radius and colors are random.

    Returns:
        float32 of shape [len(labels), size, size, 3], in [-1, 1], on the grid of 8-bit pictures.
    """
    count = len(labels)
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    angle = np.pi * labels / CLASSES
    period = 6.0 + 2.0 * (labels % 3)
    phase = rng.uniform(0, 2 * np.pi, count)
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    stripes = 0.5 + 0.5 * np.sin(period[:, None, None] * along + phase[:, None, None])
    disc = _disc(rng, count, x, y)
    ink, ground = rng.uniform(-0.9, 0.9, (2, count, 1, 1, 3))
    shade = (rng.uniform(-0.3, 0.3, (count, 1, 1)) * x)[..., None]
    blend = (disc * stripes)[..., None]
    return _quantize(blend * ink + (1 - blend) * (ground + shade))


def fake_images(rng: np.random.Generator, labels: NDArray[np.int64], size: int = 32) -> Images:
    """Return the pictures an unfinished generator might make: blurred, with the wrong stripes, blotchy."""
    wrong = np.where(rng.random(len(labels)) < 0.5, rng.permutation(labels), labels)
    images = real_images(rng, wrong, size)
    for axis in (1, 2):
        images = (np.roll(images, 1, axis) + 2 * images + np.roll(images, -1, axis)) / np.float32(4)
    coarse = rng.normal(0, 0.25, (len(labels), size // 4, size // 4, 3))
    return _quantize(images + np.kron(coarse, np.ones((1, 4, 4, 1))))


def outlines(images: Images) -> Images:
    """Return edge maps, the condition that a pix2pix discriminator sees beside the picture; shapes as given."""
    across = np.abs(np.diff(images, axis=2, append=images[:, :, -1:]))
    down = np.abs(np.diff(images, axis=1, append=images[:, -1:]))
    return _quantize(2 * (across + down) - 1)


def _disc(rng: np.random.Generator, count: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    center_x, center_y = rng.uniform(-0.4, 0.4, (2, count, 1, 1))
    radius = rng.uniform(0.4, 0.8, (count, 1, 1))
    inside: NDArray[np.float64] = np.clip((radius - np.hypot(x - center_x, y - center_y)) * 8 + 0.5, 0, 1)
    return inside


def _quantize(images: NDArray[np.floating]) -> Images:
    steps: NDArray[np.floating] = np.rint(np.clip(images, -1, 1) * 127)
    return (steps / 127).astype(np.float32)
