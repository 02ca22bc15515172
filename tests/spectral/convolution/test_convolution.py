"""The norm of a convolution at a given size against its matrix, written out by onnxruntime, in float64 SVD."""

import math
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sn_graph.spectral.convolution.convolution import Convolution, adjoint, forward, operator_norm
from sn_graph.spectral.convolution.norm import Bracket
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
    run_convolution,
    runnable,
)


@EXAMPLES
@given(convolutions(), st.booleans())
def test_against_the_matrix(convolution: Convolution, vectors: bool) -> None:
    assume(runnable(convolution))
    found = operator_norm(convolution, vectors)
    assert_bracket(convolution, found, matrix_norm(matrix(convolution)))
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


def test_taps_that_count_for_nothing_elsewhere() -> None:
    """What reads one row alone sees the middle taps alone, 1e-50 beside the others."""
    kernel = np.zeros((1, 1, 3, 5))
    kernel[0, 0, [0, 2]] = 1.0
    kernel[0, 0, 1] = 1e-50
    found = operator_norm(Convolution(kernel, (1, 1), (1, 1), (1, 4, 1, 4), 1, (1, 20000)), vectors=True)
    assert 5e-50 * (1 - 1e-6) <= found.lower <= found.upper <= 5e-50 * (1 + 1e-12)


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
    assert_bracket(convolution, found, matrix_norm(matrix(convolution)))
    assert_vectors(convolution, found)


def test_outputs_of_padding_alone() -> None:
    """Every second output reads padding only, and most of the kernel is never used."""
    kernel = random_kernel(np.random.default_rng(2), (2, 2, 3), False)
    convolution = Convolution(kernel, (5,), (1,), (7, 9), 1, (3,))
    found = operator_norm(convolution, vectors=True)
    assert_bracket(convolution, found, matrix_norm(matrix(convolution)))
    assert_vectors(convolution, found)
    nothing = Convolution(kernel, (9,), (1,), (4, 0), 1, (3,))
    assert not matrix(nothing).any()
    assert operator_norm(nothing) == Bracket(0.0, 0.0)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_types(kind: Any) -> None:
    kernel = random_kernel(np.random.default_rng(5), (3, 2, 3, 3), False).astype(kind)
    convolution = Convolution(kernel, (1, 1), (1, 1), (1, 1, 1, 1), 1, (7, 7))
    wide = Convolution(kernel.astype(np.float32), (1, 1), (1, 1), (1, 1, 1, 1), 1, (7, 7))
    assert_bracket(convolution, operator_norm(convolution), matrix_norm(matrix(wide)))


@pytest.mark.parametrize("exponent", [-1000, -300, 300, 1000])
@pytest.mark.parametrize("size", [(9, 9), None])
def test_scale(exponent: int, size: tuple[int, int] | None) -> None:
    """A power of two passes through untouched, where squares leave float64 too."""
    kernel = np.random.default_rng(6).standard_normal((2, 2, 3, 3))
    near = operator_norm(Convolution(kernel, (1, 1), (1, 1), (1, 1, 1, 1), 1, size))
    far = operator_norm(Convolution(np.ldexp(kernel, exponent), (1, 1), (1, 1), (1, 1, 1, 1), 1, size))
    assert (far.lower, far.upper) == (np.ldexp(near.lower, exponent), np.ldexp(near.upper, exponent))


@pytest.mark.parametrize("dilation", [1, 2])
def test_an_upper_end_is_not_rounded_down(dilation: int) -> None:
    """Kernels of the first subnormals, whose norm is enclosed by neighbouring numbers at best."""
    least = 2.0**-1074
    rng = np.random.default_rng(7)
    for _ in range(50):
        taps = rng.integers(1, 4, (2, 1, 3)).astype(np.float64)
        # Columns of whole numbers, so that the matrix is exact before it is scaled.
        convolution = Convolution(taps, (1,), (dilation,), (1, 1), 1, (5,))
        truth = matrix_norm(matrix(convolution))
        found = operator_norm(replace(convolution, kernel=taps * least))
        assert found.lower <= found.upper
        assert truth * (1 - EXACT) <= found.upper / least <= truth + 2.0
        over_all = operator_norm(replace(convolution, kernel=taps * least, input_size=None))
        assert over_all.upper / least >= np.linalg.norm(taps.sum(axis=(1, 2)))


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
