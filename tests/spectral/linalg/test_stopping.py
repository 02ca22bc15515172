"""The stopping rule by itself: the inequality that it stands on, and when it is met."""

import math

import mpmath
import numpy as np
import pytest

from sn_graph.spectral.linalg.lanczos import _expand
from sn_graph.spectral.linalg.stopping import Growth, StoppingRule, start_vector

TOLERANCE = 5e-7


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
    growth = Growth(float(eigenvalues[top]))
    for step, (alpha, beta) in enumerate(zip(diagonal, offdiagonal, strict=True), 2):
        growth.add(alpha, beta)
        # q_{j+1} = p_j(G) b, so its part on v₁ is p_j(λ₁) times that of b; the q are orthonormal.
        length = mpmath.sqrt(sum(part**2 for part in parts[:step]))
        assert growth.total == pytest.approx(float(mpmath.log(length / parts[0])), rel=1e-9)
        assert length <= 1


def test_growth_is_nothing_once_a_ritz_value_reaches_tau() -> None:
    growth = Growth(1.2)
    growth.add(1.0, 0.5)
    assert math.isfinite(growth.total)
    growth.add(1.0, 0.5)  # eigenvalues 0.5 and 1.5
    assert growth.total == -math.inf
    growth.add(0.0, 1e-9)
    assert growth.total == -math.inf


def first_met(rule: StoppingRule) -> int:
    """The step at which a rule is met on a spectrum without a gap, whose growth is slow."""
    values = 1 - np.linspace(0.0, 1.0, 300) ** 2 * 1e-2
    spaces = _expand(lambda x: values * x, start_vector(300), 300)
    return next(len(space.diagonal) for space in spaces if rule.met(space.diagonal, space.offdiagonal))


def test_vectors_that_are_not_orthogonal_take_longer() -> None:
    assert first_met(StoppingRule(300, TOLERANCE)) < first_met(StoppingRule(300, TOLERANCE, orthogonal=False))


@pytest.mark.parametrize("length", [1, 10, 4096, 4097])
@pytest.mark.parametrize("stream", [0, 1])
def test_start_vector(length: int, stream: int) -> None:
    drawn = np.random.default_rng(stream).standard_normal(length)
    assert start_vector(length, stream) == pytest.approx(drawn / np.linalg.norm(drawn), rel=1e-14, abs=0.0)
