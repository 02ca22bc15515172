"""The rule for when a Lanczos search may stop, which no cluster of eigenvalues and no unlucky start can fool.

Lanczos builds orthonormal vectors q₁ = b, q₂, … with q_{k+1} = p_k(G) b and a tridiagonal matrix T_k whose largest
eigenvalue θ grows towards λ₁ from below. How far it still is can't be read off a residual: where the start b is nearly
orthogonal to the leading eigenvector v₁, or a cluster lies just below λ₁, θ and its residual settle on the wrong value
(a residual²/gap rule stopped 8.5e-4 low). The rule here needs no assumption on the spectrum:

    q₁ … q_{k+1} are orthonormal, and v₁·q_{j+1} = p_j(λ₁)·(v₁·b), so (v₁·b)² ≤ 1 / S_k(λ₁), S_k = Σ_{j ≤ k} p_j².
    S_k grows beyond its largest zero, below θ, so if λ₁ ≥ τ = θ(1 + 2ε), then |v₁·b| ≤ 1 / √S_k(τ).
    For b uniform on the sphere of n dimensions, P(|v₁·b| ≤ x) ≤ x √(2n/π), whatever v₁ is.

Stopping once √S_k(τ) ≥ √(2n/π)/δ therefore returns a θ more than 2ε too low with probability at most δ, for every
operator; and because it can only fail for a matrix with an eigenvalue within some 2ε/δ of θ, hardly ever for those at
hand. No rule that knows T_k alone can stop earlier at the same δ: 1/S_k(τ), Christoffel's function, is the greatest
mass at τ that a spectrum with this T_k can have. p_j(τ) = Π dᵢ/βᵢ comes from the pivots dᵢ of τI − T_k. In the worst
case it grows like exp(2k√(2ε)), which is the step count of Kuczyński and Woźniakowski, 1992,
https://doi.org/10.1137/0613066; on ordinary matrices it needs as many steps as a residual of 1e-9. Rounding in the
products enters like a perturbation of G of the same relative size.

The rule alone may stop while θ is on its way from λ₂ to λ₁, on which it sets out late from a start with too little of
v₁ (a circulant matrix came out 9.6e-4 low). Some eigenvalue lies within the residual of θ, so the residual is large
while θ is between two of them, and must be small too. Nearly always it is small by then, and this costs a step or none.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dnrm2
from scipy.linalg.lapack import dstebz, dsterf

# δ: the greatest probability that the rule lets a value through which is too low.
FAILURE = 1e-3
# The first step to look for θ at.
FIRST_LOOK = 10
# A generator takes longer to make than these numbers take to draw.
KEPT = 1 << 12
# How small a residual must be, relative to λ (at a gap of 1e-3 the vector is good then): that of a guess, to be worth
# confirming; and that of θ, to stop, because a θ still on its way to λ₁ from an unlucky start has a larger one.
NEAR = 3e-5


class Growth:
    """How far the Lanczos polynomials p₀ … p_k have grown at a number τ, step by step.

    Attributes:
        total: ln √S_k(τ) = ½ ln Σ p_j(τ)²; −∞ from the step on where an eigenvalue of T_k has come up to τ.
    """

    def __init__(self, tau: float) -> None:
        """Begin at p₀, before the first step."""
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
    """The rule along the steps of a search.

    It looks for θ, which costs about as much as a product with a small matrix, when a quarter more steps have passed
    and θ has left the τ of the last look behind. From there on S_k(τ) alone is followed, for a τ that θ is still below:
    because that τ is at most θ(1 + 2ε) later on, it proves no less then.
    """

    def __init__(self, length: int, tolerance: float, orthogonal: bool = True) -> None:
        """Begin before the first step.

        Args:
            length: n.
            tolerance: ε.
            orthogonal: Whether the vectors are kept orthogonal; if not, Σ c_j² ≤ k + 1 is all that is known.
        """
        self._demand, self._tolerance, self._orthogonal = demanded(length), tolerance, orthogonal
        self._growth, self._next_look = Growth(-math.inf), FIRST_LOOK

    def met(self, diagonal: list[float], offdiagonal: list[float]) -> bool:
        """Return whether the step just added to T_k, given with all before it, is enough; to be asked once a step."""
        step = len(diagonal)
        self._growth.add(diagonal[-1], offdiagonal[-1])
        if self._growth.total == -math.inf and step >= self._next_look:
            self._next_look = step + 1 + step // 4
            self._growth = Growth(largest_ritz_value(diagonal, offdiagonal) * (1.0 + 2.0 * self._tolerance))
            for alpha, beta in zip(diagonal, offdiagonal, strict=True):
                self._growth.add(alpha, beta)
        return self._growth.total >= self._demand + (0.0 if self._orthogonal else 0.5 * math.log(step + 1))


def demanded(length: int) -> float:
    """Return the growth from which on the rule is met: ln(√(2n/π)/δ)."""
    return 0.5 * math.log(2.0 * length / math.pi) - math.log(FAILURE)


def start_vector(length: int, stream: int = 0) -> NDArray[np.float64]:
    """Draw a vector [n] uniform on the unit sphere, the same at every call."""
    random = _first_numbers(stream)[:length] if length <= KEPT else _normal_numbers(length, stream)
    unit: NDArray[np.float64] = random / dnrm2(random)
    return unit


def _normal_numbers(length: int, stream: int) -> NDArray[np.float64]:
    return np.random.default_rng(stream).standard_normal(length)


@cache
def _first_numbers(stream: int) -> NDArray[np.float64]:
    return _normal_numbers(KEPT, stream)


def largest_ritz_value(diagonal: list[float], offdiagonal: list[float]) -> float:
    """Return θ, the largest eigenvalue of T_k, of which the last β is not a part."""
    size = len(diagonal)
    if size == 1:
        return diagonal[0]
    inner = offdiagonal[: size - 1]
    # Bisection takes the tenth of the time of all eigenvalues, and finds none in some tight clusters.
    found, values, _, _, info = dstebz(diagonal, inner, 2, 0.0, 0.0, size, size, 0.0, b"E")
    return float(values[0] if found == 1 and info == 0 else dsterf(diagonal, inner)[0][-1])
