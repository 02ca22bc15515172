"""The norm of a piece by each of its ways: too large for its matrix, begun with waves or at random, in groups."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sn_graph.spectral.convolution import norm as module
from sn_graph.spectral.convolution.convolution import Convolution, operator_norm
from tests.support.convolutions import (
    EXACT,
    EXAMPLES,
    PROMISED,
    assert_bracket,
    assert_vectors,
    convolutions,
    matrix,
    matrix_norm,
    random_kernel,
    runnable,
)
from tools.bench.operator_norm import largest_by_arpack


@EXAMPLES
@given(convolutions(), st.booleans())
def test_without_the_matrix(convolution: Convolution, vectors: bool) -> None:
    """The way of large maps, taken by small ones."""
    assume(runnable(convolution))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE_SIDE", 0)
        found = operator_norm(convolution, vectors)
    assert_bracket(convolution, found, matrix_norm(matrix(convolution)))
    if vectors:
        assert_vectors(convolution, found)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 4, 5, 7])
@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_width(stride: int, taps: int, non_negative: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels have the sharpest peaks, and so the widest brackets: 10 % at stride 1, 15 % at stride 2, at most."""
    monkeypatch.setattr(module, "DENSE_SIDE", 0)
    kernel = random_kernel(np.random.default_rng(seed), (3, 2, taps, taps), non_negative)
    pads = ((taps - 1) // 2,) * 4
    convolution = Convolution(kernel, (stride, stride), (1, 1), pads, 1, (16, 16))
    found, truth = operator_norm(convolution), matrix_norm(matrix(convolution))
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
    monkeypatch.setattr(module, "DENSE_SIDE", 0)
    monkeypatch.setattr(module, "WAVE_LENGTH", 1)
    monkeypatch.setattr(module, "leading_value", None)
    rank = len(size)
    kernel = random_kernel(np.random.default_rng(1), shape, non_negative)
    convolution = Convolution(kernel, (stride,) * rank, (1,) * rank, (1,) * 2 * rank, 1, size, transposed)
    found = operator_norm(convolution, vectors=True)
    truth = largest_by_arpack(convolution, 2)
    assert found.lower == pytest.approx(truth, rel=PROMISED)
    assert found.lower <= truth * (1 + 1e-6)
    assert truth * (1 - EXACT) <= found.upper <= found.lower * (1 + module.ACCEPTED)
    assert_vectors(convolution, found)


def test_waves_that_nothing_proves_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that stays 1 % above says nothing: the search begins anew, at random."""
    monkeypatch.setattr(module, "DENSE_SIDE", 0)
    monkeypatch.setattr(module, "WAVE_LENGTH", 1)
    monkeypatch.setattr(module, "WAVE_STEPS", 1)
    kernel = random_kernel(np.random.default_rng(0), (3, 2, 7, 7), False)
    convolution = Convolution(kernel, (1, 1), (1, 1), (3,) * 4, 1, (44, 44))
    found = operator_norm(convolution)
    assert found.lower * (1 + module.ACCEPTED) < found.upper < found.lower * 1.1
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


def test_kernel_as_long_as_the_stride_is_its_matrix() -> None:
    kernel = random_kernel(np.random.default_rng(3), (70, 30, 4, 4), False)
    found = operator_norm(Convolution(kernel, (4, 4), (1, 1), (0, 0, 0, 0), 1, (32, 32)), vectors=True)
    truth = matrix_norm(kernel.reshape(70, -1).astype(np.float64))
    assert found.lower == pytest.approx(truth, rel=1e-6)
    assert truth <= found.upper <= truth * (1 + 1e-6)


def test_pointwise() -> None:
    kernel = random_kernel(np.random.default_rng(4), (90, 60, 1, 1), False)
    convolution = Convolution(kernel, (1, 1), (1, 1), (0, 0, 0, 0), 1, (40, 40))
    found = operator_norm(convolution, vectors=True)
    truth = matrix_norm(kernel.reshape(90, 60).astype(np.float64))
    assert found.lower == pytest.approx(truth, rel=1e-6)
    assert truth <= found.upper <= truth * (1 + 1e-6)
    assert_vectors(convolution, found)
