"""Small ONNX models, and the sites and plans of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.model import Model
from sn_graph.plan import Plan, PlannedSite, make_plan

Array = NDArray[Any]
DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]
MICROSOFT = "com.microsoft"


def random(shape: Sequence[int], dtype: Any = np.float32, seed: int = 0) -> Array:
    """Standard normal elements; rounded to `dtype`."""
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(dtype)


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    """A node, named only if `name` is among the attributes; `domain` too."""
    return helper.make_node(op_type, list(inputs), list(outputs), **attributes)


def constant(output: str, value: Array, name: str = "") -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], name=name, value=numpy_helper.from_array(value))


def graph(
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, Array | onnx.TensorProto] | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = ("y",),
    name: str = "g",
) -> onnx.GraphProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*inputs, *outputs)]
    proto = helper.make_graph(list(nodes), name, values[: len(inputs)], values[len(inputs) :])
    for key, value in (initializers or {}).items():
        tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value)
        tensor.name = key
        proto.initializer.append(tensor)
    return proto


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, Array | onnx.TensorProto] | None = None,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 21,
    producer: str = "",
) -> Model:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1), helper.make_opsetid("local", 1)]
    proto = helper.make_model(
        graph(nodes, initializers, inputs, outputs),
        functions=functions,
        opset_imports=opsets,
        producer_name=producer,
        ir_version=10,
    )
    return Model.open(proto)


def function(
    name: str,
    inputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    attributes: Sequence[str] = (),
    attribute_protos: Sequence[onnx.AttributeProto] = (),
    outputs: Sequence[str] = ("y",),
    overload: str | None = None,
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    return helper.make_function(
        "local",
        name,
        list(inputs),
        list(outputs),
        list(nodes),
        opsets,
        list(attributes),
        list(attribute_protos),
        overload=overload,
    )


def sites(model: Model, **options: Any) -> dict[str, PlannedSite]:
    """Every site of a model's plan, by id, in the plan's order."""
    plan: Plan = make_plan(model, **options)
    return {site.id: site for site in plan.sites}


def only_site(model: Model, **options: Any) -> PlannedSite:
    found = sites(model, **options)
    assert len(found) == 1, list(found)
    return next(iter(found.values()))


def singular_values(matrix: Array) -> Array:
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


def assert_same_up_to_order(actual: Array, expected: Array) -> None:
    """The two matrices have the same rows and the same columns, as far as their elements go."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    for one, other in ((actual, expected), (actual.T, expected.T)):
        rows = [np.sort(matrix.astype(np.float64), axis=1) for matrix in (one, other)]
        ordered = [matrix[np.lexsort(matrix.T[::-1])] for matrix in rows]
        np.testing.assert_array_equal(*ordered)
