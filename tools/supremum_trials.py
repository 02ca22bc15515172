"""Trials of the supremum over all sizes: its upper end against values that the symbol attains.

    python tools/supremum_trials.py --count 3000

Kernels of one to three axes, with strides, dilations and groups: Gaussian, non-negative, of low rank, sums of waves
along lines, and ridges that were made to deceive a search by cells, as the product of cosines of version 0.1.0 was: the
peak lies on a diagonal ridge in the far corner of a cell, and broad decoys a little lower at the cells' centers. The
judge climbs ‖F(θ)‖ from the highest points of a grid and from the peaks known, by SVD. Prints how far the upper ends
lie from the highest value attained; ends with 1 if one lies below.
"""

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from sn_graph.spectral.convolution import Convolution, operator_norm

Array = NDArray[np.float64]

# Points of the judge's grid, and how many of the highest it climbs from.
POINTS = 600
STARTS = 6
# What an SVD may be off.
ROUNDED = 1e-13


@dataclass(frozen=True)
class Trial:
    """A convolution over all sizes, and where its symbol has peaks as far as is known.

    Attributes:
        convolution: Its input size is None.
        peaks: θ, [peaks, rank], radians.
    """

    convolution: Convolution
    peaks: Array


def scalar_symbols(symbols: Sequence[Mapping[tuple[int, ...], complex]], degrees: Sequence[int]) -> Array:
    """Return a real kernel [2 · symbols, 2, D + 1…] with ‖F(θ)‖ = max(g(θ), g(−θ)), g² = Σ_k |Σ_u c_{k,u} e^{iu·θ}|².

    Args:
        symbols: c_{k,u} by u.
        degrees: D of each axis.
    """
    taps = tuple(degree + 1 for degree in degrees)
    kernel = np.zeros((2 * len(symbols), 2, math.prod(taps)))
    for index, symbol in enumerate(symbols):
        for shift, value in symbol.items():
            block = np.array([[value.real, -value.imag], [value.imag, value.real]])
            kernel[2 * index : 2 * index + 2, :, np.ravel_multi_index(shift, taps)] += block
    return kernel.reshape(*kernel.shape[:2], *taps)


def ridge(peak: Array, weight: float, degrees: Sequence[int]) -> Array:
    """Return a kernel with g² = 4 cos²(Σ_j t_j) + 4 w Σ_j cos²(t_j), where t_j = D_j (θ_j − peak_j) / 2.

    It falls off from √(4 + 4 w rank) across the diagonal as fast as any symbol of these degrees does.
    """
    zero = (0,) * len(degrees)
    rows: list[dict[tuple[int, ...], complex]] = [
        {zero: 1.0, tuple(degrees): complex(np.exp(-1j * np.dot(degrees, peak)))}
    ]
    for axis, degree in enumerate(degrees):
        end = tuple(degree if other == axis else 0 for other in range(len(degrees)))
        rows.append({zero: math.sqrt(weight), end: complex(math.sqrt(weight) * np.exp(-1j * degree * peak[axis]))})
    return scalar_symbols(rows, degrees)


def decoy(height: float, at: Array, degrees: Sequence[int]) -> Array:
    """Return a kernel with g = height · Π_j |cos(D_j (θ_j − at_j) / 2)|."""
    corners = itertools.product(*((0, degree) for degree in degrees))
    scale = height / 2 ** len(degrees)
    return scalar_symbols([{corner: complex(scale * np.exp(-1j * np.dot(corner, at))) for corner in corners}], degrees)


def block_diagonal(kernels: Sequence[Array]) -> Array:
    """Return the kernel of several side by side; its symbol's norm is the largest of theirs."""
    rows, columns = (sum(kernel.shape[axis] for kernel in kernels) for axis in (0, 1))
    whole = np.zeros((rows, columns, *kernels[0].shape[2:]))
    row = column = 0
    for kernel in kernels:
        whole[row : row + kernel.shape[0], column : column + kernel.shape[1]] = kernel
        row, column = row + kernel.shape[0], column + kernel.shape[1]
    return whole


