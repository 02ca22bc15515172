"""Matrix norms: the exact norm of a weight's matrix, and the refusal of values that have none."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError, leave_out
from sn_graph.model import Model
from sn_graph.plan import Target
from sn_graph.spectral.linalg import count_nonfinite
from sn_graph.spectral.matrix import SingularTriplet, leading_singular_triplet, norm_and_vector, spectral_norm

if TYPE_CHECKING:
    from sn_graph.recognise import Explanation


def exact_sigma(target: Target, matrix: NDArray[Any]) -> float:
    """Return the spectral norm of a weight's matrix [rows, cols]. Raises ModelError where a value is not finite."""
    require_finite(target, matrix)
    return require_finite_norm(target, matrix, spectral_norm(matrix))


def exact_leading(target: Target, matrix: NDArray[Any]) -> tuple[float, NDArray[np.float64] | None]:
    """Return σ as `exact_sigma` does, and its right vector [cols] where that is known."""
    require_finite(target, matrix)
    sigma, right = norm_and_vector(matrix)
    return require_finite_norm(target, matrix, sigma), right


def exact_triplet(target: Target, matrix: NDArray[Any], u: NDArray[np.floating] | None = None) -> SingularTriplet:
    """Return σ and its two vectors, sooner from a `u` near one. Raises ModelError where a value is not finite."""
    require_finite(target, matrix)
    return leading_singular_triplet(matrix, u, target.view.side)


def recognised_sigma(model: Model, found: "Explanation") -> float | None:
    """Return the exact norm of the matrix that a recognised chain takes; None where it takes none."""
    if found.chain is None or found.view is None:
        return None
    from sn_graph.recognise import Evaluator

    tensor = found.chain.tensor
    matrix = found.view.matrix(Evaluator(model).value(tensor.scope, tensor.name))
    return spectral_norm(matrix) if np.isfinite(matrix).all() else None


def require_finite_norm(target: Target, matrix: NDArray[Any], sigma: float) -> float:
    """Return a computed norm. Raises ModelError where it is not finite, saying why."""
    if not math.isfinite(sigma):
        require_finite(target, matrix)
        raise ModelError(
            f"weight '{target.id}' is so large that its norm passes float64's range",
            "so nothing can be divided by it",
            f"repair the model or {leave_out(target.site.weight)}",
        )
    return sigma


def require_finite(target: Target, matrix: NDArray[Any]) -> None:
    """Raise ModelError where a matrix holds NaN or infinite values, saying how many and what to do."""
    require_finite_values(target.id, target.site.weight, matrix)


def require_finite_values(identity: str, weight: str, matrix: NDArray[Any]) -> None:
    """Raise ModelError as `require_finite` does, of a weight by its id and its name."""
    nan, infinite = count_nonfinite(matrix)
    if nan or infinite:
        counts = [f"{count} {what}" for count, what in ((nan, "NaN"), (infinite, "infinite")) if count]
        raise ModelError(
            f"weight '{identity}' holds {' and '.join(counts)} value{'s' if nan + infinite > 1 else ''}",
            "so it has no spectral norm",
            f"repair the model or {leave_out(weight)}",
        )
