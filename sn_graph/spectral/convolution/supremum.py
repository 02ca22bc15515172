"""The supremum of the symbol over all frequencies: the norm of a convolution over all input sizes, from both sides.

Below: ‖F(θ)‖ at any θ is a lower end, because windowed plane waves reach it as inputs grow. Above: let M = sup ‖F‖ be
attained at θ*, D_j be the degree of F in θ_j, and r = Σ_j D_j |θ_j − θ*_j|. Then

    ‖F(θ)‖ ≥ M cos(r/2)     if r ≤ π                                                                            (1)

So if the torus is cut into cells whose points lie within r ≤ π of their centers, and ‖F‖ ≤ τ cos(r/2) is proven at
each center, then M ≤ τ. Cells that fail are cut further; with τ a little above the lower end only those near a maximum
do.

(1) by M. Riesz's lemma (1914, Eine trigonometrische Interpolationsformel, Jber. DMV 23, 354–368; Borwein & Erdélyi,
1995, Polynomials and Polynomial Inequalities, §5.1): a real trigonometric polynomial T of degree n in one variable with
|T| ≤ 1 everywhere and T(0) = 1 has T(s) ≥ cos(ns) for |s| ≤ π/n. Let ‖F(θ*)ᴴu‖ = M with ‖u‖ = 1, and let
θ − θ* = (2π/N) m with whole numbers m_j; these θ are dense, and both sides of (1) continuous. On the line through both,

    p(s) = ‖F(θ* + sm)ᴴu‖² = Σ_{k,l} uᴴB_k B_lᵀu e^{i(k−l)·(θ* + sm)}

has the degree n = Σ_j D_j |m_j| in s, because |k_j − l_j| ≤ D_j. Wherever the line winds around the torus 0 ≤ p ≤ M²,
because M is the supremum of all of it, and p(0) = M². So T = 2p/M² − 1 satisfies the lemma, and ‖F(θ)‖² ≥ p(2π/N) ≥
M² (1 + cos r)/2, because n · 2π/N = r. Without whole numbers it is the same inequality for entire functions of
exponential type (Duffin & Schaeffer, 1938, Some properties of functions of exponential type, Bull. AMS 44, 236–240;
Boas, 1954, Entire Functions, ch. 11).

The lemma holds because |T'| ≤ n √(1 − T²) (Bernstein & Szegő), so that arccos T rises by at most n|s|. Were it false
somewhere, then also for T scaled by 1 − ε, and for a shift φ where cos(ns + φ) passes through T with the same sign of
slope, but less steeply than T: on that arc from 1 to −1 or back T − cos changes its sign three times, on each of the
other 2n − 1 once, as |T| < 1; but a polynomial of degree n has no more than 2n zeros.

(1) is an equality for 1 + e^{iD·θ}. A product Π_j cos(D_j |θ_j − θ*_j| / 2) is not a bound, because θ* is a maximum on
lines through itself only, not on those beside it: 1 + e^{i(θ₁+θ₂)} is √2 at (π/4, π/4), where the product is 1.71.

Cells: the points within r of a center form an interval in one dimension, a diamond in two, an octahedron in three (D_j
θ_j being the coordinates). Diamonds around every other point of a grid tile the plane; they fall apart into four of
half the size, and have twice the area of the boxes inside. Octahedra don't tile, so three dimensions take diamonds ×
intervals: of all parallelepipeds inside an octahedron the largest that a numerical search finds, 16/27 r³ against
8/27 r³ of boxes.
"""

import math
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.convolution.embedding import operations
from sn_graph.spectral.convolution.symbol import Symbol
from sn_graph.spectral.linalg import EIGENVALUE_ORDER, estimated_largest, proven_below, raised_limit, rounded_root

# Relative width at which the search is content.
TOLERANCE = 2e-6
# Operations that the search may cost, and the fewest and the most frequencies that it looks at, whatever they cost.
OPERATIONS = 3e11
FREQUENCIES = (200, 400_000)
# From how many cells it climbs to a maximum, of each of the first sizes; later only from one above the best so far.
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
    cells = _cells(symbol.degrees)
    left = _budget(symbol)
    # Rounding of a center counts by 1/shrink too, and the first cells are the largest.
    error = symbol.error / cells.shrink
    best = _highest(symbol, cells.centers, cells.half, CLIMBS, 0.0)
    for level in count(1):
        limit = best * (1.0 + TOLERANCE) ** 2
        left -= len(cells.centers)
        # A proof costs a tenth of an eigenvalue of a large block, so that only what may be higher than all before gets
        # an eigenvalue; of the first sizes everything, to find the highest peak early.
        early = level < CLIMB_LEVELS
        centers, above = _undecided(symbol, cells.centers, limit * cells.shrink, 0.0 if early else limit)
        higher = _highest(symbol, centers[above], cells.half, CLIMBS if early else 1, best)
        if higher > best:
            best = higher
            limit = best * (1.0 + TOLERANCE) ** 2
            centers, _ = _undecided(symbol, centers, limit * cells.shrink, limit)
        if not len(centers):
            break
        # Without a degree there is one frequency, and nothing to cut.
        finer = cells.split(centers) if any(symbol.degrees) else None
        if finer is None or len(finer.centers) > left:
            limit = _proven_maximum(symbol, centers, limit * cells.shrink) / cells.shrink
            break
        cells = finer
    return Supremum(math.sqrt(best), rounded_root(limit + error))


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


