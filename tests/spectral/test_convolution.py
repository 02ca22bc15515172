"""The norm of a convolution at a given size against its matrix, written out by onnxruntime, in float64 SVD."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import svdvals

from sn_graph.spectral import correlation, correlation_norm
from sn_graph.spectral.convolution import Bracket, Convolution, adjoint, forward, operator_norm
from tests.spectral.convolutions import convolutions, matrix, random_kernel, run_convolution, runnable
from tools.bench.operator_norm import largest_by_arpack

EXAMPLES = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
PROMISED = 1e-5
# onnxruntime's float32 columns are sums of one product each, so exact; LAPACK's σ is good to some 1e-14.
EXACT = 1e-12


def norm(columns: NDArray[np.float64]) -> float:
    return float(svdvals(columns)[0])


def assert_bracket(convolution: Convolution, found: Bracket, truth: float) -> None:
    assert found.lower == pytest.approx(truth, rel=PROMISED, abs=1e-300), convolution
    # The issue allows 1e-6 for float32 products; all of these are computed in float64.
    assert found.lower <= truth * (1 + EXACT), convolution
    assert found.upper >= truth * (1 - EXACT), convolution


def assert_vectors(convolution: Convolution, found: Bracket) -> None:
    assert found.left is not None
    assert found.right is not None
    assert found.left.shape == convolution.output_shape
    assert found.right.shape == convolution.input_shape
    if found.lower == 0.0:
        assert not found.left.any()
        assert not found.right.any()
        return
    for vector in (found.left, found.right):
        assert np.linalg.norm(vector) == pytest.approx(1.0, rel=1e-9)
    reached = float(np.vdot(found.left, forward(convolution, found.right)))
    # u was computed from v or v from u, so that uᴴA v is the value itself; the recurrence's own is off by the square of
    # the vectors' error.
    assert reached == pytest.approx(found.lower, rel=PROMISED)


@EXAMPLES
@given(convolutions(), st.booleans())
def test_against_the_matrix(convolution: Convolution, vectors: bool) -> None:
    assume(runnable(convolution))
    found = operator_norm(convolution, vectors)
    assert_bracket(convolution, found, norm(matrix(convolution)))
    if vectors:
        assert_vectors(convolution, found)


@EXAMPLES
@given(convolutions(), st.booleans())
def test_without_the_matrix(convolution: Convolution, vectors: bool) -> None:
    """The way of large maps, taken by small ones."""
    assume(runnable(convolution))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correlation_norm, "DENSE_SIDE", 0)
        found = operator_norm(convolution, vectors)
    assert_bracket(convolution, found, norm(matrix(convolution)))
    if vectors:
        assert_vectors(convolution, found)


@EXAMPLES
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_forward_is_the_node(convolution: Convolution, seed: int) -> None:
    assume(runnable(convolution))
    x = np.random.default_rng(seed).standard_normal(convolution.input_shape)
    expected = run_convolution(convolution, x[None])[0]
    # float32 sums of up to 600 products of about 1 in onnxruntime.
    np.testing.assert_allclose(forward(convolution, x), expected, atol=2e-4)


@EXAMPLES
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_adjoint_identity(convolution: Convolution, seed: int) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩."""
    assume(min(convolution.output_shape) > 0)
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(convolution.input_shape), rng.standard_normal(convolution.output_shape)
    left = float(np.vdot(forward(convolution, x), y))
    right = float(np.vdot(x, adjoint(convolution, y)))
    scale = np.linalg.norm(x) * np.linalg.norm(y) * np.linalg.norm(convolution.kernel)
    assert abs(left - right) <= 1e-13 * scale + 1e-300


@EXAMPLES
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_blocks_of_one_place(convolution: Convolution, seed: int) -> None:
    """However the flat axis is cut, no place is left out: forward and adjoint against the matrix."""
    assume(runnable(convolution))
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(convolution.input_shape), rng.standard_normal(convolution.output_shape)
    columns = matrix(convolution)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correlation, "BLOCK", int(rng.integers(1, 100)))
        patch.setattr(correlation, "LEAST", int(rng.integers(1, 4)))
        np.testing.assert_allclose(forward(convolution, x).ravel(), columns @ x.ravel(), atol=1e-11)
        np.testing.assert_allclose(adjoint(convolution, y).ravel(), columns.T @ y.ravel(), atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 4, 5, 7])
