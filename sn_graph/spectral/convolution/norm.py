"""The norm of one piece of a convolution, zero-padded, at its input size.

    the map is small          its matrix, LAPACK or Lanczos, and a Cholesky certificate
    its symbol is constant    the norm of the reshaped kernel (kernels no longer than the stride, 1 × 1 among them)
    else                      below: Lanczos on x → Aᵀ(A x); above: the symbol on a twisted circulant's frequencies

On large maps Lanczos begins with the waves that the symbol lengthens most (`waves`), and ends where the bound from
above comes close: that is a proof. Otherwise it begins anew, at random, and goes on until its rule is certain.

Groups whose bound lies below the lower end of another one are not iterated.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.convolution.correlation import Correlation
from sn_graph.spectral.convolution.embedding import Angle, embedding_bound, group_bounds, operations, smallest_count
from sn_graph.spectral.convolution.supremum import Peak, peaks, supremum
from sn_graph.spectral.convolution.symbol import Symbol
from sn_graph.spectral.convolution.waves import wave_packet
from sn_graph.spectral.linalg import (
    LeadingValue,
    Operator,
    estimated_largest,
    gamma,
    leading_value,
    leading_vector,
    raised_limit,
    rounded_root,
    settled_value,
)
from sn_graph.spectral.matrix import leading_singular_triplet

# Of the 1e-5 promised; the rest is for float32 products.
TOLERANCE = 8e-6
STEPS = 5000
# From here on vectors are multiplied in float32.
SINGLE_LENGTH = 4096
# From so many elements on, and so many places along each axis, the search begins with waves: smaller maps cost less
# than a second, and the bound, which is wider by O(1/n²), does not come close.
WAVE_LENGTH = 1 << 12
WAVE_SIZE = 40
# How close it must come for their value to be taken (to look for a closer one costs more than the steps it saves), and
# when they have settled.
ACCEPTED = 2e-4
SETTLED = 1e-6
WAVE_STEPS = 100
# Up to here, on the shorter side of a group's matrix and in elements of all of them, matrices are written out.
DENSE_SIDE = 1024
DENSE_SIZE = 1 << 23
DENSE_OPERATIONS = 2e10
# A bound at the given size may cost this much more than the one for all sizes, which is wider by O(1/n²).
EMBEDDING_OPERATIONS = 5e11


@dataclass(frozen=True)
class Bracket:
    """Where the norm lies.

    Attributes:
        lower: Attained (or approached, over all sizes), within 1e-5 of the norm or, on large maps, 2e-4 of `upper`.
            0 for a map that is 0, NaN for one with NaN or infinity.
        upper: Proven, rounding errors included.
        left, right: If asked for and the size is known, u [channels, spatial…] of the output and v of the input, of
            length 1, with A v ≈ lower · u; where the norm is 0, zeros.
    """

    lower: float
    upper: float
    left: NDArray[np.float64] | None = None
    right: NDArray[np.float64] | None = None


def correlation_norm(correlation: Correlation, vectors: bool) -> Bracket:
    """Enclose the norm of a correlation; its left side is the small one.

    Args:
        correlation: Of entries of about 1, so that nothing over- or underflows.
        vectors: Whether to compute the singular vectors too.
    """
    if not correlation.kernel.any():
        return Bracket(0.0, 0.0, np.zeros(correlation.small_shape), np.zeros(correlation.large_shape))
    if _is_small(correlation):
        return _written_out(correlation, vectors)
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    if _is_constant(correlation):
        return _bounded(_constant(correlation, symbol), correlation, symbol)
    if _is_large(correlation):
        highest, least = highest_peaks(correlation, symbol)
        start = wave_packet(correlation, symbol, [peak.angle for peak in highest], least, _walks_on_small(correlation))
        found = _settled(correlation, start.reshape(-1), vectors)
        above = [peak.angle for peak in highest if peak.value > found.lower**2]
        found = _bounded(found, correlation, symbol, above)
        if found.upper <= found.lower * (1.0 + ACCEPTED):
            return found
        other = _leading(correlation, symbol, vectors)
        return replace(max(found, other, key=lambda end: end.lower), upper=max(found.upper, other.lower))
    return _bounded(_leading(correlation, symbol, vectors), correlation, symbol)


def _bounded(found: Bracket, correlation: Correlation, symbol: Symbol, above: Sequence[Angle] = ()) -> Bracket:
    """The bracket with its upper end, narrower where it is known which maxima lie above the lower one."""
    if operations(symbol, smallest_count(symbol, correlation.axes)) <= EMBEDDING_OPERATIONS:
        upper = rounded_root(embedding_bound(symbol, correlation.axes, found.lower, above))
    else:
        upper = supremum(symbol).upper
    return replace(found, upper=max(upper, found.lower))


def highest_peaks(correlation: Correlation, symbol: Symbol) -> tuple[list[Peak], float]:
    """Return the maxima of ‖F‖² of which any may lead at this size, and the value from which on one may.

    Under a window of n places a wave at the maximum loses about (πD/2n)² of it an axis, at most, because ‖F‖² falls off
    no faster than cos²(Σ D_j |δ_j| / 2) (`supremum`), which bounds the second derivative on each axis by D_j²/2; the
    mixed ones cancel under a window that is even in each δ_j. That chooses where to begin, and no bound rests on it.
    """
    found = peaks(symbol)
    lost = sum((math.pi * axis.degree / (2.0 * axis.small)) ** 2 for axis in correlation.axes)
    least = (1.0 - lost) * found[0].value
    return [peak for peak in found if peak.value >= least], least


def _is_large(correlation: Correlation) -> bool:
    length = min(math.prod(correlation.small_shape), math.prod(correlation.large_shape))
    long = all(axis.small >= WAVE_SIZE for axis in correlation.axes if axis.degree)
    return len(correlation.kernel) == 1 and length >= WAVE_LENGTH and long


def _is_small(correlation: Correlation) -> bool:
    groups: int = correlation.kernel.shape[0]
    sides = sorted((math.prod(correlation.small_shape) // groups, math.prod(correlation.large_shape) // groups))
    elements = groups * sides[0] * sides[1]
    return sides[0] <= DENSE_SIDE and elements <= DENSE_SIZE and elements * sides[0] <= DENSE_OPERATIONS


def _written_out(correlation: Correlation, vectors: bool) -> Bracket:
    matrices = correlation.dense()
    wide = matrices.shape[1] <= matrices.shape[2]
    grams = matrices @ matrices.transpose(0, 2, 1) if wide else matrices.transpose(0, 2, 1) @ matrices
    values = estimated_largest(grams)
    group = int(values.argmax())
    triplet = leading_singular_triplet(matrices[group])
    # A computed MᵀM is off by at most γ ‖M‖_F² (`definite`, eq. 1).
    error = gamma(max(matrices.shape[1:])) * float(np.square(matrices).sum(axis=(1, 2)).max()) * (1.0 + 1e-6)
    upper = rounded_root(raised_limit(grams, triplet.sigma**2) + error)
    bracket = Bracket(triplet.sigma, upper)
    if not vectors:
        return bracket
    left = np.zeros((len(matrices), matrices.shape[1]))
    right = np.zeros((len(matrices), matrices.shape[2]))
    left[group], right[group] = triplet.left, triplet.right
    shapes = correlation.small_shape, correlation.large_shape
    return Bracket(bracket.lower, bracket.upper, left.reshape(shapes[0]), right.reshape(shapes[1]))


def _is_constant(correlation: Correlation) -> bool:
    """Whether one output reads all the taps, and no two outputs share an input: the norm is that of the kernel."""
    return not any(correlation.degrees) and all(axis.interior for axis in correlation.axes)


def _constant(correlation: Correlation, symbol: Symbol) -> Bracket:
    group = int(estimated_largest(symbol.grams(np.zeros((1, len(correlation.axes))))).argmax())
    triplet = leading_singular_triplet(correlation.coefficients[0, group])
    _, groups, small, _ = correlation.coefficients.shape
    left = np.zeros((groups, small, *correlation.small_shape[1:]))
    place = tuple(-(-axis.offset // axis.stride) for axis in correlation.axes)
    left[group].transpose(*range(1, left.ndim - 1), 0)[place] = triplet.left
    left = left.reshape(correlation.small_shape)
    right = correlation.adjoint(left)
    return Bracket(triplet.sigma, math.inf, left, right / math.sqrt(float((right * right).sum())))


def _leading(correlation: Correlation, symbol: Symbol, vectors: bool) -> Bracket:
    """The lower end over all groups; those whose bound is below it need not be iterated."""
    if symbol.groups == 1:
        return _iterated(correlation, vectors)
    bounds = group_bounds(symbol, correlation.axes)
    leader = np.array([bounds.argmax()])
    found = _spread_groups(_attained(correlation.of_groups(leader), vectors), correlation, leader)
    others = np.setdiff1d(np.flatnonzero(bounds >= found.lower), leader)
    if len(others):
        second = _spread_groups(_attained(correlation.of_groups(others), vectors), correlation, others)
        found = max(found, second, key=lambda bracket: bracket.lower)
    return found


def _attained(correlation: Correlation, vectors: bool) -> Bracket:
    return (_written_out if _is_small(correlation) else _iterated)(correlation, vectors)


def _spread_groups(found: Bracket, correlation: Correlation, groups: NDArray[np.intp]) -> Bracket:
    if found.left is None or found.right is None:
        return Bracket(found.lower, math.inf)
    count = len(correlation.kernel)
    vectors = []
    for part, shape in ((found.left, correlation.small_shape), (found.right, correlation.large_shape)):
        whole = np.zeros((count, shape[0] // count, *shape[1:]))
        whole[groups] = part.reshape(len(groups), *whole.shape[1:])
        vectors.append(whole.reshape(shape))
    return Bracket(found.lower, math.inf, *vectors)


def _settled(correlation: Correlation, start: NDArray[np.float64], vectors: bool) -> Bracket:
    """The lower end that a start leads to until it rises no more."""
    square = _square(correlation, _product_type(correlation))
    return _attained_by(settled_value(square, start, SETTLED, WAVE_STEPS), square, correlation, vectors)


def _iterated(correlation: Correlation, vectors: bool) -> Bracket:
    """The lower end that a random start leads to, by the rule that is certain."""
    length, dtype = math.prod(_walked_shape(correlation)), _product_type(correlation)
    square = _square(correlation, dtype)
    seed = zlib.crc32(correlation.kernel.tobytes())
    found = leading_value(square, length, TOLERANCE, STEPS, seed, dtype)
    if found.blurred:
        square = _square(correlation, np.dtype(np.float64))
        found = leading_value(square, length, TOLERANCE, STEPS, seed)
    return _attained_by(found, square, correlation, vectors)


def _product_type(correlation: Correlation) -> np.dtype[Any]:
    # A float32 product of random rounding moves the value by some 1e-8, and takes a third of the time.
    return np.dtype(np.float32 if math.prod(_walked_shape(correlation)) >= SINGLE_LENGTH else np.float64)


def _walks_on_small(correlation: Correlation) -> bool:
    """Whether the vectors of the search live on the small side, which may be the longer one."""
    return math.prod(correlation.small_shape) <= math.prod(correlation.large_shape)


def _walked_shape(correlation: Correlation) -> tuple[int, ...]:
    return correlation.small_shape if _walks_on_small(correlation) else correlation.large_shape


def _square(correlation: Correlation, dtype: np.dtype[Any]) -> Operator:
    """AᵀA or AAᵀ, whichever walks on the shorter side, in products of a type."""
    on_small, shape = _walks_on_small(correlation), _walked_shape(correlation)
    single = correlation.in_single() if dtype == np.float32 else correlation

    def square(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        x = vector.reshape(shape)
        image = single.forward(single.adjoint(x)) if on_small else single.adjoint(single.forward(x))
        return image.reshape(-1).astype(np.float64)

    return square


def _attained_by(found: LeadingValue, square: Operator, correlation: Correlation, vectors: bool) -> Bracket:
    """‖A v‖ in float64, which is attained, whatever the products before were rounded to."""
    if found.value == 0.0 or (found.basis is None and not vectors):
        return Bracket(found.value, math.inf)
    on_small = _walks_on_small(correlation)
    vector = leading_vector(square, found).reshape(_walked_shape(correlation))
    image = correlation.adjoint(vector) if on_small else correlation.forward(vector)
    length = math.sqrt(float((image * image).sum()))
    image /= length
    return Bracket(length, math.inf, *((vector, image) if on_small else (image, vector)))
