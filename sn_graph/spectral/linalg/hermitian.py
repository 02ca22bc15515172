"""Proofs that the largest eigenvalues of many Hermitian matrices stay below a limit, rounding errors included.

If Cholesky's algorithm, run in floating point on a Hermitian M of order n, meets positive pivots only, then
λ_min(M) ≥ −c (n + 1) u · tr M with c = 1 + O(nu) for real matrices (`definite` states the theorem and its sources) and
c ≤ √2 (1 + O(1/n)) for complex ones, whose products have errors of √2 γ₂ (Higham, 2002, Accuracy and Stability of
Numerical Algorithms, lemma 3.5). With M = τI − G and tr M ≤ nτ,

    it succeeds on fl(τ(1 − 4 (n + 4) n u) I − G)     ⟹     λ_max(G) ≤ τ,

where the rest of the 4 covers the rounding of the subtraction and, with u = 2⁻⁵² as there, that of pivots. M = LDLᴴ has
the same pivots, to the same errors (Higham, §10.1), so it proves the same.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg.compiled import LAPACK
from sn_graph.spectral.linalg.definite import UNIT
from sn_graph.spectral.linalg.lanczos import largest_eigenpair

Hermitian = NDArray[Any]
"""[batch, n, n], float64 or complex128."""

# Below, LDLᴴ over the whole batch at once; from here on LAPACK, one matrix at a time, costs less.
BATCHED_ORDER = 12
# Up to here LAPACK's eigenvalues, batched; above, Lanczos.
EIGENVALUE_ORDER = 96
# An estimate that is low with this probability costs a proof another round.
ESTIMATED = 1e-3


def proven_below(matrices: Hermitian, limit: float) -> NDArray[np.bool_]:
    """Tell of which positive semi-definite matrices λ_max ≤ limit is proven.

    Args:
        matrices: [batch, n, n], float64 or complex128, exactly Hermitian.
        limit: τ.

    Returns:
        [batch]; False where it does not hold, or holds too narrowly for the proof.
    """
    order = matrices.shape[-1]
    shifted = -matrices
    diagonal = np.arange(order)
    shifted[:, diagonal, diagonal] += limit * (1.0 - 4.0 * (order + 4) * order * UNIT)
    if order < BATCHED_ORDER:
        return _positive(shifted)
    factor = LAPACK.zpotrf if np.iscomplexobj(matrices) else LAPACK.dpotrf
    # LAPACK reads the transpose of a C-ordered matrix, which has the same eigenvalues.
    return np.array([factor(matrix.T, lower=1, clean=0, overwrite_a=1)[1] == 0 for matrix in shifted], dtype=np.bool_)


def _positive(matrices: Hermitian) -> NDArray[np.bool_]:
    """Tell where all pivots of LDLᴴ are positive; overwrites the matrices."""
    good = np.ones(len(matrices), dtype=np.bool_)
    # Behind a pivot that is 0, all of that matrix is noise.
    with np.errstate(all="ignore"):
        for column in range(matrices.shape[-1]):
            pivot = matrices[:, column, column].real
            good &= pivot > 0.0
            below = matrices[:, column + 1 :, column]
            matrices[:, column + 1 :, column + 1 :] -= (
                below[:, :, None] * below[:, None, :].conj() / pivot[:, None, None]
            )
    return good


def estimated_largest(matrices: Hermitian) -> NDArray[np.float64]:
    """Estimate λ_max of each matrix [batch, n, n], without a proof: within 1e-6, or 1e-14 if small."""
    if matrices.shape[-1] == 1:
        return np.asarray(matrices[:, 0, 0].real)
    if matrices.shape[-1] <= EIGENVALUE_ORDER:
        values: NDArray[np.float64] = np.linalg.eigvalsh(matrices)[:, -1]
        return values
    return np.array([_by_lanczos(matrix) for matrix in matrices])


def _by_lanczos(matrix: Hermitian) -> float:
    order = len(matrix)
    if not np.iscomplexobj(matrix):
        return largest_eigenpair(lambda x: np.asarray(matrix @ x), order, 1e-6, 200, failure=ESTIMATED).value

    def apply(x: NDArray[np.float64]) -> NDArray[np.float64]:
        image = matrix @ (x[:order] + 1j * x[order:])
        return np.concatenate([image.real, image.imag])

    return largest_eigenpair(apply, 2 * order, 1e-6, 200, failure=ESTIMATED).value


def rounded_root(square: float) -> float:
    """Return a number above the square root, by more than the few operations around a proof may have rounded off."""
    return math.sqrt(square) * (1.0 + 1e-12)


def raised_limit(matrices: Hermitian, limit: float, ceiling: float = math.inf) -> float:
    """Raise a limit as far as it takes to prove that no matrix's λ_max passes it.

    Args:
        matrices: [batch, n, n].
        limit: Where to start.
        ceiling: Where to stop: once the limit is beyond it, there is no proof.

    Returns:
        The limit: proven, unless it passes the ceiling.
    """
    step = 1e-9
    left = matrices[~proven_below(matrices, limit)]
    while len(left) and limit <= ceiling:
        limit = max(limit, float(estimated_largest(left).max())) * (1.0 + step)
        step = max(1e-6, 4.0 * step)
        left = left[~proven_below(left, limit)]
    return limit
