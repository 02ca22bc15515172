"""The supremum over all input sizes, against fine grids of the symbol, values it attains, and growing sizes."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import sn_graph as sn
from sn_graph.spectral.convolution import supremum as module
from sn_graph.spectral.convolution.convolution import Convolution, operator_norm
from sn_graph.spectral.convolution.norm import Bracket
from tests.support.convolutions import convolutions, matrix, random_kernel, run_node, runnable
from tools.supremum_trials import Trial, attained, block_diagonal, decoy, hidden_ridge, random_trial, ridge, value_at


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
    beyond = grid / math.cos(sum(taps - 1 for taps in shape[2:]) * math.pi / points / 2)
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


def line(degrees: tuple[int, ...]) -> NDArray[np.float64]:
    """The kernel of 1 + e^{iD·θ}, whose peak, 2, is a ridge."""
    kernel = np.zeros((1, 1, *(degree + 1 for degree in degrees)))
    kernel[(0, 0, *(0,) * len(degrees))] = kernel[(0, 0, *degrees)] = 1.0
    return kernel


def plain(kernel: NDArray[np.float64], dilations: tuple[int, ...] = (), group: int = 1) -> Convolution:
    rank = kernel.ndim - 2
    return Convolution(kernel, (1,) * rank, dilations or (1,) * rank, (0,) * 2 * rank, group)


def test_the_lemma_is_sharp_on_a_line_and_a_product_is_not_a_bound() -> None:
    """1 + e^{i(θ₁ + θ₂)} at (π/4, π/4) is √2 = 2 cos((π/4 + π/4)/2), where 2 cos²(π/8) is 1.71."""
    value, _ = value_at(plain(line((1, 1))), np.full(2, math.pi / 4))
    assert value == pytest.approx(2 * math.cos(math.pi / 4), rel=1e-15)
    assert value < 2 * math.cos(math.pi / 8) ** 2 - 0.29


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_lemma(rank: int, seed: int) -> None:
    """‖F(θ)‖ ≥ M cos(Σ D_j |θ_j − θ*_j| / 2), for ridges, which come close to it, and for Gaussian kernels."""
    rng = np.random.default_rng(seed)
    degrees = rng.integers(1, 4, rank)
    peak = rng.uniform(0.0, 2 * math.pi, rank)
    convolution = plain(ridge(peak, float(rng.uniform(0.0, 1.0)), degrees.tolist()))
    if seed % 2:
        # A Gaussian part, whose peak is turned to the same place: the norm of a real kernel of a positive symbol.
        taps = np.abs(rng.standard_normal((2, 3, *(degrees + 1))))
        convolution, peak = plain(taps), np.zeros(rank)
    top, _ = value_at(convolution, peak)
    for _ in range(20):
        reach = rng.dirichlet(np.ones(rank)) * rng.uniform(0.0, math.pi)
        value, _ = value_at(convolution, peak + reach * rng.choice([-1, 1], rank) / degrees)
        assert value >= top * (math.cos(reach.sum() / 2) - 1e-14)


@pytest.mark.parametrize("degrees", [(3,), (1, 1), (0, 2), (3, 2), (1, 1, 1), (2, 0, 1), (1, 2, 3)])
def test_cells_cover_the_torus(degrees: tuple[int, ...]) -> None:
    """Any θ, or −θ, is within the reach that the margin supposes of some center, however often cells were cut."""
    rng = np.random.default_rng(0)
    cells = module._cells(degrees)
    for _ in range(5):
        reach = 2 * math.acos(math.sqrt(cells.shrink))
        angles = rng.uniform(0.0, 2 * math.pi, (200, len(degrees)))
        apart = np.stack([sign * angles[:, None, :] - cells.centers for sign in (1, -1)]) % (2 * math.pi)
        distance = (np.minimum(apart, 2 * math.pi - apart) * degrees).sum(axis=-1).min(axis=(0, 2))
        assert distance.max() <= reach * (1 + 1e-9)
        # Not by far: the farthest of 200 points lies near a corner.
        assert distance.max() >= 0.6 * reach
        if len(cells.centers) > 4000:
            break
        cells = cells.split(cells.centers)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("degrees", [(1, 1), (2, 1), (1, 3), (2, 2), (4, 2), (5, 5), (1, 1, 1), (2, 1, 1), (2, 2, 2)])
def test_a_peak_in_the_corner_of_a_box(degrees: tuple[int, ...], turned: bool) -> None:
    """Version 0.1.0 dropped the box of a peak on a ridge for decoys at centers, by a product of cosines: 8e-4 short."""
    far = {2: (0.8, math.exp(-1.75), 1.0008), 3: (0.82, math.exp(-1.25), 1.0006)}[len(degrees)]
    kernel, peak = hidden_ridge(degrees, *far)
    if turned:
        kernel, peak = np.flip(kernel, -1), peak * np.where(np.arange(len(degrees)) == len(degrees) - 1, -1, 1)
    value, _ = value_at(plain(kernel), peak)
    found = operator_norm(plain(kernel))
    assert value <= found.upper <= value * (1 + 1e-5)
    assert found.lower <= value * (1 + 1e-12)
    assert found.lower >= value * (1 - 1e-5)


@pytest.mark.parametrize("kind", ["dilated", "two groups", "float32", "transposed", "strided"])
def test_a_peak_in_the_corner_of_a_box_of_any_convolution(kind: str) -> None:
    kernel, peak = hidden_ridge((1, 2))
    convolution = plain(kernel)
    match kind:
        case "dilated":
            convolution = plain(kernel, (3, 2))
        case "two groups":
            convolution = plain(np.concatenate([kernel * 0.99, kernel]), group=2)
        case "float32":
            convolution = plain(kernel.astype(np.float32))
        case "strided":
            # One tap to a whole stride, so that the symbol stays what it is.
            spread = np.zeros((*kernel.shape[:2], 3, 5))
            spread[:, :, ::2, ::2] = kernel
            convolution = Convolution(spread, (2, 2), (1, 1), (0,) * 4)
        case "transposed":
            convolution = Convolution(kernel, (1, 1), (1, 1), (0,) * 4, 1, None, True)
    reached, _ = value_at(plain(kernel), peak)
    found = operator_norm(convolution)
    # float32 taps move the norm by some 1e-8.
    assert reached * (1 - 1e-7) <= found.upper <= reached * (1 + 1e-5)


@pytest.mark.parametrize("degree", [1, 2, 5, 30])
def test_a_peak_at_the_end_of_an_interval(degree: int) -> None:
    """In one dimension the lemma was right all along: a peak at the end of a coarse box, decoys at centers."""
    quarter = math.pi / 4
    peak = np.array([2 * quarter / degree])
    decoys = [decoy(math.sqrt(8.0) / 1.0001, np.array([place * quarter / degree]), (degree,)) for place in (3, 5, 7, 4)]
    kernel = block_diagonal([ridge(peak, 1.0, (degree,)), *decoys])
    found = operator_norm(plain(kernel))
    assert math.sqrt(8.0) * (1 - 1e-14) <= found.upper <= math.sqrt(8.0) * (1 + 1e-5)


@pytest.mark.parametrize("degrees", [(1, 1), (1, 2), (1, 1, 1), (2, 1, 2)])
def test_a_ridge_as_high_all_along(degrees: tuple[int, ...]) -> None:
    """1 + e^{iD·θ} is 2 on a line or plane: no cell on it is dropped, until the budget is spent."""
    found = operator_norm(plain(line(degrees)))
    # A climb ends where the slope is below 1e-5.
    assert found.lower == pytest.approx(2.0, rel=1e-9)
    assert 2.0 <= found.upper <= 2.0 * (1 + 2e-3)


def test_coarse_cells_alone_bound_a_peak_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without climbing and without a budget, so that the margin of the first cells carries all of the bound."""
    monkeypatch.setattr(module, "FREQUENCIES", (1, 1))
    monkeypatch.setattr(module, "CLIMBS", 0)
    rng = np.random.default_rng(4)
    for _ in range(100):
        degrees = rng.integers(1, 3, int(rng.integers(2, 4))).tolist()
        peak = rng.uniform(0.0, 2 * math.pi, len(degrees))
        weight = float(rng.uniform(0.0, 0.2))
        found = operator_norm(plain(ridge(peak, weight, degrees)))
        assert found.upper >= math.sqrt(4 * (1 + len(degrees) * weight)) * (1 - 1e-14)


