"""Pads and sizes against onnxruntime; the split of an axis against its matrix."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sn_graph.spectral.convolution.convolution import Convolution
from sn_graph.spectral.convolution.geometry import (
    conv_output,
    conv_transpose_output,
    resolve_pads,
    resolve_transposed_pads,
    split_axis,
)
from tests.support.convolutions import run_convolution, run_node


def taps_of(large: int, small: int, stride: int, dilation: int, offset: int, taps: int) -> set[tuple[int, int, int]]:
    """All (output, tap, input) that meet, from the definition."""
    found = set()
    for output in range(small):
        for tap in range(taps):
            source = stride * output + dilation * tap - offset
            if 0 <= source < large:
                found.add((output, tap, source))
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 20), st.integers(1, 6), st.integers(1, 6), st.integers(-4, 12), st.integers(1, 7)
)
def test_pieces_are_the_axis(large: int, small: int, stride: int, dilation: int, offset: int, taps: int) -> None:
    """Every meeting of output, tap and input is in one piece, and pieces share neither inputs nor outputs."""
    found: set[tuple[int, int, int]] = set()
    outputs: list[int] = []
    inputs: list[int] = []
    for piece in split_axis(large, small, stride, dilation, offset, taps):
        own_outputs = list(range(small))[piece.small_slice]
        own_inputs = list(range(large))[piece.large_slice]
        assert (len(own_outputs), len(own_inputs)) == (piece.small, piece.large)
        assert piece.offset >= 0
        outputs += own_outputs
        inputs += own_inputs
        for output, tap, source in taps_of(piece.large, piece.small, piece.stride, 1, piece.offset, piece.taps):
            meeting = own_outputs[output], tap + piece.tap_slice.start, own_inputs[source]
            assert meeting not in found
            found.add(meeting)
    assert found == taps_of(large, small, stride, dilation, offset, taps)
    assert len(outputs) == len(set(outputs))
    assert len(inputs) == len(set(inputs))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]), st.integers(1, 20), st.integers(1, 5), st.integers(1, 8))
def test_conv_auto_pad(auto_pad: str, size: int, taps: int, stride: int) -> None:
    """onnxruntime 1.31 refuses SAME with dilations; the ONNX text gives no other formula for them."""
    pads = resolve_pads(auto_pad, (size,), (taps,), (stride,), (1,))
    length = conv_output(size, taps, stride, 1, *pads)
    assume(length > 0)
    x = np.arange(1.0, size + 1)[None, None]
    kernel = np.arange(1.0, taps + 1)[None, None]
    expected = run_node("Conv", x, kernel, {"auto_pad": auto_pad, "strides": [stride]})
    assert expected.shape[2] == length
    found = run_convolution(Convolution(kernel, (stride,), (1,), pads, 1, (size,)), x)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_transposed_auto_pad(auto_pad: str, size: int, taps: int, stride: int, dilation: int, padding: int) -> None:
    assume(padding < stride)
    attributes = {"strides": [stride], "dilations": [dilation], "output_padding": [padding]}
    pads = resolve_transposed_pads(auto_pad, (size,), (taps,), (stride,), (dilation,), (padding,))
    x = np.arange(1.0, size + 1)[None, None]
    kernel = np.arange(1.0, taps + 1)[None, None]
    expected = run_node("ConvTranspose", x, kernel, {"auto_pad": auto_pad, **attributes})
    assert conv_transpose_output(size, taps, stride, dilation, pads[0], pads[1], padding) == expected.shape[2]
    np.testing.assert_array_equal(run_node("ConvTranspose", x, kernel, {"pads": pads, **attributes}), expected)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("taps", "stride", "shape"), [(3, 2, 8), (3, 2, 7), (3, 2, 9), (3, 2, 10), (5, 3, 11), (2, 3, 12)]
)
def test_output_shape(auto_pad: str, taps: int, stride: int, shape: int) -> None:
    size = 4
    pads = resolve_transposed_pads(auto_pad, (size,), (taps,), (stride,), (1,), (0,), (shape,))
    assert conv_transpose_output(size, taps, stride, 1, pads[0], pads[1], 0) == shape
    x = np.arange(1.0, size + 1)[None, None]
    kernel = np.arange(1.0, taps + 1)[None, None]
    expected = run_node(
        "ConvTranspose", x, kernel, {"auto_pad": auto_pad, "output_shape": [shape], "strides": [stride]}
    )
    # A negative pad at the end is output_padding by another name.
    explicit = {"pads": [pads[0], max(0, pads[1])], "output_padding": [max(0, -pads[1])], "strides": [stride]}
    np.testing.assert_array_equal(run_node("ConvTranspose", x, kernel, explicit), expected)
