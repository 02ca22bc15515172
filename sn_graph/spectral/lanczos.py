"""The largest eigenvalue of a positive semi-definite operator by Lanczos, with a stopping rule that can't be fooled.

Lanczos builds orthonormal vectors q₁ = b, q₂, … with q_{k+1} = p_k(G) b and a tridiagonal matrix T_k whose largest
eigenvalue θ grows towards λ₁ from below. How far it still is can't be read off a residual: where the start b is nearly
orthogonal to the leading eigenvector v₁, or a cluster lies just below λ₁, θ and its residual settle on the wrong value
(a residual²/gap rule stopped 8.5e-4 low). The rule here needs no assumption on the spectrum:

    q_{k+1} is a unit vector, and its component on v₁ is p_k(λ₁)·(v₁·b), so |v₁·b| ≤ 1 / p_k(λ₁).
    p_k grows beyond its largest zero θ, so if λ₁ ≥ τ = θ(1 + 2ε), then |v₁·b| ≤ 1 / p_k(τ).
    For b uniform on the sphere of n dimensions, P(|v₁·b| ≤ x) ≤ x √(2n/π), whatever v₁ is.

Stopping once p_k(τ) ≥ √(2n/π)/δ therefore returns a θ more than 2ε too low with probability at most δ, for every
operator; and since it can only fail for a matrix with an eigenvalue within some 2ε/δ of θ, hardly ever for those at
hand. p_k(τ) = Π dᵢ/βᵢ comes from the pivots dᵢ of τI − T_k. In the worst case it grows like exp(2k√(2ε)), which is the
step count of Kuczyński and Woźniakowski, 1992, https://doi.org/10.1137/0613066; on ordinary matrices it needs as many
steps as a residual of 1e-9. Rounding in the products enters like a perturbation of G of the same relative size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import dgemv
from scipy.linalg.lapack import dsterf

# δ: the greatest probability that the rule lets a value through which is too low; and the steps it adds.
FAILURE = 1e-3
FIRST_CHECK = 6


@dataclass(frozen=True)
class Eigenpair:
    """The largest eigenvalue and its vector.

    Attributes:
        value: θ, a Rayleigh quotient, so never above λ₁ but for rounding.
        vector: [n], of length 1.
        steps: how often the operator was applied.
        certain: whether the rule was met; if not, the step limit came first.
    """

    value: float
    vector: NDArray[np.float64]
    steps: int
    certain: bool


def largest_eigenpair(
    apply: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    length: int,
    tolerance: float,
    limit: int,
) -> Eigenpair:
    """Find the largest eigenvalue of a positive semi-definite operator.

    Args:
        apply: x [n] to G x [n], float64.
        length: n.
        tolerance: ε, the relative error allowed in √θ.
        limit: the greatest number of steps.

    Returns:
        The pair; its value is NaN where the operator gives NaN or infinity.
    """
    start = _start(length)
    basis = np.empty((min(limit, 64) + 1, length))
    basis[0] = start
    diagonal: list[float] = []
    offdiagonal: list[float] = []
    schedule = _Schedule(0.5 * math.log(2.0 * length / math.pi) - math.log(FAILURE))
    for step in range(1, limit + 1):
        if step == len(basis):
            basis = np.concatenate([basis, np.empty_like(basis)])
        newest = basis[step - 1]
        vector = apply(newest)
        alpha = float(newest @ vector)
        vector = vector - alpha * newest
        if step > 1:
            vector -= offdiagonal[-1] * basis[step - 2]
        # The recurrence first: to project on the whole basis at once is Gram-Schmidt in its unstable form, which blew
        # up after 40 steps.
        done = basis[:step]
        vector = _orthogonalized(vector, done)
        beta = math.sqrt(float(vector @ vector))
        if beta < 0.01 * alpha:
            vector = _orthogonalized(vector, done)
            beta = math.sqrt(float(vector @ vector))
        diagonal.append(alpha)
        offdiagonal.append(beta)
        if not math.isfinite(beta):
            return Eigenpair(math.nan, start, step, certain=False)
        exhausted = step == length or beta <= 1e-15 * max(diagonal)
        if exhausted or step == limit or step == schedule.next_check:
            theta = _largest(diagonal, offdiagonal)
            tau = theta * (1.0 + 2.0 * tolerance)
            certain = exhausted or schedule.satisfied(step, log_growth(diagonal, offdiagonal, tau))
            if certain or step == limit:
                return Eigenpair(theta, _ritz_vector(diagonal, offdiagonal, done), step, certain)
        basis[step] = vector / beta
    raise AssertionError("the loop ends by the limit or by exhausting the space")


def log_growth(diagonal: list[float], offdiagonal: list[float], tau: float) -> float:
    """ln p_k(τ) of the k-th Lanczos polynomial, for τ above all eigenvalues of T_k.

    Args:
        diagonal: k values α₁ … α_k of T_k.
        offdiagonal: k values β₁ … β_k, the last one the length of the residual.
        tau: τ.
    """
    pivot = tau - diagonal[0]
    total = math.log(pivot / offdiagonal[0])
    for alpha, before, beta in zip(diagonal[1:], offdiagonal, offdiagonal[1:], strict=False):
        pivot = tau - alpha - before * before / pivot
        if pivot <= 0.0:
            return -math.inf
        total += math.log(pivot / beta)
    return total


class _Schedule:
    """When to look at the rule: a look costs as much as a step on a small matrix, so go by the growth so far."""

    def __init__(self, demand: float) -> None:
        self.demand = demand
        self.next_check = FIRST_CHECK
        self._step = 0
        self._growth = 0.0

    def satisfied(self, step: int, growth: float) -> bool:
        ahead = step // 2
        rate = (growth - self._growth) / (step - self._step)
        if rate > 0.0:
            ahead = min(ahead, int(0.8 * (self.demand - growth) / rate))
        self.next_check = step + max(1, ahead)
        self._step, self._growth = step, growth
        return growth >= self.demand


def _start(length: int) -> NDArray[np.float64]:
    """A vector [n] uniform on the unit sphere, the same at every call."""
    random = np.random.default_rng(0).standard_normal(length)
    return random / math.sqrt(float(random @ random))


def _orthogonalized(vector: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    # scipy's BLAS, as in blocks.py.
    weights = dgemv(1.0, basis.T, vector, trans=1)
    result: NDArray[np.float64] = dgemv(-1.0, basis.T, weights, beta=1.0, y=vector, overwrite_y=1)
    return result


def _largest(diagonal: list[float], offdiagonal: list[float]) -> float:
    """The largest eigenvalue of T_k. LAPACK's bisection, faster for one value, finds none in some tight clusters."""
    if len(diagonal) == 1:
        return diagonal[0]
    return float(dsterf(diagonal, offdiagonal[:-1])[0][-1])


def _ritz_vector(diagonal: list[float], offdiagonal: list[float], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = offdiagonal[:-1]
    _, vectors = eigh(np.diag(diagonal) + np.diag(inner, 1) + np.diag(inner, -1), driver="evd")
    vector: NDArray[np.float64] = dgemv(1.0, basis.T, vectors[:, -1])
    vector /= math.sqrt(float(vector @ vector))
    return vector
