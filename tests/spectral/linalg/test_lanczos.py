"""Lanczos to its end, on diagonal operators: with a uniform start they are as general as any other."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.linalg import lanczos
from sn_graph.spectral.linalg.lanczos import Eigenpair, largest_eigenpair
from sn_graph.spectral.linalg.stopping import start_vector

TOLERANCE = 5e-7


def solve(eigenvalues: NDArray[np.float64], limit: int = 2000) -> Eigenpair:
    return largest_eigenpair(lambda x: eigenvalues * x, len(eigenvalues), TOLERANCE, limit)


def below(top: float, others: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([others, [top]])


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.linspace(0.0, 1.0, 300),
        np.ones(300),
        below(1.0, np.zeros(299)),
        below(1.0, np.full(299, 1 - 4e-6)),
        below(1.0, np.full(2999, 1 - 1e-5)),
        below(1.0, np.linspace(0.99, 1 - 1e-5, 299)),
        1 - np.linspace(0.0, 1.0, 300) ** 2 * 1e-2,
        np.logspace(-24, 0, 300),
    ],
)
def test_largest_eigenvalue(eigenvalues: NDArray[np.float64]) -> None:
    pair = solve(eigenvalues)
    assert pair.certain
    assert 1 - 2 * TOLERANCE <= pair.value / eigenvalues.max() <= 1 + 1e-12
    assert float(np.sum(eigenvalues * pair.vector**2)) == pytest.approx(pair.value, rel=1e-10)


@pytest.mark.parametrize("gap", [2e-6, 1e-5, 1e-3, 0.5])
def test_unlucky_starts(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start with 1/1000 of its usual part on the leading vector: a residual rule stops at the second value."""
    eigenvalues = below(1.0, below(1.0 - gap, np.linspace(0.0, 0.9, 298)))
    fair = np.random.default_rng(0).standard_normal(300)
    fair[-1] = 2e-3 * math.copysign(1.0, fair[-1])
    start = fair / np.linalg.norm(fair)
    monkeypatch.setattr(lanczos, "start_vector", lambda *_, **__: start)
    assert solve(eigenvalues).value >= 1 - 2 * TOLERANCE


@pytest.mark.parametrize("component", np.logspace(-4, -7, 13))
@pytest.mark.parametrize("second", [0.9, 0.99, 0.996])
def test_no_value_on_its_way(component: float, second: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so little of v₁ in the start, θ leaves λ₂ late; it may stay there, but not stop between (1e-3 low once)."""
    eigenvalues = below(1.0, np.append(np.linspace(0.0, 0.8, 198), second))
    start = np.random.default_rng(5).standard_normal(200)
    start /= np.linalg.norm(start)
    start[np.argmax(eigenvalues)] = component
    monkeypatch.setattr(lanczos, "start_vector", lambda *_, **__: start / np.linalg.norm(start))
    value = solve(eigenvalues).value
    assert min(abs(value - 1.0), abs(value - second)) <= 1e-6


SPECTRUM = below(1.0, below(0.99, np.linspace(0.0, 0.95, 298)))


def unit(index: int, error: float = 0.0) -> NDArray[np.float64]:
    return np.where(np.arange(300) == index, 1.0, error / math.sqrt(300))


@pytest.mark.parametrize(("guess", "kept"), [(unit(299), True), (unit(299, 2e-5), True), (unit(299, 1e-2), False)])
def test_a_good_guess_saves_steps(guess: NDArray[np.float64], kept: bool) -> None:
    cold = solve(SPECTRUM)
    warm = largest_eigenpair(lambda x: SPECTRUM * x, 300, TOLERANCE, 2000, guess)
    assert warm.certain
    assert 1 - 2 * TOLERANCE <= warm.value <= 1 + 1e-12
    assert (warm.steps < 0.75 * cold.steps) is kept


@pytest.mark.parametrize("gap", [1e-7, 3e-6, 1e-4, 1e-2, 0.5])
def test_a_guess_that_is_not_the_leading_vector(gap: float) -> None:
    """An exact eigenvector below the largest: its residual is 0, and only the rule can tell."""
    spectrum = below(1.0, below(1.0 - gap, np.linspace(0.0, 0.4, 298)))
    found = largest_eigenpair(lambda x: spectrum * x, 300, TOLERANCE, 2000, unit(298))
    assert found.certain
    assert found.value >= 1 - 2 * TOLERANCE


def test_a_guess_from_a_search_that_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start nearly without the leading vector finds the second; given as a guess, that must not confirm itself."""
    spectrum = below(1.0, below(1.0 - 1e-5, np.linspace(0.0, 0.4, 298)))
    unlucky = start_vector(300, 0)
    unlucky[-1] = 1e-14
    unlucky /= np.linalg.norm(unlucky)
    monkeypatch.setattr(
        lanczos, "start_vector", lambda n, seed, stream=0: start_vector(n, seed, stream) if stream else unlucky
    )
    missed = largest_eigenpair(lambda x: spectrum * x, 300, TOLERANCE, 2000)
    assert missed.value < 1 - 2 * TOLERANCE
    assert lanczos._confirm(lambda x: spectrum * x, missed.vector, TOLERANCE, 2000) is None


def test_a_guess_in_small_spaces() -> None:
    assert largest_eigenpair(lambda x: 3.0 * x, 1, TOLERANCE, 9, np.ones(1)).value == pytest.approx(3.0)
    pair = np.array([2.0, 3.0])
    for guess in np.eye(2):
        assert largest_eigenpair(lambda x: pair * x, 2, TOLERANCE, 9, guess).value == pytest.approx(3.0, rel=1e-14)
    assert largest_eigenpair(lambda x: 0.0 * x, 2, TOLERANCE, 9, np.ones(2)).value == 0.0


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e28])
@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.linspace(0.0, 1.0, 300),
        below(1.0, np.zeros(299)),
        below(1.0, below(1 - 6e-6, np.linspace(0.0, 0.9, 298))),
        np.logspace(-24, 0, 300),
    ],
)
def test_float32_vectors(eigenvalues: NDArray[np.float64], scale: float) -> None:
    """What the value lacks beyond the rule's is float32's own rounding, a few 6e-8; squares of a length underflow."""
    diagonal = (eigenvalues * scale).astype(np.float32)
    pair = largest_eigenpair(lambda x: diagonal * x, 300, TOLERANCE, 300, dtype=np.float32)
    assert pair.certain
    assert -2 * TOLERANCE - 3e-7 <= pair.value / float(diagonal.max()) - 1 <= 3e-7
    assert pair.vector.dtype == np.float64
    assert np.linalg.norm(pair.vector) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("gap", [0.0, 1e-7, 6e-6])
