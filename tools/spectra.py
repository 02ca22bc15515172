"""Singular values that are hard to tell apart, and matrices that have them, for solvers to stumble on."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def spectra(size: int, generator: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Yield names and singular values [size], the largest 1 or a little below: clusters, gaps, decays, ties."""
    rest = 0.9 * generator.random(size)
    yield "uniform", rest
    yield "graded to 1e-12", np.logspace(0, -12, size)
    yield "trained-looking", 1 / np.arange(1, size + 1) ** 0.7
    yield "rank 3", np.where(np.arange(size) < 3, rest, 0.0)
    yield "orthogonal", np.ones(size)
    yield "two equal", np.where(np.arange(size) < 2, 1.0, rest)
    yield "dense cluster", 1 - np.linspace(0, 1e-4, size)
    yield "soft edge", 1 - 1e-2 * np.linspace(0, 1, size) ** 2
    for gap in (1e-7, 1e-6, 3e-6, 1e-5, 1e-4, 1e-3):
        yield f"gap {gap:g}", np.concatenate([[1.0, 1 - gap], rest[2:]])
        yield f"one above a cluster, {gap:g}", np.concatenate([[1.0], np.full(size - 1, 1 - gap)])


def matrices(rows: int, columns: int, generator: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Yield the names of all spectra, and matrices [rows, columns] of random vectors that have them."""
    size = min(rows, columns)
    left, _ = np.linalg.qr(generator.standard_normal((rows, size)))
    right, _ = np.linalg.qr(generator.standard_normal((columns, size)))
    for name, values in spectra(size, generator):
        yield name, (left * values) @ right.T
