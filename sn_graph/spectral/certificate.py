"""A divisor that keeps a weight below a bound for certain, once its elements are rounded to the type that stores them.

    stored = round(M · c/d),  ‖stored‖₂ ≤ c

In float32 and float64 the rounding is bounded beforehand: the factor changes by a relative u at most, and each product
by another, so ‖stored‖₂ ≤ (‖M‖₂ + u‖M‖_F)(1 + u)·c/d, and d = (‖M‖₂ + u‖M‖_F)(1 + u) will do. That is 1e-7 to 2e-6
above σ, and reads nothing. In float16 and bfloat16 it would be several per cent, for nothing, since
the roundings of the elements nearly cancel in the norm; so there the stored matrix itself is proven to be within c, and
d raised if it isn't.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.bound import Bracket, bracket, upper_bound

# A factor to the matrix as it would be stored.
Store = Callable[[float], NDArray[Any]]

# Where nothing but rounding stands between, the tenth attempt has passed what the rounding can do.
ATTEMPTS = 40
# u of the arithmetic that scales, rounding to nearest.
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
        store: The factor c/d to the matrix as it would be stored, for a weight whose way there is another than
            multiplying each element by the factor in float32 (float64 for float64) and rounding to the matrix's type.

    Returns:
        d, a little above the norm of M; with it the factor is `bound / d`. 0 for a zero or empty matrix, NaN for a
        non-finite one, infinity where no divisor was found: no number of that type is as small as the bound.

    >>> weight = np.eye(3, dtype=np.float16) * np.float16(3.0)
    >>> divisor = certified_divisor(weight, 0.7)
    >>> bool(np.max(weight * np.float16(0.7 / divisor)) <= 0.7)
    True
    """
    known = bracket(matrix) if found is None else found
    if not known.upper > 0.0 or not math.isfinite(known.upper):
        return known.upper
    if store is None and matrix.dtype in ROUNDING:
        return _beforehand(known, bound, matrix.size, matrix.dtype)
    kept = store or (lambda factor: stored(matrix, factor))
    return raised_divisor(known.upper, bound, lambda factor: upper_bound(kept(factor)))


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
        proven: The factor c/d to a proven upper bound of the norm of what is stored with it.

    Returns:
        The first divisor that will do, each attempt twice as far from the last: rounding may hold on to a value.
        Infinity where none was found.
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


def stored(matrix: NDArray[Any], factor: float) -> NDArray[Any]:
    """Multiply a matrix by a factor as folding does: in float32 (float64 for float64), rounded to the matrix's type."""
    work = np.dtype(np.float64 if matrix.dtype == np.float64 or not 2.0**-100 < factor < 2.0**100 else np.float32)
    out = np.empty_like(matrix)
    step = max(1, (1 << 20) // max(1, matrix.shape[1]))
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, len(matrix), step):
            rows = slice(start, start + step)
            out[rows] = np.multiply(matrix[rows], work.type(factor), dtype=work).astype(matrix.dtype)
    return out
