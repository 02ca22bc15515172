"""The rule for when a Lanczos search may stop, which no cluster of eigenvalues and no unlucky start can fool.

Lanczos builds orthonormal vectors q₁ = b, q₂, … with q_{k+1} = p_k(G) b and a tridiagonal matrix T_k whose largest
eigenvalue θ grows towards λ₁ from below. How far it still is can't be read off a residual: where the start b is nearly
orthogonal to the leading eigenvector v₁, or a cluster lies just below λ₁, θ and its residual settle on the wrong value
(a residual²/gap rule stopped 8.5e-4 low). The rule here needs no assumption on the spectrum:

    q₁ … q_{k+1} are orthonormal, and v₁·q_{j+1} = p_j(λ₁)·(v₁·b), so (v₁·b)² ≤ 1 / S_k(λ₁), S_k = Σ_{j ≤ k} p_j².
    S_k grows beyond its largest zero, below θ, so if λ₁ ≥ τ = θ(1 + 2ε), then |v₁·b| ≤ 1 / √S_k(τ).
    For b uniform on the sphere of n dimensions, P(|v₁·b| ≤ x) ≤ x √(2n/π), whatever v₁ is.

Stopping once √S_k(τ) ≥ √(2n/π)/δ therefore returns a θ more than 2ε too low with probability at most δ, for every
operator whose start does not depend on it. The start is drawn by a generator that is seeded from the matrix itself
(`BlockedMatrix.seed`): a matrix that was made for the start of another one has another start; it takes a forged
checksum to make one for its own. No rule that knows T_k alone
can stop earlier at the same δ: 1/S_k(τ), Christoffel's function, is the greatest mass at τ that a spectrum with this
T_k can have. p_j(τ) = Π dᵢ/βᵢ comes from the pivots dᵢ of τI − T_k. In the worst case it grows like exp(2k√(2ε)),
which is the step count of Kuczyński and Woźniakowski, 1992, https://doi.org/10.1137/0613066. Rounding in the products
enters like a perturbation of G of the same relative size.

A space that is exhausted (β within the rounding errors of the products, `NOISE`) says nothing of what its start did not
reach: of a matrix that is the identity but for one block, a start without that block sees 1 alone. Only that rounding
error enters S_k then, in place of β; and where this is not enough, the search goes on from another start, independent
and orthogonal to the space. λ₁ stays hidden only if every start missed it: if U_i = |v₁·b_i| √(2n/π) is at most
X_i = √(2n/π) / √S_k(τ) for each start i. P(U_i ≤ x) ≤ x, so −ln U_i is at most an exponential variable, and the sum of
m of them a gamma variable:

    P(U_1 … U_m ≤ X) ≤ X Σ_{j < m} (−ln X)^j / j!                                                           (1)

and the rule is met once that is at most δ for X = X_1 … X_m.

The rule alone may stop while θ is on its way from λ₂ to λ₁, on which it sets out late from a start with too little of
v₁ (a circulant matrix came out 9.6e-4 low). Some eigenvalue lies within the residual of θ, so the residual is large
while θ is between two of them, and must be small too. Nearly always it is small by then, and this costs a step or none.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sn_graph.spectral.linalg.compiled import BLAS, LAPACK

# δ: the greatest probability that the rule lets a value through which is too low.
FAILURE = 1e-9
# Relative to λ, what a product of a Gram matrix with a vector of a type may be off by, where all is well.
NOISE = {"f": 2.0**-22, "d": 2.0**-49}
# The first step to look for θ at.
FIRST_LOOK = 10
# So many starts a search in float32 has.
SINGLE_STARTS = 4
# How small a residual must be, relative to λ (at a gap of 1e-3 the vector is good then): that of a guess, to be worth
# confirming; and that of θ, to stop, because a θ still on its way to λ₁ from an unlucky start has a larger one.
NEAR = 3e-5


class Growth:
    """How far the Lanczos polynomials p₀ … p_k have grown at a number τ, step by step and start by start.

    Attributes:
        total: ln √S_k(τ) = ½ ln Σ p_j(τ)², of the newest start; −∞ from the step on where an eigenvalue of T_k has
            come up to τ.
    """

    def __init__(self, tau: float, length: int, noise: float = 0.0, *, orthogonal: bool = True) -> None:
        """Begin at p₀, before the first step.

        Args:
            tau: τ, above 0.
            length: n.
            noise: The rounding errors of a product, relative to τ.
            orthogonal: Whether the vectors are kept orthogonal; if not, Σ c_j² ≤ k + 1 is all that is known.
        """
        self._tau, self._length, self._noise, self._orthogonal = tau, length, noise * tau, orthogonal
        self._earlier, self._starts = 0.0, 0
        self._begin()

    def _begin(self) -> None:
        self.total, self._steps = 0.0, 0
        self._logarithm, self._relative = 0.0, 1.0  # ln p_k, and S_k / p_k²
        self._pivot, self._beta = math.inf, 0.0

    def add(self, alpha: float, beta: float) -> None:
        """Take a step further, by its α and its β, which is the length of the residual; 0 where a start ends."""
        if self.total == -math.inf:
            return
        if self._steps and self._beta == 0.0:
            self._earlier += min(0.0, self._missed)
            self._starts += 1
            self._begin()
        self._pivot = self._tau - alpha - self._beta * self._beta / self._pivot
        self._beta = beta
        self._steps += 1
        if self._pivot <= 0.0:
            self.total = -math.inf
            return
        ratio = self._pivot / max(beta, self._noise)
        self._logarithm += math.log(ratio)
        self._relative = 1.0 + self._relative / (ratio * ratio)
        self.total = self._logarithm + 0.5 * math.log(self._relative)

    @property
    def _missed(self) -> float:
        """The logarithm of X, of the newest start."""
        several = 0.0 if self._orthogonal else 0.5 * math.log(self._steps + 1)
        return 0.5 * math.log(2.0 * self._length / math.pi) + several - self.total

    @property
    def failure(self) -> float:
        """The logarithm of a bound of the probability that all starts missed an eigenvalue above τ; 0 if unknown."""
        if self.total == -math.inf:
            return 0.0
        missed = self._earlier + min(0.0, self._missed)
        term = total = 1.0
        for other in range(1, self._starts + 1):
            term *= -missed / other
            total += term
        return missed + math.log(total)


class StoppingRule:
    """The rule along the steps of a search.

    It looks for θ, which costs about as much as a product with a small matrix, when a quarter more steps have passed
    and θ has left the τ of the last look behind, and where a start ends. From there on S_k(τ) alone is followed, for a
    τ that θ is still below: because that τ is at most θ(1 + 2ε) later on, it proves no less then.
    """

    def __init__(
        self,
        length: int,
        tolerance: float,
        dtype: DTypeLike = np.float64,
        *,
        orthogonal: bool = True,
        failure: float = FAILURE,
    ) -> None:
        """Begin before the first step.

        Args:
            length: n.
            tolerance: ε.
            dtype: float32 or float64, the type of the products.
            orthogonal: As for `Growth`.
            failure: δ.
        """
        self._length, self._tolerance, self._orthogonal = length, tolerance, orthogonal
        self._noise, self._failure = NOISE[np.dtype(dtype).char], math.log(failure)
        self._growth: Growth | None = None
        self._next_look = FIRST_LOOK

    def met(self, diagonal: list[float], offdiagonal: list[float]) -> bool:
        """Return whether the step just added to T_k, given with all before it, is enough; to be asked once a step.

        A β that is 0 ends a start: the next step belongs to another one.
        """
        step, ends = len(diagonal), offdiagonal[-1] == 0.0
        if self._growth is not None:
            self._growth.add(diagonal[-1], offdiagonal[-1])
        lost = self._growth is None or self._growth.total == -math.inf
        if lost and (ends or step >= self._next_look):
            self._next_look = step + 1 + step // 4
            theta = largest_ritz_value(diagonal, offdiagonal)
            if theta <= 0.0:
                return ends  # G takes a random vector to 0
            self._growth = Growth(
                theta * (1.0 + 2.0 * self._tolerance), self._length, self._noise, orthogonal=self._orthogonal
            )
            for alpha, beta in zip(diagonal, offdiagonal, strict=True):
                self._growth.add(alpha, beta)
        return self._growth is not None and self._growth.failure <= self._failure


def is_blurred(offdiagonal: list[float], dtype: np.dtype[Any]) -> bool:
    """Return whether a search that is not certain yet had better be made in float64.

    Of a matrix of low rank, in whose rest a start finds nothing, a few starts are enough in float32 too; of one whose
    values are equal up to float32's rounding errors, none are.
    """
    return dtype == np.float32 and offdiagonal[-1] == 0.0 and offdiagonal.count(0.0) >= SINGLE_STARTS


def start_vector(length: int, seed: int, stream: int = 0) -> NDArray[np.float64]:
    """Draw a vector [n] uniform on the unit sphere, the same for the same numbers."""
    random = np.random.default_rng([stream, seed]).standard_normal(length)
    unit: NDArray[np.float64] = random / BLAS.dnrm2(random)
    return unit


def largest_ritz_value(diagonal: list[float], offdiagonal: list[float]) -> float:
    """Return θ, the largest eigenvalue of T_k, of which the last β is not a part."""
    size = len(diagonal)
    if size == 1:
        return diagonal[0]
    inner = offdiagonal[: size - 1]
    # Bisection takes the tenth of the time of all eigenvalues, and finds none in some tight clusters.
    found, values, _, _, info = LAPACK.dstebz(diagonal, inner, 2, 0.0, 0.0, size, size, 0.0, b"E")
    return float(values[0] if found == 1 and info == 0 else LAPACK.dsterf(diagonal, inner)[0][-1])
