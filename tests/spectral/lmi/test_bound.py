"""The bound against rational arithmetic, all ends of the slopes, published values, and cases made to break it."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.spectral.lmi import LmiBound, SlopeProblem, lipschitz_bound, proven_bound
from tests.support.slopes import (
    Real,
    attained,
    drawn,
    exact,
    inequality,
    is_semidefinite,
    layered,
    published,
    with_slopes,
)

SIZES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))


def holds(problem: SlopeProblem, bound: LmiBound) -> bool:
    """Whether P(bound², λ) ≥ 0, exactly, with multipliers that are none of them negative."""
    return bool((bound.multipliers >= 0.0).all()) and is_semidefinite(
        inequality(problem, bound.value, bound.multipliers)
    )


@settings(deadline=None, max_examples=60)
@given(SIZES)
def test_the_inequality_holds_in_rational_arithmetic(sizes: tuple[int, int, int, int]) -> None:
    problem = drawn(*sizes)
    bound = lipschitz_bound(problem)
    assert bound.value < math.inf
    assert holds(problem, bound)


@settings(deadline=None, max_examples=60)
@given(SIZES)
def test_no_network_of_the_class_goes_beyond(sizes: tuple[int, int, int, int]) -> None:
    problem = drawn(*sizes)
    assert attained(problem) <= lipschitz_bound(problem).value * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_fifty_digits(seed: int) -> None:
    """A larger network than rational arithmetic takes: Cholesky's algorithm in 50 digits."""
    import mpmath

    problem = drawn(seed, 4, 18, 3, 0.4)
    bound = lipschitz_bound(problem)
    with mpmath.workdps(50):
        rows = inequality(problem, bound.value, bound.multipliers)
        matrix = mpmath.matrix([[mpmath.mpf(x.numerator) / x.denominator for x in row] for row in rows])
        # A neuron that takes no part has a row of zeros.
        alive = [i for i in range(matrix.rows) if any(matrix[i, j] != 0 for j in range(matrix.rows))]
        mpmath.cholesky(mpmath.matrix([[matrix[i, j] for j in alive] for i in alive]))


@pytest.mark.parametrize(("name", "limit"), [("random", 36.4823), ("mnist", 24.3664)])
def test_published_networks(name: str, limit: float) -> None:
    """LipSDP-Neuron's values (Fazlyab et al., 2019), 36.482 and 24.365 with their solver's tolerance."""
    bound = lipschitz_bound(layered(published(name)))
    assert limit - 1e-2 < bound.value <= limit


@pytest.mark.parametrize("seed", range(6))
def test_one_layer_of_two_is_exact(seed: int) -> None:
    """u relu(w x) with one neuron has the constant |u||w|; x − relu(x) 1; and x + relu(x) 2."""
    generator = np.random.default_rng(seed)
    row, column = generator.standard_normal((1, 4)), generator.standard_normal((3, 1))
    value = lipschitz_bound(layered([row, column])).value
    assert value == pytest.approx(np.linalg.norm(row) * np.linalg.norm(column), rel=1e-7)
    for sign, constant in ((-1.0, 1.0), (1.0, 2.0)):
        skip = SlopeProblem(np.array([[1.0, 0.0]]), np.zeros(1), np.ones(1), np.array([[1.0, sign]]))
        assert lipschitz_bound(skip).value == pytest.approx(constant, rel=1e-7)


@pytest.mark.parametrize("kind", ["noise", "half", "large", "tiny", "negative", "nan", "infinite", "zero", "huge"])
@pytest.mark.parametrize("seed", range(4))
def test_any_multipliers_are_proven_or_refused(kind: str, seed: int) -> None:
    problem = drawn(seed, 3, 4, 2)
    best = lipschitz_bound(problem)
    generator = np.random.default_rng(seed)
    given = best.multipliers.copy()
    chosen = np.flatnonzero(given)[0]
    match kind:
        case "noise":
            given *= 1 + 1e-3 * generator.standard_normal(4)
        case "half":
            given = given.astype(np.float16).astype(np.float64)
        case "large":
            given *= 3.0
        case "tiny":
            given *= 1e-3
        case "huge":
            given[chosen] = 1e300
        case _:
            given[chosen] = {"negative": -given[chosen], "nan": math.nan, "infinite": math.inf, "zero": 0.0}[kind]
    bound = proven_bound(problem, given)
    if bound.value < math.inf:
        assert holds(problem, bound)
        assert bound.value >= best.value * (1 - 1e-6)
    if kind in ("noise", "half", "large"):
        assert bound.value < 3 * best.value
    if kind in ("negative", "nan", "infinite", "zero", "tiny"):
        assert bound.value == math.inf
        assert bound.proven_by.startswith("none: ")


