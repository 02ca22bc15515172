"""The shape of the spectrum: whether a power iteration has a gap to work with, and how many values count.

The error of a power iteration shrinks by (σ₂/σ₁)² a step, so two values 1 % apart take 100 steps for a factor of 10.
σ₂ is the norm of what is left of M without its leading triplet, M − σ u vᵀ, by a few Lanczos steps: from below.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import BLAS, SAFE_RANGE, BlockedMatrix, largest_eigenpair, start_vector
from sn_graph.spectral.matrix.exact import SingularTriplet
from sn_graph.spectral.matrix.power import Side, power_iteration

# Enough to tell a value within 1 % of the leading one from one that isn't, except for contrived spectra.
STEPS = 30
TOLERANCE = 1e-3
# σ₂/σ₁ from here on is called clustered.
CLUSTERED = 0.99
# Of the leading value: below it, the second is rounding error.
NEGLIGIBLE = 1e-6


def second_singular_value(matrix: NDArray[Any], leading: SingularTriplet) -> float:
    """Estimate the second singular value of a matrix, from below; 0 where one of its sides is 1.

    Args:
        matrix: M [rows, columns], of any float type, finite.
        leading: Its leading triplet.

    >>> from sn_graph.spectral.matrix.exact import leading_singular_triplet
    >>> matrix = np.diag([3.0, 2.0, 1.0])
    >>> round(second_singular_value(matrix, leading_singular_triplet(matrix)), 3)
    2.0
    """
    if min(matrix.shape) < 2 or not leading.sigma > 0.0:
        return 0.0
    operand = BlockedMatrix.of(matrix).rescaled(leading.sigma)
    top = leading.left if operand.transposed else leading.right

    def apply(x: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = x - top * float(BLAS.ddot(top, x))
        image = operand.gram_multiply_columns(inside)
        return image - top * float(BLAS.ddot(top, image))

    found = largest_eigenpair(apply, len(top), TOLERANCE, min(STEPS, len(top)))
    return operand.restored(math.sqrt(max(0.0, found.value)))


def frobenius_norm(matrix: NDArray[Any]) -> float:
    """Return ‖M‖_F = √Σ m², summed in float64; 0 for a zero or empty matrix, NaN or infinity for a non-finite one.

    Args:
        matrix: M [rows, columns], of any float type and scale.

    >>> frobenius_norm(np.array([[3.0, 0.0], [0.0, -4.0]]))
    5.0
    """
    if not matrix.size:
        return 0.0
    operand = BlockedMatrix.of(matrix)
    with np.errstate(all="ignore"):
        squares = _squares(operand)
        low, high = SAFE_RANGE["d"]
        if not low <= squares <= high:  # never of a type narrower than float64
            operand = operand.rescaled(operand.largest())
            squares = _squares(operand)
    return operand.restored(math.sqrt(squares))


def _squares(operand: BlockedMatrix) -> float:
    return sum(float(np.vdot(block, block)) for _, block in operand.blocks())


def stable_rank(matrix: NDArray[Any], sigma: float | None = None) -> float:
    """Return ‖M‖_F²/σ², which lies between 1 and the rank; 0 for a zero or non-finite matrix.

    Args:
        matrix: M [rows, columns], of any float type.
        sigma: σ if it is known; otherwise it is estimated from below by two power iterations, which a matrix of small
            stable rank takes there, so that the result is too large by little where it is small.
    """
    operand = BlockedMatrix.of(matrix)
    largest = operand.largest()
    if not 0.0 < largest < math.inf:
        return 0.0
    scaled = operand.rescaled(largest)
    squares = _squares(scaled)
    if sigma is None:
        side: Side = "rows" if operand.transposed else "cols"  # along which one pass is an iteration
        start = start_vector(scaled.shape[1], operand.seed)
        sigma = power_iteration(matrix, start, 2, side).sigma
    return squares / math.ldexp(sigma, -scaled.exponent) ** 2 if sigma else 0.0


def hints(matrix: NDArray[Any], leading: SingularTriplet) -> tuple[str, ...]:
    """Return "zero", "rank 1" or "clustered" where it is true of a matrix.

    Args:
        matrix: M [rows, columns], of any float type, finite.
        leading: Its leading triplet.
    """
    if leading.sigma == 0.0:
        return ("zero",)
    ratio = second_singular_value(matrix, leading) / leading.sigma
    if ratio < NEGLIGIBLE:
        return ("rank 1",)
    return ("clustered",) if ratio >= CLUSTERED else ()
