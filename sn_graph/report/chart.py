"""Charts: numbers on axes, as the places where a drawing of 340 × 210 has them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 12, 34
_DECADES = 30.0  # largest over smallest, beyond which bars need a logarithmic scale


@dataclass(frozen=True)
class Axis:
    """An axis: values from `low` to `high`, linear or by their logarithm, on 0 to 1.

    >>> Axis(1.0, 100.0, True).place(10.0)
    0.5
    """

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value stands; values beyond the ends stand at them."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return min(max((at - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return round values along the axis, about as many as wanted.

        >>> Axis(0.0, 2.3).ticks(), Axis(1e-9, 1.0, True).ticks(4)
        ([0.0, 0.5, 1.0, 1.5, 2.0], [1e-09, 1e-06, 0.001, 1.0])
        """
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            decades = max(1, round((last - first) / max(wanted - 1, 1)))
            return [10.0**exponent for exponent in range(first, last + 1, decades)]
        if self.high <= self.low:
            return [self.low]
        rough = (self.high - self.low) / wanted
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * unit >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def bar_axis(values: Iterable[float | None]) -> Axis:
    """Return the scale that all bars of a table share: from 0, or logarithmic where the values are far apart.

    >>> bar_axis([0.5, 2.0]), bar_axis([1e-3, 2.0, None, 0.0])
    (Axis(low=0.0, high=2.0, logarithmic=False), Axis(low=0.0001, high=10.0, logarithmic=True))
    """
    known = [value for value in values if value is not None and math.isfinite(value) and value > 0.0]
    if not known:
        return Axis(0.0, 1.0)
    low, high = min(known), max(known)
    if high / low <= _DECADES:
        return Axis(0.0, high)
    return Axis(10.0 ** (math.floor(math.log10(low) + 1e-9) - 1), 10.0 ** math.ceil(math.log10(high) - 1e-9), True)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, in the drawing's units."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """Points of a drawing, joined: "x,y x,y …"."""

    points: str


@dataclass(frozen=True)
class Chart:
    """A drawing with two axes.

    Attributes:
        across, up: The marks on both axes.
        lines: Joined points.
        dots: Points alone.
        level: The height of a line across, or None.
    """

    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[tuple[float, float], ...] = ()
    level: float | None = None


def spectrum_chart(values: Sequence[float]) -> Chart:
    """Draw singular values, the largest first, over the largest."""
    shares = [value / values[0] if values[0] else 0.0 for value in values]
    across, up = Axis(1.0, float(max(len(values), 2))), Axis(0.0, 1.0)
    dots = tuple((_x(across.place(index)), _y(up.place(share))) for index, share in enumerate(shares, 1))
    whole = [tick for tick in across.ticks(4) if tick == int(tick) and tick >= 1.0]
    return Chart(
        tuple(Tick(_x(across.place(tick)), f"{tick:g}") for tick in dict.fromkeys([1.0, *whole])),
        tuple(Tick(_y(up.place(tick)), f"{tick:g}") for tick in up.ticks(4)),
        dots=dots,
    )


def estimates_chart(calls: Sequence[int], runs: Sequence[Sequence[float]], sigma: float, floor: float = 1e-8) -> Chart:
    """Draw how far estimates are below σ, relative to it and not below `floor`, over the numbers of calls."""
    across, up = Axis(float(calls[0]), float(calls[-1]), True), Axis(floor, 1.0, True)
    lines = tuple(
        Line(
            " ".join(
                f"{_x(across.place(call)):.1f},{_y(up.place(max(1.0 - estimate / sigma, floor))):.1f}"
                for call, estimate in zip(calls, run, strict=True)
            )
        )
        for run in runs
    )
    return Chart(
        tuple(Tick(_x(across.place(tick)), f"{tick:g}") for tick in across.ticks(4)),
        tuple(Tick(_y(up.place(tick)), f"{tick:.0e}" if tick < 0.01 else f"{tick:g}") for tick in up.ticks(5)),
        lines,
        level=_y(up.place(1e-6)),
    )


def _x(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(share: float) -> float:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)
