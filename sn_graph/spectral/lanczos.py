"""The largest eigenvalue of a positive semi-definite operator by Lanczos, with a stopping rule that can't be fooled.

Lanczos builds orthonormal vectors q₁ = b, q₂, … with q_{k+1} = p_k(G) b and a tridiagonal matrix T_k whose largest
eigenvalue θ grows towards λ₁ from below. How far it still is can't be read off a residual: where the start b is nearly
orthogonal to the leading eigenvector v₁, or a cluster lies just below λ₁, θ and its residual settle on the wrong value
(a residual²/gap rule stopped 8.5e-4 low). The rule here needs no assumption on the spectrum:

    q₁ … q_{k+1} are orthonormal, and v₁·q_{j+1} = p_j(λ₁)·(v₁·b), so (v₁·b)² ≤ 1 / S_k(λ₁), S_k = Σ_{j ≤ k} p_j².
    S_k grows beyond its largest zero, below θ, so if λ₁ ≥ τ = θ(1 + 2ε), then |v₁·b| ≤ 1 / √S_k(τ).
    For b uniform on the sphere of n dimensions, P(|v₁·b| ≤ x) ≤ x √(2n/π), whatever v₁ is.

Stopping once √S_k(τ) ≥ √(2n/π)/δ therefore returns a θ more than 2ε too low with probability at most δ, for every
operator; and since it can only fail for a matrix with an eigenvalue within some 2ε/δ of θ, hardly ever for those at
hand. No rule that knows T_k alone can stop earlier at the same δ: 1/S_k(τ), Christoffel's function, is the greatest
mass at τ that a spectrum with this T_k can have. p_j(τ) = Π dᵢ/βᵢ comes from the pivots dᵢ of τI − T_k. In the worst
case it grows like exp(2k√(2ε)), which is the step count of Kuczyński and Woźniakowski, 1992,
https://doi.org/10.1137/0613066; on ordinary matrices it needs as many steps as a residual of 1e-9. Rounding in the
products enters like a perturbation of G of the same relative size.

The rule alone may stop while θ is on its way from λ₂ to λ₁, which a start with too little of v₁ sets out on late (a
circulant matrix came out 9.6e-4 low). Some eigenvalue lies within the residual of θ, which is thus large while θ is
between two of them; a small one is asked for too. Nearly always it is small by then, and costs a step or none.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import ddot, dnrm2
from scipy.linalg.lapack import dstebz, dstein

from sn_graph.spectral.blas import AXPY, DOT, GEMV, NORM

# δ: the greatest probability that the rule lets a value through which is too low; and the steps it adds.
FAILURE = 1e-3
FIRST_CHECK = 10
# How small a residual must be, relative to λ: at a gap of 1e-3 the vector is good then. That of a guess, to be worth
# confirming; and that of θ, to stop: one still on its way to λ₁ from an unlucky start has a larger one.
NEAR = 3e-5

# A vector [n] to another of its type.
Operator = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Eigenpair:
    """The largest eigenvalue and its vector.

    Attributes:
        value: θ, a Rayleigh quotient, so never above λ₁ but for rounding.
        second: the second eigenvalue as far as it is seen, from below; −∞ where there is none.
        vector: [n], of length 1.
        steps: how often the operator was applied.
        certain: whether the rule was met; if not, the step limit came first.
    """

    value: float
    second: float
    vector: NDArray[np.float64]
    steps: int
    certain: bool


def largest_eigenpair(
    apply: Operator,
    length: int,
    tolerance: float,
    limit: int,
    guess: NDArray[np.float64] | None = None,
    dtype: DTypeLike = np.float64,
) -> Eigenpair:
    """Find the largest eigenvalue of a positive semi-definite operator.

    Args:
        apply: x [n] to G x [n], a new array at each call.
        length: n.
        tolerance: ε, the relative error allowed in √θ.
        limit: the greatest number of steps.
        guess: what may be the vector [n], of any length above 0; one that isn't costs a product, or the steps till it
            is found out.
        dtype: float64, or float32 for an operator that has no more, of eigenvalues between 1e-20 and 1e30: the type of
            the vectors. The tridiagonal matrix is float64 in any case.

    Returns:
        The pair; its value is NaN where the operator gives NaN or infinity.
    """
    if guess is not None and length > 1:
        confirmed = _confirm(apply, guess / dnrm2(guess), tolerance, limit, dtype)
        if confirmed is not None:
            return confirmed
    schedule = _Schedule(length)
    for space in _expand(apply, _start(length).astype(dtype), limit):
        diagonal, offdiagonal, step = space.diagonal, space.offdiagonal, len(space.diagonal)
        if space.exhausted or step == limit or step == schedule.next_check:
            theta = _eigenvalue(diagonal, offdiagonal)
            tau = theta * (1.0 + 2.0 * tolerance)
            certain = space.exhausted or schedule.satisfied(step, Growth.of(diagonal, offdiagonal, tau))
            if certain or step == limit:
                theta, second, weights = _largest(diagonal, offdiagonal)
                settled = space.exhausted or offdiagonal[-1] * abs(float(weights[-1])) <= NEAR * theta
                if settled or step == limit:
                    ritz = space.combined(weights)
                    return Eigenpair(theta, second, ritz / dnrm2(ritz), step, certain and settled)
    return Eigenpair(math.nan, math.nan, _start(length), limit, certain=False)


def _confirm(
    apply: Operator, guess: NDArray[np.float64], tolerance: float, limit: int, dtype: DTypeLike = np.float64
) -> Eigenpair | None:
    """The pair of a unit vector w if that is the leading one; None if it isn't, or not near enough to tell.

    With α = wᵀGw, ρ = ‖Gw − αw‖ and λ_max(PGP) ≤ τ for P = I − wwᵀ, λ₁ is at most the larger eigenvalue of
    [[α, ρ], [ρ, τ]], which is α(1 + 2ε) for the τ below. The rule gives λ_max(PGP) < τ from a start that does not
    depend on w, in half the steps, for τ lies a gap above what is there.
    """
    image = apply(guess.astype(dtype)).astype(np.float64)
    alpha = float(ddot(guess, image))
    residual = image - alpha * guess
    squared = float(ddot(residual, residual))
    if not (alpha > 0.0 and math.sqrt(squared) <= NEAR * alpha):
        return None
    slack = 2.0 * tolerance * alpha
    tau = alpha + slack - squared / slack
    # Not the start of a search that may have found w: in a tight pair that sees w alone, and nothing beside it.
    start = _start(len(guess), stream=1)
    for _ in range(2):
        start = start - ddot(guess, start) * guess
    schedule = _Schedule(len(guess) - 1)
    start /= dnrm2(start)
    for space in _expand(apply, start.astype(dtype), limit, guess):
        step = len(space.diagonal)
        if space.exhausted or step == schedule.next_check:
            if _eigenvalue(space.diagonal, space.offdiagonal) >= tau:
                return None
            if space.exhausted or schedule.satisfied(step, Growth.of(space.diagonal, space.offdiagonal, tau)):
                return _improved(guess, alpha, residual, space)
    return None


def _improved(guess: NDArray[np.float64], alpha: float, residual: NDArray[np.float64], space: "_Space") -> Eigenpair:
    """The best pair in the span of w and a space beside it, where G is [[α, rᵀQ], [Qᵀr, T]]."""
    steps = len(space.diagonal)
    inner = space.offdiagonal[: steps - 1]
    small = np.diag([alpha, *space.diagonal])
    small[1:, 1:] += np.diag(inner, 1) + np.diag(inner, -1)
    small[0, 1:] = small[1:, 0] = space.coefficients(residual)
    values, vectors = eigh(small, driver="evd")
    best = vectors[0, -1] * guess + space.combined(vectors[1:, -1])
    return Eigenpair(float(values[-1]), float(values[-2]), best / dnrm2(best), steps + 1, certain=True)


@dataclass(frozen=True)
class _Space:
    """A Krylov space after k steps: T_k and the length of the residual as last of the offdiagonal, and q₁ … q_k."""

    diagonal: list[float]
    offdiagonal: list[float]
    basis: NDArray[Any]
    exhausted: bool

    def coefficients(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Qᵀx: [n] to [k]."""
        kind = self.basis.dtype
        weights: NDArray[Any] = GEMV[kind.char](1.0, self.basis.T, vector.astype(kind, copy=False), trans=1)
        return weights.astype(np.float64, copy=False)

    def combined(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Q s: [k] to [n]."""
        kind = self.basis.dtype
        vector: NDArray[Any] = GEMV[kind.char](1.0, self.basis.T, weights.astype(kind, copy=False))
        return vector.astype(np.float64, copy=False)


def _expand(
    apply: Operator, start: NDArray[Any], limit: int, locked: NDArray[np.float64] | None = None
) -> Iterator[_Space]:
    """Yield the space of each step, of the operator or of what is left of it beside a locked vector.

    Ends at the limit, when the space holds all that the start reaches, or at what is not finite.
    """
    length, first = len(start), int(locked is not None)
    axpy, dot, norm = (table[start.dtype.char] for table in (AXPY, DOT, NORM))
    basis = np.empty((min(limit, 64) + first + 1, length), start.dtype)
    if locked is not None:
        basis[0] = locked
    basis[first] = start
    diagonal: list[float] = []
    offdiagonal: list[float] = []
    for step in range(1, limit + 1):
        last = first + step
        if last == len(basis):
            basis = np.concatenate([basis, np.empty_like(basis)])
        newest, done = basis[last - 1], basis[:last]
        vector = apply(newest)
        alpha = float(dot(newest, vector))
        vector = axpy(newest, vector, a=-alpha)
        if step > 1:
            vector = axpy(basis[last - 2], vector, a=-offdiagonal[-1])
        # The recurrence first: to project on the whole basis at once is Gram-Schmidt in its unstable form, which blew
        # up after 40 steps.
        vector = _orthogonalized(vector, done)
        beta = float(norm(vector))
        before = alpha + (offdiagonal[-1] if step > 1 else 0.0)
        if beta < 0.01 * before:  # what is left of so much is not orthogonal yet
            vector = _orthogonalized(vector, done)
            beta = float(norm(vector))
        diagonal.append(alpha)
        offdiagonal.append(beta)
        if not math.isfinite(beta):
            return
        exhausted = step == length - first or beta <= 1e-15 * max(diagonal)
        yield _Space(diagonal, offdiagonal, basis[first:last], exhausted)
        if exhausted:
            return
        np.divide(vector, beta, out=basis[last])


@dataclass(frozen=True)
class Growth:
    """How far the Lanczos polynomials p₀ … p_k have grown at a number τ above all eigenvalues of T_k.

    Attributes:
        total: ln √S_k(τ) = ½ ln Σ p_j(τ)²; −∞ where τ is not above them.
        last: What of that the last step added: nothing until θ has settled within τ, then the same at each step.
    """

    total: float
    last: float

    @classmethod
    def of(cls, diagonal: list[float], offdiagonal: list[float], tau: float) -> "Growth":
        """Compute the growth at τ from α₁ … α_k and β₁ … β_k, the last β the length of the residual, above 0."""
        logarithm, relative = 0.0, 1.0  # ln p_j, and S_j / p_j²
        earlier = logarithm, relative
        pivot, before = tau, 0.0
        for alpha, beta in zip(diagonal, offdiagonal, strict=True):
            pivot = tau - alpha - before * before / pivot
            if pivot <= 0.0 or beta == 0.0:
                return cls(-math.inf, 0.0)
            ratio = pivot / beta
            earlier = logarithm, relative
            logarithm += math.log(ratio)
            relative = 1.0 + relative / (ratio * ratio)
            before = beta
        total = logarithm + 0.5 * math.log(relative)
        return cls(total, total - earlier[0] - 0.5 * math.log(earlier[1]))


def demanded(length: int) -> float:
    """The growth from which on the rule is met: ln(√(2n/π)/δ)."""
    return 0.5 * math.log(2.0 * length / math.pi) - math.log(FAILURE)


class _Schedule:
    """When to look at the rule: a look costs a few products with a small matrix, so go by the growth so far.

    Before it sets in, a quarter of the steps pass between two looks; from there to the end it takes a fifth at least.
    """

    def __init__(self, length: int) -> None:
        self.demand = demanded(length)
        self.next_check = FIRST_CHECK

    def satisfied(self, step: int, growth: Growth) -> bool:
        ahead = 1 + step // 4
        if growth.last > 0.0:
            ahead = min(ahead, int(0.9 * (self.demand - growth.total) / growth.last))
        self.next_check = step + max(1, ahead)
        return growth.total >= self.demand


def _start(length: int, stream: int = 0) -> NDArray[np.float64]:
    """A vector [n] uniform on the unit sphere, the same at every call."""
    random = np.random.default_rng(stream).standard_normal(length)
    unit: NDArray[np.float64] = random / dnrm2(random)
    return unit


def _orthogonalized(vector: NDArray[Any], basis: NDArray[Any]) -> NDArray[Any]:
    gemv = GEMV[vector.dtype.char]
    weights = gemv(1.0, basis.T, vector, trans=1)
    result: NDArray[Any] = gemv(-1.0, basis.T, weights, beta=1.0, y=vector, overwrite_y=1)
    return result


def _eigenvalue(diagonal: list[float], offdiagonal: list[float]) -> float:
    """The largest eigenvalue of T_k."""
    size = len(diagonal)
    if size == 1:
        return diagonal[0]
    # Bisection, here and below, takes the tenth of the time of all eigenvalues, and finds none in some tight clusters.
    found, values, _, _, info = dstebz(diagonal, offdiagonal[: size - 1], 2, 0.0, 0.0, size, size, 0.0, b"E")
    return float(values[0]) if found == 1 and info == 0 else _all(diagonal, offdiagonal)[0][-1]


def _largest(diagonal: list[float], offdiagonal: list[float]) -> tuple[float, float, NDArray[np.float64]]:
    """The largest eigenvalue of T_k, the second, and the vector [k] of the largest."""
    size = len(diagonal)
    if size == 1:
        return diagonal[0], -math.inf, np.ones(1)
    inner = offdiagonal[: size - 1]
    found, values, blocks, splits, info = dstebz(diagonal, inner, 2, 0.0, 0.0, size - 1, size, 0.0, b"B")
    if found == 2 and info == 0:
        # By blocks, where T_k falls apart: the values are not in order then.
        first = int(values[1] >= values[0])
        blocks[0] = blocks[first]
        weights, info = dstein(diagonal, inner, values[first : first + 1], blocks, splits)
        if info == 0:
            return float(values[first]), float(values[1 - first]), weights[:, 0]
    every, vectors = _all(diagonal, offdiagonal)
    return every[-1], every[-2], vectors[:, -1]


def _all(diagonal: list[float], offdiagonal: list[float]) -> tuple[list[float], NDArray[np.float64]]:
    inner = offdiagonal[: len(diagonal) - 1]
    every, vectors = eigh(np.diag(diagonal) + np.diag(inner, 1) + np.diag(inner, -1), driver="evd")
    return every.tolist(), vectors