@pytest.mark.parametrize("scale", [1e-40, 1e-12, 1e-5, 1e5, 1e12, 1e40])
def test_scales_of_layers(scale: float) -> None:
    """ReLU is homogeneous, so that the bound scales with any layer; gloro #8 is a weight of scale 1e-5."""
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal(shape) for shape in ((6, 3), (5, 6), (2, 5))]
    value = lipschitz_bound(layered(weights)).value
    for index in range(3):
        changed = [weight * (scale if i == index else 1.0) for i, weight in enumerate(weights)]
        bound = lipschitz_bound(layered(changed))
        assert bound.value == pytest.approx(value * scale, rel=1e-6)
    everything = lipschitz_bound(layered([weight * scale for weight in weights])).value
    assert everything == pytest.approx(value * scale**3, rel=1e-6)


def test_scales_within_a_layer() -> None:
    """One neuron of 1e5, one of 1e-5, each with the other way round behind it: the same network."""
    generator = np.random.default_rng(1)
    first, second = generator.standard_normal((6, 3)), generator.standard_normal((2, 6))
    factors = np.array([1e5, 1e-5, 1.0, 1e-30, 1e30, 3.0])
    plain = lipschitz_bound(layered([first, second])).value
    assert lipschitz_bound(layered([first * factors[:, None], second / factors])).value == pytest.approx(
        plain, rel=1e-6
    )


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e300])
def test_what_is_out_of_range_is_refused(wrong: float) -> None:
    problem = drawn(0, 2, 3, 2)
    weights = problem.weights.copy()
    weights[1, 0] = wrong
    for bound in (
        lipschitz_bound(replace(problem, weights=weights)),
        proven_bound(replace(problem, weights=weights), np.ones(3)),
    ):
        assert bound.value >= wrong or bound.value == math.inf
    assert lipschitz_bound(replace(problem, high=problem.high * 1e300)).value == math.inf


@pytest.mark.parametrize("tiny", [5e-324, 1e-310, 1e-200, 1e-45])
def test_subnormal_weights(tiny: float) -> None:
    """They count as an error where they are too small to be multiplied."""
    problem = drawn(3, 3, 4, 2, 1.0)
    weights, output = problem.weights.copy(), problem.output.copy()
    weights[2, 1] = weights[3, 0] = output[0, 3] = tiny
    small = replace(problem, weights=weights, output=output)
    bound = lipschitz_bound(small)
    assert bound.value < math.inf
    assert holds(small, bound)
    assert lipschitz_bound(layered([np.full((2, 2), tiny), np.ones((1, 2))])).value >= np.sqrt(8.0) * tiny


def test_zero_rows_and_columns() -> None:
    problem = drawn(5, 4, 6, 3, 1.0)
    weights, output = problem.weights.copy(), problem.output.copy()
    weights[1] = 0.0  # a neuron that reads nothing
    weights[:, 5] = 0.0
    output[:, [4, 2]] = 0.0
    output[1] = 0.0
    weights[:, 2] = 0.0  # an input that nothing reads
    part = replace(problem, weights=weights, output=output)
    assert attained(part) <= lipschitz_bound(part).value * (1 + 1e-12)
    assert lipschitz_bound(replace(problem, output=np.zeros_like(output))).value == 0.0
    unread = replace(problem, weights=np.zeros_like(weights), output=output * (np.arange(10) >= 4))
    assert lipschitz_bound(unread).value == 0.0


