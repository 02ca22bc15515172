"""difference.py against plain Python arithmetic."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sn_graph.runtime.parity import difference, tolerances


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(allow_nan=True, allow_infinity=True, width=32)] * 2),
        max_size=6,
    )
)
def test_floats_follow_the_rule_of_the_docstring(pairs: list[tuple[Any, Any]]) -> None:
    a, b = np.array([p[0] for p in pairs], "f"), np.array([p[1] for p in pairs], "f")
    differing = [(x, y) for x, y in pairs if not (x == y or (math.isnan(x) and math.isnan(y)))]
    gaps = [abs(x - y) for x, y in differing]
    scale = max((abs(y) for _, y in pairs if math.isfinite(y)), default=0.0)
    expected = all(gap <= 1e-6 + 1e-4 * scale for gap in gaps)
    result = difference(a, b, 1e-4, 1e-6)
    assert result.ok == expected
    if not any(map(math.isnan, gaps)):
        assert result.max_abs == max(gaps, default=0.0)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2), max_size=5))
def test_int64_distance_is_exact(pairs: list[tuple[Any, Any]]) -> None:
    a, b = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
    result = difference(a, b, 0.0, 0.0)
    assert result.ok == (a.tolist() == b.tolist())
    assert result.max_abs == float(max((abs(x - y) for x, y in pairs), default=0))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.array([np.nan, 1.0]), np.array([1.0, np.nan])),
        (np.array([np.inf]), np.array([-np.inf])),
        (np.array([1e308]), np.array([-1e308])),
        (np.zeros((2, 0), "f"), np.zeros((0, 2), "f")),
        (np.zeros(2, "f"), np.zeros(2, "d")),
        (np.zeros(2, "f"), np.array(["a", "b"], object)),
        (np.array([2**53], np.int64), np.array([2**53 + 1], np.int64)),
        (np.array([255], np.uint8), np.array([0], np.uint8)),
        (np.array([2**64 - 1], np.uint64), np.array([0], np.uint64)),
        (np.array([True]), np.array([False])),
        (np.array(["a"], object), np.array(["b"], object)),
        (np.array(1.0), np.array(1.1)),
    ],
)
def test_different(a: NDArray[Any], b: NDArray[Any]) -> None:
    assert not difference(a, b, 1e-4, 1e-6).ok


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan, np.inf, -np.inf, 0.0]),
        np.zeros((3, 0), "f"),
        np.float32(3.0).reshape(()),
        np.array([1 + 2j, np.inf], np.complex64),
        np.array(["ü", ""], object),
        np.array([np.nan, 1, 448], ml_dtypes.float8_e4m3fn),
        np.array([1.5, np.inf], ml_dtypes.bfloat16),
    ],
)
def test_equal_to_itself(array: NDArray[Any]) -> None:
    assert difference(array, array.copy(), 0.0, 0.0) == (0.0, 0.0, True)


def test_relative_figure_uses_the_right_side() -> None:
    assert difference(np.array([1.0, 8.0]), np.array([2.0, 4.0]), 0.0, 0.0) == (4.0, 1.0, False)
    assert difference(np.array([1.0]), np.array([0.0]), 0.0, 0.0).max_rel_norm == math.inf


def test_tolerances_follow_the_type_and_options_reach_floats_only() -> None:
    table = {"float64": (1e-9, 1e-12), "float32": (1e-4, 1e-6), "float16": (1e-2, 1e-3)}
    assert {name: tolerances(np.dtype(name)) for name in table} == table
    assert tolerances(np.dtype(ml_dtypes.bfloat16)) == (5e-2, 1e-2)
    assert tolerances(np.dtype("float32"), rtol=0.5) == (0.5, 1e-6)
    assert tolerances(np.dtype("float64"), passed=[np.dtype("int8"), np.dtype("float16")]) == (1e-2, 1e-12)
    assert tolerances(np.dtype("float16"), atol=0.0, passed=[np.dtype("float32")]) == (1e-2, 0.0)
    assert tolerances(np.dtype("int64"), passed=[np.dtype("float16")]) == (0.0, 0.0)
    assert tolerances(np.dtype("int64"), 0.5, 0.5) == (0.0, 0.0)
    assert tolerances(np.dtype("bool"), 0.5, 0.5) == (0.0, 0.0)
