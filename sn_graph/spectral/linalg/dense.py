"""LAPACK's largest eigenvalue of a symmetric matrix: it costs the cube of the order, and needs no stopping rule.

Its search for single eigenvalues finds none in some matrices whose values are equal to the last digits. The vector is
then taken from all of them; the value without its vector is left to the caller.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg.compiled import LAPACK
from sn_graph.spectral.linalg.every import every_eigenpair
from sn_graph.spectral.linalg.lanczos import Eigenpair

# LAPACK's usual block size: the room that it wants to work in blocks.
NB = 64


def dense_eigenvalue(gram: NDArray[np.float64]) -> float | None:
    """Compute the largest eigenvalue without its vector; None where LAPACK finds none.

    Args:
        gram: A finite matrix [n, n], given by its upper triangle.
    """
    top = _top_eigenpairs(gram, 1, vectors=False)
    return None if top is None else float(top[0][0])


def dense_eigenpair(gram: NDArray[Any]) -> Eigenpair:
    """Compute the largest eigenvalue, the second and the vector of the largest.

    Args:
        gram: A matrix [n, n], float32 or float64, given by its upper triangle; the arithmetic is float64.

    Returns:
        The pair, after 0 steps; its value is NaN, and not certain, where the matrix holds NaN or infinity.
    """
    wide = gram.astype(np.float64, copy=False)
    size = len(wide)
    if not math.isfinite(float(wide.sum())):
        return Eigenpair(math.nan, math.nan, np.zeros(size), steps=0, certain=False)
    if size == 1:
        return Eigenpair(float(wide[0, 0]), -math.inf, np.ones(1), steps=0, certain=True)
    top = _top_eigenpairs(wide, 2, vectors=True)
    values, vectors = every_eigenpair(wide, lower=False) if top is None else top
    return Eigenpair(float(values[-1]), float(values[-2]), vectors[:, -1], steps=0, certain=True)


def _top_eigenpairs(
    gram: NDArray[np.float64], count: int, vectors: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The largest eigenvalues, in ascending order, and their vectors [n, count] if asked for; None if LAPACK fails."""
    size = len(gram)
    # Without eigh's own checks, a fifth of the time at 64.
    lwork = max(26, NB + 6) * size
    first = size - count + 1
    values, found, number, _, info = LAPACK.dsyevr(gram, compute_v=vectors, range=b"I", il=first, iu=size, lwork=lwork)
    return (values[:count], found[:, :count]) if number == count and info == 0 else None
