"""Models for the runtime's tests, built in memory or written in onnx's text form."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.parser import parse_model

Build = Callable[..., onnx.ModelProto]


@pytest.fixture
def text() -> Build:
    """A ModelProto from the text of its graph."""

    def build(graph: str, opset: int = 18, ir: int = 10) -> onnx.ModelProto:
        return parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}, "com.microsoft": 1]> {graph}')

    return build


@pytest.fixture
def op() -> Build:
    """A ModelProto of one node: `x` and the weights given in, `y` out."""

    def build(
        op_type: str,
        shape: Sequence[int | str],
        *weights: np.ndarray,
        inputs: Sequence[str] | None = None,
        element: int = onnx.TensorProto.FLOAT,
        opset: int = 18,
        **attributes: Any,
    ) -> onnx.ModelProto:
        names = [f"w{i}" for i in range(len(weights))]
        graph = helper.make_graph(
            [helper.make_node(op_type, inputs or ["x", *names], ["y"], name="node", **attributes)],
            "g",
            [helper.make_tensor_value_info("x", element, shape)],
            [helper.make_tensor_value_info("y", element, None)],
            [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names, strict=True)],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)

    return build
