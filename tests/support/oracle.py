"""The oracle: the seed's rule, the power iteration and singular values in float64, written without sn_graph."""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def seeded(identity: str, length: int, seed: int = 0) -> NDArray[np.float32]:
    """u of a site by its id: standard normal, of length 1, in float32 as a state holds it."""
    u = np.random.default_rng([seed, zlib.crc32(identity.encode())]).standard_normal(length)
    return (u / np.linalg.norm(u)).astype(np.float32)


def power_iteration(matrix: Array, u: Array, steps: int = 1) -> tuple[float, NDArray[np.float64]]:
    """σ and the new u after some steps; u is on the rows of M.

    v = n(Mᵀu), u' = n(M v), σ = ‖M v‖, n(x) = x / max(‖x‖, 1e-12). Miyato et al., 2018, algorithm 1.
    """
    m, state, sigma = matrix.astype(np.float64), u.astype(np.float64), 0.0
    for _ in range(steps):
        v = m.T @ state
        t = m @ (v / max(float(np.linalg.norm(v)), 1e-12))
        sigma = float(np.linalg.norm(t))
        state = t / max(sigma, 1e-12)
    return sigma, state


def singular_values(matrix: Array) -> NDArray[np.float64]:
    """In descending order, by LAPACK."""
    return np.asarray(np.linalg.svd(matrix.astype(np.float64), compute_uv=False))


def sigma_max(matrix: Array) -> float:
    """The spectral norm."""
    return float(singular_values(matrix)[0])
