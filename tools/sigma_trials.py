"""Trials of the exact σ and the proven bound: what the tests do, on as many matrices as you have time for.

    python -m tools.sigma_trials --small 10000 --spectra 100 --gaps 20000

Small matrices (shorter side up to 5, all types, random and adversarial) are judged in 50 digits by mpmath. Spectra are
matrices of known singular values, the ones that fool solvers, for each seed and shape; there σ is judged by LAPACK's
SVD of the rounded matrix in float64. Gaps are matrices of sides to 1500 made to hide their leading value from Lanczos:
a gap of 1e-4 to 1e-12 below it, a direction that a start known beforehand does not see, blocks without a connection.
Prints the greatest errors; ends with 1 if σ is off by more than 1e-6 anywhere or a bound is below the norm.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard, hilbert, svdvals

from sn_graph.model import scale_elements
from sn_graph.spectral.linalg import BlockedMatrix, start_vector
from sn_graph.spectral.matrix import ROUNDING, bracket, certified_divisor, spectral_norm

TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
SHAPES = ((60, 90), (130, 150), (280, 260), (520, 540))
# What LAPACK's own singular value may be off by.
LAPACK = 1e-12


def forms(generator: np.random.Generator, rows: int, columns: int, form: int) -> NDArray[np.float64]:
    """Make a random matrix, or one with the least room: equal values, rank 1, graded, signs, wide scales, one entry."""
    plain = generator.standard_normal((rows, columns))
    match form:
        case 1:
            orthogonal, _ = np.linalg.qr(generator.standard_normal((max(rows, columns),) * 2))
            return orthogonal[:rows, :columns]
        case 2:
            return np.outer(plain[:, 0], plain[0])
        case 3:
            return plain * np.logspace(0, -12, columns)
        case 4:
            return np.sign(plain)
        case 5:
            return plain * 2.0 ** generator.integers(-60, 60, (rows, columns))
        case 6:
            return np.where(np.arange(plain.size).reshape(plain.shape) == plain.size // 2, plain, 0.0)
        case 7:
            return np.full((rows, columns), plain[0, 0])
        case _:
            return plain


def small(generator: np.random.Generator, index: int) -> NDArray[np.float64]:
    """Make a matrix of up to 5 x 5: one of `forms`, a Hilbert matrix, one of extreme scale, or nearly equal values."""
    rows, columns = (int(n) for n in generator.integers(1, 6, 2))
    match index % 10:
        case 7:
            whole: NDArray[np.float64] = hilbert(max(rows, columns))
            return whole[:rows, :columns]
        case 8:
            return generator.standard_normal((rows, columns)) * 10.0 ** generator.integers(-300, 300)
        case 9:
            return np.eye(rows, columns) * (1 + 1e-9 * generator.standard_normal((rows, columns)))
        case 6:
            return forms(generator, rows, columns, 7)
        case form:
            return forms(generator, rows, columns, form)


def fifty_digits(matrix: NDArray[Any]) -> Any:
    """Compute the spectral norm in mpmath's precision."""
    wide = mpmath.matrix(matrix.astype(np.float64).tolist())
    gram = wide * wide.T if matrix.shape[0] <= matrix.shape[1] else wide.T * wide
    return mpmath.sqrt(max(mpmath.eigsy(gram, eigvals_only=True)))