def test_no_neurons_and_no_inputs() -> None:
    generator = np.random.default_rng(2)
    matrix = generator.standard_normal((3, 5))
    none = np.zeros(0)
    bound = lipschitz_bound(SlopeProblem(np.zeros((0, 5)), none, none, matrix))
    norm = float(np.linalg.svd(matrix, compute_uv=False)[0])
    assert norm <= bound.value <= norm * (1 + 1e-7)
    loose = lipschitz_bound(SlopeProblem(np.zeros((0, 5)), none, none, matrix, output_error=0.25))
    assert loose.value == pytest.approx(norm + 0.25 * math.sqrt(15.0), rel=1e-6)
    assert lipschitz_bound(SlopeProblem(np.zeros((2, 2)), np.zeros(2), np.ones(2), np.ones((1, 2)))).value == 0.0


def test_linear_neurons_are_put_in() -> None:
    """a = b, on the way, at the end and one behind the other; the bound is that of the rest."""
    problem = drawn(11, 3, 7, 2, 0.8)
    low, high = problem.low.copy(), problem.high.copy()
    low[[1, 2, 6]] = high[[1, 2, 6]] = (0.7, -1.3, 0.0)
    bound = lipschitz_bound(replace(problem, low=low, high=high))
    assert attained(replace(problem, low=low, high=high)) <= bound.value <= lipschitz_bound(problem).value * 1e3
    wide = np.where(low == high, 1e-5, 0.0)
    nearly = lipschitz_bound(replace(problem, low=low - wide, high=high + wide))
    assert bound.value == pytest.approx(nearly.value, rel=1e-3)
    everything = replace(problem, low=np.full(7, 0.5), high=np.full(7, 0.5))
    norm = float(np.linalg.norm(with_slopes(problem, np.full(7, 0.5)), 2))
    assert norm * (1 - 1e-12) <= lipschitz_bound(everything).value <= norm * (1 + 1e-7)


@pytest.mark.parametrize("inputs", [40, 300])
def test_long_inputs(inputs: int) -> None:
    """Repeating the inputs k times makes √k of the bound, whatever is done with long inputs."""
    problem = drawn(7, 3, 5, 2, 1.0)
    times = inputs // 3
    wide = SlopeProblem(
        np.concatenate([np.tile(problem.weights[:, :3], (1, times)), problem.weights[:, 3:]], axis=1),
        problem.low,
        problem.high,
        np.concatenate([np.tile(problem.output[:, :3], (1, times)), problem.output[:, 3:]], axis=1),
    )
    assert lipschitz_bound(wide).value == pytest.approx(lipschitz_bound(problem).value * math.sqrt(times), rel=1e-6)


def test_rank_deficient() -> None:
    """Equal neurons, equal outputs, and a long input of rank 1."""
    row, column = np.random.default_rng(3).standard_normal((1, 60)), np.ones((4, 1))
    value = lipschitz_bound(layered([np.repeat(row, 5, axis=0), np.ones((4, 5))])).value
    assert value == pytest.approx(float(np.linalg.norm(row)) * 5 * 2, rel=1e-6)
    assert lipschitz_bound(layered([column @ row, np.eye(4), np.ones((1, 4))])).value == pytest.approx(
        float(np.linalg.norm(row)) * 4, rel=1e-6
    )


@pytest.mark.parametrize("kind", ["number", "array"])
@pytest.mark.parametrize("seed", range(4))
def test_errors_of_the_matrices(kind: str, seed: int) -> None:
    """Every network within the errors has the bound, with the same multipliers."""
    problem, generator = drawn(seed, 2, 4, 2, 0.7), np.random.default_rng(seed)
    size = 1e-7
    weights_error: float | Real = size
    output_error: float | Real = size
    earlier = np.tri(4, 6, 1) > 0
    if kind == "array":
        weights_error, output_error = size * (problem.weights != 0.0), size * (problem.output != 0.0)
    around = replace(problem, weights_error=weights_error, output_error=output_error)
    bound = lipschitz_bound(around)
    exactly = lipschitz_bound(problem)
    assert exactly.value < bound.value < exactly.value * 1.01
    for _ in range(6):
        signs = [np.sign(generator.standard_normal(shape)) for shape in (problem.weights.shape, problem.output.shape)]
        other = replace(
            problem,
            weights=problem.weights + 0.999999 * weights_error * signs[0] * earlier,
            output=problem.output + 0.999999 * output_error * signs[1],
        )
        assert holds(other, bound)
        assert attained(other) <= bound.value


