"""The supremum of the symbol over all frequencies: the norm of a convolution over all input sizes, from both sides.

Below: ‖F(θ)‖ at any θ is a lower end, because windowed plane waves reach it as inputs grow. Above: let the supremum M
be attained at θ* with ‖F(θ*)ᴴu‖ = M. p(θ) = uᴴF(θ)F(θ)ᴴu is a trigonometric polynomial of degree D_j in θ_j with
0 ≤ p ≤ M², so 2p/M² − 1 lies in [−1, 1], is 1 at θ*, and by M. Riesz's lemma (1914; Borwein & Erdélyi, 1995,
Polynomials and Polynomial Inequalities, §5.1) stays above cos(D_j δ) at a distance δ ≤ π/D_j along axis j. One axis
after the other, with half angles:

    ‖F(θ)‖ ≥ M Π_j cos(D_j |θ_j − θ*_j| / 2)     if all D_j |θ_j − θ*_j| ≤ π

So if the torus is cut into boxes of half widths h_j, and ‖F‖ ≤ τ Π_j cos(D_j h_j/2) is proven at the center of each,
then M ≤ τ. Boxes that fail are halved; with τ a little above the lower end only those near a maximum do.
"""

import math
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize

from sn_graph.spectral.convolution.embedding import operations
from sn_graph.spectral.convolution.symbol import Symbol
from sn_graph.spectral.linalg import EIGENVALUE_ORDER, estimated_largest, proven_below, raised_limit, rounded_root

# Relative width at which the search is content.
TOLERANCE = 2e-6
# Operations that the search may cost, and the fewest and the most frequencies that it looks at, whatever they cost.
OPERATIONS = 3e11
FREQUENCIES = (200, 400_000)
# From how many boxes it climbs to a maximum, of each of the first sizes; later only from one above the best so far.
CLIMBS = 3
CLIMB_LEVELS = 2
# From how many boxes `peaks` climbs where eigenvalues cost little.
PEAKS = 8


@dataclass(frozen=True)
class Peak:
    """A local maximum of ‖F(θ)‖.

    Attributes:
        value: ‖F(θ)‖².
        angle: θ [rank], radians.
    """

    value: float
    angle: NDArray[np.float64]


@dataclass(frozen=True)
class Supremum:
    """The supremum of ‖F(θ)‖ between two ends, of which the lower one is attained."""

    lower: float
    upper: float


def supremum(symbol: Symbol) -> Supremum:
    """Enclose the supremum of ‖F(θ)‖ over all θ.

    The width is 2e-6 (relative) where the symbol has isolated maxima or its blocks are small; on a flat one of large
    blocks the search ends earlier, with a wider upper end.
    """
    degrees = np.array(symbol.degrees, dtype=np.float64)
    centers, half = _boxes(symbol.degrees)
    splits = np.array(list(product(*((-0.5, 0.5) if degree else (0.0,) for degree in symbol.degrees))))
    left = _budget(symbol)
    best = limit = 0.0
    for level in count():
        shrink = float(np.prod(np.cos(degrees * half / 2.0))) ** 2
        left -= len(centers)
        # A proof costs a tenth of an eigenvalue of a large block.
        centers = _unproven(symbol, centers, limit * shrink)
        if not len(centers):
            break
        higher = _highest(symbol, centers, half, level, best)
        if higher > best:
            best = higher
            limit = best * (1.0 + TOLERANCE) ** 2
            centers = _unproven(symbol, centers, limit * shrink)
        if len(centers) * len(splits) > left:
            limit = _proven_maximum(symbol, centers, limit * shrink) / shrink
            break
        centers = (centers[:, None, :] + splits * half).reshape(-1, len(degrees))
        half = half / 2.0
    return Supremum(math.sqrt(best), rounded_root(limit + symbol.error))


