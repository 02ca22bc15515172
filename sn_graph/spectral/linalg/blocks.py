"""Products with a matrix that is read block by block: M x, Mᵀ y, and both in one pass.

The matrix is usually a read-only memory map of any float type and up to gigabytes. It is walked in blocks of rows
that fit the cache, each converted there if need be, so that no copy of the matrix is ever held, and Mᵀ(M x) reads it
from memory once. Sums over blocks are kept in float64. A matrix that fits the cache as it is makes one block.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sn_graph.spectral.linalg.blas import GEMV, SYRK

# A matrix up to here stays in the cache from one product to the next, where two products of it all are as fast as
# pairs of its blocks, and need no loop.
CACHE_BYTES = 1 << 24
# Smaller blocks lose more to BLAS thread starts than the cache wins (1.7x at 512 kB).
BLOCK_BYTES = 1 << 22
# A conversion buffer; larger ones cost up to 2x (a Gram matrix of 512² 5x), since the allocator gives their pages back
# to the system after each call.
BUFFER_BYTES = 5 << 18
# Products summed at a time in a Gram matrix that needs conversion: as many as BLAS takes at a time by itself.
GRAM_DEPTH = 256
# Products of a Gram matrix summed in float32 before they are added up in float64: its error is then 6e-6 of its norm at
# most (rows of equal elements), whatever their number; 1.3e-5 and more at 400,000 in one sum.
FLOAT32_DEPTH = 4096

# The bits that are all set in an infinity or NaN, for the 16-bit types: their own isfinite is 8x slower than this test.
EXPONENT_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}


@dataclass(frozen=True)
class BlockedMatrix:
    """A matrix S of shape [rows, columns], served as blocks of `dtype` holding the values S · 2^-exponent.

    Attributes:
        storage: [rows, columns], C-contiguous, any float type (bfloat16 of ml_dtypes included).
        transposed: Whether the caller's matrix is Sᵀ; the products below are those of S, whatever this says.
        dtype: float32 or float64, the arithmetic of the products.
        exponent: The power of two taken out of float64 values whose squares would over- or underflow.
    """

    storage: NDArray[Any]
    transposed: bool
    dtype: np.dtype[Any]
    exponent: int = 0

    @classmethod
    def of(cls, matrix: NDArray[Any], dtype: DTypeLike = np.float64) -> BlockedMatrix:
        """Serve a matrix [m, n] without a copy if it lies in C or Fortran order; copy other views once."""
        transposed = not matrix.flags.c_contiguous and matrix.flags.f_contiguous
        storage = matrix.T if transposed else np.ascontiguousarray(matrix)
        return cls(storage, transposed, np.dtype(dtype))

    def in_double(self) -> BlockedMatrix:
        """Serve the same matrix in float64."""
        return self if self.dtype == np.float64 else replace(self, dtype=np.dtype(np.float64))

    def converted(self) -> BlockedMatrix:
        """Serve the same values from a copy in `dtype`, converted once."""
        whole = np.empty(self.shape, self.dtype)
        for rows, block in self.blocks():
            whole[rows] = block
        return replace(self, storage=whole, exponent=0)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the storage."""
        rows, columns = self.storage.shape
        return rows, columns

    def blocks(self, depth: int = 1) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield consecutive rows as blocks [b, columns], b ≥ `depth` if converted; each is valid until the next."""
        if not self._converts:
            yield from self._views
            return
        rows, columns = self.shape
        step = self._step(BUFFER_BYTES // max(1, columns * self.dtype.itemsize), depth)
        buffer = np.empty((step, columns), self.dtype)
        for start in range(0, rows, step):
            block = self.storage[start : start + step]
            yield slice(start, start + len(block)), _convert(block, buffer[: len(block)], self.exponent)

    def _step(self, fitting: int, depth: int = 1) -> int:
        """The number of rows of a block, where so many fit and at least `depth` are asked for."""
        # Blocks of few, long rows spend their time on adding up their results (2x at 10 rows of 50,000).
        return min(self.shape[0], max(depth, fitting, min(64, 4 * fitting)))

    @cached_property
    def _views(self) -> list[tuple[slice, NDArray[Any]]]:
        """The blocks of a matrix that needs no conversion, made once: they take 10 µs, and a step on 8 MB only 180."""
        rows, columns = self.shape
        step = self._step(rows if self.cached else BLOCK_BYTES // (columns * self.dtype.itemsize))
        # Equal shares: a last block of a few rows costs as much as a full one.
        count = -(-rows // step)
        edges = [rows * i // count for i in range(count + 1)]
        return [(slice(a, b), self.storage[a:b]) for a, b in itertools.pairwise(edges)]

    @cached_property
    def cached(self) -> bool:
        """Whether the matrix, as served, stays in the cache."""
        return self.storage.size * self.dtype.itemsize <= CACHE_BYTES

    @cached_property
    def seed(self) -> int:
        """A checksum of the matrix's bytes and shape, of 32 bits; it costs a fiftieth of a search.

        It is no secret: a matrix may be forged that has a known one.
        """
        return zlib.crc32(self.storage.view(np.uint8).data, zlib.crc32(repr(self.shape).encode()))

    @cached_property
    def _converts(self) -> bool:
        # A tensor inside a model file may start at any byte; BLAS needs it aligned.
        return self.storage.dtype != self.dtype or self.exponent != 0 or not self.storage.flags.aligned

    def multiply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return S x [rows], of `dtype`, for x [columns]."""
        product = GEMV[self.dtype.char]
        cast = x.astype(self.dtype, copy=False)
        return self._joined([product(1.0, block.T, cast, trans=1) for _, block in self.blocks()])

    def multiply_transposed(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return Sᵀ y [columns], of `dtype`, for y [rows]."""
        product = GEMV[self.dtype.char]
        cast = y.astype(self.dtype, copy=False)
        return self._total(product(1.0, block.T, cast[rows]) for rows, block in self.blocks())

    def multiply_both(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return S x [rows] and Sᵀ(S x) [columns], of `dtype`, for x [columns], in one pass over S."""
        product = GEMV[self.dtype.char]
        cast = x.astype(self.dtype, copy=False)
        forward: list[NDArray[Any]] = []

        def back() -> Iterator[NDArray[Any]]:
            for _, block in self.blocks():
                forward.append(product(1.0, block.T, cast, trans=1))
                yield product(1.0, block.T, forward[-1])

        total = self._total(back())
        return self._joined(forward), total

    def gram_multiply_columns(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return SᵀS x [columns], of `dtype`, for x [columns], in one pass over S."""
        return self.multiply_both(x)[1]

    def gram_multiply_rows(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return SSᵀ y [rows], of `dtype`, for y [rows], in two passes over S."""
        return self.multiply(self.multiply_transposed(y))

    def gram(self) -> NDArray[Any]:
        """Compute S Sᵀ or SᵀS, whichever is smaller.

        Returns:
            [n, n] with n = min(rows, columns), Fortran order, upper triangle only, of `dtype`; or of float64, where one
            float32 sum would be too long. The error of float32 products is at most 6e-6 of the norm (where a row's
            elements are equal), 2e-7 on random ones.
        """
        # numpy's own product of a matrix with its transpose mirrors the triangle, which doubles the time.
        square = SYRK[self.dtype.char]
        rows, columns = self.shape
        size, wide, double = min(rows, columns), int(rows < columns), self.dtype == np.float64
        if not self._converts and (double or max(rows, columns) <= 2 * FLOAT32_DEPTH):
            # Not by strips: BLAS makes its own, and memory fresh from the system costs as much as the products.
            whole: NDArray[Any] = square(1.0, self.storage.T, trans=wide)
            return whole
        total = np.zeros((size, size), order="F")
        work = total if double else np.zeros((size, size), np.float32, order="F")
        summed = 0
        for strip in self._strips():
            square(1.0, strip.T, trans=wide, beta=float(double or summed > 0), c=work, overwrite_c=1)
            summed += strip.shape[wide]
            if not double and summed >= FLOAT32_DEPTH:
                total += work
                summed = 0
        if not double and summed:
            total += work
        return total

    def _strips(self) -> Iterator[NDArray[Any]]:
        """Yield rows [s, columns] of a tall S or columns [rows, s] of a wide one, contiguous, s ≤ FLOAT32_DEPTH."""
        rows, columns = self.shape
        if columns <= rows:
            for _, block in self.blocks(GRAM_DEPTH):
                yield from (block[start : start + FLOAT32_DEPTH] for start in range(0, len(block), FLOAT32_DEPTH))
            return
        fitting = max(GRAM_DEPTH, BUFFER_BYTES // (rows * self.dtype.itemsize))
        step = min(columns, fitting, FLOAT32_DEPTH)
        buffer = np.empty(rows * step, self.dtype)
        for start in range(0, columns, step):
            strip = self.storage[:, start : start + step]
            yield _convert(strip, buffer[: strip.size].reshape(strip.shape), self.exponent)

    @staticmethod
    def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _total(self, parts: Iterator[NDArray[Any]]) -> NDArray[Any]:
        first, second = next(parts), next(parts, None)
        if second is None:
            return first
        total = np.add(first, second, dtype=np.float64)
        for part in parts:
            total += part
        summed: NDArray[Any] = total.astype(self.dtype, copy=False)
        return summed

    def largest(self) -> float:
        """Return max|S|, before the exponent is taken out; 0 for an empty matrix, not finite if an entry is not."""
        plain = replace(self, exponent=0)
        extremes = [max(float(block.max()), -float(block.min())) for _, block in plain.blocks() if block.size]
        return float(np.max(extremes, initial=0.0))

    def restored(self, norm: float) -> float:
        """Return a norm of the served values as one of the stored values; infinity where it leaves float64."""
        with np.errstate(over="ignore"):
            return float(np.ldexp(norm, self.exponent))

    def rescaled(self, largest: float) -> BlockedMatrix:
        """Serve the same matrix divided by a power of two, so that its greatest entry lies in [1/2, 1)."""
        return replace(self, exponent=int(np.frexp(largest)[1]))


def count_nonfinite(array: NDArray[Any]) -> tuple[int, int]:
    """Count the NaN and the infinite values of an array of any shape and float type, without copying dense memory."""
    nans = infinities = 0
    flat = array.ravel(order="K")
    step = BUFFER_BYTES // array.dtype.itemsize
    for start in range(0, flat.size, step):
        chunk = flat[start : start + step]
        if not _all_finite(chunk):
            nans += int(np.count_nonzero(np.isnan(chunk)))
            infinities += int(np.count_nonzero(np.isinf(chunk)))
    return nans, infinities


def _all_finite(chunk: NDArray[Any]) -> bool:
    exponent = EXPONENT_BITS.get(chunk.dtype.name)
    if exponent is None:
        return bool(np.isfinite(chunk).all())
    return not bool(((chunk.view(np.uint16) & np.uint16(exponent)) == exponent).any())


def flushes_subnormals() -> bool:
    """Say whether this thread takes subnormal float32 numbers for 0.

    It is a mode of the processor that others may have set: onnxruntime does, for the thread that makes a session with
    `session.set_denormal_as_zero`.
    """
    return not np.multiply(np.array([1e-40], np.float32), np.float32(1e30)).any()


def _convert(block: NDArray[Any], out: NDArray[Any], exponent: int) -> NDArray[Any]:
    if exponent:
        np.ldexp(block, -exponent, out=out)
        return out
    if block.dtype == np.float16 and not flushes_subnormals():
        return _convert_half(block, out)
    if block.dtype.itemsize < 4 and out.dtype == np.float64:
        # bfloat16 straight to float64 is 4x slower than through float32.
        block = block.astype(np.float32)
    np.copyto(out, block, casting="same_kind")
    return out


def _convert_half(block: NDArray[np.float16], out: NDArray[Any]) -> NDArray[Any]:
    # numpy converts float16 at 1.6 ns a value, 7x slower than this: the half's bits, shifted into a float32, read as
    # its value times 2^-112, subnormals included; infinity and NaN alone come out wrong, as 65536 and more.
    bits = np.left_shift(block.view(np.int16), np.int32(13), dtype=np.int32)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)
    np.multiply(bits.view(np.float32), out.dtype.type(2.0**112), out=out)
    if max(out.max(initial=0.0), -out.min(initial=0.0)) >= 65536.0:
        np.copyto(out, block)
    return out
