"""Outputs of every kind that a model can return."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sn_graph.errors import ModelError
from sn_graph.runtime import open_session, run_named
from tests.support.onnx_text import Build

X = np.array([[1.0, -2.5, 3.0], [0.0, 448.0, -0.125]], np.float32)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return open_session(model.SerializeToString())


def y_of(session: onnxruntime.InferenceSession, x: NDArray[Any]) -> NDArray[Any]:
    return run_named(session, {"x": x})["y"]


def cast(source: int, target: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=target)],
        "g",
        [helper.make_tensor_value_info("x", source, [2, 3])],
        [helper.make_tensor_value_info("y", target, [2, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
        (TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2),
        (TensorProto.FLOAT16, np.float16),
    ],
)
def test_types_without_a_numpy_dtype_go_in_and_come_out(element: int, dtype: Any) -> None:
    out = y_of(session_of(cast(TensorProto.FLOAT, element)), X)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, X.astype(dtype))
    back = y_of(session_of(cast(element, TensorProto.FLOAT)), X.astype(dtype))
    np.testing.assert_array_equal(back, X.astype(dtype).astype(np.float32))


def test_packed_integers_are_refused() -> None:
    with pytest.raises(ModelError, match="int4"):
        y_of(session_of(cast(TensorProto.FLOAT, TensorProto.INT4)), X)
    with pytest.raises(ModelError, match="int4"):
        y_of(session_of(cast(TensorProto.INT4, TensorProto.FLOAT)), X.astype(ml_dtypes.int4))


def test_strings(text: Build) -> None:
    model = text("g (string[2] x) => (string[2] y) { y = Identity(x) }")
    assert y_of(session_of(model), np.array(["a", "ü"], object)).tolist() == ["a", "ü"]


def test_sequences_become_their_parts(text: Build) -> None:
    model = text("g (float[2,3] x) => (seq(float[1,3]) y) { y = SplitToSequence <axis: int = 0> (x) }")
    outputs = run_named(session_of(model), {"x": X})
    assert list(outputs) == ["y[0]", "y[1]"]
    np.testing.assert_array_equal(outputs["y[1]"], X[1:])


def test_an_optional_gives_its_value_or_nothing() -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3])
    given = helper.make_node("Optional", ["x"], ["y"])
    empty = helper.make_node("Optional", [], ["y"], type=tensor)
    for node, expected in ((given, ["y"]), (empty, list[str]())):
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
            [helper.make_value_info("y", helper.make_optional_type_proto(tensor))],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        assert list(run_named(session_of(model), {"x": X})) == expected


def test_maps_become_sorted_keys_and_values() -> None:
    graph = helper.make_graph(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=["dog", "cat", "ape"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [
            helper.make_value_info(
                "y",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(
                        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
                    )
                ),
            )
        ],
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("", 18)]
    outputs = run_named(session_of(helper.make_model(graph, opset_imports=opsets, ir_version=10)), {"x": X})
    assert outputs["y[0].keys"].tolist() == ["ape", "cat", "dog"]
    assert outputs["y[0].values"].dtype == np.float32  # and so is its tolerance, though Python has float64 of it
    np.testing.assert_array_equal(outputs["y[1].values"], X[1][[2, 1, 0]])


def test_failures_are_one_line_with_the_shapes(op: Build, capfd: pytest.CaptureFixture[str]) -> None:
    session = session_of(op("MatMul", ["a", "b"], np.ones((4, 4), np.float32)))
    refused: list[tuple[dict[str, NDArray[Any]], str]] = [
        ({"x": X}, r"on x \[2, 3\]"),
        ({}, "on no inputs"),
        ({"x": X.astype("d")}, "double"),
    ]
    for feeds, told in refused:
        with pytest.raises(ModelError, match=told) as caught:
            run_named(session, feeds)
        assert "\n" not in str(caught.value)
        assert "--dim" in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_outputs_are_not_overwritten_by_the_next_run() -> None:
    session = session_of(cast(TensorProto.FLOAT, TensorProto.BFLOAT16))
    first = y_of(session, X)
    kept = first.copy()
    y_of(session, X * 2)
    np.testing.assert_array_equal(first, kept)
