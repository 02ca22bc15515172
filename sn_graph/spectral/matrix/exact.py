"""The spectral norm itself: the largest singular value, within 1e-6 of float64 SVD on every matrix.

    σ = ‖M v‖,  v the vector of the largest eigenvalue λ = σ² of MᵀM        (or MMᵀ, whichever is smaller)

Squaring harms small singular values only; the largest keeps its digits. `routes` finds v: with products in float32,
which a matrix not in float64 gets, it is a little off and σ by the square of that, because σ is the float64 Rayleigh
quotient. Where float32 can't tell which of two values is the larger, or was worse than it is on all but odd matrices,
all is done again in float64. The norm alone of a small matrix is √λ in float64, two thirds of the work.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import BLAS, SAFE_RANGE, BlockedMatrix, Eigenpair, dense_eigenvalue, threads_for
from sn_graph.spectral.matrix.power import Side
from sn_graph.spectral.matrix.routes import Guess, leading_eigenpair

# How far the float32 value may be from the float64 Rayleigh quotient of its vector, in σ²: 1e-8 on random matrices, up
# to 6e-6 on constant ones.
TRUSTED = 4e-7
# How near a second eigenvalue may be, for float32 products to tell which one is the larger: each was off by 7.8e-6 at
# most (where a row's elements are equal, and rounding errors of one sign add up).
APART = 2e-5
# Up to here float64 products cost nothing.
DOUBLE_SIZE = 1 << 14
# Up to here they, and the eigenvalue without its vector, cost less than the vector does that makes up for float32.
NARROW_SIDE, NARROW_SIZE = 128, 1 << 16
# Up to here a matrix is converted once, not at every step: to convert bfloat16 costs a fifth of a step, and float16 two
# and a half steps, which is worth 512 MB.
WIDEN_SIZE = {"bfloat16": 1 << 24, "float16": 1 << 27}


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
    return norm_and_vector(matrix)[0]


def norm_and_vector(matrix: NDArray[Any]) -> tuple[float, NDArray[np.float64] | None]:
    """Compute σ as `spectral_norm` does, and its right vector [columns] where that costs no more, else None."""
    if 0 < matrix.size <= NARROW_SIZE and min(matrix.shape) <= NARROW_SIDE:
        with np.errstate(all="ignore"), threads_for(matrix):
            sigma = _narrow_norm(BlockedMatrix.of(matrix).gram())
        if sigma is not None:
            return sigma, None
    found = leading_singular_triplet(matrix)
    return found.sigma, found.right


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
    known = None if guess is None else _usable(guess, on_rows=(side == "rows") != operand.transposed)
    with np.errstate(all="ignore"), threads_for(matrix):
        found = _triplet(operand, known)
        if found is None:
            largest = operand.largest()
            if largest == 0.0 or not math.isfinite(largest):
                return _unit_vectors(matrix, math.nan if largest else 0.0)
            operand = operand.rescaled(largest)
            found = _triplet(operand, known)
    if found is None:
        return _unit_vectors(matrix, math.nan)
    sigma = operand.restored(found.sigma)
    if operand.transposed:
        return SingularTriplet(sigma, found.right, found.left)
    return SingularTriplet(sigma, found.left, found.right)


def _usable(guess: NDArray[Any], on_rows: bool) -> Guess | None:
    usable = np.isfinite(guess).all() and np.any(guess)
    return Guess(guess.reshape(-1).astype(np.float64), on_rows) if usable else None


def _unit_vectors(matrix: NDArray[Any], sigma: float) -> SingularTriplet:
    rows, columns = matrix.shape
    return SingularTriplet(sigma, np.eye(1, rows)[0], np.eye(1, columns)[0])


def _triplet(operand: BlockedMatrix, guess: Guess | None) -> SingularTriplet | None:
    """The triplet of the storage, in float32 where that is enough; None where scale, NaN, infinity or 0 forbid it."""
    single = _in_single(operand)
    found = None if single is None else _computed(single, guess)
    return _computed(operand, guess) if found is None else found


def _in_single(operand: BlockedMatrix) -> BlockedMatrix | None:
    """The operand with float32 products; None where float64 ones are needed, or cost nothing."""
    storage = operand.storage
    if operand.exponent != 0 or storage.dtype == np.float64 or storage.size <= DOUBLE_SIZE:
        return None
    single = replace(operand, dtype=np.dtype(np.float32))
    return single.converted() if storage.size <= WIDEN_SIZE.get(storage.dtype.name, 0) else single


def _computed(operand: BlockedMatrix, guess: Guess | None) -> SingularTriplet | None:
    """The triplet in the operand's arithmetic; None where the value is out of range, or float32 is not enough."""
    found = leading_eigenpair(operand, guess)
    low, high = SAFE_RANGE[operand.dtype.char]
    if not low <= found.pair.value <= high:
        return None
    vector, precise = found.pair.vector, operand.in_double()
    other = precise.multiply_transposed(vector) if found.on_rows else precise.multiply(vector)
    square = float(BLAS.ddot(other, other))
    if found.dtype == np.float32 and _is_doubtful(found.pair, square):
        return None
    sigma = math.sqrt(square)
    other /= sigma
    return SingularTriplet(sigma, vector, other) if found.on_rows else SingularTriplet(sigma, other, vector)


def _is_doubtful(pair: Eigenpair, square: float) -> bool:
    """Whether float32 could not tell the two largest values apart, or its products were worse than they usually are."""
    return pair.second > (1.0 - APART) * pair.value or abs(square - pair.value) > TRUSTED * pair.value


def _narrow_norm(gram: NDArray[np.float64]) -> float | None:
    """√λ_max of a Gram matrix without its vector; None where scale, NaN, infinity or 0 forbid it, or LAPACK fails."""
    low, high = SAFE_RANGE["d"]
    value = dense_eigenvalue(gram) if low <= gram.trace() <= high else None
    return None if value is None else math.sqrt(value)
