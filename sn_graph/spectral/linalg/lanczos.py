"""The largest eigenvalue of a positive semi-definite operator by Lanczos, whose vectors are kept and made orthogonal.

`stopping` decides when it may stop.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sn_graph.spectral.linalg.blas import AXPY, DOT, GEMV, NORM, SCAL
from sn_graph.spectral.linalg.compiled import BLAS, LAPACK
from sn_graph.spectral.linalg.every import every_eigenpair
from sn_graph.spectral.linalg.stopping import FAILURE, NEAR, NOISE, Growth, StoppingRule, is_blurred, start_vector

# Returns G x for x [n], of the type of x.
Operator = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Eigenpair:
    """The largest eigenvalue and its vector.

    Attributes:
        value: θ, a Rayleigh quotient, so never above λ₁ but for rounding.
        second: The second eigenvalue as far as it is seen, from below; −∞ where there is none.
        vector: [n], of length 1.
        steps: How often the operator was applied.
        certain: Whether the rule was met, or the space is the whole; if not, the step limit came first, or the products
            are too coarse.
        blurred: Whether they are: see `stopping.is_blurred`.
    """

    value: float
    second: float
    vector: NDArray[np.float64]
    steps: int
    certain: bool
    blurred: bool = False


def largest_eigenpair(
    apply: Operator,
    length: int,
    tolerance: float,
    limit: int,
    guess: NDArray[np.float64] | None = None,
    dtype: DTypeLike = np.float64,
    seed: int = 0,
    failure: float = FAILURE,
) -> Eigenpair:
    """Find the largest eigenvalue of a positive semi-definite operator.

    Args:
        apply: Returns G x for x [n], in a new array at each call.
        length: n.
        tolerance: ε, the relative error allowed in √θ.
        limit: The greatest number of steps.
        guess: What may be the vector [n], of any length above 0; one that isn't costs a product, or the steps until it
            is found out.
        dtype: The type of the vectors, float64 or float32; the largest eigenvalue must lie in the `blas.SAFE_RANGE` of
            it. The tridiagonal matrix is float64 in any case.
        seed: Of the random starts; to be made of the operator, for the rule's probability to hold for every operator.
        failure: The greatest probability of a value that is low; larger ones are for callers who prove it otherwise.

    Returns:
        The pair; its value is NaN where the operator gives NaN or infinity.
    """
    if guess is not None and length > 1:
        confirmed = _confirm(apply, guess / BLAS.dnrm2(guess), tolerance, limit, dtype, seed, failure)
        if confirmed is not None:
            return confirmed
    rule = StoppingRule(length, tolerance, dtype, failure=failure)
    for space in _expand(apply, start_vector(length, seed).astype(dtype), limit, seed):
        diagonal, offdiagonal, step = space.diagonal, space.offdiagonal, len(space.diagonal)
        certain = space.complete or rule.met(diagonal, offdiagonal)
        blurred = not certain and is_blurred(offdiagonal, np.dtype(dtype))
        if certain or blurred or step == limit:
            theta, second, weights = _largest(diagonal, offdiagonal)
            settled = offdiagonal[-1] * abs(float(weights[-1])) <= NEAR * theta
            if settled or blurred or step == limit:
                ritz = space.combined(weights)
                return Eigenpair(theta, second, ritz / BLAS.dnrm2(ritz), step, certain and settled, blurred)
    return Eigenpair(math.nan, math.nan, start_vector(length, seed), limit, certain=False)


def _confirm(
    apply: Operator,
    guess: NDArray[np.float64],
    tolerance: float,
    limit: int,
    dtype: DTypeLike = np.float64,
    seed: int = 0,
    failure: float = FAILURE,
) -> Eigenpair | None:
    """The pair of a unit vector w if that is the leading one; None if it isn't, or not near enough to tell.

    With α = wᵀGw, ρ = ‖Gw − αw‖ and λ_max(PGP) ≤ τ for P = I − wwᵀ, λ₁ is at most the larger eigenvalue of
    [[α, ρ], [ρ, τ]], which is α(1 + 2ε) for the τ below. The rule gives λ_max(PGP) < τ from a start that does not
    depend on w, in half the steps, because τ lies a gap above what is there.
    """
    image = apply(guess.astype(dtype)).astype(np.float64)
    alpha = float(BLAS.ddot(guess, image))
    residual = image - alpha * guess
    squared = float(BLAS.ddot(residual, residual))
    if not (alpha > 0.0 and math.sqrt(squared) <= NEAR * alpha):
        return None
    slack = 2.0 * tolerance * alpha
    tau = alpha + slack - squared / slack
    if not tau > 0.0:
        return None
    # Not the start of a search that may have found w: in a tight pair that sees w alone, and nothing beside it.
    start = start_vector(len(guess), seed, stream=1)
    for _ in range(2):
        start = start - BLAS.ddot(guess, start) * guess
    start /= BLAS.dnrm2(start)
    kind = np.dtype(dtype)
    growth = Growth(tau, len(guess) - 1, NOISE[kind.char])
    for space in _expand(apply, start.astype(dtype), limit, seed, guess):
        growth.add(space.diagonal[-1], space.offdiagonal[-1])
        if growth.failure <= math.log(failure) or (space.complete and growth.total > -math.inf):
            return _improved(guess, alpha, residual, space)
        if growth.total == -math.inf or is_blurred(space.offdiagonal, kind):
            return None
    return None


def _improved(guess: NDArray[np.float64], alpha: float, residual: NDArray[np.float64], space: "_Space") -> Eigenpair:
    """The best pair in the span of w and a space beside it, where G is [[α, rᵀQ], [Qᵀr, T]]."""
    steps = len(space.diagonal)
    inner = space.offdiagonal[: steps - 1]
    small = np.diag([alpha, *space.diagonal])
    small[1:, 1:] += np.diag(inner, 1) + np.diag(inner, -1)
    small[0, 1:] = small[1:, 0] = space.coefficients(residual)
    values, vectors = every_eigenpair(small)
    best = vectors[0, -1] * guess + space.combined(vectors[1:, -1])
    return Eigenpair(float(values[-1]), float(values[-2]), best / BLAS.dnrm2(best), steps + 1, certain=True)


class _Space:
    """A Krylov space after k steps: T_k, the length of the residual as last of the offdiagonal, and q₁ … q_k.

    Attributes:
        diagonal, offdiagonal: α and β; β is 0 where a start reaches no further, and another one follows.
        complete: Whether nothing is left beside the space.
    """

    def __init__(self, start: NDArray[Any], room: int, locked: NDArray[np.float64] | None) -> None:
        self.diagonal: list[float] = []
        self.offdiagonal: list[float] = []
        self.complete = False
        self.first = int(locked is not None)
        self.vectors = np.empty((room + self.first + 1, len(start)), start.dtype)
        if locked is not None:
            self.vectors[0] = locked
        self.vectors[self.first] = start

    @property
    def basis(self) -> NDArray[Any]:
        """[k, n]."""
        return self.vectors[self.first : self.first + len(self.diagonal)]

    def coefficients(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return Qᵀx [k] for x [n]."""
        kind = self.basis.dtype
        weights: NDArray[Any] = GEMV[kind.char](1.0, self.basis.T, vector.astype(kind, copy=False), trans=1)
        return weights.astype(np.float64, copy=False)

    def combined(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return Q s [n] for s [k]."""
        kind = self.basis.dtype
        vector: NDArray[Any] = GEMV[kind.char](1.0, self.basis.T, weights.astype(kind, copy=False))
        return vector.astype(np.float64, copy=False)


def _expand(
    apply: Operator, start: NDArray[Any], limit: int, seed: int, locked: NDArray[np.float64] | None = None
) -> Iterator[_Space]:
    """Yield the space, the same one at each step, of the operator or of what is left of it beside a locked vector.

    Where the space holds all that a start reaches, it goes on from another one, random and orthogonal to it. Ends at
    the limit, when the space is complete, or at a number that is not finite.
    """
    space = _Space(start, min(limit, 64), locked)
    diagonal, offdiagonal, first = space.diagonal, space.offdiagonal, space.first
    axpy, dot, norm, scal = (table[start.dtype.char] for table in (AXPY, DOT, NORM, SCAL))
    largest, stream, noise = 0.0, 1, NOISE[start.dtype.char]
    for step in range(1, limit + 1):
        last = first + step
        if last == len(space.vectors):
            space.vectors = np.concatenate([space.vectors, np.empty_like(space.vectors)])
        newest, done = space.vectors[last - 1], space.vectors[:last]
        vector = apply(newest)
        before = float(norm(vector))
        alpha = float(dot(newest, vector))
        vector = axpy(newest, vector, a=-alpha)
        if step > 1:
            before = max(before, offdiagonal[-1])
            vector = axpy(done[-2], vector, a=-offdiagonal[-1])
        # The recurrence first: a projection on the whole basis at once is Gram-Schmidt in its unstable form, which blew
        # up after 40 steps.
        vector = _orthogonalized(vector, done)
        beta = float(norm(vector))
        if beta < 0.01 * before:
            # So small a rest is not orthogonal yet; if it was rounding errors, once more is not enough.
            vector = _orthogonalized(_orthogonalized(vector, done), done)
            beta = float(norm(vector))
        if not math.isfinite(beta):
            return
        largest = max(largest, alpha)
        space.complete = step == len(start) - first
        exhausted = space.complete or beta <= noise * largest
        diagonal.append(alpha)
        offdiagonal.append(0.0 if exhausted else beta)
        yield space
        if space.complete:
            return
        if exhausted:
            stream += 1
            vector = start_vector(len(start), seed, stream).astype(start.dtype)
            vector = _orthogonalized(_orthogonalized(vector, done), done)
            beta = float(norm(vector))
        space.vectors[last] = scal(1.0 / beta, vector)


def _orthogonalized(vector: NDArray[Any], basis: NDArray[Any]) -> NDArray[Any]:
    gemv = GEMV[vector.dtype.char]
    weights = gemv(1.0, basis.T, vector, trans=1)
    result: NDArray[Any] = gemv(-1.0, basis.T, weights, beta=1.0, y=vector, overwrite_y=1)
    return result


def _largest(diagonal: list[float], offdiagonal: list[float]) -> tuple[float, float, NDArray[np.float64]]:
    """The largest eigenvalue of T_k, the second, and the vector [k] of the largest."""
    size = len(diagonal)
    if size == 1:
        return diagonal[0], -math.inf, np.ones(1)
    inner = offdiagonal[: size - 1]
    # By bisection: see `largest_ritz_value`.
    found, values, blocks, splits, info = LAPACK.dstebz(diagonal, inner, 2, 0.0, 0.0, size - 1, size, 0.0, b"B")
    if found == 2 and info == 0:
        # In blocks, where T_k falls apart: the values are not in order then.
        first = int(values[1] >= values[0])
        blocks[0] = blocks[first]
        weights, info = LAPACK.dstein(diagonal, inner, values[first : first + 1], blocks, splits)
        if info == 0:
            return float(values[first]), float(values[1 - first]), weights[:, 0]
    every, vectors = every_eigenpair(np.diag(diagonal) + np.diag(inner, 1) + np.diag(inner, -1))
    return float(every[-1]), float(every[-2]), vectors[:, -1]
