"""Every reduction against the family that it was made of, in rational arithmetic where something is rounded."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from sn_graph.spectral.lmi import FrequencyProblem, SlopeProblem, frequency_bound, lipschitz_bound
from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.reduction import balanced, scaled, with_short_input, without_dead, without_linear
from tests.support.slopes import attained, drawn, exact, is_semidefinite


def problem_of(family: Family) -> SlopeProblem:
    return SlopeProblem(family.weights[0], family.low, family.high, family.output[0])


@pytest.mark.parametrize("seed", range(5))
def test_linear_neurons_within_their_errors(seed: int) -> None:
    """What is put in, exactly, lies within the errors of what was computed."""
    problem = drawn(seed, 3, 6, 2, 0.8)
    slopes = problem.low.copy()
    linear = [0, 2, 3]
    high = problem.high.copy()
    slopes[linear] = high[linear] = np.random.default_rng(seed).standard_normal(3)
    family = without_linear(Family.of(replace(problem, low=slopes, high=high)))
    rows, output = exact(problem.weights), exact(problem.output)
    for index in linear:
        for row in (*rows, *output):
            factor, row[3 + index] = row[3 + index] * Fraction(float(slopes[index])), Fraction()
            for column in range(9):
                row[column] += factor * rows[index][column]
    kept, columns = [1, 4, 5], [0, 1, 2, 4, 7, 8]
    assert family.neurons.tolist() == kept
    for true, given, error in (
        ([rows[i] for i in kept], family.weights[0], family.weights_error[0]),
        (output, family.output[0], family.output_error[0]),
    ):
        for i, row in enumerate(true):
            for j, column in enumerate(columns):
                assert abs(row[column] - Fraction(float(given[i, j]))) <= Fraction(float(error[i, j]))
        assert error.max() < 1e-13


@pytest.mark.parametrize("kind", ["random", "rank 1", "zero row", "graded", "errors"])
def test_short_inputs_are_no_smaller(kind: str) -> None:
    """S Sᵀ ≤ R Rᵀ, exactly, and by little."""
    generator = np.random.default_rng(0)
    problem = drawn(1, 12, 3, 2, 1.0)
    weights, output = problem.weights.copy(), problem.output.copy()
    match kind:
        case "rank 1":
            weights[:, :12], output[:, :12] = generator.standard_normal((2, 12))
        case "zero row":
            weights[1, :12] = 0.0
        case "graded":
            weights[:, :12] *= np.array([1e-8, 1.0, 1e9])[:, None]
    error = 1e-6 if kind == "errors" else 0.0
    family = Family.of(replace(problem, weights=weights, output=output, weights_error=error))
    short = with_short_input(family)
    assert short.inputs == (4 if kind == "zero row" and not error else 5)
    long_rows = np.concatenate([weights[:, :12], output[:, :12]])
    short_rows = np.concatenate([short.weights[0][:, : short.inputs], short.output[0][:, : short.inputs]])
    moved = [long_rows] if not error else []
    for _ in range(3 if error else 0):
        signs = np.sign(generator.standard_normal(long_rows.shape)) * (np.arange(5) < 3)[:, None]
        moved.append(long_rows + 0.999 * error * signs)
    for rows in moved:
        long, wide = exact(rows), exact(short_rows)
        difference = [
            [
                sum((a * b for a, b in zip(wide[i], wide[j], strict=True)), Fraction())
                - sum((a * b for a, b in zip(long[i], long[j], strict=True)), Fraction())
                for j in range(5)
            ]
            for i in range(5)
        ]
        assert is_semidefinite(difference)
        sizes = np.sqrt((short_rows**2).sum(axis=1))
        for i in range(5):
            assert float(difference[i][i]) <= (1e-4 if error else 1e-12) * sizes[i] ** 2 + 1e-25 * sizes.max() ** 2


def test_rows_of_nothing_but_errors_raise_no_others() -> None:
    """A long input that a neuron reads, by errors of 1e-13 alone."""
    generator = np.random.default_rng(0)
    weights, output = np.zeros((2, 52)), np.zeros((1, 52))
    weights[0, :50] = generator.standard_normal(50)
    weights[1, 50] = output[0, 51] = 1.0
    problem = SlopeProblem(weights, np.zeros(2), np.ones(2), output, 1e-13, 1e-13)
    norm = float(np.linalg.norm(weights[0]))
    assert norm <= lipschitz_bound(problem).value <= norm * (1.0 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_dead_neurons(seed: int) -> None:
    problem = drawn(seed, 3, 7, 2, 0.5)
    weights, output = problem.weights.copy(), problem.output.copy()
    weights[2] = 0.0  # reads nothing
    output[:, 3 + 5] = weights[:, 3 + 5] = 0.0  # read by nobody
    weights[:, 1] = output[:, 1] = 0.0
    given = replace(problem, weights=weights, output=output)
    left = without_dead(Family.of(given))
    assert not {2, 5} & set(left.neurons.tolist())
    assert left.inputs <= 2
    assert attained(problem_of(left)) == pytest.approx(attained(given), rel=1e-12)
    loose = without_dead(Family.of(replace(given, weights_error=1e-9, output_error=1e-9)))
    assert len(loose.low) == 7


@pytest.mark.parametrize("seed", range(4))
def test_scales_round_nothing(seed: int) -> None:
    problem = drawn(seed, 3, 5, 2, 0.9)
    family = Family.of(replace(problem, weights=problem.weights * np.array([1e-9, 1.0, 1e7, 1e3, 1.0])[:, None]))
    changed = balanced(family)
    columns = np.concatenate([np.full(3, changed.output_unit / changed.scale), changed.units])
    assert np.array_equal(changed.weights * changed.units[:, None] / columns, family.weights)
    assert np.array_equal(changed.output * changed.output_unit / columns, family.output)
    assert not changed.weights_error.any()
    assert np.abs(changed.weights).max() <= 16.0  # where slopes are 1/4 at least
    multipliers = np.exp(np.random.default_rng(seed).standard_normal(5))
    assert np.array_equal(changed.given(changed.multipliers(multipliers, 5)), multipliers)


def test_what_underflows_is_an_error() -> None:
    family = Family.of(drawn(0, 2, 3, 2, 1.0))
    with np.errstate(over="ignore"):
        moved = scaled(family, -1080, -1080, np.zeros(3, dtype=np.int64))
    assert np.abs(moved.weights[0, :, :2]).max() < 1e-320
    assert (moved.weights_error[0, :, :2] > 0.0).all()
    assert not moved.weights_error[0, :, 2:].any()


def test_neurons_of_one_multiplier_stay_together() -> None:
    """At two places on a circle, y = (z₀ + z₁)/√2, z = relu(s), s the part of x that changes its sign: L = 1/2.

    z has a part at frequency 0, which y reads and s lacks; left out by itself, it would leave nothing at all.
    """
    weights = np.array([[[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]])
    output = np.array([[[0.0, 0.0, 1.0, 0.0]]])
    bound = frequency_bound(FrequencyProblem(weights, np.zeros(2), np.ones(2), output, np.zeros(2, np.int64)))
    assert 0.5 <= bound.value <= 0.5 + 1e-6