def test_residual_layers_of_norm_1() -> None:
    """SLL: x − 2 W T⁻¹ relu(Wᵀx), T = diag Σ_j |WᵀW|_ij q_j/q_i (Araujo et al., 2023, 2303.03169), four of them."""
    generator = np.random.default_rng(0)
    size, depth = 16, 4
    value, rows = np.concatenate([np.eye(size), np.zeros((size, depth * size))], axis=1), []
    for layer in range(depth):
        matrix, weight = generator.standard_normal((size, size)), np.exp(generator.standard_normal(size))
        scale = (np.abs(matrix.T @ matrix) * weight / weight[:, None]).sum(axis=1)
        rows.append(matrix.T @ value)
        step = np.zeros_like(value)
        step[:, (1 + layer) * size : (2 + layer) * size] = 2.0 * matrix / scale
        value = value - step
    zeros, ones = np.zeros(depth * size), np.ones(depth * size)
    # Four sums of at most 16 products: the matrices are exact to 1e-12.
    bound = lipschitz_bound(SlopeProblem(np.concatenate(rows), zeros, ones, value, 1e-12, 1e-12))
    assert 1.0 <= bound.value <= 1.0 + 1e-6


def test_a_deadline_that_is_over_leaves_the_closed_form() -> None:
    problem = layered([np.random.default_rng(4).standard_normal(shape) for shape in ((30, 4), (20, 30), (3, 20))])
    at_once = lipschitz_bound(problem, deadline=time.monotonic() - 1.0)
    best = lipschitz_bound(problem)
    assert at_once.iterations <= 1
    assert best.value < at_once.value < 2.0 * best.value


def test_known_multipliers_are_a_start() -> None:
    problem = drawn(9, 3, 12, 3)
    best = lipschitz_bound(problem)
    again = lipschitz_bound(problem, start=best.multipliers, deadline=time.monotonic() - 1.0)
    assert again.value == pytest.approx(best.value, rel=1e-5)
    assert lipschitz_bound(problem, start=np.full(12, math.nan)).value == pytest.approx(best.value, rel=1e-7)


def test_wrong_problems() -> None:
    weights, slope = np.zeros((2, 5)), np.zeros(2)
    with pytest.raises(ValueError, match="float32 and float64, slopes of float64 are not of float64"):
        SlopeProblem(weights.astype(np.float32), slope, slope, np.zeros((1, 5)))
    with pytest.raises(ValueError, match="complex"):
        SlopeProblem(weights + 0j, slope, slope, np.zeros((1, 5)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="do not belong together"):
        SlopeProblem(weights, slope, slope, np.zeros((1, 4)))
    with pytest.raises(ValueError, match="not those of 2 neurons"):
        SlopeProblem(weights, np.zeros(3), np.zeros(3), np.zeros((1, 5)))
    with pytest.raises(ValueError, match="not an interval"):
        SlopeProblem(weights, slope + 1.0, slope, np.zeros((1, 5)))
    with pytest.raises(ValueError, match="one that comes after"):
        SlopeProblem(np.eye(2, 5, 3), slope, slope, np.zeros((1, 5)))
    with pytest.raises(ValueError, match="not a finite number from 0 on"):
        lipschitz_bound(SlopeProblem(weights, slope, slope, np.zeros((1, 5)), weights_error=-1.0))


def test_exact_check_refuses() -> None:
    """The rational check itself: a bound a little too small, and a matrix with one negative eigenvalue."""
    problem = drawn(1, 2, 3, 2)
    bound = lipschitz_bound(problem)
    assert not holds(problem, replace(bound, value=bound.value * 0.999))
    assert not is_semidefinite(exact(np.array([[1.0, 2.0], [2.0, 1.0]])))
