"""The spectral norm itself: the largest singular value, within 1e-6 of float64 SVD on every matrix.

Three ways, by the shorter side n of M and the longer side m, all of them through the eigenvalue λ = σ² of the Gram
matrix on the shorter side (squaring harms small singular values only; the largest keeps its digits):

    n small               the Gram matrix, and LAPACK's eigenvalue of it
    n moderate, m ≥ 2n    the Gram matrix, and Lanczos on it
    else                  Lanczos on x → Mᵀ(M x), which reads M once a step and holds nothing but its vectors

and at the end the float64 Rayleigh quotient σ = ‖M v‖ of the vector found: products in float32, which a matrix not in
float64 gets, move the vector a little and σ by the square of that. A spectrum that Lanczos can't settle in good time
goes to LAPACK as well.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import dsymv

from sn_graph.spectral.blocks import BlockedMatrix
from sn_graph.spectral.lanczos import largest_eigenpair

# Half of the 1e-6 promised: the other half is for float32 products (a float32 Gram matrix is off by up to 6e-7 in σ²).
TOLERANCE = 5e-7
# Up to here LAPACK on the Gram matrix is as fast as Lanczos, and needs no stopping rule.
DENSE_SIDE = 192
# Up to here float64 products cost nothing.
DOUBLE_SIZE = 1 << 16
# Up to here a square is nothing, whatever the longer side.
SMALL_SIDE = 512
# Up to here, twice as long as wide and too large for the cache (three times as fast as memory), a matrix costs less to
# multiply with itself once than to read 80 times.
GRAM_SIDE = 2048
CACHE_BYTES = 1 << 24
# Up to here LAPACK can step in (half a GB of float64, a minute); above, Lanczos goes on until its rule is met, which
# the growth of exp(2k√(2ε)) brings about in some 9,000 steps at worst.
FALLBACK_SIDE = 8192
FALLBACK_STEPS = 400
UNBOUNDED_STEPS = 20_000
# Up to here a 16-bit matrix is converted once, not at every step.
WIDEN_SIZE = 1 << 24
# λ in these bounds has lost nothing to overflow or underflow on the way.
SAFE_RANGE = {np.dtype(np.float32): (1e-20, 1e30), np.dtype(np.float64): (1e-240, 1e300)}


@dataclass(frozen=True)
class SingularTriplet:
    """The largest singular value of M [rows, columns] and its vectors, M v = σ u.

    Attributes:
        sigma: σ; 0 for a zero matrix, NaN for a non-finite one.
        left: u [rows], float64, of length 1.
        right: v [columns], float64, of length 1. M v = σ u and Mᵀu = σ v hold within about 1e-6 σ; the error of σ is
            of the order of that squared, save in a cluster.
    """

    sigma: float
    left: NDArray[np.float64]
    right: NDArray[np.float64]


def spectral_norm(matrix: NDArray[Any]) -> float:
    """Compute the largest singular value of a matrix, to a relative error of 1e-6 at most.

    Args:
        matrix: M [rows, columns], float16, bfloat16, float32 or float64, of any scale; may be a memory map, which is
            read in blocks and never copied if it lies in C or Fortran order.

    Returns:
        σ; 0 for a zero or empty matrix, NaN for one with NaN or infinity.

    >>> round(spectral_norm(np.array([[3.0, 0.0], [0.0, -4.0]])), 12)
    4.0
    """
    return leading_singular_triplet(matrix).sigma


def leading_singular_triplet(matrix: NDArray[Any]) -> SingularTriplet:
    """Compute the largest singular value of a matrix and its two vectors; the same result at every call.

    There is no starting vector to give: what takes the steps is to be sure that nothing larger hides, which a good
    start can't shorten (35 steps from the leading vector itself, 35 from a random one).

    Args:
        matrix: as for `spectral_norm`.

    Returns:
        The triplet. Where the leading value is not simple, the vectors are one pair out of many. A zero, empty or
        non-finite matrix has the first unit vectors.
    """
    if matrix.size == 0:
        return _unit_vectors(matrix, 0.0)
    operand = BlockedMatrix.of(matrix)
    with np.errstate(all="ignore"):
        found = _attempt(operand)
        if found is None:
            largest = operand.largest()
            if largest == 0.0:
                return _unit_vectors(matrix, 0.0)
            if not math.isfinite(largest):
                return _unit_vectors(matrix, math.nan)
            operand = operand.rescaled(largest)
            found = _attempt(operand)
    if found is None:
        return _unit_vectors(matrix, math.nan)
    sigma = operand.restored(found.sigma)
    if operand.transposed:
        return SingularTriplet(sigma, found.right, found.left)
    return SingularTriplet(sigma, found.left, found.right)


def _unit_vectors(matrix: NDArray[Any], sigma: float) -> SingularTriplet:
    rows, columns = matrix.shape
    return SingularTriplet(sigma, np.eye(1, rows)[0], np.eye(1, columns)[0])


def _attempt(operand: BlockedMatrix) -> SingularTriplet | None:
    """The triplet of the storage, in float32 where that is enough; None where scale, NaN, infinity or 0 forbid it."""
    if operand.exponent == 0 and operand.storage.dtype != np.float64 and operand.storage.size > DOUBLE_SIZE:
        storage = operand.storage
        if storage.dtype.itemsize < 4 and storage.size <= WIDEN_SIZE:
            storage = storage.astype(np.float32)
        found = _triplet(replace(operand, storage=storage, dtype=np.dtype(np.float32)))
        if found is not None:
            return found
    return _triplet(operand)


def _triplet(operand: BlockedMatrix) -> SingularTriplet | None:
    rows, columns = operand.shape
    short = min(rows, columns)
    precise = operand if operand.dtype == np.float64 else replace(operand, dtype=np.dtype(np.float64))
    squares = _squares(operand)
    on_rows = rows < columns and squares
    if short <= DENSE_SIDE:
        value, vector = _dense(operand)
    else:
        if squares:
            product = partial(dsymv, 1.0, operand.gram())
            pair = largest_eigenpair(product, short, TOLERANCE, FALLBACK_STEPS)
        else:
            limit = FALLBACK_STEPS if short <= FALLBACK_SIDE else UNBOUNDED_STEPS
            pair = largest_eigenpair(lambda x: operand.multiply_both(x)[1], columns, TOLERANCE, limit)
        value, vector = pair.value, pair.vector
        if not pair.certain and math.isfinite(value):
            on_rows = rows < columns
            value, vector = _dense(precise)
    low, high = SAFE_RANGE[operand.dtype]
    if not low <= value <= high:
        return None
    other = precise.multiply_transposed(vector) if on_rows else precise.multiply(vector)
    sigma = math.sqrt(float(other @ other))
    if sigma < math.sqrt(value) * (1.0 - TOLERANCE):
        # The float32 products were worse than any that was measured: don't trust them.
        return None
    other /= sigma
    return SingularTriplet(sigma, vector, other) if on_rows else SingularTriplet(sigma, other, vector)


def _squares(operand: BlockedMatrix) -> bool:
    """Whether the Gram matrix is worth its products."""
    short, long = sorted(operand.shape)
    cached = operand.storage.size * operand.dtype.itemsize <= CACHE_BYTES
    return short <= SMALL_SIDE or (short <= GRAM_SIDE and long >= 2 * short and not cached)


def _dense(operand: BlockedMatrix) -> tuple[float, NDArray[np.float64]]:
    gram = operand.gram()
    if not np.isfinite(gram).all():
        return math.nan, np.zeros(len(gram))
    last = len(gram) - 1
    values, vectors = eigh(gram, lower=False, subset_by_index=[last, last], check_finite=False)
    if not len(values):
        # LAPACK's search for one eigenvalue finds none in some matrices whose values are equal to the last digits.
        values, vectors = eigh(gram, lower=False, driver="evd", check_finite=False)
    return float(values[-1]), vectors[:, -1]
