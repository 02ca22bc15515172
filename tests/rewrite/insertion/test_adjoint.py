"""The nodes of A and Aᵀ, run by onnxruntime, against A's matrix."""

import math
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from numpy.typing import NDArray

from sn_graph.rewrite.insertion.adjoint import LinearNode, adjoint_node, forward_node
from sn_graph.spectral.convolution import Convolution, adjoint
from tests.support.convolutions import convolutions, matrix, run_node, runnable


def run(node: LinearNode, x: NDArray[Any], kernel: NDArray[Any]) -> NDArray[np.float32]:
    result = run_node(node.op_type, x, kernel, node.attributes)
    return result if node.crop is None else result[(slice(None), slice(None), *(slice(*kept) for kept in node.crop))]


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(convolutions())
def test_both_nodes(convolution: Convolution) -> None:
    assume(runnable(convolution) and min(convolution.pads) >= 0)
    columns = matrix(convolution)
    inputs, outputs = math.prod(convolution.input_shape), math.prod(convolution.output_shape)
    # Sums of single products, so exact.
    there = run(forward_node(convolution), np.eye(inputs).reshape(inputs, *convolution.input_shape), convolution.kernel)
    np.testing.assert_array_equal(there.reshape(inputs, outputs).T, columns)
    for node in (forward_node(convolution), adjoint_node(convolution)):
        pads = node.attributes["pads"]
        assert isinstance(pads, tuple)
        # onnxruntime's CUDA provider has no ConvTranspose whose pads differ at the two ends.
        assert node.op_type == "Conv" or pads[: len(pads) // 2] == pads[len(pads) // 2 :]
    back = run(
        adjoint_node(convolution), np.eye(outputs).reshape(outputs, *convolution.output_shape), convolution.kernel
    )
    np.testing.assert_array_equal(back.reshape(outputs, inputs), columns)


def test_output_padding_beyond_the_stride() -> None:
    """ONNX allows it below the dilation; onnxruntime runs its adjoint, though not the node itself."""
    kernel = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32)
    for end in (0, 1, 4):
        convolution = Convolution(kernel, (1,), (4,), (1, end), 1, (5,), True, (3,))
        node = adjoint_node(convolution)
        y = np.random.default_rng(1).standard_normal(convolution.output_shape)
        # float32 sums of nine products.
        np.testing.assert_allclose(run(node, y[None], kernel)[0], adjoint(convolution, y), atol=1e-5)
    assert adjoint_node(Convolution(kernel, (1,), (4,), (1, 0), 1, (5,), True, (3,))).crop == ((0, 5),)


def test_negative_end_pads_become_output_padding() -> None:
    """As `output_shape` beyond the natural size resolves to."""
    kernel = np.random.default_rng(0).standard_normal((1, 1, 3)).astype(np.float32)
    convolution = Convolution(kernel, (2,), (1,), (0, -1), 1, (4,), True)
    node = forward_node(convolution)
    assert node.attributes["pads"] == (0, 0)
    assert node.attributes["output_padding"] == (1,)
    there = run(node, np.eye(4).reshape(4, 1, 4), kernel).reshape(4, -1)
    back = run(adjoint_node(convolution), np.eye(10).reshape(10, 1, 10), kernel).reshape(10, -1)
    np.testing.assert_array_equal(there.T, back)