@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_width(stride: int, taps: int, non_negative: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels have the sharpest peaks, and so the widest brackets: the issue's limits hold for them too."""
    monkeypatch.setattr(correlation_norm, "DENSE_SIDE", 0)
    kernel = random_kernel(np.random.default_rng(seed), (3, 2, taps, taps), non_negative)
    pads = ((taps - 1) // 2,) * 4
    convolution = Convolution(kernel, (stride, stride), (1, 1), pads, 1, (16, 16))
    found, truth = operator_norm(convolution), norm(matrix(convolution))
    assert_bracket(convolution, found, truth)
    assert found.upper <= truth * (1.1 if stride == 1 else 1.15)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_beyond_small(group: int, transposed: bool, stride: int) -> None:
    """Maps too large to be written out, in float32 products, against ARPACK on the float64 operator."""
    kernel = random_kernel(np.random.default_rng(group), (16, 16 // group, 3, 3), False)
    convolution = Convolution(kernel, (stride, stride), (1, 1), (1, 1, 1, 1), group, (20, 20), transposed)
    found = operator_norm(convolution, vectors=True)
    truth = largest_by_arpack(convolution, 2)
    assert found.lower == pytest.approx(truth, rel=PROMISED)
    assert found.lower <= truth * (1 + 1e-6)
    assert truth * (1 - EXACT) <= found.upper <= truth * 1.1
    assert_vectors(convolution, found)


LARGE = [
    ((4, 3, 3, 3), 1, (90, 80), False, False),
    ((3, 4, 3, 3), 1, (80, 90), False, True),
    ((8, 3, 4, 4), 2, (128, 128), True, False),
    ((2, 5, 3, 3), 2, (64, 50), False, True),
    ((3, 2, 5), 1, (900,), False, False),
    ((1, 1, 2, 2, 2), 1, (64, 60, 62), True, False),
]


@pytest.mark.parametrize(("shape", "stride", "size", "non_negative", "transposed"), LARGE)
def test_large_maps_begin_with_waves(
    shape: tuple[int, ...],
    stride: int,
    size: tuple[int, ...],
    non_negative: bool,
    transposed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Proven by the bound from above, without a random start; against ARPACK on the float64 operator."""
    monkeypatch.setattr(correlation_norm, "DENSE_SIDE", 0)
    monkeypatch.setattr(correlation_norm, "WAVE_LENGTH", 1)
    monkeypatch.setattr(correlation_norm, "leading_value", None)
    rank = len(size)
    kernel = random_kernel(np.random.default_rng(1), shape, non_negative)
    convolution = Convolution(kernel, (stride,) * rank, (1,) * rank, (1,) * 2 * rank, 1, size, transposed)
    found = operator_norm(convolution, vectors=True)
    truth = largest_by_arpack(convolution, 2)
    assert found.lower == pytest.approx(truth, rel=PROMISED)
    assert found.lower <= truth * (1 + 1e-6)
    assert truth * (1 - EXACT) <= found.upper <= found.lower * (1 + correlation_norm.ACCEPTED)
    assert_vectors(convolution, found)


def test_taps_that_count_for_nothing_elsewhere() -> None:
    """What reads one row alone sees the middle taps alone, 1e-50 beside the others."""
    kernel = np.zeros((1, 1, 3, 5))
    kernel[0, 0, [0, 2]] = 1.0
    kernel[0, 0, 1] = 1e-50
    found = operator_norm(Convolution(kernel, (1, 1), (1, 1), (1, 4, 1, 4), 1, (1, 20000)), vectors=True)
    assert 5e-50 * (1 - 1e-6) <= found.lower <= found.upper <= 5e-50 * (1 + 1e-12)


def test_waves_that_nothing_proves_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that stays 1 % above says nothing: the search begins anew, at random."""
    monkeypatch.setattr(correlation_norm, "DENSE_SIDE", 0)
    monkeypatch.setattr(correlation_norm, "WAVE_LENGTH", 1)
    monkeypatch.setattr(correlation_norm, "WAVE_STEPS", 1)
    kernel = random_kernel(np.random.default_rng(0), (3, 2, 7, 7), False)
    convolution = Convolution(kernel, (1, 1), (1, 1), (3,) * 4, 1, (44, 44))
    found = operator_norm(convolution)
    assert found.lower * (1 + correlation_norm.ACCEPTED) < found.upper < found.lower * 1.1
    assert found.lower == pytest.approx(largest_by_arpack(convolution, 2), rel=PROMISED)


def test_depthwise_iterates_the_leading_groups_only() -> None:
    kernel = random_kernel(np.random.default_rng(0), (40, 1, 3, 3), False)
    kernel[7] = kernel[23]
    kernel[[7, 23]] *= 3.0
    convolution = Convolution(kernel, (1, 1), (1, 1), (1, 1, 1, 1), 40, (48, 48))
    alone = Convolution(kernel[7:8], (1, 1), (1, 1), (1, 1, 1, 1), 1, (48, 48))
    found, expected = operator_norm(convolution, vectors=True), operator_norm(alone)
    # Both are within 1e-5 of the same norm.
    assert found.lower == pytest.approx(expected.lower, rel=2e-5)
    assert found.upper == pytest.approx(expected.upper, rel=1e-6)
    assert_vectors(convolution, found)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3)])
@pytest.mark.parametrize("pad", [0, 3, 5])
def test_tiny_inputs(size: tuple[int, int], pad: int) -> None:
    """Inputs narrower than the kernel, and pads wider."""
    kernel = random_kernel(np.random.default_rng(1), (3, 2, 5, 4), False)
    convolution = Convolution(kernel, (2, 1), (1, 2), (pad,) * 4, 1, size)
    found = operator_norm(convolution, vectors=True)
    if min(convolution.output_shape) == 0:
        assert (found.lower, found.upper) == (0.0, 0.0)
        return
    assert_bracket(convolution, found, norm(matrix(convolution)))
    assert_vectors(convolution, found)


def test_outputs_of_padding_alone() -> None:
    """Every second output reads padding only, and most of the kernel is never used."""
    kernel = random_kernel(np.random.default_rng(2), (2, 2, 3), False)
    convolution = Convolution(kernel, (5,), (1,), (7, 9), 1, (3,))
    found = operator_norm(convolution, vectors=True)
    assert_bracket(convolution, found, norm(matrix(convolution)))
    assert_vectors(convolution, found)
    nothing = Convolution(kernel, (9,), (1,), (4, 0), 1, (3,))
    assert not matrix(nothing).any()
    assert operator_norm(nothing) == Bracket(0.0, 0.0)


def test_kernel_as_long_as_the_stride_is_its_matrix() -> None:
    kernel = random_kernel(np.random.default_rng(3), (70, 30, 4, 4), False)
    found = operator_norm(Convolution(kernel, (4, 4), (1, 1), (0, 0, 0, 0), 1, (32, 32)), vectors=True)
    truth = norm(kernel.reshape(70, -1).astype(np.float64))
    assert found.lower == pytest.approx(truth, rel=1e-6)
    assert truth <= found.upper <= truth * (1 + 1e-6)


def test_pointwise() -> None:
    kernel = random_kernel(np.random.default_rng(4), (90, 60, 1, 1), False)
    convolution = Convolution(kernel, (1, 1), (1, 1), (0, 0, 0, 0), 1, (40, 40))
    found = operator_norm(convolution, vectors=True)
    truth = norm(kernel.reshape(90, 60).astype(np.float64))
    assert found.lower == pytest.approx(truth, rel=1e-6)
    assert truth <= found.upper <= truth * (1 + 1e-6)
    assert_vectors(convolution, found)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_types(kind: Any) -> None:
    kernel = random_kernel(np.random.default_rng(5), (3, 2, 3, 3), False).astype(kind)
    convolution = Convolution(kernel, (1, 1), (1, 1), (1, 1, 1, 1), 1, (7, 7))
    wide = Convolution(kernel.astype(np.float32), (1, 1), (1, 1), (1, 1, 1, 1), 1, (7, 7))
    assert_bracket(convolution, operator_norm(convolution), norm(matrix(wide)))


@pytest.mark.parametrize("exponent", [-1000, -300, 300, 1000])
@pytest.mark.parametrize("size", [(9, 9), None])
def test_scale(exponent: int, size: tuple[int, int] | None) -> None:
    """A power of two passes through untouched, where squares leave float64 too."""
    kernel = np.random.default_rng(6).standard_normal((2, 2, 3, 3))
    near = operator_norm(Convolution(kernel, (1, 1), (1, 1), (1, 1, 1, 1), 1, size))
    far = operator_norm(Convolution(np.ldexp(kernel, exponent), (1, 1), (1, 1), (1, 1, 1, 1), 1, size))
    assert (far.lower, far.upper) == (np.ldexp(near.lower, exponent), np.ldexp(near.upper, exponent))


@pytest.mark.parametrize("size", [(9,), None])
def test_nothing_and_not_finite(size: tuple[int, ...] | None) -> None:
    def of(kernel: NDArray[np.float64]) -> Bracket:
        return operator_norm(Convolution(kernel, (1,), (1,), (1, 1), 1, size))

    assert of(np.zeros((2, 3, 3))) == Bracket(0.0, 0.0)
    assert of(np.zeros((0, 3, 3))) == Bracket(0.0, 0.0)
    for value in (np.nan, np.inf, -np.inf):
        found = of(np.array([[[1.0, value, 0.0]]]))
        assert math.isnan(found.lower)
        assert math.isnan(found.upper)


def test_identity_and_blur() -> None:
    """By hand: a delta is the identity; (1, 0, 1) on n places has the norm 2 cos(π/(⌈n/2⌉ + 1))."""
    delta = np.zeros((1, 1, 3))
    delta[0, 0, 1] = 1.0
    found = operator_norm(Convolution(delta, (1,), (1,), (1, 1), 1, (5000,)))
    assert found.lower == pytest.approx(1.0, rel=1e-9)
    assert found.upper == pytest.approx(1.0, rel=1e-8)
    comb = np.array([[[1.0, 0.0, 1.0]]])
    found = operator_norm(Convolution(comb, (1,), (1,), (1, 1), 1, (2000,)))
    # The recurrence's promise, though the cluster at the upper end is as dense as 1e-6.
    assert found.lower == pytest.approx(2 * math.cos(math.pi / 1001), rel=PROMISED)
    assert found.upper == pytest.approx(2 * math.cos(math.pi / 1001), rel=PROMISED)
    assert found.upper >= 2 * math.cos(math.pi / 1001)
