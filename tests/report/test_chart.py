"""Axes and charts: everything stands inside the drawing, and in order."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sn_graph.report.chart import HEIGHT, WIDTH, Axis, Chart, bar_axis, estimates_chart, spectrum_chart

POSITIVE = st.floats(1e-30, 1e30)


@given(values=st.lists(st.one_of(st.none(), st.just(0.0), st.just(math.inf), POSITIVE), max_size=9))
def test_bars_of_one_scale_keep_their_order(values: list[float | None]) -> None:
    axis = bar_axis(values)
    known = sorted(value for value in values if value is not None and math.isfinite(value))
    places = [axis.place(value) for value in known]
    assert places == sorted(places)
    assert all(0.0 <= place <= 1.0 for place in places)
    if known and known[0] > 0.0:
        assert places[0] > 0.0, "a norm that is there can be seen"
    assert all(axis.low <= tick * (1 + 1e-9) and tick <= axis.high * (1 + 1e-9) for tick in axis.ticks())


@given(low=POSITIVE, factor=st.floats(1.5, 1e12), logarithmic=st.booleans())
def test_an_axis_has_a_few_round_ticks(low: float, factor: float, logarithmic: bool) -> None:
    ticks = Axis(low, low * factor, logarithmic).ticks()
    assert len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    if not logarithmic:
        assert len(ticks) >= 2


def points(chart: Chart) -> list[tuple[float, float]]:
    pairs = [point.split(",") for line in chart.lines for point in line.points.split()]
    return [*chart.dots, *((float(x), float(y)) for x, y in pairs)]


@given(values=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=70))
def test_spectra_fall_inside_the_drawing(values: list[float]) -> None:
    chart = spectrum_chart(sorted(values, reverse=True))
    assert all(0.0 <= x <= WIDTH and 0.0 <= y <= HEIGHT for x, y in points(chart))
    heights = [y for _, y in chart.dots]
    assert heights == sorted(heights), "the largest first, and y grows downwards"


def test_estimates_approach_sigma_and_never_pass_it() -> None:
    chart = estimates_chart([1, 10, 100], [[0.5, 0.9, 1.0], [0.1, 1.0 + 1e-12, 1.0]], sigma=1.0)
    assert [len(line.points.split()) for line in chart.lines] == [3, 3]
    assert all(0.0 <= x <= WIDTH and 0.0 <= y <= HEIGHT for x, y in points(chart))
    first = [float(point.split(",")[1]) for point in chart.lines[0].points.split()]
    assert first == sorted(first)
    assert chart.level is not None
    assert first[1] < chart.level < first[2]
