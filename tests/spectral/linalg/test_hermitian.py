"""Certificates of Hermitian matrices, against eigenvalues in 50 digits."""

from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.linalg import hermitian
from sn_graph.spectral.linalg.hermitian import estimated_largest, proven_below, raised_limit, rounded_root


def semidefinite(order: int, rank: int, imaginary: bool, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((order, rank)) + (1j * rng.standard_normal((order, rank)) if imaginary else 0.0)
    product = factor @ factor.conj().T
    return (product + product.conj().T) / 2.0


def largest(matrix: NDArray[Any]) -> Any:
    """λ_max in 50 digits."""
    with mpmath.workdps(50):
        values, _ = mpmath.eighe(mpmath.matrix(matrix.tolist()))
        return max(values)


@pytest.mark.parametrize("imaginary", [False, True])
@pytest.mark.parametrize(("order", "rank"), [(1, 1), (2, 1), (5, 5), (11, 3), (13, 13), (20, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_a_proof_is_true(order: int, rank: int, imaginary: bool, seed: int) -> None:
    """Around λ_max, at distances down to one rounding: below it nothing is proven, a little above it all is."""
    matrix = semidefinite(order, rank, imaginary, seed)
    exact = largest(matrix)
    for distance in (-1e-3, -1e-8, -1e-12, -4e-16, 0.0, 1e-16, 1e-15, 1e-14, 1e-13):
        limit = float(exact) * (1.0 + distance)
        if proven_below(matrix[None], limit)[0]:
            assert exact <= limit
    assert proven_below(matrix[None], float(exact) * (1.0 + 1e-10))[0]


@pytest.mark.parametrize("order", [4, 11, 12, 30])
def test_each_of_a_batch_by_itself(order: int) -> None:
    matrices = np.stack([semidefinite(order, 2, True, seed) for seed in range(12)])
    values = np.linalg.eigvalsh(matrices)[:, -1]
    limit = float(np.median(values))
    np.testing.assert_array_equal(proven_below(matrices, limit), values < limit)


@pytest.mark.parametrize("order", [1, 30, 120])
@pytest.mark.parametrize("imaginary", [False, True])
def test_estimates(order: int, imaginary: bool) -> None:
    matrices = np.stack([semidefinite(order, order, imaginary, seed) for seed in range(2)])
    expected = np.linalg.eigvalsh(matrices)[:, -1]
    # Lanczos above order 96, at a tolerance of 1e-6 in the root.
    np.testing.assert_allclose(estimated_largest(matrices), expected, rtol=2e-6)


def test_limit_is_raised_to_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = np.stack([semidefinite(6, 6, True, seed) for seed in range(20)])
    top = float(np.linalg.eigvalsh(matrices).max())
    assert top <= raised_limit(matrices, 0.0) <= top * (1 + 1e-8)
    assert raised_limit(matrices, 2 * top) == 2 * top
    assert raised_limit(matrices, 0.1 * top, ceiling=0.2 * top) > 0.2 * top
    # An estimate that is too low costs width, never the proof.
    monkeypatch.setattr(hermitian, "estimated_largest", lambda batch: np.linalg.eigvalsh(batch)[:, -1] * 0.98)
    raised = raised_limit(matrices, 0.0)
    assert top <= raised <= top * 1.1


def test_rounded_root() -> None:
    with mpmath.workdps(50):
        for square in (2.0, 1e-30, 3.7e20):
            assert mpmath.mpf(rounded_root(square)) ** 2 > mpmath.mpf(square)