def hidden_ridge(
    degrees: Sequence[int], corner: float = 0.8, weight: float = math.exp(-1.75), ratio: float = 1.0008
) -> tuple[Array, Array]:
    """Return a kernel with a ridge's peak in the corner of a box, and its angle [rank].

    Args:
        degrees: D of each axis, two or three.
        corner: Where the peak lies, between the center of a box of half widths π/(4 D) (0) and its corner (1).
        weight: w of `ridge`.
        ratio: By how much six decoys at centers of boxes, coarse ones and those of half the size, are lower.
    """
    quarter, rank = math.pi / 4, len(degrees)
    peak = np.full(rank, quarter + corner * quarter) / degrees
    height = math.sqrt(4.0 * (1.0 + rank * weight)) / ratio
    places = np.array([(3, 5, 5), (3, 7, 5), (1, 5, 5)])[:, :rank] * quarter
    centers = np.concatenate([places, places + quarter / 2]) / degrees
    return block_diagonal([ridge(peak, weight, degrees), *(decoy(height, at, degrees) for at in centers)]), peak


def symbol_at(convolution: Convolution, angle: Array) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Compute F(θ) [groups, O/g, I/g · s^d] for Conv, and ∂F/∂θ [rank, groups, O/g, I/g · s^d], from the definition."""
    rank, strides = convolution.rank, reduced_strides(convolution)
    kernel = np.asarray(convolution.kernel, dtype=np.float64)
    counts = [-(-taps // stride) for taps, stride in zip(kernel.shape[2:], strides, strict=True)]
    room = [(0, count * stride - taps) for count, stride, taps in zip(counts, strides, kernel.shape[2:], strict=True)]
    padded = np.pad(kernel, [(0, 0), (0, 0), *room])
    # Tap s u + ρ: u of each axis, then ρ of each axis.
    split = padded.reshape(*kernel.shape[:2], *itertools.chain(*zip(counts, strides, strict=True)))
    ordered = split.transpose(*range(2, 2 + 2 * rank, 2), 0, 1, *range(3, 3 + 2 * rank, 2))
    groups = convolution.group
    coefficients = ordered.reshape(math.prod(counts), groups, kernel.shape[0] // groups, -1)
    shifts = np.array(list(itertools.product(*map(range, counts))), dtype=np.float64)
    waves = np.exp(1j * shifts @ angle)
    blocks, *slopes = np.tensordot(np.vstack([np.ones(len(waves)), 1j * shifts.T]) * waves, coefficients, 1)
    return blocks, np.stack(slopes)


def reduced_strides(convolution: Convolution) -> list[int]:
    """Return s/gcd(s, d) of each axis, the strides of the pieces without dilation."""
    return [s // math.gcd(s, d) for s, d in zip(convolution.strides, convolution.dilations, strict=True)]


def value_at(convolution: Convolution, angle: Array) -> tuple[float, Array]:
    """Compute ‖F(θ)‖ by SVD, and its gradient [rank]: uᴴ ∂F/∂θ_j v."""
    blocks, slopes = symbol_at(convolution, angle)
    left, values, right = np.linalg.svd(blocks, full_matrices=False)
    group = int(values[:, 0].argmax())
    gradient = np.einsum("i,kij,j->k", left[group, :, 0].conj(), slopes[:, group], right[group, 0].conj()).real
    return float(values[group, 0]), gradient


def attained(trial: Trial, generator: np.random.Generator) -> float:
    """Climb to the highest value that the symbol attains, as far as is found."""
    convolution = trial.convolution
    random = generator.uniform(0.0, 2.0 * math.pi, (POINTS, convolution.rank))
    heights = [value_at(convolution, angle)[0] for angle in random]
    highest = random[np.argsort(heights)[-STARTS:]]
    best = 0.0
    for start in (*trial.peaks, *highest):

        def descend(angle: Array) -> tuple[float, Array]:
            nonlocal best
            value, gradient = value_at(convolution, angle)
            best = max(best, value)
            return -value, -gradient

        minimize(descend, start, jac=True, method="L-BFGS-B", options={"maxiter": 40, "ftol": 1e-15, "gtol": 1e-12})
    return best


def random_ridge(generator: np.random.Generator, rank: int) -> tuple[Array, Array]:
    """Draw a kernel with a ridge and decoys, on any diagonal, and peaks of it."""
    degrees = random_degrees(generator, rank)
    weight = float(np.exp(generator.uniform(-2.5, -0.5)))
    ratio = 1.0 + 10.0 ** generator.uniform(-4.0, -2.0)
    if rank > 1 and generator.integers(2):
        kernel, peak = hidden_ridge(degrees, generator.uniform(0.65, 0.95), weight, ratio)
        peaks = peak[None]
    else:
        quarter = math.pi / 4
        home = 2 * generator.integers(0, 4, rank) + 1
        peak = quarter * (home + generator.uniform(0.6, 1.0, rank) * generator.choice([-1, 1], rank)) / degrees
        others = home + 2 * generator.integers(1, 4, (int(generator.integers(2, 5)), rank))
        centers = quarter * np.concatenate([others, others + 0.5 * generator.choice([-1, 1], others.shape)]) / degrees
        height = math.sqrt(4.0 * (1.0 + rank * weight)) / ratio
        kernel = block_diagonal([ridge(peak, weight, degrees), *(decoy(height, at, degrees) for at in centers)])
        peaks = np.vstack([peak, centers])
    # An axis turned round is θ_j → −θ_j.
    turned = generator.choice([-1, 1], rank)
    return np.flip(kernel, tuple(2 + axis for axis in range(rank) if turned[axis] < 0)), turned * peaks


def random_degrees(generator: np.random.Generator, rank: int) -> list[int]:
    """Draw D of each axis: 1 to 3, up to 2 in three dimensions."""
    return [int(degree) for degree in generator.integers(1, 4 if rank < 3 else 3, rank)]


def random_lines(generator: np.random.Generator, rank: int) -> Array:
    """Draw a kernel of waves along a few lines: rows of 1 + e^{i(m·θ − ψ)} of random weights."""
    degrees = random_degrees(generator, rank)
    rows: list[dict[tuple[int, ...], complex]] = []
    for _ in range(int(generator.integers(1, 5))):
        first, second = (tuple(int(k) for k in generator.integers(0, np.add(degrees, 1))) for _ in range(2))
        size = float(np.exp(generator.uniform(-2.0, 0.0)))
        turn = complex(size * np.exp(1j * generator.uniform(0.0, 2.0 * math.pi)))
        rows.append({first: turn} if first == second else {first: complex(size), second: turn})
    return scalar_symbols(rows, degrees)


def random_kernel(generator: np.random.Generator, rank: int) -> Array:
    """Draw a kernel [outputs, inputs, taps…]: Gaussian, non-negative or of low rank."""
    outputs, inputs = generator.integers(1, 9 - 2 * rank + 2, 2)
    taps = generator.integers(1, (9, 5, 4)[rank - 1], rank)
    kernel = generator.standard_normal((outputs, inputs, *taps))
    match generator.integers(3):
        case 1:
            kernel = np.abs(kernel)
        case 2:
            kernel = generator.standard_normal((outputs, 1, *taps)) * generator.standard_normal((1, inputs, *taps))
    return kernel


def random_trial(generator: np.random.Generator) -> Trial:
    """Draw a convolution of one to three axes with stride, dilation and groups."""
    rank = int(generator.integers(1, 4))
    peaks = np.zeros((0, rank))
    match generator.integers(4):
        case 0 | 1:
            kernel, peaks = random_ridge(generator, rank)
        case 2:
            kernel = random_lines(generator, rank)
        case _:
            kernel = random_kernel(generator, rank)
    group = int(generator.choice([1, 1, 2]))
    if group == 2:
        # A second group, a little lower, with its own peaks.
        lower = np.flip(kernel, 2) * generator.uniform(0.9, 0.9999)
        kernel = np.concatenate([kernel, lower] if generator.integers(2) else [lower, kernel])
    strides = tuple(int(stride) for stride in generator.choice([1, 1, 2], rank))
    dilations = tuple(int(dilation) for dilation in generator.choice([1, 1, 2, 3], rank))
    plain = Convolution(kernel, strides, dilations, (0,) * 2 * rank, group)
    if len(peaks):
        # The taps of a ridge go to whole strides, so that its symbol stays what it is.
        reduced = reduced_strides(plain)
        spread = np.zeros(
            (*kernel.shape[:2], *(s * (n - 1) + 1 for s, n in zip(reduced, kernel.shape[2:], strict=True)))
        )
        spread[(slice(None), slice(None), *(slice(None, None, stride) for stride in reduced))] = kernel
        plain = replace(plain, kernel=spread)
    return Trial(plain, peaks)


def main() -> int:
    """Run the trials; return 1 if an upper end lies below an attained value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="how many convolutions (3000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    margins: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for _ in range(options.count):
        trial = random_trial(generator)
        found, reached = operator_norm(trial.convolution), attained(trial, generator)
        if reached:
            margins[trial.convolution.rank].append(found.upper / max(reached, found.lower) - 1.0)
    wrong = sum(margin < -ROUNDED for values in margins.values() for margin in values)
    for rank, values in margins.items():
        if values:
            print(f"{rank}-D: {len(values)}, upper ends {min(values):+.2e} to {max(values):+.2e} from what is attained")
    print(f"{wrong} of {options.count} upper ends lie below an attained value")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