def test_random_and_constructed_kernels() -> None:
    """A part of `tools/supremum_trials.py`: 40 kernels, each against a climb from many starts."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        trial: Trial = random_trial(rng)
        found, reached = operator_norm(trial.convolution), attained(trial, rng)
        assert found.upper >= reached * (1 - 1e-13)


def test_a_folded_layer_lengthens_no_input() -> None:
    """18×14×2×2, folded to 1 by its bound: 0.1.0 left a layer that lengthens a wave at the hidden peak by 1.00076."""
    kernel, peak = hidden_ridge((1, 1))
    weight = numpy_helper.from_array(kernel.astype(np.float32), "w")
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, kernel.shape[1], "h", "w"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "one", [image], [output], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folded = sn.fold(model, sigma="upper", norm="operator", bound=1.0).to_proto()
    taps = numpy_helper.to_array(folded.graph.initializer[0])
    size = 256
    window = np.sin(np.pi * (np.arange(size) + 1) / (size + 1)) * np.exp(1j * peak[0] * np.arange(size))
    block = np.tensordot(taps.astype(np.float64), np.exp(1j * np.add.outer(np.arange(2), np.arange(2)) * peak[0]), 2)
    right = np.linalg.svd(block)[2][0].conj()
    x = np.einsum("c,h,w->chw", right, window, window).real.astype(np.float32)[None]
    longer = float(np.linalg.norm(run_node("Conv", x, taps, {}).astype(np.float64)) / np.linalg.norm(x.astype(float)))
    # The border costs a wave about (π/256)², and float32 sums of 56 products round at random.
    assert 1 - 1e-3 <= longer <= 1 + 1e-7


@pytest.mark.parametrize(("taps", "stride"), [((1,), 1), ((1, 1), 1), ((2,), 2)])
def test_one_frequency_that_can_not_be_decided(
    taps: tuple[int, ...], stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A symbol without degrees, whose eigenvalue is found too low: the one cell is proven, and not cut into none."""
    exact = module._highest
    monkeypatch.setattr(module, "_highest", lambda *given: exact(*given) * (1.0 - 1e-4))
    rank = len(taps)
    kernel = np.random.default_rng(0).standard_normal((8, 3, *taps)).astype(np.float32)
    found = operator_norm(Convolution(kernel, (stride,) * rank, (1,) * rank, (0,) * 2 * rank, group=2))
    truth = max(np.linalg.norm(part.reshape(4, -1).astype(np.float64), 2) for part in np.split(kernel, 2))
    assert found.upper >= truth


def test_groups_take_the_largest() -> None:
    kernel = random_kernel(np.random.default_rng(3), (6, 2, 3, 3), False)
    parts = [all_sizes(kernel[start : start + 2]) for start in (0, 2, 4)]
    found = all_sizes(kernel, group=3)
    assert found.lower == pytest.approx(max(part.lower for part in parts), rel=1e-5)
    assert found.upper >= max(part.lower for part in parts)
