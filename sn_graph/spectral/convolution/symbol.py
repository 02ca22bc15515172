"""The symbol of a convolution: what it does to a plane wave, as Gram matrices on a set of frequencies.

    F(θ) = Σ_u B_u e^{i u·θ},     G(θ) = F Fᴴ or FᵀF̄, whichever is smaller: λ_max(G) = ‖F(θ)‖²
    G(θ) = C_0 + Σ_{a>0} (C_a + C_aᵀ) cos a·θ + i (C_a − C_aᵀ) sin a·θ,     C_a = Σ_u B_{u+a} B_uᵀ

where B_u are the polyphase coefficients and a > 0 means that its first entry other than 0 is positive. The sums over u
are taken once, in real arithmetic, so that one frequency costs as many operations as G has entries and lags. Without
padding's edges the operator is unitarily equivalent to the F(θ) of all θ (Sedghi, Gupta & Long, 2019,
https://arxiv.org/abs/1805.10408, for stride 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import gamma

Angles = NDArray[np.float64]
"""[frequencies, rank], radians."""

# Numbers of complex values of Gram matrices held at once: 4 MB, which stay in a cache (32 MB took up to 1.2× the time).
CHUNK = 1 << 18


@dataclass(frozen=True)
class Symbol:
    """The Gram matrices of F(θ) as trigonometric polynomials.

    Attributes:
        degrees: D of each axis: the shifts lie in 0 … D, so that uᴴF(θ)v has frequencies in an interval of that width,
            and uᴴG(θ)u in −D … D. Along a line θ + sδ the widths add up to Σ_j D_j |δ_j| (`supremum`).
        lags: [lags, rank], the a, 0 first.
        even: [lags, groups, r, r], C_0 and the C_a + C_aᵀ.
        odd: [lags, groups, r, r], 0 and the C_a − C_aᵀ.
        error: How far a computed G can be from the true one, in the 2-norm.
    """

    degrees: tuple[int, ...]
    lags: NDArray[np.float64]
    even: NDArray[np.float64]
    odd: NDArray[np.float64]
    error: float

    @classmethod
    def of(cls, coefficients: NDArray[np.float64], shifts: NDArray[np.int64]) -> "Symbol":
        """Build the symbol of coefficients B_u [U, groups, S, P] at shifts u [U, rank], in lexicographic order."""
        count, groups, small, phases = coefficients.shape
        terms = coefficients if small <= phases else coefficients.transpose(0, 1, 3, 2)
        side = min(small, phases)
        differences = [tuple(row) for row in (shifts[:, None] - shifts[None, :]).reshape(-1, shifts.shape[1]).tolist()]
        zero = (0,) * shifts.shape[1]
        lags = sorted({lag for lag in differences if lag >= zero})
        place = {lag: index for index, lag in enumerate(lags)}
        sums = np.zeros((len(lags), groups, side, side))
        for first in range(count):
            targets = [place[differences[later * count + first]] for later in range(first, count)]
            sums[targets] += np.matmul(terms[first:], terms[first].transpose(0, 2, 1))
        mirrored = sums.transpose(0, 1, 3, 2)
        even, odd = sums + mirrored, sums - mirrored
        even[0] /= 2.0
        degrees = tuple(int(degree) for degree in shifts.max(axis=0))
        return cls(degrees, np.array(lags, dtype=np.float64), even, odd, _error(coefficients, len(lags), degrees))

    @property
    def groups(self) -> int:
        """How many independent blocks there are."""
        return int(self.even.shape[1])

    @property
    def side(self) -> int:
        """r, the order of the Gram matrices."""
        return int(self.even.shape[2])

    def grams(self, angles: Angles) -> NDArray[Any]:
        """Compute G(θ) of every frequency and group: [frequencies · groups, r, r], real where all of it is."""
        phase = angles @ self.lags.T
        shape = (len(angles) * self.groups, self.side, self.side)
        even = (np.cos(phase) @ self.even.reshape(len(self.lags), -1)).reshape(shape)
        if self.side == 1 or len(self.lags) == 1:
            return even
        result = np.empty(shape, np.complex128)
        result.real = even
        result.imag = (np.sin(phase) @ self.odd.reshape(len(self.lags), -1)).reshape(shape)
        return result

    def parts(self, angles: Angles) -> Iterator[Angles]:
        """Cut frequencies into parts whose Gram matrices may be held at once."""
        step = max(1, CHUNK // (self.groups * self.side**2))
        for start in range(0, len(angles), step):
            yield angles[start : start + step]

    def slope(self, angle: Angles, group: int, vector: NDArray[Any]) -> NDArray[np.float64]:
        """Compute vᴴ ∂G/∂θ v [rank] of one group at one frequency [rank], for v [r]."""
        phase = self.lags @ angle
        even = np.einsum("i,lij,j->l", vector.conj(), self.even[:, group], vector)
        odd = np.einsum("i,lij,j->l", vector.conj(), self.odd[:, group], vector)
        slopes: NDArray[np.float64] = ((1j * np.cos(phase) * odd - np.sin(phase) * even) @ self.lags).real
        return slopes


def _error(coefficients: NDArray[np.float64], lags: int, degrees: tuple[int, ...]) -> float:
    # Every entry of G is a sum of products b b' cos or b b' sin: P to a matrix product, at most U products to a lag,
    # two sums over lags. The angles (θ and a·θ) are off by some roundings of values up to π (1 + ΣD). All of it
    # relative to Σ_u |B_u| · Σ_u |B_u|ᵀ, whose norm is at most U ‖B‖_F² (Higham, 2002, §3.1).
    count, _, small, phases = coefficients.shape
    roundings = max(small, phases) + count + 2 * lags + 32 * (1 + sum(degrees))
    energy = float(np.square(coefficients).sum(axis=(0, 2, 3)).max())
    return gamma(int(roundings)) * int(count) * energy * (1.0 + 1e-6)
