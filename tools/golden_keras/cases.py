"""The layers whose normalization is recorded: one case each, without a framework, so that every generation reads it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

POWER_ITERATIONS = (1, 2, 5)
STEPS = (1, 10, 100, 1000)
GENERATIONS = ("2.15", "2.21")
LIVE = "3"
SEED = 20180216  # of Miyato et al., 2018, https://arxiv.org/abs/1802.05957


@dataclass(frozen=True)
class Case:
    """A layer to wrap, and what it is called with.

    Attributes:
        name: Keys of the golden arrays begin with it.
        layer, arguments: The class in `keras.layers` and what it is made with.
        shape: Of the input, its batch included.
        vocabulary: For an Embedding, below which the ids lie.
        live_only: Whether Keras 2's wrapper refuses the layer.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    vocabulary: int | None = None
    live_only: bool = False

    def input(self) -> np.ndarray[Any, Any]:
        """Return what the layer is called with, float32 (ids int32); the same at every call."""
        generator = self.generator("input")
        if self.vocabulary is not None:
            return generator.integers(0, self.vocabulary, self.shape).astype(np.int32)
        return generator.standard_normal(self.shape).astype(np.float32)

    def weights(self, kernel: tuple[int, ...], bias: tuple[int, ...]) -> tuple[np.ndarray[Any, Any], ...]:
        """Return a random kernel, u [1, n] of a length far from 1, and bias, float32. σ lies between 0.1 and 100."""
        generator = self.generator("weights")
        scale = 10 ** generator.uniform(-1.0, 1.0)
        arrays = (
            generator.standard_normal(kernel) * scale,
            generator.standard_normal((1, kernel[-1])) * 0.02,
            generator.standard_normal(bias),
        )
        return tuple(array.astype(np.float32) for array in arrays)

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the random numbers of one purpose: they depend on the case's name and on nothing else."""
        return np.random.default_rng([SEED, zlib.crc32(f"{self.name}/{purpose}".encode())])


def _conv(name: str, rank: int, shape: tuple[int, ...], **arguments: Any) -> Case:
    kind = "Transpose" if arguments.pop("transpose", False) else ""
    return Case(name, f"Conv{rank}D{kind}", shape, {"filters": 4, "kernel_size": 3, **arguments})


CASES = (
    Case("dense_2d", "Dense", (3, 7), {"units": 5}),
    Case("dense_3d", "Dense", (2, 4, 7), {"units": 6}),
    Case("dense_4d", "Dense", (1, 3, 4, 6), {"units": 5, "use_bias": False}),
    _conv("conv1d_valid", 1, (2, 9, 4)),
    _conv("conv1d_same_strides", 1, (2, 9, 3), padding="same", strides=2, filters=5),
    _conv("conv1d_causal_dilation", 1, (2, 9, 4), padding="causal", dilation_rate=2),
    _conv("conv1d_groups", 1, (2, 9, 6), groups=3, filters=6),
    _conv("conv2d_valid", 2, (1, 6, 7, 3), kernel_size=(3, 2)),
    _conv("conv2d_same_strides", 2, (1, 7, 6, 4), padding="same", strides=2, kernel_size=4, filters=6),
    _conv("conv2d_dilation", 2, (1, 8, 7, 3), dilation_rate=2, use_bias=False),
    _conv("conv2d_groups", 2, (1, 6, 6, 4), groups=2, filters=6),
    _conv("conv3d_valid", 3, (1, 4, 5, 4, 2), kernel_size=2),
    _conv("conv3d_same_strides", 3, (1, 5, 4, 4, 2), padding="same", strides=2, filters=3),
    _conv("conv3d_dilation", 3, (1, 5, 5, 6, 2), kernel_size=2, dilation_rate=2),
    _conv("conv1d_transpose_valid", 1, (2, 5, 4), transpose=True, filters=3),
    _conv("conv1d_transpose_same_strides", 1, (2, 5, 4), transpose=True, padding="same", strides=2),
    _conv("conv2d_transpose_valid", 2, (1, 4, 3, 5), transpose=True, strides=2, filters=3),
    _conv("conv2d_transpose_same", 2, (1, 4, 4, 3), transpose=True, padding="same", use_bias=False),
    _conv("conv3d_transpose_valid", 3, (1, 3, 2, 3, 3), transpose=True, kernel_size=2, filters=2),
    _conv("conv3d_transpose_same_strides", 3, (1, 2, 3, 2, 3), transpose=True, padding="same", strides=2, filters=2),
    Case(
        "depthwise_conv2d", "DepthwiseConv2D", (1, 6, 5, 4), {"kernel_size": 3, "depth_multiplier": 2}, live_only=True
    ),
    Case("depthwise_conv2d_one", "DepthwiseConv2D", (1, 6, 5, 4), {"kernel_size": 3}, live_only=True),
    Case("embedding", "Embedding", (3, 4), {"input_dim": 11, "output_dim": 6}, vocabulary=11),
    Case("einsum_dense_matrix", "EinsumDense", (3, 7), {"equation": "ab,bc->ac", "output_shape": 5, "bias_axes": "c"}),
    Case(
        "einsum_dense_heads",
        "EinsumDense",
        (2, 3, 8),
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 5), "bias_axes": "de"},
    ),
)


def cases_of(generation: str) -> tuple[Case, ...]:
    """Return the cases that a generation of Keras can run."""
    return tuple(case for case in CASES if generation == LIVE or not case.live_only)
