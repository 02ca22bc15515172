"""Evidence: what a comparison of two outputs says little about, though it may be passed.

NaN equals NaN, a dead ReLU is 0 whatever the weights are, an empty output agrees with every other, and beside a channel
of 1e6 a negated one of 1 is within what is allowed. None of it changes the verdict; a reader must know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Integers that are all equal say little where there are so many of them.
_MANY = 8


def doubts(a: NDArray[Any], b: NDArray[Any], rtol: float, atol: float) -> tuple[str, ...]:
    """Return why a comparison of two outputs of one shape and type proves little, each reason with what would help.

    Args:
        a, b: The outputs, of numbers, booleans or text.
        rtol, atol: What they may differ by: atol + rtol · max|b|.
    """
    if b.size == 0:
        return ("it has no elements, so it agrees with anything; give a larger --dim, or --inputs",)
    if b.dtype.kind in "OUS":
        return ()
    if b.dtype.kind in "biu" or b.dtype.name in ("int4", "uint4"):
        same = b.size >= _MANY and bool((b == b.reshape(-1)[0]).all())
        return (f"each of its {b.size} values is {b.reshape(-1)[0]}{_OTHERS}",) if same else ()
    wide = np.complex128 if b.dtype.kind == "c" else np.float64
    return tuple(_of_floats(a.astype(wide), b.astype(wide), rtol, atol))


_OTHERS = "; other inputs may tell more (--inputs, --seed)"


def _of_floats(a: NDArray[Any], b: NDArray[Any], rtol: float, atol: float) -> Iterator[str]:
    finite = np.isfinite(b)
    if not finite.any():
        what = "NaN" if np.isnan(b).all() else "NaN or infinity"
        yield f"all its values are {what}, which count as equal{_OTHERS}"
        return
    if 2 * np.count_nonzero(finite) <= b.size:
        share = f"{b.size - np.count_nonzero(finite)} of its {b.size} values"
        yield f"{share} are NaN or infinity, which count as equal{_OTHERS}"
    sizes = np.where(finite, np.abs(b), 0.0)
    allowed = atol + rtol * float(sizes.max())
    values = b[finite]
    if not sizes.any():
        yield f"all its values are 0, as behind a dead ReLU{_OTHERS}"
    elif sizes.max() <= atol:
        yield f"its largest value {sizes.max():.3g} is not above --atol {atol:g}, so it agrees with 0; give less"
    elif values.size > 1 and np.ptp(values.real) <= allowed and np.ptp(values.imag) <= allowed:
        yield f"all its values are about {values[0]:.3g}, as behind a saturated function{_OTHERS}"
    elif values.size > 2 and _levels(values, allowed) <= 2:
        yield f"its values are all about {values.min():.3g} or {values.max():.3g}, as saturated ones are{_OTHERS}"
    else:
        with np.errstate(invalid="ignore"):
            apart = np.where(finite, np.abs(a - b), 0.0)
        yield from _hidden(apart, sizes, rtol, atol)


def _levels(values: NDArray[Any], allowed: float) -> int:
    """Count the values that the tolerance tells apart, up to 3."""
    if values.dtype.kind == "c":
        return 3
    low, high = values.min(), values.max()
    between = (values > low + allowed) & (values < high - allowed)
    return 3 if between.any() else 2


def _hidden(apart: NDArray[Any], sizes: NDArray[Any], rtol: float, atol: float) -> Iterator[str]:
    """Yield where the scale of the whole output hides a part of it: a sample, a channel, a place on the last axis."""
    allowed = atol + rtol * float(sizes.max())
    worst, told = 1.0, ""
    for axis, name in _axes(sizes.ndim):
        others = tuple(other for other in range(sizes.ndim) if other != axis)
        scales, distances = sizes.max(axis=others), apart.max(axis=others)
        if len(scales) < 2:
            continue
        largest = int(scales.argmax())
        excess = distances / np.maximum(atol + rtol * scales, np.finfo(np.float64).tiny)
        part = int(excess.argmax())
        rest = float(np.delete(scales, largest).max())
        if excess[part] > worst:
            worst = float(excess[part])
            told = (
                f"{name} {part} is off by {distances[part]:.3g} where its own largest value is {scales[part]:.3g}: "
                f"what is allowed follows from {name} {largest} ({scales[largest]:.3g}); give a smaller --rtol"
            )
        elif not told and 0.0 < rest <= allowed:
            told = (
                f"{name} {largest} ({scales[largest]:.3g}) is so much larger than all others (up to {rest:.3g}) that "
                "they agree with 0; give a smaller --rtol"
            )
    if told:
        yield told


def _axes(rank: int) -> Iterator[tuple[int, str]]:
    """Yield the axes along which a scale of its own is looked for: samples, the last one, channels in between."""
    if rank >= 1:
        yield rank - 1, "place on the last axis" if rank > 1 else "element"
    if rank >= 2:
        yield 0, "sample"
    if rank >= 3:
        yield 1, "channel"
