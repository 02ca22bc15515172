"""Sums, products and roots that are rounded upwards, against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sn_graph.certify.steps import product, root, root_of_squares, total

NUMBERS = st.lists(st.floats(0.0, 1e100, allow_nan=False), max_size=6)


def above(value: float, exact: Fraction) -> bool:
    """Whether a float is at or above a fraction, and near it."""
    return math.isinf(value) or (
        Fraction(value) >= exact and (exact == 0 or value <= float(exact) * (1 + 1e-14) + 1e-300)
    )


@given(NUMBERS)
def test_sums(numbers: list[float]) -> None:
    assert above(total(numbers), sum(map(Fraction, numbers), Fraction(0)))


@given(NUMBERS)
def test_products(numbers: list[float]) -> None:
    exact = Fraction(1)
    for number in numbers:
        exact *= Fraction(number)
    found = product(*numbers)
    assert math.isinf(found) or Fraction(found) >= exact


@given(st.floats(0.0, 1e300))
def test_roots(number: float) -> None:
    assert Fraction(root(number)) ** 2 >= Fraction(number)


@given(st.lists(st.floats(0.0, 1e300), max_size=6))
def test_roots_of_squares(numbers: list[float]) -> None:
    found = root_of_squares(numbers)
    assert math.isinf(found) or Fraction(found) ** 2 >= sum((Fraction(one) ** 2 for one in numbers), Fraction(0))


def test_what_is_exact_stays() -> None:
    assert total([1.0, 2.0, 0.5]) == 3.5
    assert product(2.0, 1.0) == 2.0
    assert root(9.0) == 3.0
    assert product(0.0, math.inf) == 0.0
