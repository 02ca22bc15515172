"""The proven bound against exact rational arithmetic where that is quick, against float64 SVD where it isn't."""

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import hadamard, hilbert, svdvals

from sn_graph.spectral.linalg.blocks import BlockedMatrix
from sn_graph.spectral.matrix import bound as module
from sn_graph.spectral.matrix.bound import bracket, is_within, one_pass_bounds, upper_bound
from sn_graph.spectral.matrix.exact import spectral_norm
from sn_graph.spectral.matrix.routes import lanczos_on_gram
from tools.sigma_trials import forms

TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
WIDTH = 1e-6


def holds(bound: float, matrix: NDArray[Any]) -> bool:
    """Whether ‖M‖₂ < bound, exactly: bound² I − MᵀM has positive pivots in rational arithmetic."""
    wide = matrix.astype(np.float64)
    rows = [[Fraction(float(x)) for x in row] for row in (wide if wide.shape[0] >= wide.shape[1] else wide.T)]
    size = len(rows[0])
    rest = [[-sum((row[i] * row[j] for row in rows), Fraction()) for j in range(size)] for i in range(size)]
    for i in range(size):
        rest[i][i] += Fraction(bound) ** 2
    for k in range(size):
        if rest[k][k] <= 0:
            return False
        for i in range(k + 1, size):
            factor = rest[i][k] / rest[k][k]
            for j in range(i, size):
                rest[i][j] -= factor * rest[k][j]
                rest[j][i] = rest[i][j]
    return True


def test_the_judge() -> None:
    matrix = np.array([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]])
    assert holds(math.nextafter(4.0, 5.0), matrix)
    assert not holds(4.0, matrix)


def small_matrix(generator: np.random.Generator, rows: int, columns: int, form: int, kind: Any) -> NDArray[Any]:
    """One of `forms` in a type, whose overflows become 1; not all zero."""
    with np.errstate(over="ignore", under="ignore"):
        matrix = forms(generator, rows, columns, form).astype(kind)
    matrix[~np.isfinite(matrix)] = 1
    matrix[0, 0] = matrix[0, 0] or 1
    return matrix


@settings(max_examples=1500, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 7),
    st.sampled_from(TYPES),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_small_matrices(rows: int, columns: int, form: int, kind: Any, fortran: bool, seed: int) -> None:
    matrix = small_matrix(np.random.default_rng(seed), rows, columns, form, kind)
    found = bracket(np.asfortranarray(matrix) if fortran else matrix)
    assert holds(found.upper, matrix)
    assert found.upper <= found.lower * (1 + WIDTH)
    assert found.frobenius >= math.sqrt(math.fsum(float(x) ** 2 for x in matrix.flat)) * (1 - 1e-15)


@pytest.mark.parametrize("kind", TYPES)
def test_two_columns_in_fifty_digits(kind: Any) -> None:
    """λ = (a + c + √((a − c)² + 4b²)) / 2 for MᵀM = [[a, b], [b, c]]: 2,000 matrices of each type."""
    mpmath.mp.dps = 50
    generator = np.random.default_rng(0)
    for index in range(2000):
        matrix = small_matrix(generator, 1 + index % 40, 2, index % 8, kind)
        left, right = ([mpmath.mpf(float(x)) for x in matrix[:, i]] for i in range(2))
        a, b, c = mpmath.fdot(left, left), mpmath.fdot(left, right), mpmath.fdot(right, right)
        norm = mpmath.sqrt((a + c + mpmath.sqrt((a - c) ** 2 + 4 * b * b)) / 2)
        bound = upper_bound(matrix)
        assert norm <= bound <= norm * (1 + WIDTH), (index, norm)


def named_matrices() -> Iterator[tuple[str, NDArray[Any]]]:
    generator = np.random.default_rng(0)
    left, _ = np.linalg.qr(generator.standard_normal((320, 300)))
    right, _ = np.linalg.qr(generator.standard_normal((300, 300)))
    for name, values in {
        "graded": np.logspace(0, -12, 300),
        "two equal": np.concatenate([[1.0, 1.0], generator.random(298)]),
        "gap 1e-6": np.concatenate([[1.0, 1 - 1e-6], 0.9 * generator.random(298)]),
        "dense cluster": 1 - np.linspace(0, 1e-6, 300),
        "one above a cluster": np.concatenate([[1.0], np.full(299, 1 - 3e-7)]),
        "trained": 1 / np.arange(1, 301) ** 0.7,
        "orthogonal": np.ones(300),
    }.items():
        yield name, (left * values) @ right.T
        yield f"{name}, float32", ((left * values) @ right.T).astype(np.float32)
    yield "hilbert", hilbert(200)
    yield "hadamard", hadamard(512).astype(np.float32)
    yield "constant", np.full((300, 500), 0.1, np.float32)
    yield "sparse", generator.standard_normal((300, 400)) * (generator.random((300, 400)) < 0.01)
    yield "long", generator.standard_normal((3, 20_000)).astype(np.float32)
    yield "tall", generator.standard_normal((20_000, 40)).astype(np.float16)
    yield "vector", generator.standard_normal((1, 50_000))
    yield "random", generator.standard_normal((600, 700)).astype(np.float32)


