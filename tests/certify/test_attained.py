"""The search for inputs whose outputs lie far apart: it can't prove anything, so it must find what is there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.certify.attained import search

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Layered:
    """Dense layers with an activation between them, at one point."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    point: Array
    smooth: bool

    @property
    def output(self) -> Array:
        return self._run()[0]

    def pull(self, cotangent: Array) -> Array:
        slopes = self._run()[1]
        for weight, slope in zip(reversed(self.weights), [*reversed(slopes), None], strict=True):
            cotangent = weight.T @ cotangent
            cotangent = cotangent if slope is None else cotangent * slope
        return cotangent

    def _run(self) -> tuple[Array, list[Array]]:
        value, slopes = self.point, []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            before = weight @ value + bias
            value = np.tanh(before) if self.smooth else np.maximum(before, 0.0)
            slopes.append(1.0 - value**2 if self.smooth else (before > 0.0).astype(np.float64))
        return self.weights[-1] @ value + self.biases[-1], slopes


def layers(sides: tuple[int, ...], seed: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    rng = np.random.default_rng(seed)
    weights = tuple(rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise(sides))
    return weights, tuple(0.1 * rng.standard_normal(side) for side in sides[1:])


@pytest.mark.parametrize("seed", range(3))
def test_the_norm_of_a_linear_map_is_attained(seed: int) -> None:
    weights, biases = layers((30, 20), seed)
    best = search(lambda x: Layered(weights, biases, x, smooth=False), 30, 5.0)[0]
    assert best.quotient == pytest.approx(np.linalg.norm(weights[0], 2), rel=1e-4)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("sides", [(4, 20, 1), (4, 80, 80, 1), (50, 30, 10)])
def test_it_finds_more_than_a_thousand_jacobians_show(sides: tuple[int, ...], smooth: bool) -> None:
    weights, biases = layers(sides, 0)
    rng = np.random.default_rng(1)
    drawn = 0.0
    for scale in (0.1, 1.0, 10.0, 0.0):
        for _ in range(250):
            at = Layered(weights, biases, scale * rng.standard_normal(sides[0]), smooth)
            drawn = max(drawn, float(np.linalg.norm([at.pull(row) for row in np.eye(sides[-1])], 2)))
    best = search(lambda x: Layered(weights, biases, x, smooth), sides[0], 20.0)[0]
    assert best.quotient >= 0.99 * drawn
    assert best.quotient <= np.prod([np.linalg.norm(weight, 2) for weight in weights])


def test_the_quotient_is_that_of_the_ends() -> None:
    weights, biases = layers((4, 20, 20, 2), 3)
    for one in search(lambda x: Layered(weights, biases, x, smooth=False), 4, 5.0):
        values = [Layered(weights, biases, end, smooth=False).output for end in one.ends]
        distance = np.linalg.norm(one.ends[1] - one.ends[0])
        assert np.linalg.norm(values[1] - values[0]) / distance == pytest.approx(one.quotient, rel=1e-6)


def test_a_kink_far_from_the_first_starts_is_found() -> None:
    """max(x − 40, 0): flat wherever a standard normal input lies."""
    weights, biases = (np.ones((1, 1)), np.ones((1, 1))), (np.array([-40.0]), np.zeros(1))
    best = search(lambda x: Layered(weights, biases, x, smooth=False), 1, 5.0)[0]
    assert best.quotient == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_nothing_is_found_where_nothing_differs_by_a_finite_amount(value: float) -> None:
    weights, biases = (np.full((2, 3), value),), (np.zeros(2),)
    assert search(lambda x: Layered(weights, biases, x, smooth=False), 3, 0.5) == []


def test_the_same_seed_finds_the_same() -> None:
    weights, biases = layers((4, 20, 1), 0)
    runs = [search(lambda x: Layered(weights, biases, x, smooth=True), 4, 60.0, seed=7) for _ in range(2)]
    assert runs[0][0].quotient == runs[1][0].quotient
