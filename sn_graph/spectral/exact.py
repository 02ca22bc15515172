"""The spectral norm itself: the largest singular value, within 1e-6 of float64 SVD on every matrix.

Three ways, by the shorter side n of M and the longer side m, all of them through the eigenvalue λ = σ² of the Gram
matrix on the shorter side (squaring harms small singular values only; the largest keeps its digits):

    n ≤ 96                                                 the Gram matrix, and LAPACK's eigenvalue of it
    n ≤ 512; n ≤ 768, m ≥ 3n; n ≤ 2048, m ≥ 2n, M large    the Gram matrix, and Lanczos on it
    else                                                   Lanczos on x → Mᵀ(M x), which holds only its vectors

and at the end the float64 Rayleigh quotient σ = ‖M v‖ of the vector found: products in float32, which a matrix not in
float64 gets, move the vector a little and σ by the square of that. Where they can't tell which of two values is the
larger, or were worse than they are on all but odd matrices, all is done again in float64. A spectrum that Lanczos can't
settle in good time goes to LAPACK as well. The norm alone of a small matrix is √λ in float64, two thirds of the work.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import ddot, dnrm2
from scipy.linalg.lapack import dsyevr

from sn_graph.spectral.blas import SYMV
from sn_graph.spectral.blocks import BlockedMatrix
from sn_graph.spectral.lanczos import largest_eigenpair
from sn_graph.spectral.power import Side
from sn_graph.spectral.threads import threads_for

# Of the 1e-6 promised; the rest is for float32 products, see TRUSTED.
TOLERANCE = 7e-7
# How far the float32 value may be from the float64 Rayleigh quotient of its vector, in σ²: 1e-8 on random matrices, up
# to 6e-6 on constant ones.
TRUSTED = 4e-7
# How near a second eigenvalue may be, for float32 products to tell which one is the larger: each is off by 6e-6 at most
# (where a row's elements are equal, and rounding errors of one sign add up).
APART = 1.5e-5
# Up to here LAPACK on the Gram matrix is as fast as Lanczos, and needs no stopping rule.
DENSE_SIDE = 96
# LAPACK's usual block size: the room that it wants to work in blocks.
NB = 64
# Up to here float64 products cost nothing.
DOUBLE_SIZE = 1 << 14
# Up to here they, and the eigenvalue without its vector, cost less than the vector does that makes up for float32.
NARROW_SIDE, NARROW_SIZE = 128, 1 << 16
# Up to here a square is nothing, whatever the longer side.
SMALL_SIDE = 512
# Up to here, three times as long as wide, too: 0.6 to 0.7 of the time with AVX-512, 1.0 to 1.1 without.
MEDIUM_SIDE = 768
# Up to here, twice as long as wide and too large for the cache (three times as fast as memory), a matrix costs less to
# multiply with itself once than to read 80 times.
GRAM_SIDE = 2048
# Up to here LAPACK can step in (half a GB of float64, a minute); above, Lanczos goes on until its rule is met, which
# the growth of exp(2k√(2ε)) brings about in some 9,000 steps at worst.
FALLBACK_SIDE = 8192
FALLBACK_STEPS = 400
UNBOUNDED_STEPS = 20_000
# Up to here, and of less elements than that at a time, numpy's loop over matrices is faster than one by one.
BATCHED_SIDE = 32
BATCH_SIZE = 1 << 20
# Up to here a 16-bit matrix is converted once, not at every step.
WIDEN_SIZE = 1 << 24
# λ in these bounds has lost nothing to overflow or underflow on the way, of which LAPACK's λ² is a part.
SAFE_RANGE = {np.dtype(np.float32): (1e-20, 1e30), np.dtype(np.float64): (1e-120, 1e120)}


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
    if 0 < matrix.size <= NARROW_SIZE and min(matrix.shape) <= NARROW_SIDE:
        with np.errstate(all="ignore"), threads_for(matrix):
            sigma = _narrow_norm(BlockedMatrix.of(matrix).gram())
        if sigma is not None:
            return sigma
    return leading_singular_triplet(matrix).sigma


def spectral_norms(matrices: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the largest singular value of each of many matrices of one shape.

    Args:
        matrices: [count, rows, columns], of the types that `spectral_norm` takes.

    Returns:
        σ [count], each as `spectral_norm` gives it; those of matrices up to 32 on their shorter side at once.

    >>> spectral_norms(np.array([[[3.0, 4.0]], [[0.0, -2.0]]])).tolist()
    [5.0, 2.0]
    """
    count, rows, columns = matrices.shape
    if matrices.size == 0 or min(rows, columns) > BATCHED_SIDE:
        return np.array([spectral_norm(matrix) for matrix in matrices])
    sigmas = np.empty(count)
    step = max(1, BATCH_SIZE // (rows * columns))
    for start in range(0, count, step):
        wide = matrices[start : start + step].astype(np.float64)
        with np.errstate(all="ignore"):
            gram = wide @ wide.swapaxes(1, 2) if rows < columns else wide.swapaxes(1, 2) @ wide
            traces = np.trace(gram, axis1=1, axis2=2)
            low, high = SAFE_RANGE[wide.dtype]
            odd = ~((traces >= low) & (traces <= high))
        gram[odd] = 0.0
        sigmas[start : start + step] = np.sqrt(np.linalg.eigvalsh(gram)[:, -1].clip(0.0))
        for index in np.flatnonzero(odd):
            sigmas[start + index] = spectral_norm(wide[index])
    return sigmas


def leading_singular_triplet(
    matrix: NDArray[Any], guess: NDArray[Any] | None = None, side: Side = "cols"
) -> SingularTriplet:
    """Compute the largest singular value of a matrix and its two vectors, from the same start at every call.

    Args:
        matrix: As for `spectral_norm`.
        guess: What may be one of the vectors, [rows] or [columns], of any length: the u of a power iteration. If its
            residual is below 3e-5 σ², half the steps are left, which prove that nothing larger hides; if not, or if
            something does, it is dropped. It takes no part where the Gram matrix goes to LAPACK.
        side: Where the guess lives.

    Returns:
        The triplet; how many threads BLAS runs on may change its last digits. Where the leading value is not simple,
        the vectors are one pair out of many. A zero, empty or non-finite matrix has the first unit vectors.
    """
    if matrix.size == 0:
        return _unit_vectors(matrix, 0.0)
    operand = BlockedMatrix.of(matrix)
    on_rows = (side == "rows") != operand.transposed
    known = None if guess is None or not _usable(guess) else _Guess(guess.reshape(-1).astype(np.float64), on_rows)
    with np.errstate(all="ignore"), threads_for(matrix):
        found = _attempt(operand, known)
        if found is None:
            largest = operand.largest()
            if largest == 0.0:
                return _unit_vectors(matrix, 0.0)
            if not math.isfinite(largest):
                return _unit_vectors(matrix, math.nan)
            operand = operand.rescaled(largest)
            found = _attempt(operand, known)
    if found is None:
        return _unit_vectors(matrix, math.nan)
    sigma = operand.restored(found.sigma)
    if operand.transposed:
        return SingularTriplet(sigma, found.right, found.left)
    return SingularTriplet(sigma, found.left, found.right)


@dataclass(frozen=True)
class _Guess:
    vector: NDArray[np.float64]
    on_rows: bool

    def on(self, rows: bool, operand: BlockedMatrix) -> NDArray[np.float64] | None:
        """The guess on the rows or columns of the storage; None where the matrix takes it to 0 or out of range."""
        vector = self.vector
        if rows != self.on_rows:
            vector = operand.multiply(vector) if rows else operand.multiply_transposed(vector)
        vector = vector.astype(np.float64, copy=False)
        length = float(dnrm2(vector))
        return vector / length if 0.0 < length < math.inf else None


def _usable(guess: NDArray[Any]) -> bool:
    return bool(np.isfinite(guess).all() and np.any(guess))


def _unit_vectors(matrix: NDArray[Any], sigma: float) -> SingularTriplet:
    rows, columns = matrix.shape
    return SingularTriplet(sigma, np.eye(1, rows)[0], np.eye(1, columns)[0])


def _attempt(operand: BlockedMatrix, guess: _Guess | None) -> SingularTriplet | None:
    """The triplet of the storage, in float32 where that is enough; None where scale, NaN, infinity or 0 forbid it."""
    if operand.exponent == 0 and operand.storage.dtype != np.float64 and operand.storage.size > DOUBLE_SIZE:
        storage = operand.storage
        if storage.dtype.itemsize < 4 and storage.size <= WIDEN_SIZE:
            storage = storage.astype(np.float32)
        found = _triplet(replace(operand, storage=storage, dtype=np.dtype(np.float32)), guess)
        if found is not None:
            return found
    return _triplet(operand, guess)


def _triplet(operand: BlockedMatrix, guess: _Guess | None) -> SingularTriplet | None:
    rows, columns = operand.shape
    short, long = min(rows, columns), max(rows, columns)
    precise = operand if operand.dtype == np.float64 else replace(operand, dtype=np.dtype(np.float64))
    squares = (
        short <= SMALL_SIDE
        or (short <= MEDIUM_SIDE and long >= 3 * short)
        or (short <= GRAM_SIDE and long >= 2 * short and not operand.cached)
    )
    # From the rows a step reads M twice; shorter vectors are worth that only where M is near.
    on_rows = rows < columns and (squares or operand.cached)
    if short <= DENSE_SIDE:
        value, second, vector = dense_eigenpair(operand.gram().astype(np.float64, copy=False))
    else:
        apply = operand.gram_multiply_rows if on_rows else operand.gram_multiply_columns
        limit = FALLBACK_STEPS if short <= FALLBACK_SIDE else UNBOUNDED_STEPS
        start, length = None if guess is None else guess.on(on_rows, operand), rows if on_rows else columns
        if squares:
            gram = operand.gram()
            with threads_for(gram):
                apply = partial(SYMV[gram.dtype.char], 1.0, gram)
                pair = largest_eigenpair(apply, length, TOLERANCE, limit, start, gram.dtype)
        else:
            pair = largest_eigenpair(apply, length, TOLERANCE, limit, start, operand.dtype)
        value, second, vector = pair.value, pair.second, pair.vector
        if not pair.certain and math.isfinite(value):
            on_rows = rows < columns
            value, _, vector = dense_eigenpair(precise.gram())
            second = -math.inf  # float64 has told them apart
    low, high = SAFE_RANGE[operand.dtype]
    if not low <= value <= high or (operand is not precise and second > (1.0 - APART) * value):
        return None
    other = precise.multiply_transposed(vector) if on_rows else precise.multiply(vector)
    square = float(ddot(other, other))
    if abs(square - value) > TRUSTED * value and operand is not precise:
        # The float32 products were worse than they are on all but constant matrices and the like: don't trust them.
        return None
    sigma = math.sqrt(square)
    other /= sigma
    return SingularTriplet(sigma, vector, other) if on_rows else SingularTriplet(sigma, other, vector)


def _narrow_norm(gram: NDArray[np.float64]) -> float | None:
    """√λ_max of a Gram matrix without its vector; None where scale, NaN, infinity or 0 forbid it, or LAPACK fails."""
    low, high = SAFE_RANGE[gram.dtype]
    top = _top_eigenpairs(gram, 1, vectors=False) if low <= gram.trace() <= high else None
    return None if top is None else math.sqrt(top[0][0])


def dense_eigenpair(gram: NDArray[np.float64]) -> tuple[float, float, NDArray[np.float64]]:
    """The largest eigenvalue, the second (−∞ if there is none) and the vector of the largest; NaN if not finite.

    Args:
        gram: A matrix [n, n], given by its upper triangle.
    """
    size = len(gram)
    if not math.isfinite(float(gram.sum())):
        return math.nan, math.nan, np.zeros(size)
    if size == 1:
        return float(gram[0, 0]), -math.inf, np.ones(1)
    top = _top_eigenpairs(gram, 2, vectors=True)
    values, vectors = eigh(gram, lower=False, driver="evd", check_finite=False) if top is None else top
    return float(values[-1]), float(values[-2]), vectors[:, -1]


def _top_eigenpairs(
    gram: NDArray[np.float64], count: int, vectors: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The largest eigenvalues, in ascending order, and their vectors [n, count] if asked for; None if LAPACK fails.

    Its search for single eigenvalues finds none in some matrices whose values are equal to the last digits.
    """
    size = len(gram)
    # Without eigh's own checks, a fifth of the time at 64.
    lwork = max(26, NB + 6) * size
    first = size - count + 1
    values, found, number, _, info = dsyevr(gram, compute_v=vectors, range=b"I", il=first, iu=size, lwork=lwork)
    return (values[:count], found[:, :count]) if number == count and info == 0 else None
