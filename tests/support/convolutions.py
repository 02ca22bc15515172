"""Random convolutions over all attributes, what onnxruntime makes of them, and what a bracket of their norm must be."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.linalg import svdvals

from sn_graph.spectral.convolution import Bracket, Convolution, forward

OPSET = 17
# The largest input, in elements, that a random convolution gets: that many unit vectors make its matrix.
ELEMENTS = 700
EXAMPLES = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
PROMISED = 1e-5
# onnxruntime's float32 columns are sums of one product each, so exact; LAPACK's σ is good to some 1e-14.
EXACT = 1e-12


def run_node(
    op_type: str, x: NDArray[Any], kernel: NDArray[Any], attributes: Mapping[str, Any], crop: tuple[int, ...] = ()
) -> NDArray[np.float32]:
    """The output of one node for x [batch, channels, spatial…], the input first cropped (begins, then ends)."""
    rank = x.ndim - 2
    nodes, name = [], "x"
    initializers = [numpy_helper.from_array(kernel.astype(np.float32), "w")]
    if any(crop):
        nodes.append(helper.make_node("Pad", ["x", "crop"], ["cropped"]))
        pads = np.array([0, 0, *crop[:rank], 0, 0, *crop[rank:]], dtype=np.int64)
        initializers.append(numpy_helper.from_array(pads, "crop"))
        name = "cropped"
    nodes.append(helper.make_node(op_type, [name, "w"], ["y"], **attributes))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "one", [given], [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return _session(model).run(None, {"x": x.astype(np.float32)})[0]  # type: ignore[no-any-return]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_convolution(convolution: Convolution, x: NDArray[Any]) -> NDArray[np.float32]:
    """The node's output for x [batch, channels, spatial…], without bias."""
    attributes: dict[str, Any] = {
        "strides": convolution.strides,
        "dilations": convolution.dilations,
        "group": convolution.group,
        "pads": [max(0, pad) for pad in convolution.pads],
    }
    if convolution.output_padding:
        attributes["output_padding"] = convolution.output_padding
    # A negative pad, which onnxruntime refuses in Conv itself, crops the input.
    crop = tuple(min(0, pad) for pad in convolution.pads)
    op_type = "ConvTranspose" if convolution.transposed else "Conv"
    return run_node(op_type, x, convolution.kernel, attributes, crop)


def matrix(convolution: Convolution) -> NDArray[np.float64]:
    """The matrix of the node, column by column through onnxruntime, the unit vectors as one batch."""
    count = math.prod(convolution.input_shape)
    columns = run_convolution(convolution, np.eye(count).reshape(count, *convolution.input_shape))
    assert columns.shape[1:] == convolution.output_shape
    return columns.reshape(count, -1).T.astype(np.float64)


def random_kernel(rng: np.random.Generator, shape: tuple[int, ...], non_negative: bool) -> NDArray[np.float32]:
    return rng.random(shape, np.float32) if non_negative else rng.standard_normal(shape, np.float32)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """Conv and ConvTranspose of one to three axes with all attributes, some of whose kernels don't fit the input."""
    rank = draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    group = draw(st.sampled_from([1, 1, 2, 3]))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    taps, strides, dilations = axes(1, (7, 5, 4)[rank - 1]), axes(1, 4), axes(1, 3)
    size = axes(1, (24, 9, 5)[rank - 1])
    first, second = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    # onnxruntime pads, and so crops, Conv only; ConvTranspose's pads crop its output.
    pads = tuple(draw(st.integers(0 if transposed else -1, 3)) for _ in range(2 * rank))
    padding = tuple(draw(st.integers(0, stride - 1)) for stride in strides) if transposed else ()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel = random_kernel(rng, (first * group, second, *taps), draw(st.booleans()))
    if draw(st.booleans()):
        # Whole slices of zeros, as pruning leaves them.
        kernel[rng.random(kernel.shape[:2]) < 0.3] = 0.0
    return Convolution(kernel, strides, dilations, pads, group, size, transposed, padding)


def runnable(convolution: Convolution) -> bool:
    """Whether onnxruntime runs it, and its matrix is small."""
    rank = convolution.rank
    cropped = [
        size + min(0, convolution.pads[axis]) + min(0, convolution.pads[axis + rank])
        for axis, size in enumerate(convolution.input_shape[1:])
    ]
    shapes = math.prod(convolution.input_shape), math.prod(convolution.output_shape)
    return (
        min(cropped) > 0 and min(convolution.output_shape) > 0 and max(shapes) <= 4 * ELEMENTS and shapes[0] <= ELEMENTS
    )


def matrix_norm(columns: NDArray[np.float64]) -> float:
    """The largest singular value by LAPACK."""
    return float(svdvals(columns)[0])


def assert_bracket(convolution: Convolution, found: Bracket, truth: float) -> None:
    assert found.lower == pytest.approx(truth, rel=PROMISED, abs=1e-300), convolution
    # Never above, because all of these are computed in float64; float32 products may pass the norm by 1e-6.
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
