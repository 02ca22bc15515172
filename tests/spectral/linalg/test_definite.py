"""The two error bounds that the proof stands on, checked on what BLAS and LAPACK return; and the proof itself."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf

from sn_graph.spectral.linalg.blocks import BlockedMatrix
from sn_graph.spectral.linalg.definite import UNIT, GramProof, gamma

# The theorems' own u; definite.py allows twice that.
ROUNDOFF = 2.0**-53


def proof_of(matrix: NDArray[np.float64]) -> GramProof:
    return GramProof(BlockedMatrix.of(matrix).gram, max(matrix.shape))


@pytest.mark.parametrize("shape", [(700, 20), (20, 700), (5000, 6)])
def test_gram_error(shape: tuple[int, int]) -> None:
    """Products of float32 values are exact in float64, and fsum rounds once: |A − MᵀM| ≤ γ_m |M|ᵀ|M|."""
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wide = matrix.astype(np.float64) if shape[0] > shape[1] else matrix.T.astype(np.float64)
    gram = BlockedMatrix.of(matrix).gram()
    for i in range(len(gram)):
        for j in range(i, len(gram)):
            exact = math.fsum(wide[:, i] * wide[:, j])
            magnitude = math.fsum(np.abs(wide[:, i] * wide[:, j]))
            assert abs(gram[i, j] - exact) <= max(shape) * ROUNDOFF * magnitude


@pytest.mark.parametrize("kind", ["random", "nearly singular", "equal", "graded"])
def test_cholesky_error(kind: str) -> None:
    """|B − LLᵀ| ≤ γ_{n+1} |L||Lᵀ|, in 50 digits, on matrices as the proof makes them."""
    mpmath.mp.dps = 50
    size = 24
    generator = np.random.default_rng(1)
    q, _ = np.linalg.qr(generator.standard_normal((size, size)))
    values = {
        "random": generator.random(size) + 0.1,
        "nearly singular": np.append(generator.random(size - 1), 1e-13),
        "equal": np.full(size, 1e-8),
        "graded": np.logspace(0, -13, size),
    }[kind]
    given = np.asfortranarray((q * values) @ q.T)
    given = np.asfortranarray((given + given.T) / 2)
    factor, info = dpotrf(given, lower=1, clean=1)
    assert info == 0
    lower = mpmath.matrix(factor.tolist())
    magnitudes = mpmath.matrix(np.abs(factor).tolist())
    product, allowed = lower * lower.T, magnitudes * magnitudes.T
    for i in range(size):
        for j in range(i + 1):
            assert abs(product[i, j] - mpmath.mpf(float(given[i, j]))) <= (size + 1) * ROUNDOFF * allowed[i, j]


@pytest.mark.parametrize("seed", range(20))
def test_bound_in_fifty_digits(seed: int) -> None:
    mpmath.mp.dps = 50
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((9, 6)) * np.logspace(0, -seed, 6)
    wide = mpmath.matrix(matrix.tolist())
    largest = max(mpmath.eigsy(wide.T * wide, eigvals_only=True))
    assert proof_of(matrix).bound(float(largest) * (1 - 1e-12)) is None
    proof = proof_of(matrix)
    found = proof.bound(float(largest) * (1 + 1e-12))
    assert found is not None
    # The slack for 6 x 6 and 9 products is 20 u (trace + T) at most.
    assert largest <= found <= largest * (1 + 2e-12 + 7 * 60 * UNIT)
    assert proof.frobenius_squared >= mpmath.fsum(x * x for x in wide)


def test_attempts_do_not_change_the_result() -> None:
    matrix = np.random.default_rng(2).standard_normal((600, 520))
    proof = proof_of(matrix)
    upper = np.triu(proof.gram)
    assert proof.bound(1.0) is None
    assert proof.bound(proof.trace / 520) is None
    first = proof.bound(proof.trace)
    assert first is not None
    np.testing.assert_array_equal(np.triu(proof.gram), upper)
    assert proof.bound(proof.trace) == first


@pytest.mark.parametrize("terms", [0, 1, 10**6, 2**51])
def test_gamma(terms: int) -> None:
    product: Any = mpmath.mpf(terms) * mpmath.mpf(2) ** -52
    assert gamma(terms) == pytest.approx(float(product / (1 - product)), rel=1e-14)
    assert gamma(2**52) == math.inf
