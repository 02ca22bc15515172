"""LAPACK's largest eigenvalue, against all of them by numpy, and where its search for single ones fails."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.linalg import LAPACK
from sn_graph.spectral.linalg.dense import dense_eigenpair, dense_eigenvalue


def upper(size: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A Gram matrix [n, n], and its upper triangle with noise below."""
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((size, size + 2))
    gram = factor @ factor.T
    return gram, np.asfortranarray(np.triu(gram) + np.tril(generator.standard_normal((size, size)), -1))


@pytest.fixture(params=[False, True], ids=["found", "not found"])
def lost(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the search for single eigenvalues comes back empty."""
    if request.param:
        monkeypatch.setattr(LAPACK, "dsyevr", lambda gram, **_: (np.zeros(len(gram)), np.zeros((0, 0)), 0, [], 0))
    return bool(request.param)


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("size", [2, 3, 40, 96])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_pair_by_the_upper_triangle(size: int, kind: Any) -> None:
    gram, given = upper(size)
    found = dense_eigenpair(given.astype(kind))
    values = np.linalg.eigvalsh(gram)
    # Rounding the matrix to float32 moves its eigenvalues by 6e-8 of the norm; LAPACK by a few hundred roundings.
    close = 1e-13 if kind is np.float64 else 1e-6
    assert (found.value, found.second) == pytest.approx((values[-1], values[-2]), rel=close, abs=close * values[-1])
    assert np.linalg.norm(gram @ found.vector - found.value * found.vector) <= 10 * close * values[-1]
    assert np.linalg.norm(found.vector) == pytest.approx(1.0, rel=1e-12)
    assert found.certain
    assert found.steps == 0


@pytest.mark.parametrize("size", [1, 2, 40])
def test_the_value_alone(size: int, lost: bool) -> None:
    gram, given = upper(size)
    found = dense_eigenvalue(given)
    if lost:
        assert found is None
    else:
        assert found == pytest.approx(np.linalg.eigvalsh(gram)[-1], rel=1e-13)


def test_one_number() -> None:
    found = dense_eigenpair(np.array([[3.0]]))
    assert (found.value, found.second, found.vector.tolist(), found.certain) == (3.0, -math.inf, [1.0], True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite(value: float) -> None:
    found = dense_eigenpair(np.full((3, 3), value))
    assert math.isnan(found.value)
    assert not found.certain
