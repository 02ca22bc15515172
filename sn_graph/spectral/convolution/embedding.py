"""An upper bound of a convolution at a given input size: its matrix as a part of a larger, twisted circulant one.

Let T_{N,φ} be the convolution on sequences with x[a + N] = e^{2πiφ} x[a], one N and φ an axis. It is block diagonal in
the plane waves of θ = 2π(k + φ)/N, with the symbols F(θ) as blocks. The zero-padded operator reads inputs
A0 ≤ a ≤ A1 for outputs 0 ≤ j < m, and its entry at (j, a) is B_{a−j}. T's entry is the sum of B_{a−j+qN} over all q,
which is the same where N > A1 and N ≥ D + m − A0. So the operator is a submatrix of T, and

    ‖A‖ ≤ max_k ‖F(2π(k + φ)/N)‖        for every such N and every φ.

For same-padded kernels of 2p + 1 taps that is N = n + p, not n + 2p; and φ is free. With φ = 1/2 a peak of the symbol
at θ = 0 lies between two frequencies, as it does for the operator itself: with the taps (1, 1, 1) the bound is
1 + 2 cos(π/(n + 1)), which is the norm. N a little larger does the same for peaks elsewhere.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.convolution.geometry import Piece
from sn_graph.spectral.convolution.symbol import Symbol
from sn_graph.spectral.linalg import estimated_largest, raised_limit

Angle = NDArray[np.float64]
"""[rank], radians."""

# Two bounds this close are not worth another look.
CLOSE = 1.003
# Periods of an axis that are looked through where the maxima are known.
PERIODS = 8
# Ways of choosing periods and twists that are tried.
WAYS = 16
# Operations that the search for a better period and twist may cost, beside the first bound.
SEARCH_OPERATIONS = 2e10


def embedding_bound(symbol: Symbol, axes: Sequence[Piece], lower: float, peaks: Sequence[Angle] = ()) -> float:
    """Bound the norm of a zero-padded convolution from above, with a proof, rounding included.

    Args:
        symbol: Its symbol.
        axes: Its geometry.
        lower: A lower end of the norm: where the bound comes close to it, the search for a better one ends.
        peaks: Where the symbol has its maxima, as far as is known: periods and twists whose frequencies stay away from
            them are tried first.

    Returns:
        The square of the bound.
    """
    best = math.inf
    spent = 0.0
    for periods, twists in _candidates(symbol, axes, peaks):
        angles = frequencies(periods, twists)
        cost = operations(symbol, len(angles))
        if best < math.inf and (best <= CLOSE**2 * lower**2 or spent + cost > SEARCH_OPERATIONS):
            break
        spent += cost
        best = min(best, _maximum(symbol, angles, lower**2, best))
    return best


def smallest_count(symbol: Symbol, axes: Sequence[Piece]) -> int:
    """Return how many frequencies the cheapest bound looks at."""
    periods = [smallest_period(axis) if degree else 1 for axis, degree in zip(axes, symbol.degrees, strict=True)]
    return math.prod(periods) // 2 + 1


def smallest_period(axis: Piece) -> int:
    """Return the least N for which the axis is a part of the circulant one."""
    first = axis.offset // axis.stride
    last = (axis.offset + axis.large - 1) // axis.stride
    return max(last + 1, axis.degree + axis.small - first)


def group_bounds(symbol: Symbol, axes: Sequence[Piece]) -> NDArray[np.float64]:
    """Estimate what `embedding_bound` would give for each group by itself [groups], from one period and twist."""
    periods, twists = next(iter(_candidates(symbol, axes)))
    angles = frequencies(periods, twists)
    best = np.zeros(symbol.groups)
    for part in symbol.parts(angles):
        values = estimated_largest(symbol.grams(part)).reshape(-1, symbol.groups)
        best = np.maximum(best, values.max(axis=0))
    bounds: NDArray[np.float64] = np.sqrt(best) * (1.0 + 1e-5)
    return bounds


def operations(symbol: Symbol, count: int) -> float:
    """Return about how many floating-point operations it takes to prove a bound on so many frequencies."""
    entries = symbol.groups * symbol.side**2
    return count * entries * (4.0 * len(symbol.lags) + 4.0 * symbol.side / 3.0 + 30.0)


def frequencies(periods: Sequence[int], twists: Sequence[float]) -> NDArray[np.float64]:
    """Return θ = 2π(k + φ)/N for all k, one of each pair ±θ: [frequencies, rank]. The twists are 0 or 1/2."""
    grids = np.meshgrid(*(np.arange(period) for period in periods), indexing="ij")
    index = np.stack([grid.ravel() for grid in grids], axis=1)
    period = np.array(periods)
    mirrored = (-index - np.array([round(2 * twist) for twist in twists])) % period
    place = np.array([math.prod(periods[axis + 1 :]) for axis in range(len(periods))])
    kept = index[index @ place <= mirrored @ place]
    angles: NDArray[np.float64] = 2.0 * np.pi * (kept + np.array(twists)) / period
    return angles


def _candidates(
    symbol: Symbol, axes: Sequence[Piece], peaks: Sequence[Angle] = ()
) -> Iterator[tuple[tuple[int, ...], tuple[float, ...]]]:
    choices: list[tuple[tuple[int, float], ...]] = []
    for axis, degree in zip(axes, symbol.degrees, strict=True):
        period = smallest_period(axis)
        periods = range(period, period + (PERIODS if peaks else 2))
        choices.append(tuple(product(periods, (0.5, 0.0))) if degree else ((1, 0.0),))
    least = [ways[0][0] for ways in choices]

    def nearness(ways: tuple[tuple[int, float], ...]) -> float:
        """How near the frequencies come to a peak: minus the square of the least distance."""
        return -min(sum(_distance(way, angle) ** 2 for way, angle in zip(ways, peak, strict=True)) for peak in peaks)

    def excess(ways: tuple[tuple[int, float], ...]) -> float:
        return sum(way[0] - low for way, low in zip(ways, least, strict=True))

    # The most remote from all peaks first, or else the closest periods, on all axes.
    ranked = sorted(product(*choices), key=nearness if peaks else excess)
    for ways in ranked[:WAYS]:
        yield tuple(way[0] for way in ways), tuple(way[1] for way in ways)


def _distance(way: tuple[int, float], angle: float) -> float:
    """How far an angle is from the next frequency of an axis, in radians."""
    period, twist = way
    place = angle * period / (2.0 * math.pi) - twist
    return abs(place - round(place)) * 2.0 * math.pi / period


def _maximum(symbol: Symbol, angles: NDArray[np.float64], start: float, ceiling: float) -> float:
    """The square of the largest ‖F(θ)‖, proven from above; beyond `ceiling` as soon as it is."""
    # In random order the limit is raised about ln(parts) times, not at every part on a slope.
    shuffled = angles[np.random.default_rng(0).permutation(len(angles))]
    limit = start
    for part in symbol.parts(shuffled):
        limit = raised_limit(symbol.grams(part), limit, ceiling)
        if limit > ceiling:
            break
    return limit + symbol.error
