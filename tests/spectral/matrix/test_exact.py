"""The exact spectral norm against LAPACK's SVD in float64, on every kind of spectrum that has fooled a solver."""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import hadamard, svdvals

from sn_graph.spectral.linalg import LAPACK, blocks, lanczos
from sn_graph.spectral.linalg.stopping import start_vector
from sn_graph.spectral.matrix import routes
from sn_graph.spectral.matrix.exact import SingularTriplet, leading_singular_triplet, spectral_norm
from tools.sigma_trials import matrices

TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
PROMISED = 1e-6


def reference(matrix: NDArray[Any]) -> float:
    return float(svdvals(matrix.astype(np.float64))[0])


def with_values(values: NDArray[np.float64], rows: int, columns: int, seed: int) -> NDArray[np.float64]:
    """A matrix [rows, columns] with these singular values and random vectors."""
    generator = np.random.default_rng(seed)
    left, _ = np.linalg.qr(generator.standard_normal((rows, len(values))))
    right, _ = np.linalg.qr(generator.standard_normal((columns, len(values))))
    product: NDArray[np.float64] = (left * values) @ right.T
    return product


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(60, 90), (130, 150), (280, 260), (520, 540)])
@pytest.mark.parametrize("seed", range(2))
def test_spectra(shape: tuple[int, int], seed: int, kind: Any) -> None:
    for name, values, wide in matrices(*shape, np.random.default_rng(seed)):
        matrix = wide.astype(kind)
        # Rounding to float32 moves σ by up to 6e-8 · √min(shape), so the reference is the rounded matrix's own.
        expected = float(values.max()) if kind is np.float64 else reference(matrix)
        assert spectral_norm(matrix) == pytest.approx(expected, rel=PROMISED), name


def named_matrices() -> Iterator[tuple[str, NDArray[Any]]]:
    generator = np.random.default_rng(0)
    index = np.arange(600)
    yield "hilbert", 1 / (index[:, None] + index[None, :] + 1.0)
    yield "hadamard", hadamard(1024).astype(np.float32)
    yield "rank 1", np.outer(generator.standard_normal(700), generator.standard_normal(600)).astype(np.float32)
    yield "constant", np.full((700, 600), 0.1, np.float32)
    yield "sparse", generator.standard_normal((700, 600)) * (generator.random((700, 600)) < 0.003)
    levels = np.kron(np.diag(1 + 1e-6 * np.arange(4)), np.full((150, 160), 0.1))
    yield "constant blocks", levels.astype(np.float32)
    yield "identity", np.eye(600, 640, dtype=np.float32)
    yield "one entry", np.where(np.arange(600 * 600).reshape(600, 600) == 777, -3.0, 0.0).astype(np.float32)
    yield "non-negative", generator.random((600, 600)).astype(np.float32)


@pytest.mark.parametrize(("name", "matrix"), list(named_matrices()), ids=[name for name, _ in named_matrices()])
def test_named(name: str, matrix: NDArray[Any]) -> None:
    expected = 32.0 if name == "hadamard" else reference(matrix)
    assert spectral_norm(matrix) == pytest.approx(expected, rel=PROMISED)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.sampled_from(TYPES), st.booleans(), st.integers(0, 9))
def test_small_shapes(rows: int, columns: int, kind: Any, fortran: bool, seed: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)).astype(kind)
    found = leading_singular_triplet(np.asfortranarray(matrix) if fortran else matrix)
    # LAPACK on a float64 Gram matrix: a few hundred roundings.
    assert found.sigma == pytest.approx(reference(matrix), rel=1e-12)
    assert_vectors(matrix, found)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (3, 20_000), (50_000, 20), (250, 9000), (9000, 250)])
@pytest.mark.parametrize("kind", TYPES)
def test_long_shapes(shape: tuple[int, int], kind: Any) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape).astype(kind)
    wide = matrix.astype(np.float64)
    gram = wide @ wide.T if shape[0] < shape[1] else wide.T @ wide
    found = leading_singular_triplet(matrix)
    assert found.sigma == pytest.approx(math.sqrt(np.linalg.eigvalsh(gram)[-1]), rel=1e-9)
    assert_vectors(matrix, found)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(560, 600), (600, 560)])
