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
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import ddot, dnrm2
from scipy.linalg.lapack import dstebz, dstein, dsterf

from sn_graph.spectral.blas import AXPY, DOT, GEMV, NORM, SCAL

# δ: the greatest probability that the rule lets a value through which is too low; and the first step to look at it.
FAILURE = 1e-3
FIRST_LOOK = 10
# A generator takes longer to make than these numbers take to draw.
KEPT = 1 << 12
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
        dtype: The type of the vectors: float64, for a largest eigenvalue between 1e-120 and 1e120, whose square LAPACK
            needs; or float32, for one between 1e-20 and 1e30. The tridiagonal matrix is float64 in any case.

    Returns:
        The pair; its value is NaN where the operator gives NaN or infinity.
    """
    if guess is not None and length > 1:
        confirmed = _confirm(apply, guess / dnrm2(guess), tolerance, limit, dtype)
        if confirmed is not None:
            return confirmed
    rule = StoppingRule(length, tolerance)
    for space in _expand(apply, start_vector(length).astype(dtype), limit):
        diagonal, offdiagonal, step = space.diagonal, space.offdiagonal, len(space.diagonal)
        certain = space.exhausted or rule.met(diagonal, offdiagonal)
        if certain or step == limit:
            theta, second, weights = _largest(diagonal, offdiagonal)
            settled = space.exhausted or offdiagonal[-1] * abs(float(weights[-1])) <= NEAR * theta
            if settled or step == limit:
                ritz = space.combined(weights)
                return Eigenpair(theta, second, ritz / dnrm2(ritz), step, certain and settled)
    return Eigenpair(math.nan, math.nan, start_vector(length), limit, certain=False)


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
    start = start_vector(len(guess), stream=1)
    for _ in range(2):
        start = start - ddot(guess, start) * guess
    start /= dnrm2(start)
    demand, growth = _demanded(len(guess) - 1), Growth(tau)
    for space in _expand(apply, start.astype(dtype), limit, guess):
        if not space.exhausted:
            growth.add(space.diagonal[-1], space.offdiagonal[-1])
        if space.exhausted or growth.total >= demand:
            return _improved(guess, alpha, residual, space)
        if growth.total == -math.inf:
            return None
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


class _Space:
    """A Krylov space after k steps: T_k and the length of the residual as last of the offdiagonal, and q₁ … q_k."""

    def __init__(self, start: NDArray[Any], room: int, locked: NDArray[np.float64] | None) -> None:
        self.diagonal: list[float] = []
        self.offdiagonal: list[float] = []
        self.exhausted = False
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
    """Yield the space, the same one at each step, of the operator or of what is left of it beside a locked vector.

    Ends at the limit, when the space holds all that the start reaches, or at what is not finite.
    """
    space = _Space(start, min(limit, 64), locked)
    diagonal, offdiagonal, first = space.diagonal, space.offdiagonal, space.first
    axpy, dot, norm, scal = (table[start.dtype.char] for table in (AXPY, DOT, NORM, SCAL))
    largest = 0.0
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
        # The recurrence first: to project on the whole basis at once is Gram-Schmidt in its unstable form, which blew
        # up after 40 steps.
        vector = _orthogonalized(vector, done)
        beta = float(norm(vector))
        if beta < 0.01 * before:
            # What is left of so much is not orthogonal yet; and if it was rounding errors, not after one time either.
            vector = _orthogonalized(_orthogonalized(vector, done), done)
            beta = float(norm(vector))
        diagonal.append(alpha)
        offdiagonal.append(beta)
        if not math.isfinite(beta):
            return
        largest = max(largest, alpha)
        space.exhausted = step == len(start) - first or beta <= 1e-15 * largest
        yield space
        if space.exhausted:
            return
        space.vectors[last] = scal(1.0 / beta, vector)


class Growth:
    """How far the Lanczos polynomials p₀ … p_k have grown at a number τ, step by step.

    Attributes:
        total: ln √S_k(τ) = ½ ln Σ p_j(τ)²; −∞ from the step on where an eigenvalue of T_k has come up to τ.
    """

    def __init__(self, tau: float) -> None:
        self.total = 0.0
        self._tau = tau
        self._logarithm, self._relative = 0.0, 1.0  # ln p_k, and S_k / p_k²
        self._pivot, self._beta = math.inf, 0.0

    def add(self, alpha: float, beta: float) -> None:
        """Take a step further, by its α and its β, which is the length of the residual and above 0."""
        if self.total == -math.inf:
            return
        self._pivot = self._tau - alpha - self._beta * self._beta / self._pivot
        self._beta = beta
        if self._pivot <= 0.0:
            self.total = -math.inf
            return
        ratio = self._pivot / beta
        self._logarithm += math.log(ratio)
        self._relative = 1.0 + self._relative / (ratio * ratio)
        self.total = self._logarithm + 0.5 * math.log(self._relative)


class StoppingRule:
    """The rule of this module along the steps of a search.

    It looks for θ, which costs about as much as a product with a small matrix, when a quarter more steps have passed
    and θ has left the τ of the last look behind. From there on S_k(τ) alone is followed, for a τ below which θ still
    is: as that is at most θ(1 + 2ε) later on, what it proves then is no less.
    """

    def __init__(self, length: int, tolerance: float, orthogonal: bool = True) -> None:
        """Take n, ε, and whether the vectors are kept orthogonal; if not, Σ c_j² ≤ k + 1 is all that is known."""
        self._demand, self._tolerance, self._orthogonal = _demanded(length), tolerance, orthogonal
        self._growth, self._next_look = Growth(-math.inf), FIRST_LOOK

    def met(self, diagonal: list[float], offdiagonal: list[float]) -> bool:
        """Whether the step just added to T_k, given with all before it, is enough. To be asked at each step once."""
        step = len(diagonal)
        self._growth.add(diagonal[-1], offdiagonal[-1])
        if self._growth.total == -math.inf and step >= self._next_look:
            self._next_look = step + 1 + step // 4
            self._growth = Growth(largest_ritz_value(diagonal, offdiagonal) * (1.0 + 2.0 * self._tolerance))
            for alpha, beta in zip(diagonal, offdiagonal, strict=True):
                self._growth.add(alpha, beta)
        return self._growth.total >= self._demand + (0.0 if self._orthogonal else 0.5 * math.log(step + 1))


def _demanded(length: int) -> float:
    """The growth from which on the rule is met: ln(√(2n/π)/δ)."""
    return 0.5 * math.log(2.0 * length / math.pi) - math.log(FAILURE)


def start_vector(length: int, stream: int = 0) -> NDArray[np.float64]:
    """A vector [n] uniform on the unit sphere, the same at every call."""
    random = _first_numbers(stream)[:length] if length <= KEPT else _normal_numbers(length, stream)
    unit: NDArray[np.float64] = random / dnrm2(random)
    return unit


def _normal_numbers(length: int, stream: int) -> NDArray[np.float64]:
    return np.random.default_rng(stream).standard_normal(length)


@cache
def _first_numbers(stream: int) -> NDArray[np.float64]:
    return _normal_numbers(KEPT, stream)


def _orthogonalized(vector: NDArray[Any], basis: NDArray[Any]) -> NDArray[Any]:
    gemv = GEMV[vector.dtype.char]
    weights = gemv(1.0, basis.T, vector, trans=1)
    result: NDArray[Any] = gemv(-1.0, basis.T, weights, beta=1.0, y=vector, overwrite_y=1)
    return result


def largest_ritz_value(diagonal: list[float], offdiagonal: list[float]) -> float:
    """θ, the largest eigenvalue of T_k, whose last β is not part of it."""
    size = len(diagonal)
    if size == 1:
        return diagonal[0]
    inner = offdiagonal[: size - 1]
    # Bisection, here and below, takes the tenth of the time of all eigenvalues, and finds none in some tight clusters.
    found, values, _, _, info = dstebz(diagonal, inner, 2, 0.0, 0.0, size, size, 0.0, b"E")
    return float(values[0] if found == 1 and info == 0 else dsterf(diagonal, inner)[0][-1])


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
