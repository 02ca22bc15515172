"""The frequencies of twisted circulants, and bounds that are norms."""

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.convolution.correlation import Correlation
from sn_graph.spectral.convolution.embedding import embedding_bound, frequencies, group_bounds, smallest_period
from sn_graph.spectral.convolution.geometry import Piece, split_axis
from sn_graph.spectral.convolution.supremum import peaks
from sn_graph.spectral.convolution.symbol import Symbol
from tests.support.convolutions import random_kernel


def same_padded(kernel: NDArray[np.float64], size: int) -> tuple[Correlation, Symbol, list[Piece]]:
    """Of stride 1, kernel [groups, S, L, taps…] with an odd number of taps."""
    axes = [split_axis(size, size, 1, 1, taps // 2, taps)[0] for taps in kernel.shape[3:]]
    correlation = Correlation.of(kernel, axes)
    return correlation, Symbol.of(correlation.coefficients, correlation.shifts), axes


@pytest.mark.parametrize("periods", [(1,), (6,), (7,), (4, 5), (1, 6), (5, 5), (3, 4, 2)])
def test_one_of_each_pair(periods: tuple[int, ...]) -> None:
    """With their mirror images the frequencies are the whole grid; and they are hardly more than half of it."""
    for twists in product((0.0, 0.5), repeat=len(periods)):
        found = frequencies(periods, twists)
        steps = {
            tuple(round(value) % (2 * period) for value, period in zip(sign * angle, periods, strict=True))
            for angle in found * np.array(periods) / np.pi
            for sign in (1, -1)
        }
        whole = product(*(range(int(2 * twist), 2 * period, 2) for period, twist in zip(periods, twists, strict=True)))
        assert steps == set(whole)
        assert len(found) <= math.prod(periods) / 2 + 2 ** len(periods) / 2


def test_smallest_period_is_half_a_kernel_longer() -> None:
    assert smallest_period(split_axis(16, 16, 1, 1, 3, 7)[0]) == 19
    assert smallest_period(split_axis(16, 10, 1, 1, 0, 7)[0]) == 16
    assert smallest_period(split_axis(16, 8, 2, 1, 1, 4)[0]) == 9


@pytest.mark.parametrize("size", [4, 9, 16])
@pytest.mark.parametrize("rank", [1, 2])
def test_tight_for_neighbors(size: int, rank: int) -> None:
    """(1, 1, 1) on each axis: 1 + 2 cos(π/(n + 1)), and its powers."""
    _, symbol, axes = same_padded(np.ones((1, 1, 1, *(3,) * rank)), size)
    bound = math.sqrt(embedding_bound(symbol, axes, 0.0))
    truth = (1 + 2 * math.cos(math.pi / (size + 1))) ** rank
    assert np.linalg.norm(np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1), 2) ** rank == pytest.approx(truth)
    # The limit is raised in steps of 1e-6 at most.
    assert truth <= bound <= truth * (1 + 2e-6)


@pytest.mark.parametrize("seed", range(5))
def test_known_peaks_are_kept_between_frequencies(seed: int) -> None:
    """Wherever the peaks are said to be, the bound holds; where they are, it is narrower."""
    rng = np.random.default_rng(seed)
    kernel = random_kernel(rng, (1, 3, 2, 4), False).astype(np.float64)
    correlation, symbol, axes = same_padded(kernel, 41)
    truth = float(np.linalg.norm(correlation.dense()[0], 2))
    found = peaks(symbol)
    misled = math.sqrt(embedding_bound(symbol, axes, truth, list(rng.uniform(-4, 4, (3, 1)))))
    assert truth <= misled <= math.sqrt(found[0].value) * (1 + 1e-6)
    # With no lower end to come close to, all ways are tried.
    informed = math.sqrt(embedding_bound(symbol, axes, 0.0, [peak.angle for peak in found]))
    assert truth <= informed <= math.sqrt(embedding_bound(symbol, axes, 0.0)) * (1 + 1e-6)


def test_groups_have_their_own_bounds() -> None:
    kernel = random_kernel(np.random.default_rng(0), (5, 3, 2, 5), False).astype(np.float64)
    kernel *= np.arange(1.0, 6.0)[:, None, None, None]
    correlation, symbol, axes = same_padded(kernel, 30)
    bounds = group_bounds(symbol, axes)
    truths = [float(np.linalg.norm(matrix, 2)) for matrix in correlation.dense()]
    assert all(truth <= bound <= 1.1 * truth for truth, bound in zip(truths, bounds, strict=True))


def test_a_lower_end_is_where_the_search_begins() -> None:
    kernel = random_kernel(np.random.default_rng(1), (1, 3, 2, 5, 5), False).astype(np.float64)
    _, symbol, axes = same_padded(kernel, 12)
    bound = embedding_bound(symbol, axes, 0.0)
    assert embedding_bound(symbol, axes, math.sqrt(bound) * 0.99) == pytest.approx(bound, rel=1e-5)
    assert embedding_bound(symbol, axes, math.sqrt(bound) * 2.0) >= 4.0 * bound * (1 - 1e-9)
