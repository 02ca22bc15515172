"""Routes to the largest eigenvalue λ = σ² of a Gram matrix: three, by the shorter side n of M and the longer side m.

    n ≤ 96                                                 the Gram matrix, and LAPACK's eigenvalue of it
    n ≤ 512; n ≤ 768, m ≥ 3n; n ≤ 2048, m ≥ 2n, M large    the Gram matrix, and Lanczos on it
    else                                                   Lanczos on x → Mᵀ(M x), which holds only its vectors

`ROUTES` is this table, `leading_eigenpair` runs it. The Gram matrix is the one on the shorter side. A spectrum that
Lanczos can't settle in good time goes to LAPACK, in float64. On Gram matrices up to 512 a Cholesky factorization proves
that no larger value was missed; elsewhere that is certain but for a chance of 1e-9 (`stopping`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import (
    BLAS,
    FAILURE,
    LAPACK,
    SYMV,
    BlockedMatrix,
    Eigenpair,
    dense_eigenpair,
    largest_eigenpair,
    threads_for,
)

# Of the 1e-6 promised; the rest is for float32 products, see `exact.TRUSTED`.
TOLERANCE = 7e-7
# Up to here LAPACK on the Gram matrix is as fast as Lanczos, and needs no stopping rule.
DENSE_SIDE = 96
# Up to here LAPACK can step in (half a GB of float64, a minute); above, Lanczos goes on until its rule is met, which
# the growth of exp(2k√(2ε)) brings about in some 15,000 steps at worst.
FALLBACK_SIDE = 8192
# Up to here a Cholesky factorization that proves that nothing larger was missed costs less than the steps that are as
# certain do.
PROVEN_SIDE = 512
# The probability of a value that is low, where a proof follows.
ESTIMATED = 0.1
FALLBACK_STEPS = 400
UNBOUNDED_STEPS = 20_000


@dataclass(frozen=True)
class Shape:
    """Matrices that cost less to multiply with themselves once than to read at every step.

    Attributes:
        side: The greatest shorter side.
        aspect: How many times as long the longer side is, at least.
        beyond_cache: Whether the matrix must be too large for the cache, which is three times as fast as memory.
    """

    side: int
    aspect: int
    beyond_cache: bool

    def holds(self, operand: BlockedMatrix) -> bool:
        """Return whether a matrix is one of these."""
        short, long = sorted(operand.shape)
        return short <= self.side and long >= self.aspect * short and not (self.beyond_cache and operand.cached)


SQUARED = (
    # A square is nothing, whatever the longer side.
    Shape(512, aspect=1, beyond_cache=False),
    # 0.6 to 0.7 of the time with AVX-512, 1.0 to 1.1 without.
    Shape(768, aspect=3, beyond_cache=False),
    # Lanczos would read it 80 times.
    Shape(2048, aspect=2, beyond_cache=True),
)


@dataclass(frozen=True)
class Guess:
    """What may be one of the leading singular vectors of a storage [rows, columns].

    Attributes:
        vector: [rows] or [columns], finite, not 0, of any length.
        on_rows: Whether it lives on the rows.
    """

    vector: NDArray[np.float64]
    on_rows: bool

    def on(self, rows: bool, operand: BlockedMatrix) -> NDArray[np.float64] | None:
        """Return it on the rows or columns, of length 1; None where the matrix takes it to 0 or out of range."""
        vector = self.vector
        if rows != self.on_rows:
            vector = operand.multiply(vector) if rows else operand.multiply_transposed(vector)
        vector = vector.astype(np.float64, copy=False)
        length = float(BLAS.dnrm2(vector))
        return vector / length if 0.0 < length < math.inf else None


@dataclass(frozen=True)
class LeadingPair:
    """The largest eigenvalue of SSᵀ or SᵀS, and how it was found.

    Attributes:
        pair: The value σ² and the vector.
        on_rows: Whether it is that of SSᵀ, so that the vector lives on the rows of the storage.
        dtype: float32 or float64, the arithmetic of the products that it comes from.
    """

    pair: Eigenpair
    on_rows: bool
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Route:
    """One way to the largest eigenvalue.

    Attributes:
        name: What it does.
        suits: Returns whether a matrix takes this route, if it takes none before it.
        on_rows: Returns whether the vector will live on the rows of the storage.
        search: Returns the pair of a matrix, on the rows or not, from a guess or None; not certain where it gave up.
    """

    name: str
    suits: Callable[[BlockedMatrix], bool]
    on_rows: Callable[[BlockedMatrix], bool]
    search: Callable[[BlockedMatrix, bool, Guess | None], Eigenpair]


def leading_eigenpair(operand: BlockedMatrix, guess: Guess | None = None) -> LeadingPair:
    """Find the largest eigenvalue of the Gram matrix of a storage, by the first route that suits it.

    Args:
        operand: S, not empty.
        guess: What may be one of the vectors; it takes no part where the Gram matrix goes to LAPACK.

    Returns:
        The pair; its value is NaN, 0 or infinity where the storage holds NaN or infinity or its scale is out of range.
    """
    route = route_of(operand)
    on_rows = route.on_rows(operand)
    pair = route.search(operand, on_rows, guess)
    if pair.certain or not math.isfinite(pair.value):
        return LeadingPair(pair, on_rows, operand.dtype)
    precise = operand.in_double()
    if pair.blurred:
        return leading_eigenpair(precise, guess)
    return LeadingPair(dense_eigenpair(precise.gram()), _is_wide(precise), precise.dtype)


def route_of(operand: BlockedMatrix) -> Route:
    """Return the first route that suits a matrix."""
    return next(route for route in ROUTES if route.suits(operand))


def lanczos_on_gram(
    gram: NDArray[Any], seed: int, start: NDArray[np.float64] | None = None, failure: float = FAILURE
) -> Eigenpair:
    """Find the largest eigenvalue of a Gram matrix by Lanczos, in `FALLBACK_STEPS` steps at most.

    Args:
        gram: [n, n], float32 or float64, Fortran order, upper triangle.
        seed: That of the matrix that the Gram matrix is of.
        start: What may be the vector [n].
        failure: The greatest probability of a value that is low by more than `TOLERANCE`.
    """
    apply = partial(SYMV[gram.dtype.char], 1.0, gram)
    with threads_for(gram):
        return largest_eigenpair(apply, len(gram), TOLERANCE, FALLBACK_STEPS, start, gram.dtype, seed, failure)


def _by_lapack(operand: BlockedMatrix, *_: object) -> Eigenpair:
    return dense_eigenpair(operand.gram())


def _by_lanczos_on_gram(operand: BlockedMatrix, on_rows: bool, guess: Guess | None) -> Eigenpair:
    start = None if guess is None else guess.on(on_rows, operand)
    gram = operand.gram()
    if len(gram) > PROVEN_SIDE:
        return lanczos_on_gram(gram, operand.seed, start)
    pair = lanczos_on_gram(gram, 0, start, ESTIMATED)
    if pair.certain and not _is_largest(gram, pair.value):
        pair = lanczos_on_gram(gram, operand.seed, start)
        if pair.certain and not _is_largest(gram, pair.value):
            return replace(pair, certain=False)
    return pair


def _is_largest(gram: NDArray[Any], value: float) -> bool:
    """Say whether a Gram matrix has no eigenvalue above a value by more than `TOLERANCE` allows, by Cholesky."""
    matrix = np.negative(gram, dtype=np.float64, order="F")
    matrix.flat[:: len(gram) + 1] += value * (1.0 + 2.0 * TOLERANCE)
    return bool(LAPACK.dpotrf(matrix, lower=0, clean=0, overwrite_a=1)[1] == 0)


def _by_lanczos_on_products(operand: BlockedMatrix, on_rows: bool, guess: Guess | None) -> Eigenpair:
    rows, columns = operand.shape
    apply, length = (operand.gram_multiply_rows, rows) if on_rows else (operand.gram_multiply_columns, columns)
    limit = FALLBACK_STEPS if min(rows, columns) <= FALLBACK_SIDE else UNBOUNDED_STEPS
    start = None if guess is None else guess.on(on_rows, operand)
    return largest_eigenpair(apply, length, TOLERANCE, limit, start, operand.dtype, operand.seed)


def _is_narrow(operand: BlockedMatrix) -> bool:
    return min(operand.shape) <= DENSE_SIDE


def _is_squared(operand: BlockedMatrix) -> bool:
    return any(shape.holds(operand) for shape in SQUARED)


def _is_wide(operand: BlockedMatrix) -> bool:
    rows, columns = operand.shape
    return rows < columns


def _is_wide_and_near(operand: BlockedMatrix) -> bool:
    # From the rows a step reads M twice; shorter vectors are worth that only where M is in the cache.
    return _is_wide(operand) and operand.cached


ROUTES = (
    Route("LAPACK on the Gram matrix", _is_narrow, _is_wide, _by_lapack),
    Route("Lanczos on the Gram matrix", _is_squared, _is_wide, _by_lanczos_on_gram),
    Route("Lanczos on x → Mᵀ(M x)", lambda _: True, _is_wide_and_near, _by_lanczos_on_products),
)
