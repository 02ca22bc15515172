"""Residual steps that mirror their convolution, against all-on, all-off and random slopes of the same step."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.certify import Network
from sn_graph.certify.mirrored import mirrored_bound
from sn_graph.certify.segments import Cuts
from tests.support.certified import network, nodes

Real = NDArray[np.float64]
SIZE = 6
PAD = {"pads": [1, 1, 1, 1]}


def drawn(seed: int = 0, channels: int = 3, neurons: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((neurons, channels, 3, 3)).astype(np.float32)


def written_out(kernel: NDArray[np.float32]) -> Real:
    """The zero-padded convolution as a matrix [neurons · places, channels · places]."""
    neurons, channels, taps, _ = kernel.shape
    matrix = np.zeros((neurons, SIZE, SIZE, channels, SIZE, SIZE))
    for y in range(SIZE):
        for x in range(SIZE):
            for v in range(taps):
                for u in range(taps):
                    if 0 <= y + v - 1 < SIZE and 0 <= x + u - 1 < SIZE:
                        matrix[:, y, x, :, y + v - 1, x + u - 1] = kernel[:, :, v, u]
    return matrix.reshape(neurons * SIZE**2, channels * SIZE**2)


def residual(
    forth: NDArray[np.float32],
    back: NDArray[np.float32],
    factor: Any = None,
    bend: Any = ("Relu", {}),
    join: str = "Add",
) -> Network:
    """x ± ConvTranspose(factor · φ(Conv(x) + b))."""
    held = {"k": forth, "w": back, "b": np.random.default_rng(1).standard_normal(len(forth)).astype(np.float32)}
    op, attributes = bend
    parts: list[Any] = [("Conv", ["x", "k", "b"], "a", PAD), (op, ["a"], "z", attributes)]
    at = "z"
    if factor is not None:
        held["f"] = np.asarray(factor, np.float32)
        parts.append(("Mul", ["z", "f"], "t"))
        at = "t"
    parts += [("ConvTranspose", [at, "w"], "r", PAD), (join, ["x", "r"], "y")]
    return network(nodes(*parts, x=(1, forth.shape[1], SIZE, SIZE), held=held))


def bound_of(made: Network) -> float | None:
    (segment,) = Cuts.of(made).segments
    return mirrored_bound(segment)


def attained(forth: Real, back: Real, low: float = 0.0, high: float = 1.0) -> float:
    """The largest norm of I + B S A over slopes S: all on, all off, and many random ones."""
    rng, eye = np.random.default_rng(2), np.eye(forth.shape[1])
    slopes = [np.full(len(forth), low), np.full(len(forth), high)]
    slopes += [np.where(rng.random(len(forth)) < part, high, low) for part in rng.random(60)]
    return max(float(np.linalg.norm(eye + back @ (one[:, None] * forth), 2)) for one in slopes)


@pytest.mark.parametrize("bend", [("Relu", {}), ("Tanh", {}), ("LeakyRelu", {"alpha": 0.1}), ("Sigmoid", {})])
def test_a_step_by_the_operators_own_norm(bend: Any) -> None:
    """CPL: 2/‖A‖² with the norm of the zero-padded map, by SVD; a circular embedding's is some percent larger."""
    kernel = drawn()
    norm = float(np.linalg.svd(written_out(kernel), compute_uv=False)[0])
    factor = np.float32(2.0 / norm**2)
    bound = bound_of(residual(kernel, -factor * kernel, bend=bend))
    assert bound is not None
    assert 1.0 <= bound <= 1.0 + 1e-6
    assert attained(written_out(kernel), -written_out(factor * kernel).T) <= bound


def test_scales_of_channels_between() -> None:
    """SLL: x − 2 ConvTranspose(T⁻¹ relu(Conv x)), T the sums of the kernel's own correlations."""
    kernel = drawn(3)
    scale = np.abs(written_out(kernel) @ written_out(kernel).T).sum(axis=1).reshape(4, -1).max(axis=1)
    made = residual(kernel, 2.0 * kernel, (1.0 / scale).reshape(4, 1, 1), join="Sub")
    bound = bound_of(made)
    assert bound is not None
    assert 1.0 <= bound <= 1.0 + 1e-6


@pytest.mark.parametrize("part", [0.5, 2.001, 2.5, 3.0, 6.0])
def test_a_step_that_is_too_long(part: float) -> None:
    """c beyond 2/‖A‖² has c‖A‖² − 1 with all neurons on, and the bound says more than that."""
    kernel = drawn(4)
    norm = float(np.linalg.svd(written_out(kernel), compute_uv=False)[0])
    factor = np.float32(part / norm**2)
    bound = bound_of(residual(kernel, -factor * kernel))
    true = attained(written_out(kernel), -written_out(factor * kernel).T)
    assert bound is not None
    assert max(1.0, true) <= bound * (1.0 + 1e-12)
    assert bound <= math.sqrt(1.0 + max(0.0, part - 2.0) * part) * (1.0 + 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_what_does_not_mirror_counts_in_full(seed: int) -> None:
    kernel, other = drawn(seed), drawn(seed + 50)
    for back in (0.05 * other, 0.05 * kernel, -0.02 * kernel + 0.01 * other):
        bound = bound_of(residual(kernel, back.astype(np.float32)))
        assert bound is not None
        assert attained(written_out(kernel), written_out(back).T) <= bound


def test_what_is_none_of_it() -> None:
    kernel = drawn(5)
    assert bound_of(residual(kernel, -0.01 * kernel, bend=("Elu", {"alpha": 2.0}))) is None  # slopes up to 2
    assert bound_of(residual(kernel, -0.01 * kernel, bend=("Abs", {}))) is None
    parts = [("Conv", ["x", "k"], "a", PAD), ("Relu", ["a"], "y")]
    plain = network(nodes(*parts, x=(1, 3, SIZE, SIZE), held={"k": kernel}))
    assert all(mirrored_bound(segment) is None for segment in Cuts.of(plain).segments)
    halved = [
        ("Conv", ["x", "k"], "a", PAD),
        ("Relu", ["a"], "z"),
        ("ConvTranspose", ["z", "w"], "r", PAD),
        ("Mul", ["x", "h"], "s"),
        ("Add", ["s", "r"], "y"),
    ]
    held = {"k": kernel, "w": -0.01 * kernel, "h": np.float32(0.5)}
    made = network(nodes(*halved, x=(1, 3, SIZE, SIZE), held=held))
    assert all(mirrored_bound(segment) is None for segment in Cuts.of(made).segments)


@pytest.mark.parametrize("kind", ["zero", "dead channel", "tiny", "large"])
def test_scales_and_zeros(kind: str) -> None:
    kernel = drawn(6)
    match kind:
        case "zero":
            kernel *= 0.0
        case "dead channel":
            kernel[1] = 0.0
        case "tiny":
            kernel *= np.float32(1e-5)
        case _:
            kernel *= np.float32(1e5)
    norm = float(np.linalg.svd(written_out(kernel), compute_uv=False)[0])
    factor = np.float32(2.0 / norm**2) if norm else np.float32(1.0)
    bound = bound_of(residual(kernel, -factor * kernel))
    assert bound is not None
    assert 1.0 <= bound <= 1.0 + 1e-6
