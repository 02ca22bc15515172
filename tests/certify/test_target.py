"""The bound that gives a constant: products, skips, clipped weights, and what can't be reached."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.certify.target import NEAR, bound_for
from sn_graph.errors import ModelError


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(1, 30)), min_size=1, max_size=6),
    st.floats(1e-6, 1e6),
)
@settings(max_examples=300, deadline=None)
def test_polynomials(terms: list[tuple[float, int]], target: float) -> None:
    """Σ c bⁿ with n ≥ 1: any target is reached, in a few evaluations."""
    calls = 0

    def constant(bound: float) -> float:
        nonlocal calls
        calls += 1
        return math.fsum(c * bound**n for c, n in terms)

    bound = bound_for(target, constant)
    assert target * (1.0 - NEAR) <= constant(bound) <= target * (1.0 + 1e-12)
    assert calls <= 25


@pytest.mark.parametrize("floor", [0.5, 0.9, 0.999])
def test_a_skip_that_leaves_room(floor: float) -> None:
    bound = bound_for(1.0, lambda b: floor + 3.0 * b**4)
    assert 1.0 - NEAR <= floor + 3.0 * bound**4 <= 1.0


@pytest.mark.parametrize("floor", [1.0, 1.5, 1e9])
def test_a_skip_that_leaves_none_is_told(floor: float) -> None:
    with pytest.raises(ModelError, match="what is not folded has"):
        bound_for(1.0, lambda b: floor + b)


def test_clipped_weights_stay_as_they_are() -> None:
    """With --clip, a bound above every norm changes nothing, so that a large target is met by leaving all as it is."""
    norms = [0.5, 2.0, 3.0]

    def constant(bound: float) -> float:
        return math.prod(min(norm, bound) for norm in norms)

    assert constant(bound_for(100.0, constant)) == math.prod(norms)
    assert 2.0 * (1.0 - NEAR) <= constant(bound_for(2.0, constant)) <= 2.0


def test_a_network_that_gives_nothing_meets_every_target() -> None:
    assert bound_for(1.0, lambda _: 0.0) > 0.0


def test_a_constant_that_jumps_is_never_exceeded() -> None:
    """As where rounding of a 16-bit weight makes the norm a staircase."""

    def constant(bound: float) -> float:
        return math.ceil(bound * 64.0) / 64.0

    bound = bound_for(1.01, constant)
    assert constant(bound) == 1.0
