"""Which route a matrix takes, and that every route leads to the same value."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.linalg import BlockedMatrix, blocks
from sn_graph.spectral.matrix import routes
from sn_graph.spectral.matrix.routes import ROUTES, Guess, leading_eigenpair, route_of

LAPACK, GRAM, PRODUCTS = (route.name for route in ROUTES)


def operand(rows: int, columns: int, dtype: Any = np.float64) -> BlockedMatrix:
    matrix: NDArray[Any] = np.random.default_rng(0).standard_normal((rows, columns)).astype(dtype)
    return BlockedMatrix.of(matrix, dtype)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((96, 5000), LAPACK),
        ((5000, 96), LAPACK),
        ((97, 97), GRAM),
        ((512, 520), GRAM),
        ((513, 520), PRODUCTS),
        ((600, 1800), GRAM),
        ((600, 1799), PRODUCTS),
        ((769, 2307), PRODUCTS),
        ((1100, 2200), GRAM),  # 18 MiB of float64
        ((1100, 2199), PRODUCTS),
        ((2049, 4200), PRODUCTS),
    ],
)
def test_the_table(shape: tuple[int, int], name: str) -> None:
    for rows, columns in (shape, shape[::-1]):
        assert route_of(BlockedMatrix.of(np.empty((rows, columns)))).name == name


def test_the_cache_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.empty((800, 1600))
    near = BlockedMatrix.of(wide)
    assert route_of(near).name == PRODUCTS
    assert route_of(near).on_rows(near)
    monkeypatch.setattr(blocks, "CACHE_BYTES", 1000)
    assert route_of(BlockedMatrix.of(wide)).name == GRAM
    far = BlockedMatrix.of(np.empty((800, 1000)))
    assert route_of(far).name == PRODUCTS
    assert not route_of(far).on_rows(far)


@pytest.mark.parametrize("shape", [(90, 95), (95, 90)])
@pytest.mark.parametrize("route", ROUTES, ids=[route.name for route in ROUTES])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_lead_to_the_same(
    shape: tuple[int, int], route: routes.Route, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "ROUTES", (routes.Route("all", lambda _: True, route.on_rows, route.search),))
    given = operand(*shape, dtype)
    found = leading_eigenpair(given)
    left, values, right = np.linalg.svd(given.storage.astype(np.float64))
    # float32 sums of 95 products.
    assert found.pair.value == pytest.approx(values[0] ** 2, rel=1e-12 if dtype is np.float64 else 1e-5)
    vector = left[:, 0] if found.on_rows else right[0]
    assert abs(float(found.pair.vector @ vector)) == pytest.approx(1.0, rel=1e-5)
    assert found.dtype == dtype


@pytest.mark.parametrize("shape", [(300, 320), (600, 560)])
def test_lapack_steps_in_with_float64(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "FALLBACK_STEPS", 5)
    given = operand(*shape, np.float32)
    found = leading_eigenpair(given)
    assert found.dtype == np.float64
    assert found.on_rows == (shape[0] < shape[1])
    assert math.sqrt(found.pair.value) == pytest.approx(np.linalg.norm(given.storage.astype(np.float64), 2), rel=1e-12)


@pytest.mark.parametrize("on_rows", [False, True])
def test_a_guess_on_either_side(on_rows: bool) -> None:
    given = operand(7, 5)
    left, _, right = np.linalg.svd(given.storage)
    guess = Guess(-2.0 * (left[:, 0] if on_rows else right[0]), on_rows)
    for rows, vector in ((True, left[:, 0]), (False, right[0])):
        found = guess.on(rows, given)
        assert found is not None
        assert abs(float(found @ vector)) == pytest.approx(1.0, rel=1e-12)


def test_a_guess_that_is_taken_to_nothing() -> None:
    assert Guess(np.array([0.0, 1.0]), on_rows=False).on(True, BlockedMatrix.of(np.diag([1.0, 0.0]))) is None