@pytest.mark.parametrize("fortran", [False, True])
def test_vectors_by_lanczos(shape: tuple[int, int], kind: Any, fortran: bool) -> None:
    matrix = np.random.default_rng(2).standard_normal(shape).astype(kind)
    laid = np.asfortranarray(matrix) if fortran else matrix
    found = leading_singular_triplet(laid)
    assert found.sigma == pytest.approx(reference(matrix), rel=1e-9)
    assert_vectors(matrix, found)


@pytest.mark.parametrize("length", [300, 1_000, 6_000, 9_000, 20_000, 100_000, 400_000])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("fortran", [False, True])
def test_long_sums_do_not_hide_the_larger_of_two(length: int, kind: Any, fortran: bool) -> None:
    """A constant row, whose float32 sum of squares is short, and a random one, whose sum is right, a little smaller."""
    generator = np.random.default_rng(length)
    random = generator.standard_normal(length)
    random -= random.mean()
    for level in (0.1, 0.3, 0.55, 0.7, 0.9):
        for gap in (1.2e-6, 2e-6, 4e-6):
            rows = level * np.array([np.ones(length), random * math.sqrt(length) / np.linalg.norm(random) * (1 - gap)])
            matrix = rows.astype(kind)
            found = spectral_norm(np.asfortranarray(matrix) if fortran else matrix)
            wide = matrix.astype(np.float64)
            largest = math.sqrt(np.linalg.eigvalsh(wide @ wide.T)[-1])
            assert found == pytest.approx(largest, rel=PROMISED), (level, gap)


@pytest.mark.parametrize("scale", [1e-100, 1e80, 1e140])
def test_a_guess_at_any_scale(scale: float) -> None:
    matrix = np.random.default_rng(4).standard_normal((150, 200)) * scale
    first = leading_singular_triplet(matrix)
    assert leading_singular_triplet(matrix, first.right, "cols").sigma == pytest.approx(first.sigma, rel=1e-9)


def test_a_norm_that_lapack_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for a single eigenvalue may come back empty where values are equal to the last digits."""
    monkeypatch.setattr(LAPACK, "dsyevr", lambda gram, **_: (np.zeros(len(gram)), np.zeros((0, 0)), 0, [], 0))
    matrix = np.random.default_rng(2).standard_normal((30, 50))
    assert spectral_norm(matrix) == pytest.approx(reference(matrix), rel=1e-9)


def test_wide_matrix_beyond_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CACHE_BYTES", 1000)
    matrix = np.random.default_rng(3).standard_normal((520, 1100)).astype(np.float32)
    for laid in (matrix, np.asfortranarray(matrix)):
        found = leading_singular_triplet(laid)
        assert found.sigma == pytest.approx(reference(matrix), rel=1e-9)
        assert_vectors(matrix, found)


def assert_vectors(matrix: NDArray[Any], found: SingularTriplet) -> None:
    wide = matrix.astype(np.float64)
    # The vectors' error is the square root of that of σ.
    close = 1e-5 * found.sigma
    assert np.linalg.norm(found.left) == pytest.approx(1.0, rel=1e-12)
    assert np.linalg.norm(found.right) == pytest.approx(1.0, rel=1e-12)
    assert np.linalg.norm(wide @ found.right - found.sigma * found.left) < close
    assert np.linalg.norm(wide.T @ found.left - found.sigma * found.right) < close


@pytest.mark.parametrize("shape", [(1, 1), (20, 30), (97, 700), (300, 280), (600, 640)])
@pytest.mark.parametrize(
    ("kind", "power"),
    [
        (np.float32, 100),
        (np.float32, -100),
        (np.float32, -140),
        (np.float64, 500),
        (np.float64, -500),
        (np.float64, 1010),
        (np.float64, -1020),
        *((np.float64, power) for power in range(-400, 401, 67)),
    ],
)
def test_scale(shape: tuple[int, int], kind: Any, power: int) -> None:
    matrix = np.ldexp(np.random.default_rng(4).standard_normal(shape).astype(kind), power)
    # Subnormal entries have lost digits: compare with what is left of them.
    expected = math.ldexp(reference(np.ldexp(matrix.astype(np.float64), -power)), power)
    assert spectral_norm(matrix) == pytest.approx(expected, rel=1e-9, abs=0.0)
    assert leading_singular_triplet(matrix).sigma == pytest.approx(expected, rel=1e-9, abs=0.0)


@pytest.mark.parametrize("shape", [(1, 1), (20, 30), (300, 280), (600, 640)])
@pytest.mark.parametrize("kind", TYPES)
def test_zero_and_non_finite(shape: tuple[int, int], kind: Any) -> None:
    matrix = np.zeros(shape, kind)
    assert spectral_norm(matrix) == 0.0
    assert np.linalg.norm(leading_singular_triplet(matrix).left) == 1.0
    for value in (math.nan, math.inf, -math.inf):
        matrix[-1, 0] = value
        assert math.isnan(spectral_norm(matrix))


def test_empty() -> None:
    assert spectral_norm(np.empty((0, 4), np.float32)) == 0.0


@pytest.mark.parametrize("seed", range(40))
def test_orthogonal_rows(seed: int) -> None:
    """Equal to the last digits, where LAPACK's search for a single eigenvalue may come back with none."""
    generator = np.random.default_rng(seed)
    rows = int(generator.integers(2, 190))
    matrix = with_values(np.ones(rows), rows, rows + 30, seed)
    assert spectral_norm(matrix) == pytest.approx(1.0, rel=1e-12)
    assert spectral_norm(matrix.astype(np.float32)) == pytest.approx(1.0, rel=PROMISED)


