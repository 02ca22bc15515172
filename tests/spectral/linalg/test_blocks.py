"""Blocked products against plain float64 numpy, for every type, layout and scale."""

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sn_graph.spectral.linalg import blocks
from sn_graph.spectral.linalg.blocks import BlockedMatrix, count_nonfinite

TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that small matrices have many and an incomplete last one."""
    monkeypatch.setattr(blocks, "CACHE_BYTES", 512)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 512)
    monkeypatch.setattr(blocks, "BUFFER_BYTES", 512)
    monkeypatch.setattr(blocks, "GRAM_DEPTH", 5)


def matrix(rows: int, columns: int, kind: Any, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(kind)


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(TYPES), st.booleans(), st.integers(0, 3))
def test_products(rows: int, columns: int, kind: Any, fortran: bool, seed: int) -> None:
    given_matrix = matrix(rows, columns, kind, seed)
    operand = BlockedMatrix.of(np.asfortranarray(given_matrix) if fortran else given_matrix)
    plain = operand.storage.astype(np.float64)
    assert np.array_equal(plain.T if operand.transposed else plain, given_matrix.astype(np.float64))
    height, width = operand.shape
    x, y = np.arange(1.0, width + 1), np.arange(1.0, height + 1)
    forward, back = operand.multiply_both(x)
    # A few hundred float64 additions of numbers up to 1e5.
    close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-8)
    close(operand.multiply(x), plain @ x)
    close(operand.multiply_transposed(y), y @ plain)
    close(forward, plain @ x)
    np.testing.assert_allclose(back, plain.T @ (plain @ x), rtol=1e-10, atol=1e-6)
    gram = plain.T @ plain if width <= height else plain @ plain.T
    close(np.triu(operand.gram()), np.triu(gram))
    assert operand.largest() == np.abs(plain).max()


@pytest.mark.parametrize("shape", [(37, 11), (11, 37), (20, 20)])
def test_float32_arithmetic(shape: tuple[int, int]) -> None:
    operand = BlockedMatrix.of(matrix(*shape, np.float32), np.float32)
    plain = operand.storage.astype(np.float64)
    gram = plain.T @ plain if shape[1] <= shape[0] else plain @ plain.T
    # float32 rounding, 6e-8, of sums of up to 40 products.
    np.testing.assert_allclose(np.triu(operand.gram()), np.triu(gram), atol=1e-5)
    _, back = operand.multiply_both(np.ones(shape[1]))
    np.testing.assert_allclose(back, plain.T @ plain.sum(axis=1), atol=1e-3)


@pytest.mark.parametrize("out", [np.float32, np.float64])
def test_every_half_converts_exactly(out: Any) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(64, 1024)
    with np.errstate(invalid="ignore"):
        want = halves.astype(out)
        for block, row in zip(halves, want, strict=True):
            served = [b.copy() for _, b in BlockedMatrix.of(block[None, :], out).blocks()]
            assert np.array_equal(served[0][0], row, equal_nan=True)


def test_a_tensor_may_start_at_any_byte() -> None:
    raw = np.zeros(4 * 60 + 3, np.uint8)
    odd = np.ndarray((6, 10), np.float32, buffer=raw.data, offset=3)
    odd[...] = matrix(6, 10, np.float32)
    np.testing.assert_allclose(BlockedMatrix.of(odd, np.float32).multiply(np.ones(10)), odd.sum(axis=1), rtol=1e-5)


def test_dense_layouts_are_not_copied() -> None:
    plain = matrix(6, 10, np.float32)
    assert np.shares_memory(BlockedMatrix.of(plain).storage, plain)
    assert np.shares_memory(BlockedMatrix.of(plain.T).storage, plain)


@pytest.mark.parametrize("power", [-1060, -500, 500, 1000])
def test_rescaled(power: int) -> None:
    plain = np.ldexp(matrix(9, 7, np.float64), power)
    operand = BlockedMatrix.of(plain)
    scaled = operand.rescaled(operand.largest())
    assert 0.5 <= np.abs(np.concatenate([block.copy() for _, block in scaled.blocks()])).max() < 1.0
    np.testing.assert_array_equal(np.ldexp(scaled.multiply(np.eye(7)[2]), scaled.exponent), plain[:, 2])


@given(st.lists(st.integers(0, 5), min_size=0, max_size=4), st.sampled_from(TYPES), st.integers(0, 99), st.booleans())
def test_count_nonfinite(shape: list[int], kind: Any, seed: int, flipped: bool) -> None:
    generator = np.random.default_rng(seed)
    values = generator.choice([0.0, -1.5, np.nan, np.inf, -np.inf], size=shape, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    array = np.asarray(values).astype(kind)
    if flipped:
        array = array.T[..., ::-1] if array.ndim else array
    assert count_nonfinite(array) == (int(np.isnan(values).sum()), int(np.isinf(values).sum()))


@pytest.mark.parametrize("kind", TYPES)
def test_seed(kind: Any) -> None:
    """Made of every element and its place."""
    given = matrix(30, 20, kind)
    seed = BlockedMatrix.of(given).seed
    assert 0 <= seed < 1 << 32
    assert seed == BlockedMatrix.of(given.copy()).seed == BlockedMatrix.of(given.T).seed
    assert seed not in (BlockedMatrix.of(given[::-1]).seed, BlockedMatrix.of(given.reshape(20, 30)).seed)
    for place in np.ndindex(given.shape):
        other = given.copy()
        other[place] = 7
        assert BlockedMatrix.of(other).seed != seed


@pytest.mark.parametrize("kind", TYPES)
def test_converted(kind: Any) -> None:
    given = matrix(300, 200, kind)
    served = BlockedMatrix.of(given, np.float32).converted()
    assert np.array_equal(served.storage, given.astype(np.float32))
    assert served.gram() == pytest.approx(BlockedMatrix.of(given, np.float32).gram(), rel=1e-4, abs=1e-3)
