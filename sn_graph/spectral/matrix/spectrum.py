"""Spectra: all singular values of a small matrix, and what a power iteration estimates after any number of steps.

With M = Σ σ_i u_i v_iᵀ and s = Σ c_i u_i, the state after k - 1 iterations is proportional to Σ c_i σ_i^(2k-2) u_i, so

    σ_k = ‖M n(Mᵀs)‖ = √(Σ c_i² σ_i^(4k) / Σ c_i² σ_i^(4k-2))

which costs nothing once the values are known. They come from the Gram matrix of the shorter side (Golub and Van Loan,
Matrix Computations, 4th ed., section 8.6): values below 1e-8 of the largest are lost in its rounding, and for drawing
that is enough. `exact` and `bound` are for numbers that count.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.matrix.power import Side


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular values of a matrix, and the vectors of its shorter side.

    Attributes:
        values: [min(rows, cols)] float64, the largest first.
        basis: [n, min(rows, cols)] float64: the singular vectors on the side `side`, in the same order.
        side: The matrix's shorter side.
        matrix: M [rows, cols], float64, over `scale`.
        scale: The largest |element|.
    """

    values: NDArray[np.float64]
    basis: NDArray[np.float64]
    side: Side
    matrix: NDArray[np.float64]
    scale: float

    @classmethod
    def of(cls, matrix: NDArray[Any]) -> "Spectrum":
        """Return the spectrum of M [rows, cols], finite, of any float type; it takes min(rows, cols)² memory more."""
        wide = np.asarray(matrix, np.float64)
        scale = float(np.abs(wide).max(initial=0.0)) or 1.0
        scaled = wide / scale
        side: Side = "rows" if scaled.shape[0] <= scaled.shape[1] else "cols"
        short = scaled if side == "rows" else scaled.T
        squares, basis = np.linalg.eigh(short @ short.T)
        values = np.sqrt(np.maximum(squares[::-1], 0.0))
        return cls(values * scale, basis[:, ::-1], side, scaled, scale)

    def estimates(self, state: NDArray[Any], side: Side, calls: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return σ_k for each number k ≥ 1 of calls, from a state on one side of M; 0 where it meets no σ."""
        start = np.asarray(state, np.float64).reshape(-1)
        ratios = self.values / (self.values[0] or 1.0)
        if side == self.side:
            parts = ratios * (self.basis.T @ start)
        else:  # the state's product with M has the components σ_i c_i
            parts = self.basis.T @ (self.matrix @ start if side == "cols" else self.matrix.T @ start)
        weights = np.square(parts / (np.abs(parts).max(initial=0.0) or 1.0))
        powers = ratios[:, None] ** (4.0 * np.asarray(calls, np.float64) - 4.0)  # [values, calls]; 0 ** 0 is 1
        below = weights @ powers
        above = (weights * np.square(ratios)) @ powers
        found = np.sqrt(np.divide(above, below, out=np.zeros_like(above), where=below > 0.0))
        return np.asarray(found * self.values[0], np.float64)
