"""The power iteration against its formula in plain float64, and at the scales where the formula's floor would act."""

import math
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sn_graph.spectral.matrix.power import Side, power_iteration, seeded_state

TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
SIDES: tuple[Side, ...] = ("rows", "cols")


def textbook(matrix: NDArray[Any], state: NDArray[Any], iterations: int, side: Side) -> tuple[float, NDArray[Any]]:
    wide = matrix.astype(np.float64) if side == "rows" else matrix.astype(np.float64).T
    sigma = 0.0
    for _ in range(iterations):
        across = wide.T @ state
        across = across / max(float(np.linalg.norm(across)), 1e-12)
        state = wide @ across
        sigma = float(np.linalg.norm(state))
        state = state / max(sigma, 1e-12)
    return sigma, state


def drawn(rows: int, columns: int, kind: Any, side: Side, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.float64]]:
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)).astype(kind)
    return matrix, seeded_state(seed, "weight", rows if side == "rows" else columns)


@settings(max_examples=60)
@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.sampled_from(TYPES),
    st.sampled_from(SIDES),
    st.integers(1, 4),
    st.booleans(),
)
def test_equals_the_formula(rows: int, columns: int, kind: Any, side: Side, iterations: int, fortran: bool) -> None:
    matrix, state = drawn(rows, columns, kind, side)
    result = power_iteration(np.asfortranarray(matrix) if fortran else matrix, state, iterations, side)
    sigma, final = textbook(matrix, state, iterations, side)
    assert result.sigma == pytest.approx(sigma, rel=1e-11)
    assert result.state.dtype == (np.float64 if kind is np.float64 else np.float32)
    # The state is rounded to float32 at the end.
    np.testing.assert_allclose(result.state, final, atol=1e-7)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [(200_000, 64), (64, 100_000), (1500, 2000)])
def test_many_blocks(shape: tuple[int, int], side: Side) -> None:
    matrix, state = drawn(*shape, np.float32, side)
    result = power_iteration(matrix, state, 2, side)
    assert result.sigma == pytest.approx(textbook(matrix, state, 2, side)[0], rel=1e-11)


@pytest.mark.parametrize("side", SIDES)
def test_equal_entries_keep_their_digits(side: Side) -> None:
    # Summed in float32, 20,000 equal terms are 2e-5 off: each addition rounds the same way.
    matrix = np.full((20_000, 256), 0.1, np.float32)
    state = seeded_state(0, "weight", 20_000 if side == "rows" else 256)
    expected = float(np.float32(0.1)) * math.sqrt(20_000 * 256)
    assert power_iteration(matrix, state, 1, side).sigma == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("kind", "scale"), [(np.float32, 1e30), (np.float32, 1e-30), (np.float64, 1e300), (np.float64, 1e-290)]
)
def test_scale(kind: Any, scale: float, side: Side) -> None:
    matrix, state = drawn(40, 30, kind, side)
    scaled = (matrix * scale).astype(kind)
    sigma, final = textbook(scaled.astype(np.float64) / scale, state, 3, side)
    result = power_iteration(scaled, state, 3, side)
    assert result.sigma / scale == pytest.approx(sigma, rel=1e-11)
    np.testing.assert_allclose(result.state, final, atol=1e-7)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("side", SIDES)
def test_zero_matrix_leaves_the_state_alone(kind: Any, side: Side) -> None:
    state = seeded_state(0, "weight", 5)
    result = power_iteration(np.zeros((5, 5), kind), state, 2, side)
    assert result.sigma == 0.0
    np.testing.assert_allclose(result.state, state, atol=1e-7)


@pytest.mark.parametrize("side", SIDES)
def test_state_in_the_null_space(side: Side) -> None:
    result = power_iteration(np.diag([0.0, 2.0]), np.array([1.0, 0.0]), 2, side)
    assert result.sigma == 0.0
    np.testing.assert_array_equal(result.state, [1.0, 0.0])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", SIDES)
def test_non_finite(kind: Any, value: float, side: Side) -> None:
    matrix, state = drawn(20, 30, kind, side)
    matrix[7, 11] = value
    assert math.isnan(power_iteration(matrix, state, 2, side).sigma)


def test_memory_map(tmp_path: Path) -> None:
    matrix, state = drawn(30, 20, np.float32, "cols")
    (tmp_path / "weight").write_bytes(b"odd" + matrix.tobytes())
    mapped = np.memmap(tmp_path / "weight", np.uint8, "r")
    view = np.ndarray((30, 20), np.float32, buffer=mapped.data, offset=3)
    assert power_iteration(view, state, 1, "cols").sigma == power_iteration(matrix, state, 1, "cols").sigma


def test_the_length_of_the_given_state_does_not_matter() -> None:
    matrix, state = drawn(9, 8, np.float32, "rows")
    for factor in (1e-30, 7.0, 1e100):
        assert power_iteration(matrix, state * factor, 1, "rows").sigma == pytest.approx(
            power_iteration(matrix, state, 1, "rows").sigma, rel=1e-12
        )


def test_seeded_state_is_the_documented_stream() -> None:
    normal = np.random.default_rng([7, zlib.crc32(b"conv/kernel")]).standard_normal(64)
    np.testing.assert_allclose(seeded_state(7, "conv/kernel", 64), normal / np.linalg.norm(normal), rtol=1e-14)
    assert np.linalg.norm(seeded_state(0, "ä", 5)) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize(("shape", "side"), [((0, 3), "cols"), ((3, 0), "rows")])
def test_an_empty_matrix(shape: tuple[int, int], side: Side) -> None:
    found = power_iteration(np.zeros(shape, np.float32), np.ones(3), 2, side)
    assert found.sigma == 0.0
    np.testing.assert_array_equal(found.state, np.ones(3))
