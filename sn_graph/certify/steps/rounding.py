"""Arithmetic of upper bounds: sums, products and roots of numbers that are not negative, rounded upwards.

IEEE 754 rounds each of these operations to the nearest float64, so the next number above is an upper bound of the exact
result. What is exactly 0 stays 0, also times infinity, because a map that is 0 lengthens nothing.
"""

import math
from collections.abc import Iterable

UNIT = 2.0**-53
"""The unit roundoff of float64."""


def raised(value: float) -> float:
    """Return the next number above a positive one; 0, infinity and NaN as they are."""
    return math.nextafter(value, math.inf) if value > 0.0 else value


def product(*factors: float) -> float:
    """Return a number that the product of numbers ≥ 0 does not exceed.

    >>> product(0.1, 3.0) > 0.3, product(0.0, math.inf)
    (True, 0.0)
    """
    if 0.0 in factors:
        return 0.0
    result = 1.0
    for factor in factors:
        if factor != 1.0:
            result = factor if result == 1.0 else math.nextafter(result * factor, math.inf)
    return result


def total(terms: Iterable[float]) -> float:
    """Return a number that the sum of numbers ≥ 0 does not exceed.

    >>> total([0.1, 0.2]) > 0.3
    True
    """
    result = 0.0
    for term in terms:
        if term != 0.0:
            result = term if result == 0.0 else _sum(result, term)
    return result


def _sum(a: float, b: float) -> float:
    """Return a + b where float64 has it, else the next number above the nearest (Knuth's TwoSum tells)."""
    nearest = a + b
    behind = nearest - a
    error = (a - (nearest - behind)) + (b - behind)
    return nearest if error == 0.0 else math.nextafter(nearest, math.inf)


def root(value: float) -> float:
    """Return a number that the square root of a number ≥ 0 does not exceed; exact where the root is whole."""
    found = math.sqrt(value)
    return found if found.is_integer() and found * found == value and value < 2.0**52 else raised(found)


def root_of_squares(terms: Iterable[float]) -> float:
    """Return a number that √Σtᵢ², of numbers ≥ 0, does not exceed.

    >>> root_of_squares([2.0]), 5.0 <= root_of_squares([3.0, 4.0]) < 5.00001
    (2.0, True)
    """
    kept = [term for term in terms if term != 0.0]
    if len(kept) < 2:
        return kept[0] if kept else 0.0
    largest = max(kept)
    if math.isinf(largest) or math.isnan(largest):
        return largest
    # The ratios are at most 1, so that no square overflows; one that vanishes is rounded up to the least number.
    ratios = (1.0 if term == largest else math.nextafter(term / largest, math.inf) for term in kept)
    return product(
        largest, root(total(1.0 if ratio == 1.0 else math.nextafter(ratio * ratio, math.inf) for ratio in ratios))
    )
