"""The three-term recurrence, on diagonal operators: with a random start they are as general as any other."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.linalg import recurrence
from sn_graph.spectral.linalg.recurrence import WINDOW, leading_value, leading_vector, settled_value
from sn_graph.spectral.linalg.stopping import largest_ritz_value, start_vector

TOLERANCE = 5e-6


def spectrum(top: float, others: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([others, [top]])


@pytest.mark.parametrize(
    "values",
    [
        np.ones(1),
        np.array([1.0, 0.5]),
        np.linspace(0.0, 1.0, 2000),
        np.ones(500),
        spectrum(1.0, np.zeros(299)),
        spectrum(1.0, np.full(2999, 1 - 3e-5)),
        spectrum(1.0, np.linspace(0.99, 1 - 1e-4, 3000)),
        np.cos(np.arange(3000) * np.pi / 3000 / 2),
        np.logspace(-12, 0, 300),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_leading(values: NDArray[np.float64], single: bool) -> None:
    def square(x: NDArray[np.float64]) -> NDArray[np.float64]:
        image = values**2 * x
        return image.astype(np.float32).astype(np.float64) if single else image

    found = leading_value(square, len(values), TOLERANCE, 8000, dtype=np.float32 if single else np.float64)
    assert found.certain or found.blurred
    assert single or not found.blurred
    # float32 rounding of each product moves the value by a part of 6e-8.
    assert 1 - TOLERANCE - 1e-7 * single <= found.value / values.max() <= 1 + 1e-7
    vector = leading_vector(square, found)
    assert np.linalg.norm(vector) == pytest.approx(1.0, rel=1e-12)
    assert np.linalg.norm(values * vector) == pytest.approx(found.value, rel=1e-6 if single else 1e-9)


@pytest.mark.parametrize("length", [2000, 3000, 5000, 8192])
@pytest.mark.parametrize("others", [0.5, 0.8, 0.99])
def test_the_least_lucky_place_for_the_leading_value(length: int, others: float) -> None:
    """The start has least of v₁ here; θ was taken while it rose, up to 9e-3 low."""
    values = np.linspace(0.0, others, length)
    values[np.abs(np.random.default_rng(0).standard_normal(length)).argmin()] = 1.0
    found = leading_value(lambda x: values**2 * x, length, 8e-6, 4000)
    assert min(abs(found.value - 1.0), abs(found.value - others)) <= 8e-6


@pytest.mark.parametrize("hidden", [2.0, 1.0 + 1e-4])
def test_a_start_that_reaches_nothing_of_it(hidden: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = spectrum(hidden, np.ones(299))
    blind = np.append(np.ones(299), 0.0) / np.sqrt(299)
    monkeypatch.setattr(
        recurrence, "start_vector", lambda n, seed, stream=0: start_vector(n, seed, stream) if stream else blind
    )
    found = leading_value(lambda x: values**2 * x, len(values), TOLERANCE, 4000)
    assert found.certain
    assert found.value == pytest.approx(hidden, rel=TOLERANCE)
    # The same steps again, where their vectors were not kept.
    for kept in (found, replace(found, basis=None)):
        assert np.linalg.norm(values * leading_vector(lambda x: values**2 * x, kept)) == pytest.approx(hidden, rel=1e-6)


def test_float32_says_what_it_cannot_tell() -> None:
    found = leading_value(lambda x: x, 300, TOLERANCE, 4000, dtype=np.float32)
    assert found.blurred
    assert not found.certain


def test_a_start_near_the_vector_settles_at_once() -> None:
    """Where the certain rule takes hundreds of steps, and never above the value."""
    values = np.linspace(0.0, 1.0, 3000) ** 0.05
    start = np.zeros(3000)
    start[-1], start[:-1] = 1.0, 1e-3 * np.random.default_rng(0).standard_normal(2999)
    start /= np.linalg.norm(start)
    found = settled_value(lambda x: values**2 * x, start, 1e-6, 100)
    assert found.certain
    assert WINDOW < len(found.diagonal) <= 30
    assert 1 - 1e-6 <= found.value <= 1 + 1e-12
    vector = leading_vector(lambda x: values**2 * x, found)
    assert np.linalg.norm(values * vector) == pytest.approx(found.value, rel=1e-9)


def test_a_start_that_is_a_vector_ends_the_search() -> None:
    values = np.linspace(0.5, 1.0, 100)
    found = settled_value(lambda x: values**2 * x, np.eye(100)[7], 1e-6, 100)
    assert found.certain
    assert found.value == pytest.approx(values[7], rel=1e-14)
    assert len(found.diagonal) == 1


def test_a_slow_rise_is_not_settled() -> None:
    values = np.sqrt(np.linspace(0.5, 1.0, 20_000))
    start = np.ones(20_000) / np.sqrt(20_000)
    found = settled_value(lambda x: values**2 * x, start, 1e-5, 1000)
    assert found.certain
    steps = len(found.diagonal)
    thetas = [
        largest_ritz_value(list(found.diagonal[:count]), list(found.offdiagonal[:count]))
        for count in range(1, steps + 1)
    ]
    rises = [later / earlier for earlier, later in zip(thetas, thetas[WINDOW:], strict=False)]
    assert rises[-1] <= (1 + 1e-5) ** 2 < rises[-2]


def test_a_start_far_off_does_not_settle() -> None:
    values = np.linspace(0.0, 1.0, 100_000)
    start = np.full(100_000, 100_000**-0.5)
    assert not settled_value(lambda x: values**2 * x, start, 1e-6, 40).certain


def test_limit() -> None:
    values = np.linspace(0.0, 1.0, 3000) ** 0.05
    found = leading_value(lambda x: values**2 * x, len(values), 1e-9, 10)
    assert not found.certain
    assert len(found.diagonal) == 10


def test_lost_orthogonality_does_not_move_the_value() -> None:
    """One value far above a dense cluster: found at once, and again and again while the rest goes on."""
    values = spectrum(3.0, np.linspace(0.9, 1.0, 2000))
    found = leading_value(lambda x: values**2 * x, len(values), 1e-15, 300)
    assert found.value == pytest.approx(3.0, rel=1e-13)
    assert np.linalg.norm(values * leading_vector(lambda x: values**2 * x, found)) == pytest.approx(3.0, rel=1e-12)