def test_lapack_steps_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "FALLBACK_STEPS", 5)
    for shape in ((300, 320), (600, 560)):
        matrix = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
        assert spectral_norm(matrix) == pytest.approx(reference(matrix), rel=1e-12)


def old_start(length: int) -> NDArray[np.float64]:
    """The start that all matrices of a side had in 0.0: whoever knows a start makes a matrix that it is blind to."""
    random = np.random.default_rng(0).standard_normal(max(length, 1 << 12))[:length]
    unit: NDArray[np.float64] = random / np.linalg.norm(random)
    return unit


@pytest.mark.parametrize("length", [129, 200, 300, 600, 1024])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_direction_that_a_known_start_does_not_see(length: int, kind: Any) -> None:
    start = old_start(length)
    hidden = np.random.default_rng(5).standard_normal(length)
    for _ in range(2):
        hidden -= (hidden @ start) * start
    hidden /= np.linalg.norm(hidden)
    matrix = (np.eye(length) + np.outer(hidden, hidden)).astype(kind)
    assert spectral_norm(matrix) == pytest.approx(2.0, rel=PROMISED)
    assert leading_singular_triplet(matrix).sigma == pytest.approx(2.0, rel=PROMISED)


@pytest.mark.parametrize("length", [200, 400, 600, 1000])
def test_a_matrix_beside_itself(length: int) -> None:
    """[A, A], whose rows hold everything twice: a checksum of the rows' differences alone is that of nothing."""
    starts = [start_vector(length, seed, stream) for seed in (0, 1) for stream in range(12)]
    for seed in (zlib.crc32(repr((length, 2 * length)).encode()), 0):
        starts += [start_vector(length, seed, stream) for stream in range(12)]
    basis, _ = np.linalg.qr(np.array(starts).T)
    hidden = np.random.default_rng(5).standard_normal(length)
    for _ in range(2):
        hidden -= basis @ (basis.T @ hidden)
    hidden /= np.linalg.norm(hidden)
    half = np.eye(length) + np.outer(hidden, hidden)
    assert spectral_norm(np.hstack([half, half])) == pytest.approx(2.0 * math.sqrt(2.0), rel=PROMISED)


@pytest.mark.parametrize("length", [4400, 4401, 4402])
def test_one_block_in_the_identity(length: int) -> None:
    matrix = np.eye(length, dtype=np.float32)
    one, other = 4398, 3311
    matrix[one, one] = matrix[other, other] = 2
    for sign in (-1, 1):
        matrix[one, other] = matrix[other, one] = sign
        assert spectral_norm(matrix) == pytest.approx(3.0, rel=PROMISED)


