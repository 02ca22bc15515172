"""Building blocks of the seeds: models, values, tensors and weights."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[np.generic]],
    shape: Sequence[int | str],
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a model from "x", of this shape, to "y"."""
    tensors = [tensor(*weight) for weight in weights.items()]
    graph = helper.make_graph(list(nodes), "g", [value("x", shape)], [value("y")], tensors)
    return helper.make_model(graph, opset_imports=opsets(opset), ir_version=10, functions=functions)


def opsets(version: int = 17) -> list[onnx.OperatorSetIdProto]:
    """Return what a model or function imports that uses any of the domains that seeds have."""
    return [helper.make_opsetid(*entry) for entry in (("", version), ("local", 1), (MICROSOFT, 1))]


def value(name: str, shape: Sequence[int | str] | None = None, code: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Return a graph's input or output."""
    return helper.make_tensor_value_info(name, code, shape)


def tensor(name: str, array: NDArray[np.generic]) -> onnx.TensorProto:
    """Return an initializer."""
    return numpy_helper.from_array(array, name)


def drawn(*shape: int) -> NDArray[np.float32]:
    """Return normal numbers, the same for a shape each time."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
