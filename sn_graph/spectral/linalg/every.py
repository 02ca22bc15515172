"""Every eigenpair of a symmetric matrix, by LAPACK's divide and conquer: slow, and without a rule that may miss one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg.compiled import LAPACK


def every_eigenpair(matrix: NDArray[np.float64], lower: bool = True) -> tuple[NDArray[Any], NDArray[Any]]:
    """Compute the eigenvalues [n], in ascending order, and their vectors, the columns of [n, n].

    Args:
        matrix: A finite matrix [n, n].
        lower: Which triangle gives it.

    Raises:
        numpy.linalg.LinAlgError: The iteration did not converge.
    """
    values, vectors, info = LAPACK.dsyevd(matrix, compute_v=1, lower=int(lower))
    if info:
        raise np.linalg.LinAlgError(f"dsyevd ended with {info}")
    return values, vectors
