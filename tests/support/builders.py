"""Builders: small ONNX models from nodes and weights, their files, and the sites and plans of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.choices import ConventionChoice
from sn_graph.model import Model
from sn_graph.plan import PlannedSite, Target, make_plan, save_plan

Array = NDArray[Any]
Weight = Array | np.generic | onnx.TensorProto
Weights = Mapping[str, Weight]
Shape = Sequence[int | str | None] | None
MICROSOFT = "com.microsoft"
DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


# Parts


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Standard normal elements, rounded to `dtype`."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    """A node, named only if `name` is among the attributes; `domain` too."""
    return helper.make_node(op_type, list(inputs), list(outputs), **attributes)


def constant(output: str, array: Array | np.generic, name: str = "", documentation: str = "") -> onnx.NodeProto:
    """A Constant node, whose tensor may be documented."""
    tensor = numpy_helper.from_array(np.asarray(array))
    if documentation:
        tensor.doc_string = documentation
    return helper.make_node("Constant", [], [output], name=name, value=tensor)


def value(name: str, shape: Shape = None, code: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def initializer(name: str, weight: Weight) -> onnx.TensorProto:
    tensor = weight if isinstance(weight, onnx.TensorProto) else numpy_helper.from_array(np.asarray(weight))
    tensor.name = name
    return tensor


def graph(
    nodes: Sequence[onnx.NodeProto],
    weights: Weights | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = ("y",),
    name: str = "g",
) -> onnx.GraphProto:
    """A graph of floats of no known shape."""
    tensors = [initializer(*one) for one in (weights or {}).items()]
    return helper.make_graph(list(nodes), name, [*map(value, inputs)], [*map(value, outputs)], tensors)


def branch(nodes: Sequence[onnx.NodeProto], weights: Weights | None = None, name: str = "branch") -> onnx.GraphProto:
    """A body without inputs, which gives out what its last node makes."""
    return graph(nodes, weights, (), nodes[-1].output[:1], name)


def function(
    name: str,
    inputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    attributes: Sequence[str] = (),
    attribute_protos: Sequence[onnx.AttributeProto] = (),
    outputs: Sequence[str] = ("y",),
    overload: str | None = None,
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
) -> onnx.FunctionProto:
    """A function of the domain "local"; `domains` are imported besides."""
    opsets = [helper.make_opsetid(*one) for one in {"": opset, "local": 1, **(domains or {})}.items()]
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


def call(name: str, inputs: Sequence[str], output: str) -> onnx.NodeProto:
    """A call of a local function."""
    return node(name, inputs, [output], domain="local")


# Models


def model_of(
    graph: onnx.GraphProto,
    opset: int = 17,
    ir: int = 8,
    functions: Sequence[onnx.FunctionProto] = (),
    producer: str = "",
) -> onnx.ModelProto:
    opsets = [helper.make_opsetid(*one) for one in {"": opset, MICROSOFT: 1, "local": 1}.items()]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, producer_name=producer, ir_version=ir)


def network(
    nodes: Sequence[onnx.NodeProto],
    weights: Weights,
    inputs: Mapping[str, Shape],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    ir: int = 8,
    dtype: str = "float32",
    functions: Sequence[onnx.FunctionProto] = (),
    integers: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model to run: inputs and outputs are of `dtype`, those in `integers` int64."""
    code = helper.np_dtype_to_tensor_dtype(DTYPES[dtype])
    made = helper.make_graph(
        list(nodes),
        "g",
        [value(name, shape, TensorProto.INT64 if name in integers else code) for name, shape in inputs.items()],
        [value(name, None, code) for name in outputs],
        [initializer(*one) for one in weights.items()],
    )
    return model_of(made, opset, ir, functions)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Weights | None = None,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 17,
    producer: str = "",
) -> Model:
    """An opened model whose weights are looked for, and which need not run."""
    return Model.open(model_of(graph(nodes, weights, inputs, outputs), opset, 10, functions, producer))


def saved(proto: onnx.ModelProto, path: Path, external: bool = False) -> Path:
    onnx.save(proto, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def initializers(source: onnx.ModelProto | Path) -> dict[str, Array]:
    """The main graph's weights of a model or a file, by onnx's own reader."""
    proto = onnx.load(source) if isinstance(source, Path) else source
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


# Sites and plans


def sites(model: Model, **options: Any) -> dict[str, PlannedSite]:
    """Every site of a model's plan, by id, in the plan's order."""
    return {site.id: site for site in make_plan(model, **options).sites}


def only_site(model: Model, **options: Any) -> PlannedSite:
    (found,) = make_plan(model, **options).sites
    return found


def only_target(model: Model, **options: Any) -> Target:
    target = only_site(model, **options).target
    assert target is not None
    return target


def plan_file(
    proto: onnx.ModelProto,
    path: Path,
    sites: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    convention: ConventionChoice = "auto",
    **changes: Any,
) -> Path:
    """A plan as inspect writes it, with parameters, and sites by their id, changed."""
    save_plan(make_plan(Model.open(proto), convention=convention), path)
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    for site in content["sites"]:
        site.update((sites or {}).get(site["id"], {}))
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# Matrices


def assert_same_up_to_order(actual: Array, expected: Array) -> None:
    """The two matrices have the same rows and the same columns, as far as their elements go."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    for one, other in ((actual, expected), (actual.T, expected.T)):
        rows = [np.sort(matrix.astype(np.float64), axis=1) for matrix in (one, other)]
        first, second = (matrix[np.lexsort(matrix.T[::-1])] for matrix in rows)
        np.testing.assert_array_equal(first, second)
