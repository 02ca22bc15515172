"""Divisors that keep a weight within a bound for certain, once its elements are rounded to the type that stores them.

    stored = round(M · c/d),  ‖stored‖₂ ≤ c

In float32 and float64 the rounding is bounded beforehand: the factor changes by a relative u at most, and each product
by another, so ‖stored‖₂ ≤ (‖M‖₂ + u‖M‖_F)(1 + u)·c/d, and d = (‖M‖₂ + u‖M‖_F)(1 + u) will do. That is 1e-7 to 2e-6
above σ, and reads nothing. In float16 and bfloat16 it would be several per cent, in vain, because the roundings of the
elements nearly cancel in the norm; so there the stored matrix itself is proven to be within c, and d raised if it is
not. The caller, who knows how the weight is stored, gives what is stored after a factor.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.matrix.bound import Bracket, bracket, upper_bound

# Returns the matrix as it is stored after scaling by a factor.
Store = Callable[[float], NDArray[Any]]

# Where only rounding stands between, the tenth attempt has passed what the rounding can do.
ATTEMPTS = 40
# u of the arithmetic that scales, rounding to nearest; the types whose rounding is bounded beforehand.
ROUNDING = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
# An element too small for the type's exponents is rounded by as much as this.
UNDERFLOW = {np.dtype(np.float32): 2.0**-149, np.dtype(np.float64): 2.0**-1074}


def certified_divisor(
    matrix: NDArray[Any], bound: float, found: Bracket | None = None, store: Store | None = None
) -> float:
    """Find a divisor d such that M · (bound / d), as stored, has a spectral norm of at most `bound`, proven.

    Args:
        matrix: M [rows, columns], float16, bfloat16, float32 or float64, in the type that it is stored in.
        bound: c, above 0.
        found: What `bracket` gave for the matrix, if it is known.
        store: Returns the matrix as it is stored after scaling by a factor c/d. None: each element is multiplied by the
            factor in the matrix's type, float32 or float64; a matrix of another type needs it.

    Returns:
        d, a little above the norm of M; with it the factor is `bound / d`. 0 for a zero or empty matrix, NaN for a
        non-finite one, infinity where no divisor was found: no number of that type is as small as the bound.

    Raises:
        ValueError: The matrix is float16 or bfloat16, and `store` is None.

    >>> weight = np.eye(3, dtype=np.float16) * np.float16(3.0)
    >>> divisor = certified_divisor(weight, 0.7, store=lambda factor: weight * np.float16(factor))
    >>> bool(np.max(weight * np.float16(0.7 / divisor)) <= 0.7)
    True
    """
    if store is None and matrix.dtype not in ROUNDING:
        raise ValueError(
            f"a {matrix.dtype.name} matrix has no divisor without `store`, because its rounding is not bounded "
            "beforehand; give what returns the matrix as it is stored after scaling by a factor"
        )
    known = bracket(matrix) if found is None else found
    if not known.upper > 0.0 or not math.isfinite(known.upper):
        return known.upper
    if store is None:
        return _beforehand(known, bound, matrix.size, matrix.dtype)
    return raised_divisor(known.upper, bound, lambda factor: upper_bound(store(factor)))


def _beforehand(known: Bracket, bound: float, size: int, dtype: np.dtype[Any]) -> float:
    unit = ROUNDING[dtype]
    lost = math.sqrt(size) * UNDERFLOW[dtype] / bound
    if lost >= 0.5:
        return math.inf
    return (known.upper + unit * known.frobenius) * (1.0 + unit) / (1.0 - lost) * (1.0 + 2.0**-48)


def raised_divisor(divisor: float, bound: float, proven: Callable[[float], float]) -> float:
    """Raise a divisor until what is stored with it is proven to be within a bound.

    Args:
        divisor: Where to begin.
        bound: c, above 0.
        proven: Returns a proven upper bound of the norm of what is stored after a factor c/d.

    Returns:
        The first divisor that will do, each attempt twice as far from the last (rounding may hold on to a value);
        infinity where none was found.
    """
    stride = 1.0
    for _ in range(ATTEMPTS):
        reached = proven(bound / divisor)
        if reached <= bound:
            return divisor
        if not math.isfinite(reached):
            break
        divisor *= 1.0 + stride * (reached / bound - 1.0)
        stride *= 2.0
    return math.inf
