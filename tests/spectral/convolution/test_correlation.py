"""The products of a piece, cut into blocks, against the matrix of the node by onnxruntime."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sn_graph.spectral.convolution import correlation as module
from sn_graph.spectral.convolution.convolution import Convolution, adjoint, forward
from tests.support.convolutions import EXAMPLES, convolutions, matrix, runnable


@EXAMPLES
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_blocks_of_one_place(convolution: Convolution, seed: int) -> None:
    """However the flat axis is cut, no place is left out: forward and adjoint against the matrix."""
    assume(runnable(convolution))
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(convolution.input_shape), rng.standard_normal(convolution.output_shape)
    columns = matrix(convolution)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", int(rng.integers(1, 100)))
        patch.setattr(module, "LEAST", int(rng.integers(1, 4)))
        np.testing.assert_allclose(forward(convolution, x).ravel(), columns @ x.ravel(), atol=1e-11)
        np.testing.assert_allclose(adjoint(convolution, y).ravel(), columns.T @ y.ravel(), atol=1e-11)