@dataclass(frozen=True)
class _Cells:
    """Cells that cover what is left of the torus: a diamond, on up to two axes, times an interval on the third.

    Attributes:
        centers: [cells, rank], radians.
        half: [rank], how far a cell reaches from its center along an axis on which it ends there.
        pair: The axes of the diamonds; () where fewer than two have a degree.
        single: The axis of the intervals; () where there is none.
        degrees: D of each axis.
    """

    centers: NDArray[np.float64]
    half: NDArray[np.float64]
    pair: tuple[int, ...]
    single: tuple[int, ...]
    degrees: tuple[int, ...]

    def _reach(self, axes: tuple[int, ...]) -> float:
        """The greatest Σ D_j |δ_j| over these axes inside a cell: a diamond's is the same on both."""
        return max((float(self.half[axis]) * self.degrees[axis] for axis in axes), default=0.0)

    @property
    def shrink(self) -> float:
        """cos²(r/2); r is at most 3π/4, that of the coarse cover in three dimensions."""
        return math.cos((self._reach(self.pair) + self._reach(self.single)) / 2.0) ** 2

    def split(self, centers: NDArray[np.float64]) -> "_Cells":
        """Cut the cells of these centers on the axes on which they reach furthest: diamonds in 4, intervals in 2."""
        axes = self.pair if self._reach(self.pair) > self._reach(self.single) else self.single
        steps = np.concatenate([np.diag(self.half)[list(axes)], -np.diag(self.half)[list(axes)]]) / 2.0
        half = self.half.copy()
        half[list(axes)] /= 2.0
        return replace(self, centers=(centers[:, None, :] + steps).reshape(-1, len(half)), half=half)


def _cells(degrees: tuple[int, ...]) -> _Cells:
    """A coarse cover of the torus, one cell of each pair ±θ."""
    centers, half = _boxes(degrees)
    axes = tuple(axis for axis, degree in enumerate(degrees) if degree)
    if len(axes) < 2:
        return _Cells(centers, half, (), axes, degrees)
    pair = axes[:2]
    # The numbers of boxes are even, so the pattern closes around the torus, and it is its own mirror image.
    places = np.rint((centers / half - 1.0) / 2.0).astype(np.int64)
    kept = centers[places[:, list(pair)].sum(axis=1) % 2 == 0]
    half[list(pair)] *= 2.0
    return _Cells(kept, half, pair, axes[2:], degrees)


def _budget(symbol: Symbol) -> int:
    fewest, most = FREQUENCIES
    return int(min(most, max(fewest, OPERATIONS / operations(symbol, 1))))


def _largest(symbol: Symbol, angles: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The estimated ‖F‖² at each frequency, and the group that has it."""
    values = [estimated_largest(symbol.grams(part)) for part in symbol.parts(angles)]
    table = np.concatenate(values).reshape(-1, symbol.groups)
    return table.max(axis=1), table.argmax(axis=1)


def _undecided(
    symbol: Symbol, angles: NDArray[np.float64], low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The frequencies for which ‖F‖² ≤ low could not be proven, and for which of them not even ‖F‖² ≤ high."""
    left, above = [angles[:0]], [np.zeros(0, dtype=np.bool_)]
    for part in symbol.parts(angles):
        grams = symbol.grams(part).reshape(len(part), symbol.groups, symbol.side, symbol.side)
        kept = ~_all_proven(grams, low)
        left.append(part[kept])
        above.append(~_all_proven(grams[kept], high))
    return np.concatenate(left), np.concatenate(above)


def _all_proven(grams: NDArray[Any], limit: float) -> NDArray[np.bool_]:
    """Whether λ_max ≤ limit is proven of all groups of a frequency; grams: [frequencies, groups, r, r]."""
    proven = proven_below(grams.reshape(-1, *grams.shape[2:]), limit).reshape(grams.shape[:2])
    return np.asarray(proven.all(axis=1))


def _proven_maximum(symbol: Symbol, angles: NDArray[np.float64], limit: float) -> float:
    for part in symbol.parts(angles):
        limit = raised_limit(symbol.grams(part), limit)
    return limit


def _highest(symbol: Symbol, angles: NDArray[np.float64], half: NDArray[np.float64], climbs: int, best: float) -> float:
    """Climb from the highest of these frequencies: ‖F‖² at the best peak so far or a higher one."""
    if not len(angles):
        return best
    values, groups = _largest(symbol, angles)
    for leader in np.argsort(-values)[:climbs]:
        if climbs > 1 or values[leader] > best:
            best = max(best, _climbed(symbol, values[leader], angles[leader], groups[leader], half).value)
    return best


def _climbed(symbol: Symbol, height: float, start: NDArray[np.float64], group: int, half: NDArray[np.float64]) -> Peak:
    """Climb from a frequency of about this height, for one group, to the maximum beside it."""
    from scipy.optimize import minimize  # which takes longer to import than most models to measure

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
    from scipy.linalg import eigh

    last = len(matrix) - 1
    values, vectors = eigh(matrix, subset_by_index=[last, last])
    if not len(values):
        # LAPACK's search for one eigenvalue finds none in some matrices whose values are equal to the last digits.
        values, vectors = eigh(matrix, driver="evd")
    return float(values[-1]), vectors[:, -1]