def stored(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a small matrix as folding stores it within a bound of 1, certified."""

    def store(factor: float) -> NDArray[Any]:
        return scale_elements(matrix, factor)

    return store(1.0 / certified_divisor(matrix, 1.0, store=None if matrix.dtype in ROUNDING else store))


def try_small(count: int, seed: int) -> bool:
    """Judge so many small matrices in 50 digits, and print what was found; return whether all is as promised."""
    mpmath.mp.dps = 50
    generator = np.random.default_rng(seed)
    below = over = 0
    widest = farthest = 0.0
    for index in range(count):
        kind = TYPES[index // 10 % 4]
        with np.errstate(over="ignore", under="ignore"):
            matrix = small(generator, index).astype(kind)
        matrix[~np.isfinite(matrix)] = 1
        matrix[0, 0] = matrix[0, 0] or 1
        norm, found = fifty_digits(matrix), bracket(matrix)
        below += found.upper < norm
        widest = max(widest, float(found.upper / norm - 1))
        farthest = max(farthest, abs(float(spectral_norm(matrix) / norm - 1)))
        if 1e-3 < norm < 1e3:
            over += fifty_digits(stored(matrix)) > 1
    print(f"{count} small: {below} bounds below the norm, {over} stored matrices above the bound")
    print(f"  greatest width {widest:.1e}, greatest error of sigma {farthest:.1e}")
    return not below and not over and farthest <= 1e-6


def spectra(size: int, generator: np.random.Generator) -> Iterator[tuple[str, NDArray[np.float64]]]:
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


def matrices(
    rows: int, columns: int, generator: np.random.Generator
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the names of all spectra, their values, and matrices [rows, columns] of random vectors that have them."""
    size = min(rows, columns)
    left, _ = np.linalg.qr(generator.standard_normal((rows, size)))
    right, _ = np.linalg.qr(generator.standard_normal((columns, size)))
    for name, values in spectra(size, generator):
        yield name, values, (left * values) @ right.T


def named(size: int, generator: np.random.Generator) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield names and square matrices that have one."""
    yield "random", generator.standard_normal((size, size))
    yield "non-negative", generator.random((size, size))
    yield "hilbert", hilbert(size)
    yield "sparse", generator.standard_normal((size, size)) * (generator.random((size, size)) < 3 / size)
    yield "hadamard", hadamard(1 << (size.bit_length() - 1)).astype(np.float64)


def try_spectra(seeds: int) -> bool:
    """Judge matrices of known spectra by LAPACK, and print what was found; return whether all is as promised."""
    errors: dict[str, float] = defaultdict(float)
    widths: dict[str, float] = defaultdict(float)
    count = below = 0
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        rows, columns = SHAPES[seed % len(SHAPES)]
        made = ((name, wide) for name, _, wide in matrices(rows, columns, generator))
        for name, wide in [*made, *named(min(rows, columns), generator)]:
            for kind in (np.float32, np.float64):
                matrix = wide.astype(kind)
                reference = float(svdvals(matrix.astype(np.float64))[0])
                found = bracket(matrix)
                for sigma in (spectral_norm(matrix), found.lower):
                    errors[name] = max(errors[name], abs(sigma / reference - 1))
                widths[name] = max(widths[name], found.upper / reference - 1)
                below += found.upper < reference * (1 - LAPACK)
                count += 1
    print(f"{count} of known spectra, sides up to {SHAPES[-1][1]}: {below} bounds below the norm")
    for name in errors:
        print(f"  {name:32} error of sigma {errors[name]:.1e}   width of the bound {widths[name]:.1e}")
    return not below and max(errors.values(), default=0.0) <= 1e-6


def reflected(generator: np.random.Generator, rows: int, columns: int, values: NDArray[np.float64]) -> NDArray[Any]:
    """Return a matrix [rows, columns] of these singular values: its vectors are reflected twice on either side."""
    matrix = np.zeros((rows, columns))
    np.fill_diagonal(matrix, values)
    for _ in range(2):
        for axis, length in enumerate((rows, columns)):
            mirror = generator.standard_normal(length)
            mirror /= np.linalg.norm(mirror)
            if axis == 0:
                matrix -= 2.0 * np.outer(mirror, mirror @ matrix)
            else:
                matrix -= 2.0 * np.outer(matrix @ mirror, mirror)
    return matrix


def hiding(generator: np.random.Generator, index: int) -> tuple[str, NDArray[np.float64], float]:
    """Make a matrix that hides its leading value, and tell its norm: name, matrix and norm."""
    side = int(generator.choice((97, 130, 200, 300, 420)) if index % 40 else generator.choice((600, 1000, 1500)))
    other = side + int(generator.integers(0, 40))
    gap = 10.0 ** generator.uniform(-12, -4)
    rest = np.sort(0.9 * generator.random(side - 2))[::-1]
    match index % 8:
        case 0:
            return "two near values", reflected(generator, side, other, np.append([1.0, 1.0 - gap], rest)), 1.0
        case 1:
            return "one above all", reflected(generator, side, other, np.append(1.0, np.full(side - 1, 1.0 - gap))), 1.0
        case 2:
            values = 1.0 - gap * np.arange(side)
            return "ladder", reflected(generator, side, other, np.maximum(values, 0.0)), 1.0
        case 3:
            # Unseen by the start of the matrix without it.
            start = start_vector(side, BlockedMatrix.of(np.eye(side)).seed)
            hidden = generator.standard_normal(side)
            for _ in range(2):
                hidden -= (hidden @ start) * start
            hidden /= np.linalg.norm(hidden)
            height = float(generator.choice((1.0, 1e-2, 1e-4)))
            return "unseen direction", np.eye(side) + height * np.outer(hidden, hidden), 1.0 + height
        case 4:
            matrix = np.eye(side)
            one, two = generator.choice(side, 2, replace=False)
            matrix[one, one] = matrix[two, two] = 2.0
            matrix[one, two] = matrix[two, one] = generator.choice((-1.0, 1.0))
            return "one block", matrix, 3.0
        case 5:
            matrix = np.zeros((side, other))
            places = generator.permutation(side)
            matrix[places, np.arange(side)] = generator.choice((-1.0, 1.0), side)
            matrix[places[0], 0] *= 1.0 + 1e-5
            return "signed permutation, one higher", matrix, 1.0 + 1e-5
        case 6:
            half = side // 2
            matrix = np.zeros((2 * half, 2 * half))
            matrix[:half, :half] = reflected(generator, half, half, np.append(1.0, rest[: half - 1]))
            matrix[half:, half:] = reflected(generator, half, half, np.append(1.0 - gap, rest[: half - 1]))
            return "two blocks", matrix, 1.0
        case _:
            waves = np.fft.rfft(generator.standard_normal(side))
            waves /= np.abs(waves)
            heights = np.minimum(1.0, 0.9 + 0.1 * generator.random(len(waves)))
            heights[0], heights[-1], heights[len(waves) // 2] = 0.9, 0.9, 1.0
            heights[len(waves) // 3] = 1.0 - gap
            row = np.fft.irfft(waves * heights, side)
            return "circulant", row[(np.arange(side)[None] - np.arange(side)[:, None]) % side], 1.0


def try_gaps(count: int, seed: int) -> bool:
    """Judge so many matrices that hide their leading value, and print what was found."""
    generator = np.random.default_rng(seed)
    errors: dict[str, float] = defaultdict(float)
    below = 0
    for index in range(count):
        name, wide, norm = hiding(generator, index)
        matrix = wide.astype(TYPES[index // 8 % 4])
        known = norm if matrix.dtype == np.float64 else None
        found = spectral_norm(matrix)
        proven = bracket(matrix) if index % 3 == 0 else None
        if known is None or abs(found / known - 1) > 5e-7:
            known = float(svdvals(matrix.astype(np.float64))[0])
        for sigma in (found, *(() if proven is None else (proven.lower,))):
            errors[name] = max(errors[name], abs(sigma / known - 1))
        below += proven is not None and proven.upper < known * (1 - LAPACK)
    print(f"{count} that hide their leading value, sides up to 1540: {below} bounds below the norm")
    for name, error in errors.items():
        print(f"  {name:32} error of sigma {error:.1e}")
    return not below and max(errors.values(), default=0.0) <= 1e-6


def main() -> None:
    """Run the trials; end with 1 if anything is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=10_000, help="how many small matrices")
    parser.add_argument("--spectra", type=int, default=100, help="how many seeds of every spectrum")
    parser.add_argument("--gaps", type=int, default=20_000, help="how many that hide their leading value")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    good = try_small(arguments.small, arguments.seed)
    good = try_spectra(arguments.spectra) and good
    good = try_gaps(arguments.gaps, arguments.seed) and good
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