def test_its_own_start_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix made for the start of another one has a start of its own."""
    starts: list[NDArray[np.float64]] = []

    def seen(length: int, seed: int, stream: int = 0) -> NDArray[np.float64]:
        starts.append(start_vector(length, seed, stream))
        return starts[-1]

    monkeypatch.setattr(lanczos, "start_vector", seen)
    matrix = np.eye(200)
    for _ in range(5):
        starts.clear()
        assert spectral_norm(matrix) == pytest.approx(np.linalg.norm(matrix, 2), rel=PROMISED)
        hidden = np.random.default_rng(5).standard_normal(200)
        basis, _ = np.linalg.qr(np.array(starts).T)
        hidden -= basis @ (basis.T @ hidden)
        matrix = np.eye(200) + np.outer(hidden, hidden) / (hidden @ hidden)
    assert spectral_norm(matrix) == pytest.approx(2.0, rel=PROMISED)


@pytest.mark.parametrize(("rows", "columns"), [(98, 101), (150, 160), (560, 600)])
@pytest.mark.parametrize("gap", [1e-6, 2.5e-6, 3e-6])
def test_little_of_the_leading_vector_in_a_known_start(rows: int, columns: int, gap: float) -> None:
    """With 1/1000 of its usual part, the rule of 0.0 stopped 2e-6 low."""
    start = old_start(rows)
    for seed in range(5):
        generator = np.random.default_rng(seed)
        leading = generator.standard_normal(rows)
        leading -= (leading @ start) * start
        leading += 3e-5 * np.linalg.norm(leading) * start
        left, _ = np.linalg.qr(np.column_stack([leading, generator.standard_normal((rows, rows - 1))]))
        right, _ = np.linalg.qr(generator.standard_normal((columns, rows)))
        values = np.concatenate([[1.0, 1.0 - gap], np.sort(0.9 * generator.random(rows - 2))[::-1]])
        matrix = ((left * values) @ right.T).astype(np.float32)
        assert spectral_norm(matrix) == pytest.approx(reference(matrix), rel=PROMISED)


def test_same_result_at_every_call() -> None:
    matrix = np.random.default_rng(6).standard_normal((600, 640)).astype(np.float32)
    first, second = leading_singular_triplet(matrix), leading_singular_triplet(matrix)
    assert first.sigma == second.sigma
    np.testing.assert_array_equal(first.right, second.right)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(20, 30), (300, 280), (600, 640), (640, 600)])
@pytest.mark.parametrize("side", ["rows", "cols"])
@pytest.mark.parametrize("quality", ["leading", "second", "near", "random", "zero", "nan"])
def test_guess(shape: tuple[int, int], kind: Any, side: Any, quality: str) -> None:
    matrix = np.random.default_rng(3).standard_normal(shape).astype(kind)
    left, values, right = np.linalg.svd(matrix.astype(np.float64))
    leading, second = (left[:, 0], left[:, 1]) if side == "rows" else (right[0], right[1])
    guess = {
        "leading": -3.0 * leading,
        "second": second,
        "near": leading + 1e-3 * second,
        "random": np.random.default_rng(4).standard_normal(len(leading)),
        "zero": 0.0 * leading,
        "nan": math.nan * leading,
    }[quality]
    for laid in (matrix, np.asfortranarray(matrix)):
        found = leading_singular_triplet(laid, guess.reshape(-1, 1), side)
        assert found.sigma == pytest.approx(values[0], rel=1e-9)
        assert_vectors(matrix, found)


def test_memory_map(tmp_path: Path) -> None:
    matrix = np.random.default_rng(7).standard_normal((600, 640)).astype(np.float32)
    (tmp_path / "weight").write_bytes(b"odd" + matrix.tobytes())
    mapped = np.memmap(tmp_path / "weight", np.uint8, "r")
    view = np.ndarray(matrix.shape, np.float32, buffer=mapped.data, offset=3)
    assert spectral_norm(view) == pytest.approx(reference(matrix), rel=1e-9)


def test_fifty_digits() -> None:
    matrix = np.random.default_rng(8).standard_normal((12, 9))
    mpmath.mp.dps = 50
    values = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
    assert abs(spectral_norm(matrix) / values[0] - 1) < 1e-14
