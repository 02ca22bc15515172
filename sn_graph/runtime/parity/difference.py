"""Differences: how far two arrays lie apart, and how far they may.

Equal enough: max|a - b| <= atol + rtol * max|b|, with NaN equal to NaN, and infinity to the same infinity, in the
same place. The maximum of the whole array sets the scale, not each element, because an element near zero is the
difference of large ones.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# dtype -> rtol, atol. The 8-bit floats: one unit in the last place of the coarsest of them.
TOLERANCES = {
    "float64": (1e-9, 1e-12),
    "float32": (1e-4, 1e-6),
    "float16": (1e-2, 1e-3),
    "bfloat16": (5e-2, 1e-2),
    "complex128": (1e-9, 1e-12),
    "complex64": (1e-4, 1e-6),
}
_FLOAT8 = (2.5e-1, 6.25e-2)


class Difference(NamedTuple):
    """How far two arrays lie apart; NaN where no number can tell (other shapes, a NaN on one side only, text).

    Attributes:
        max_abs: max|a-b|.
        max_rel_norm: max|a-b| / max|b|, 0 for 0/0.
        ok: Whether that is near enough.
    """

    max_abs: float
    max_rel_norm: float
    ok: bool


def tolerances(
    dtype: np.dtype[Any],
    rtol: float | None = None,
    atol: float | None = None,
    passed: Collection[np.dtype[Any]] = (),
) -> tuple[float, float]:
    """Return rtol and atol for a dtype: those given, if any, for floats; zeros for all else, which must be equal.

    Args:
        dtype: Of the arrays.
        rtol, atol: In place of the type's own.
        passed: The types in which some of what made the arrays was rounded; the coarsest of all says how far they may
            lie apart relatively. It says nothing about what counts as zero in arrays of this type.
    """
    own = _defaults(dtype)
    if own is None:
        return 0.0, 0.0
    known = [own, *filter(None, map(_defaults, passed))]
    return (
        max(relative for relative, _ in known) if rtol is None else rtol,
        own[1] if atol is None else atol,
    )


def _defaults(dtype: np.dtype[Any]) -> tuple[float, float] | None:
    return TOLERANCES.get(dtype.name, _FLOAT8 if dtype.name.startswith("float8") else None)


def difference(a: NDArray[Any], b: NDArray[Any], rtol: float, atol: float) -> Difference:
    """Compare two arrays of any dtype that a model can return; different shapes or dtypes are never ok."""
    if a.shape != b.shape or _family(a) != _family(b) or (_family(a) == "number" and a.dtype != b.dtype):
        return Difference(np.nan, np.nan, False)
    if _family(a) == "text":
        same = bool(np.array_equal(a, b))
        return Difference(0.0 if same else np.nan, 0.0 if same else np.nan, same)
    if a.dtype.kind in "biu" or a.dtype.name in ("int4", "uint4"):
        return _integers(a, b)
    return _floats(a, b, rtol, atol)


def _family(array: NDArray[Any]) -> str:
    return "text" if array.dtype.kind in "OUS" else "number"


def _integers(a: NDArray[Any], b: NDArray[Any]) -> Difference:
    wide = np.uint64 if a.dtype == np.uint64 else np.int64
    x, y = a.astype(wide), b.astype(wide)
    # Subtracted modulo 2^64 and read as unsigned, the distance is exact even from one end of int64 to the other.
    distance = int(np.where(x > y, x - y, y - x).view(np.uint64).max(initial=0))
    scale = max(abs(int(y.max())), abs(int(y.min()))) if y.size else 0
    return Difference(float(distance), _ratio(float(distance), float(scale)), distance == 0)


def _floats(a: NDArray[Any], b: NDArray[Any], rtol: float, atol: float) -> Difference:
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    max_abs = float(apart.max(initial=0.0))
    scale = float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
    return Difference(max_abs, _ratio(max_abs, scale), bool(max_abs <= atol + rtol * scale))


def _ratio(distance: float, scale: float) -> float:
    if distance == 0.0:
        return 0.0
    return distance / scale if scale else (np.nan if np.isnan(distance) else np.inf)
