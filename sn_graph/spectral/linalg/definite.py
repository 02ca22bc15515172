"""A proof that all eigenvalues of MᵀM lie below a number, by one Cholesky factorization, rounding errors counted.

Let A be the Gram matrix of M [m, n] as float64 arithmetic gave it, T a number, and B = T·I − A as rounded. Then

    |A − MᵀM| ≤ γ_m |M|ᵀ|M|                so  ‖A − MᵀM‖₂ ≤ γ_m ‖M‖_F²                                      (1)
    Cholesky of B runs to its end          so  B + ΔB = RᵀR ≥ 0,  ‖ΔB‖₂ ≤ γ_{n+1}/(1 − γ_{n+1}) trace(B)     (2)

and λ_max(MᵀM) ≤ T + uT + γ_{n+1}/(1 − γ_{n+1}) trace(B) + γ_m ‖M‖_F², where γ_k = ku/(1 − ku).
(1): Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.13, for the norm ‖|M|ᵀ|M|‖₂ ≤ ‖M‖_F².
(2): Higham, theorem 10.3, |ΔB| ≤ γ_{n+1}|Rᵀ||R|, whose norm is at most γ_{n+1} trace(RᵀR); that a finished
factorization proves, with underflow and in any order of summation: Rump, Verification of positive definiteness, BIT 46,
2006, theorem 2.3, https://doi.org/10.1007/s10543-006-0056-1.

Both hold for sums taken in any order, in blocks, by any number of threads, with or without fused multiply-add, as long
as the BLAS multiplies in the usual way (not Strassen's). u here is 2⁻⁵², twice the unit roundoff: that covers a LAPACK
which multiplies by a rounded reciprocal where the theorem divides, and any direction of rounding. Underflow adds less
than mn·2⁻¹⁰²², which the last factor below covers as long as the trace lies in `blas.SAFE_RANGE`.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg.compiled import LAPACK

UNIT = 2.0**-52


def gamma(terms: int) -> float:
    """Return γ_k = ku/(1 − ku), the relative error of k roundings; infinity where u can't bound it."""
    product = terms * UNIT
    return product / (1.0 - product) if product < 1.0 else math.inf


class GramProof:
    """A Gram matrix, and what it takes to prove bounds of its eigenvalues.

    Attributes:
        diagonal: [n], that of A.
        depth: m, the number of products in an element of A.
    """

    def __init__(self, make: Callable[[], NDArray[np.float64]], depth: int) -> None:
        """Make A for the first time.

        Args:
            make: Returns A [n, n], float64, Fortran order, upper triangle; called again if more bounds are asked for.
            depth: m.
        """
        self._make = make
        self._gram: NDArray[np.float64] | None = make()
        self.diagonal = self._gram.diagonal().copy()
        self.depth = depth

    @property
    def gram(self) -> NDArray[np.float64]:
        """A [n, n], upper triangle; made again if a bound has taken the last one.

        It does not matter if elements differ in rounding from those before: (1) holds for each by itself.
        """
        if self._gram is None:
            self._gram = self._make()
        return self._gram

    @property
    def trace(self) -> float:
        """The trace of A, rounded: about ‖M‖_F²."""
        return float(self.diagonal.sum())

    @property
    def frobenius_squared(self) -> float:
        """A number that ‖M‖_F² does not exceed."""
        # An element on the diagonal is a sum of squares, so its error is relative to itself.
        return self.trace * (1.0 + 2.0 * gamma(self.depth + len(self.diagonal) + 2))

    def bound(self, threshold: float) -> float | None:
        """Bound λ_max(MᵀM) from above, by a little more than `threshold`; None where the factorization stops.

        The factor takes A's place, so that only one such matrix is in memory.
        """
        rest = threshold - self.diagonal
        if not rest.min() > 0.0:
            return None
        size = len(self.diagonal)
        matrix, self._gram = self.gram, None
        np.negative(matrix, out=matrix)
        matrix.flat[:: size + 1] = rest
        info = LAPACK.dpotrf(matrix, lower=0, clean=0, overwrite_a=1)[1]
        if info != 0:
            return None
        return self._raised(threshold)

    def below(self, limit: float) -> bool:
        """Prove λ_max(MᵀM) ≤ limit; False where it does not hold, or holds too narrowly for the proof."""
        if not limit < math.inf:
            return False
        # What a threshold is raised by grows with it.
        threshold = limit - (self._raised(limit) - limit) * (1.0 + 2.0**-20) - 8.0 * math.ulp(limit)
        bound = self.bound(threshold)
        return bound is not None and bound <= limit

    def _raised(self, threshold: float) -> float:
        """What λ_max(MᵀM) is bounded by if the factorization for a threshold runs to its end."""
        size = len(self.diagonal)
        cholesky = gamma(size + 1) / (1.0 - gamma(size + 1)) if gamma(size + 1) < 0.5 else math.inf
        trace = float((threshold - self.diagonal).sum())
        slack = UNIT * threshold + cholesky * trace + gamma(self.depth) * self.frobenius_squared
        # The sums above are of at most size + 8 positive terms.
        return (threshold + slack * (1.0 + gamma(size + 8))) * (1.0 + 8.0 * UNIT)