def test_float32_says_what_it_cannot_tell(gap: float) -> None:
    diagonal = below(1.0, np.full(299, 1.0 - gap)).astype(np.float32)
    pair = largest_eigenpair(lambda x: diagonal * x, 300, TOLERANCE, 300, dtype=np.float32)
    assert pair.blurred
    assert not pair.certain
    wide = largest_eigenpair(lambda x: diagonal.astype(np.float64) * x, 300, TOLERANCE, 300)
    assert wide.certain
    assert not wide.blurred
    assert wide.value >= 1.0 - 2 * TOLERANCE


@pytest.mark.parametrize("hidden", [2.0, 1.0 + 1e-5, 1e9])
@pytest.mark.parametrize("rest", [1.0, 0.0])
def test_a_start_that_reaches_nothing_of_it(hidden: float, rest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exhausted after one step without a trace of the leading vector: another start finds it."""
    spectrum = below(hidden, below(1.0, np.full(298, rest)))
    blind = np.append(np.ones(299), 0.0)
    blind /= np.linalg.norm(blind)
    monkeypatch.setattr(
        lanczos, "start_vector", lambda n, seed, stream=0: start_vector(n, seed, stream) if stream else blind
    )
    pair = solve(spectrum)
    assert pair.certain
    assert pair.value == pytest.approx(hidden, rel=2 * TOLERANCE)
    assert abs(pair.vector[-1]) == pytest.approx(1.0, abs=1e-3 if hidden < 1.1 else 1e-9)


def test_the_second_value_is_seen_where_there_are_two() -> None:
    """Of two equal values one start sees one."""
    pair = solve(below(1.0, below(1.0, np.zeros(298))))
    assert pair.value == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("value", [4.1, 0.3, 1e-3, 7.7])
@pytest.mark.parametrize("size", [140, 142, 200, 415, 422, 492, 600])
def test_a_space_that_ends_in_rounding_errors(size: int, value: float) -> None:
    """Of a matrix of equal elements nothing is left after two steps, and that is not orthogonal to them at once."""
    matrix = np.full((size, size), value, np.float32)
    pair = largest_eigenpair(lambda x: matrix @ x, size, TOLERANCE, 50, dtype=np.float32)
    assert pair.certain
    assert pair.value == pytest.approx(float(np.float32(value)) * size, rel=2e-6)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
@pytest.mark.parametrize("size", range(130, 260, 10))
def test_low_rank_in_float32(size: int, rank: int) -> None:
    factor = np.random.default_rng(size).standard_normal((size, rank)).astype(np.float32)
    matrix = factor @ factor.T
    pair = largest_eigenpair(lambda x: matrix @ x, size, TOLERANCE, 400, dtype=np.float32)
    assert pair.certain
    assert pair.value == pytest.approx(np.linalg.eigvalsh(matrix.astype(np.float64))[-1], rel=2e-6)


def test_limit() -> None:
    pair = solve(np.linspace(0.0, 1.0, 3000) ** 0.1, limit=10)
    assert pair.steps == 10
    assert not pair.certain


def test_not_finite() -> None:
    with np.errstate(invalid="ignore"):
        assert math.isnan(solve(np.array([1.0, np.inf, 2.0])).value)


def test_zero_operator() -> None:
    assert solve(np.zeros(5)).value == 0.0


def test_whole_space() -> None:
    assert solve(np.array([2.0])).value == pytest.approx(2.0, rel=1e-15)
    assert solve(np.array([2.0, 3.0])).value == pytest.approx(3.0, rel=1e-14)