def peaks(symbol: Symbol) -> list[Peak]:
    """Return the maxima beside the highest frequencies of a coarse grid, the highest first; not proven to be all.

    Of two that mirror each other, at ±θ, one is returned. A climb that leaves its box by far ends on the slope there.
    """
    centers, half = _boxes(symbol.degrees)
    values, groups = _largest(symbol, centers)
    climbs = PEAKS if symbol.side <= EIGENVALUE_ORDER else CLIMBS
    found: list[Peak] = []
    for box in np.argsort(-values):
        # A box that holds a peak leads nowhere else.
        if climbs and not any(_is_near(centers[box], peak.angle, half) for peak in found):
            climbs -= 1
            climbed = _climbed(symbol, values[box], centers[box], groups[box], half)
            if not any(_is_near(climbed.angle, peak.angle, half / 4.0) for peak in found):
                found.append(climbed)
    return sorted(found, key=lambda peak: -peak.value)


def _is_near(angle: NDArray[np.float64], other: NDArray[np.float64], reach: NDArray[np.float64]) -> bool:
    """Whether two angles, or one and the mirror image of the other, are within reach of each other on each axis."""
    apart = np.abs([angle - other, angle + other]) % (2.0 * np.pi)
    return bool((np.minimum(apart, 2.0 * np.pi - apart) <= reach).all(axis=1).any())


def _boxes(degrees: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centers [boxes, rank] and half widths [rank] of a coarse cover of the torus, one of each pair ±θ."""
    counts = [4 * degree if degree else 1 for degree in degrees]
    axes = [2.0 * np.pi * (np.arange(count) + 0.5) / count if count > 1 else np.zeros(1) for count in counts]
    halved = next((axis for axis, degree in enumerate(degrees) if degree), None)
    if halved is not None:
        axes[halved] = axes[halved][: counts[halved] // 2]
    grids = np.meshgrid(*axes, indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1), np.pi / np.array(counts, dtype=np.float64)


def _budget(symbol: Symbol) -> int:
    fewest, most = FREQUENCIES
    return int(min(most, max(fewest, OPERATIONS / operations(symbol, 1))))


def _largest(symbol: Symbol, angles: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The estimated ‖F‖² at each frequency, and the group that has it."""
    values = [estimated_largest(symbol.grams(part)) for part in symbol.parts(angles)]
    table = np.concatenate(values).reshape(-1, symbol.groups)
    return table.max(axis=1), table.argmax(axis=1)


def _unproven(symbol: Symbol, angles: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """The frequencies for which ‖F‖² ≤ limit could not be proven."""
    left = []
    for part in symbol.parts(angles):
        proven = proven_below(symbol.grams(part), limit).reshape(-1, symbol.groups)
        left.append(part[~proven.all(axis=1)])
    return np.concatenate(left) if left else angles


def _proven_maximum(symbol: Symbol, angles: NDArray[np.float64], limit: float) -> float:
    for part in symbol.parts(angles):
        limit = raised_limit(symbol.grams(part), limit)
    return limit


def _highest(symbol: Symbol, centers: NDArray[np.float64], half: NDArray[np.float64], level: int, best: float) -> float:
    """Climb from the highest of these frequencies: ‖F‖² at the best peak so far or a higher one."""
    values, groups = _largest(symbol, centers)
    for leader in np.argsort(-values)[: CLIMBS if level < CLIMB_LEVELS else 1]:
        if level < CLIMB_LEVELS or values[leader] > best:
            best = max(best, _climbed(symbol, values[leader], centers[leader], groups[leader], half).value)
    return best


def _climbed(symbol: Symbol, height: float, start: NDArray[np.float64], group: int, half: NDArray[np.float64]) -> Peak:
    """Climb from a frequency of about this height, for one group, to the maximum beside it."""
    scale = max(height, 1e-300)
    best = Peak(-math.inf, start)

    def descend(offset: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal best
        angle = start + offset * half
        value, vector = _top(symbol.grams(angle[None])[group])
        if value > best.value:
            best = Peak(value, angle)
        return -value / scale, -symbol.slope(angle, group, vector) * half / scale

    bounds = [(-2.0, 2.0)] * len(start)
    minimize(descend, np.zeros(len(start)), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 15})
    return best


def _top(matrix: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    last = len(matrix) - 1
    values, vectors = eigh(matrix, subset_by_index=[last, last])
    if not len(values):
        # LAPACK's search for one eigenvalue finds none in some matrices whose values are equal to the last digits.
        values, vectors = eigh(matrix, driver="evd")
    return float(values[-1]), vectors[:, -1]