@pytest.mark.parametrize("matrix", [pytest.param(matrix, id=name) for name, matrix in named_matrices()])
def test_named(matrix: NDArray[Any]) -> None:
    # LAPACK's singular value may be off by n roundings; the bound passes the true one by 9e-9.
    reference = float(svdvals(matrix.astype(np.float64))[0])
    sigma = spectral_norm(matrix)
    for found in (upper_bound(matrix, sigma), upper_bound(matrix), bracket(matrix).upper):
        assert reference * (1 - 1e-12) <= found <= min(sigma, reference) * (1 + WIDTH)
    assert bracket(matrix).lower == pytest.approx(reference, rel=WIDTH)


@pytest.mark.parametrize("low", [1e-5, 1e-6, 0.3])
def test_a_search_that_missed_goes_to_lapack(low: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factorization that stops at 9e-7 says that σ is low: no wide bound, and no low σ, comes of it."""
    searched = lanczos_on_gram

    def missed(*arguments: Any, **options: Any) -> Any:
        found = searched(*arguments, **options)
        return replace(found, value=found.value * (1 - low) ** 2)

    monkeypatch.setattr(module, "lanczos_on_gram", missed)
    matrix = np.random.default_rng(1).standard_normal((150, 140)).astype(np.float32)
    found, expected = bracket(matrix), float(svdvals(matrix.astype(np.float64))[0])
    assert found.lower == pytest.approx(expected, rel=1e-12)
    assert expected <= found.upper <= expected * (1 + 1e-8)
    assert expected <= upper_bound(matrix, expected * (1 - low)) <= expected * (1 + 1e-8)


@pytest.mark.parametrize("guess", [0.999999, 0.99, 0.5, 1e-3, 0.0, -1.0, math.nan, math.inf])
def test_a_poor_estimate_makes_it_neither_wide_nor_wrong(guess: float) -> None:
    matrix = np.random.default_rng(1).standard_normal((40, 30))
    reference = float(svdvals(matrix)[0])
    bound = upper_bound(matrix, guess * reference)
    assert reference <= bound <= reference * (1 + WIDTH)


@pytest.mark.parametrize("power", [-1074, -1040, -560, -500, -400, -330, -265, 265, 330, 400, 480, 500, 1000, 1021])
@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (150, 160)])
def test_scale(power: int, shape: tuple[int, int]) -> None:
    plain = np.round(np.random.default_rng(2).uniform(-64, 64, shape)) / (64 if power > 1000 else 1)
    plain[0, 0] = 1.0
    matrix = np.ldexp(plain, power)
    found = bracket(matrix)
    expected = float(svdvals(np.ldexp(matrix, -power))[0])
    with np.errstate(over="ignore"):
        # Two steps of the least number where the norm itself is subnormal.
        least, most = np.ldexp(expected * (1 - 1e-13), power), np.ldexp(expected * (1 + WIDTH), power) + 2 * 5e-324
    assert least <= found.upper <= most
    assert least * (1 - 1e-6) <= found.lower <= most
    if min(shape) < 10 and math.isfinite(found.upper):
        assert holds(found.upper, matrix)


@pytest.mark.parametrize("kind", TYPES)
def test_zero_empty_and_non_finite(kind: Any) -> None:
    assert upper_bound(np.zeros((5, 4), kind)) == 0.0
    assert upper_bound(np.empty((0, 4), kind)) == 0.0
    for value in (math.nan, math.inf, -math.inf):
        matrix = np.ones((200, 4), kind)
        matrix[-1, 0] = value
        assert math.isnan(upper_bound(matrix))
        assert all(math.isnan(x) for x in one_pass_bounds(BlockedMatrix.of(matrix)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(TYPES), st.integers(0, 99), st.sampled_from([0, 300, -300])
)
def test_one_pass(rows: int, columns: int, kind: Any, seed: int, power: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)).astype(kind)
    if kind is np.float64:
        matrix = np.ldexp(matrix, power)
    wide = np.ldexp(matrix.astype(np.float64), -power if kind is np.float64 else 0)
    scale = power if kind is np.float64 else 0
    bound, frobenius = (math.ldexp(x, -scale) for x in one_pass_bounds(BlockedMatrix.of(matrix)))
    # A few dozen float64 roundings on either side.
    assert svdvals(wide)[0] * (1 - 1e-13) <= bound
    expected = math.sqrt(np.abs(wide).sum(axis=0).max() * np.abs(wide).sum(axis=1).max())
    assert bound == pytest.approx(min(expected, np.linalg.norm(wide)), rel=1e-11)
    assert frobenius == pytest.approx(np.linalg.norm(wide), rel=1e-11)
    assert frobenius >= np.linalg.norm(wide) * (1 - 1e-13)


def test_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRAM_LIMIT", 30)
    matrix = np.random.default_rng(3).standard_normal((40, 31)).astype(np.float32)
    found = bracket(matrix)
    reference = float(svdvals(matrix.astype(np.float64))[0])
    assert found.lower == pytest.approx(reference, rel=WIDTH)
    assert reference <= found.upper <= found.frobenius
    assert found.upper < upper_bound(matrix[:, :30]) * 31


def test_memory_map_at_an_odd_byte(tmp_path: Path) -> None:
    matrix = np.random.default_rng(4).standard_normal((200, 150)).astype(np.float32)
    (tmp_path / "weight").write_bytes(b"odd" + matrix.tobytes())
    mapped = np.memmap(tmp_path / "weight", np.uint8, "r")
    assert upper_bound(np.ndarray(matrix.shape, np.float32, buffer=mapped.data, offset=3)) == upper_bound(matrix)


@pytest.mark.parametrize("limit", [0.25, 0.5, 1.0, 2.0, math.sqrt(2.0), 3.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (30, 20), (100, 130), (300, 280)])
def test_within_a_limit(limit: float, shape: tuple[int, int]) -> None:
    plain = np.random.default_rng(2).standard_normal(shape)
    plain /= svdvals(plain)[0]
    for share in (0.1, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 1e-8):
        assert is_within(plain * (share * limit), limit)
    for share in (1 + 1e-12, 1 + 1e-9, 1.1):
        assert not is_within(plain * (share * limit), limit)


def test_within_at_extreme_scales() -> None:
    unit = np.eye(3)
    for size, limit in (
        (1e-310, 1.0),
        (1e-200, 1e200),
        (1.0, 1e160),
        (1e-300, 1e-299),
        (1e300, 1e301),
        (1e300, 1.1e300),
    ):
        assert is_within(unit * size, limit)
        assert not is_within(unit * size, size * (1 - 1e-9))
    assert upper_bound(unit * 1e-310, 1.0) >= 1e-310
    assert is_within(np.zeros((3, 3)), 1e-300)
    assert not is_within(np.full((3, 3), np.nan), 1.0)


FLUSHING = """
import numpy as np, onnx, onnxruntime, ml_dtypes
from onnx import helper
from sn_graph.spectral.matrix import bracket, is_within
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, [1])],
                          [helper.make_tensor_value_info("y", 1, [1])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.set_denormal_as_zero", "1")
session = onnxruntime.InferenceSession(model.SerializeToString(), options)
session.run(None, {"x": np.ones(1, np.float32)})
assert not (np.array([1e-40], np.float32) * np.float32(1e30)).any(), "this processor flushes nothing"
for kind, size in ((np.float32, 1e-40), (np.float16, 6e-8), (ml_dtypes.bfloat16, 1e-39), (np.float64, 1e-310)):
    # The truth by whole numbers, which no mode changes.
    matrix = np.full((3, 3), 1, kind)
    matrix.view(f"u{matrix.dtype.itemsize}")[...] = {2: 1, 4: 71362, 8: 1 << 40}[matrix.dtype.itemsize]
    unit = {np.float32: (71362, 149), np.float16: (1, 24), ml_dtypes.bfloat16: (1, 133), np.float64: (1 << 40, 1074)}
    count, power = unit[kind]
    upper = bracket(matrix).upper
    from fractions import Fraction
    mantissa, exponent = np.array(upper).view(np.uint64) & ((1 << 52) - 1), int(np.array(upper).view(np.uint64)) >> 52
    exact = Fraction(int(mantissa) + (1 << 52 if exponent else 0)) * Fraction(2) ** (max(exponent, 1) - 1075)
    assert exact >= 3 * count * Fraction(1, 1 << power), (kind, upper)
    assert kind is np.float64 or not is_within(matrix, 2.0 ** -1000)
mixed = np.ones((3, 3), np.float32)
mixed.view(np.uint32)[0, 0] = 5
assert 0 < bracket(mixed).upper < 3
"""


def test_a_thread_that_takes_subnormal_numbers_for_nothing() -> None:
    """A session of onnxruntime may have set that; the bound still holds."""
    done = subprocess.run([sys.executable, "-c", FLUSHING], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "this processor flushes nothing" in done.stderr, done.stderr
