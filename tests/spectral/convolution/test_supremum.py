"""The supremum over all input sizes, against fine grids of the symbol and convolutions at growing sizes."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from sn_graph.spectral.convolution import supremum as module
from sn_graph.spectral.convolution.convolution import Convolution, operator_norm
from sn_graph.spectral.convolution.norm import Bracket
from tests.support.convolutions import convolutions, matrix, random_kernel, runnable


def all_sizes(kernel: NDArray[np.float32], stride: int = 1, dilation: int = 1, group: int = 1) -> Bracket:
    rank = kernel.ndim - 2
    return operator_norm(Convolution(kernel, (stride,) * rank, (dilation,) * rank, (0,) * 2 * rank, group))


def grid_maximum(kernel: NDArray[np.float32], points: int) -> float:
    """The largest norm of the stride-1 symbol on a grid, by FFT and SVD: Sedghi, Gupta & Long, 2019."""
    axes = tuple(range(2, kernel.ndim))
    spectrum = np.fft.fftn(kernel.astype(np.float64), (points,) * len(axes), axes=axes)
    blocks = np.moveaxis(spectrum, (0, 1), (-2, -1)).reshape(-1, *kernel.shape[:2])
    return float(np.linalg.svd(blocks, compute_uv=False)[:, 0].max())


@pytest.mark.parametrize("shape", [(1, 1, 7), (3, 2, 5), (4, 4, 3, 3), (2, 5, 4, 2), (2, 2, 2, 3, 2)])
@pytest.mark.parametrize("non_negative", [False, True])
def test_against_a_fine_grid(shape: tuple[int, ...], non_negative: bool) -> None:
    kernel = random_kernel(np.random.default_rng(0), shape, non_negative)
    found = all_sizes(kernel)
    points = {1: 4096, 2: 256, 3: 48}[len(shape) - 2]
    grid = grid_maximum(kernel, points)
    # M. Riesz's lemma for the grid: every point of the torus is within π/points of it, on each axis.
    beyond = grid / math.prod(math.cos((taps - 1) * math.pi / points / 2) for taps in shape[2:])
    assert grid * (1 - 1e-12) <= found.lower * (1 + 1e-5)
    assert found.lower <= beyond
    assert grid <= found.upper * (1 + 1e-12)
    assert found.upper <= found.lower * (1 + 1e-5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(convolutions())
def test_holds_at_every_size(convolution: Convolution) -> None:
    """Whatever size, pads and output padding: dynamic shapes are bounded by strides, dilations and groups alone."""
    if not runnable(convolution):
        return
    found = operator_norm(
        Convolution(
            convolution.kernel,
            convolution.strides,
            convolution.dilations,
            convolution.pads,
            convolution.group,
            None,
            convolution.transposed,
            convolution.output_padding,
        )
    )
    assert found.upper >= np.linalg.norm(matrix(convolution), 2) * (1 - 1e-12)
    assert found.lower <= found.upper <= found.lower * (1 + 1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_is_the_limit_of_growing_sizes(stride: int, dilation: int, transposed: bool) -> None:
    kernel = random_kernel(np.random.default_rng(1), (2, 3, 5), False)
    limit = operator_norm(Convolution(kernel, (stride,), (dilation,), (1, 1), 1, None, transposed))
    norms = [
        operator_norm(Convolution(kernel, (stride,), (dilation,), (1, 1), 1, (size,), transposed)).lower
        for size in (30, 60, 120, 240, 480)
    ]
    # Each is within 1e-5 of the truth.
    assert all(before <= after * (1 + 2e-5) for before, after in pairwise(norms))
    assert norms[-1] <= limit.upper
    # The gap shrinks as 1/n²; at n = 480 · stride it is below 4 (π D/n)².
    assert norms[-1] >= limit.lower * (1 - 4 * (math.pi * 5 * dilation / 480) ** 2)


def test_narrow_peak() -> None:
    """A Dirichlet kernel at an odd frequency: its peak is as narrow as 31 taps allow, and between coarse boxes."""
    taps = np.arange(31)
    kernel = np.cos(1.234567 * taps)[None, None].astype(np.float64)
    found = all_sizes(kernel.astype(np.float32))
    grid = grid_maximum(kernel.astype(np.float32), 1 << 16)
    assert found.lower == pytest.approx(grid, rel=1e-6)
    assert grid <= found.upper <= grid * (1 + 1e-5)


def test_flat_symbol() -> None:
    """An orthogonal kernel of stride 2 is an isometry at every frequency, so no box can be left out early."""
    # Daubechies' four taps and their mirror filter, orthonormal to their own shifts by 2 (Daubechies, 1992, table 6.1).
    root = math.sqrt(3)
    low = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * math.sqrt(2))
    kernel = np.stack([low, low[::-1] * [1, -1, 1, -1]])[:, None]
    found = operator_norm(Convolution(kernel, (2,), (1,), (0, 0)))
    assert found.lower == pytest.approx(1.0, rel=1e-12)
    assert found.upper == pytest.approx(1.0, rel=1e-5)
    assert found.upper >= 1.0


def test_search_that_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no budget left the upper end is wider, and as true."""
    kernel = random_kernel(np.random.default_rng(2), (6, 6, 5, 5), False)
    full = all_sizes(kernel)
    monkeypatch.setattr(module, "FREQUENCIES", (1, 1))
    found = all_sizes(kernel)
    assert full.lower <= found.upper
    assert found.upper > full.upper * 1.001
    assert found.lower <= full.lower * (1 + 1e-9)


@pytest.mark.parametrize("taps", [2, 4, 8])
def test_margin_is_tight(taps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """|1 + e^{iDθ}| is what M. Riesz's lemma is an equality for: coarse boxes alone, without climbing, give its 2."""
    monkeypatch.setattr(module, "FREQUENCIES", (1, 1))
    monkeypatch.setattr(module, "CLIMBS", 0)
    kernel = np.zeros((1, 1, taps), np.float32)
    kernel[..., [0, -1]] = 1.0
    found = all_sizes(kernel)
    # raised_limit adds 1e-6 to an estimate where it has to.
    assert 2.0 <= found.upper <= 2.0 * (1 + 2e-6)


def test_groups_take_the_largest() -> None:
    kernel = random_kernel(np.random.default_rng(3), (6, 2, 3, 3), False)
    parts = [all_sizes(kernel[start : start + 2]) for start in (0, 2, 4)]
    found = all_sizes(kernel, group=3)
    assert found.lower == pytest.approx(max(part.lower for part in parts), rel=1e-5)
    assert found.upper >= max(part.lower for part in parts)
