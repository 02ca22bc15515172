"""The stopping rule by itself: the inequality that it stands on, and when it is met."""

import math

import mpmath
import numpy as np
import pytest

from sn_graph.spectral.linalg.lanczos import _expand
from sn_graph.spectral.linalg.stopping import Growth, StoppingRule, is_blurred, start_vector


def test_rule_bounds_the_hidden_component() -> None:
    """|v₁·b| ≤ 1 / √S_k(λ₁), the inequality that the rule stands on, in 50 digits."""
    mpmath.mp.dps = 50
    eigenvalues = [mpmath.mpf(i) / 7 for i in range(1, 12)]
    start = [mpmath.mpf(1) / (i + 2) for i in range(11)]
    norm = mpmath.sqrt(sum(x * x for x in start))
    current = [x / norm for x in start]
    before, beta = [mpmath.mpf(0)] * 11, mpmath.mpf(0)
    diagonal: list[float] = []
    offdiagonal: list[float] = []
    top = len(eigenvalues) - 1
    parts = [current[top]]
    for _ in range(6):
        image = [a * x for a, x in zip(eigenvalues, current, strict=True)]
        alpha = sum(x * y for x, y in zip(current, image, strict=True))
        rest = [y - alpha * x - beta * z for x, y, z in zip(current, image, before, strict=True)]
        beta = mpmath.sqrt(sum(x * x for x in rest))
        before, current = current, [x / beta for x in rest]
        diagonal.append(float(alpha))
        offdiagonal.append(float(beta))
        parts.append(current[top])
    growth = Growth(float(eigenvalues[top]), len(eigenvalues))
    for step, (alpha, beta) in enumerate(zip(diagonal, offdiagonal, strict=True), 2):
        growth.add(alpha, beta)
        # q_{j+1} = p_j(G) b, so its part on v₁ is p_j(λ₁) times that of b; the q are orthonormal.
        length = mpmath.sqrt(sum(part**2 for part in parts[:step]))
        assert growth.total == pytest.approx(float(mpmath.log(length / parts[0])), rel=1e-9)
        assert length <= 1


def test_growth_is_nothing_once_a_ritz_value_reaches_tau() -> None:
    growth = Growth(1.2, 3)
    growth.add(1.0, 0.5)
    assert math.isfinite(growth.total)
    growth.add(1.0, 0.5)  # eigenvalues 0.5 and 1.5
    assert growth.total == -math.inf
    growth.add(0.0, 1e-9)
    assert growth.total == -math.inf


def first_met(rule: StoppingRule) -> int:
    """The step at which a rule is met on a spectrum without a gap, whose growth is slow."""
    values = np.linspace(0.0, 1.0, 1500)
    spaces = _expand(lambda x: values * x, start_vector(1500, 0), 1000, 0)
    return next(len(space.diagonal) for space in spaces if rule.met(space.diagonal, space.offdiagonal))


def test_vectors_that_are_not_orthogonal_take_longer() -> None:
    assert first_met(StoppingRule(1500, 1e-3)) < first_met(StoppingRule(1500, 1e-3, orthogonal=False))


def test_growth_counts_a_start_that_ends_by_the_rounding_errors_alone() -> None:
    """β = 0 would prove everything: it stands for an error of `noise`, and the next step begins another start."""
    growth = Growth(1.0, 100, noise=1e-3)
    growth.add(0.5, 0.0)
    grown = 0.5 * math.log(1 + (0.5 / 1e-3) ** 2)
    assert growth.total == pytest.approx(grown, rel=1e-12)
    one = 0.5 * math.log(200 / math.pi) - grown
    assert growth.failure == pytest.approx(one, rel=1e-12)
    growth.add(0.5, 0.0)
    # Of two starts, P(X₁X₂ ≤ X) ≤ X (1 − ln X).
    assert growth.failure == pytest.approx(2 * one + math.log(1 - 2 * one), rel=1e-12)


def test_a_start_that_proves_nothing_does_not_take_from_the_others() -> None:
    growth = Growth(1.0, 100, noise=0.4)
    growth.add(0.5, 0.0)
    assert growth.failure == pytest.approx(0.0, abs=1e-12)
    growth.add(0.5, 1e-6)  # the noise counts in place of a β below it
    assert growth.failure == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("starts", [1, 2, 3, 5])
def test_the_probability_that_all_starts_miss(starts: int) -> None:
    """(1), where it is an equality: products of uniform numbers."""
    products = np.random.default_rng(starts).random((400_000, starts)).prod(axis=1)
    for chance in (0.3, 0.03, 3e-3):
        bound = chance * sum((-math.log(chance)) ** j / math.factorial(j) for j in range(starts))
        assert np.mean(products <= chance) == pytest.approx(bound, rel=0.1)


def test_a_rule_with_less_certainty_is_met_sooner() -> None:
    assert first_met(StoppingRule(1500, 1e-3, failure=0.1)) < first_met(StoppingRule(1500, 1e-3))


@pytest.mark.parametrize(("zeros", "dtype", "expected"), [(4, "f", True), (3, "f", False), (9, "d", False)])
def test_blurred(zeros: int, dtype: str, expected: bool) -> None:
    assert is_blurred([0.5] + [0.0] * zeros, np.dtype(dtype)) is expected
    assert not is_blurred([0.0] * zeros + [0.5], np.dtype(dtype))


@pytest.mark.parametrize("length", [1, 10, 4097])
def test_start_vector(length: int) -> None:
    found = start_vector(length, 7)
    assert np.linalg.norm(found) == pytest.approx(1.0, rel=1e-14)
    assert np.array_equal(found, start_vector(length, 7))
    for other in (start_vector(length, 8), start_vector(length, 7, stream=1)):
        assert length == 1 or abs(float(found @ other)) < 0.9
