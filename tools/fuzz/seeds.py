"""Seeds: small models with every kind of weight and of place that it may stand in, plain and inserted."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import sn_graph as sn
from sn_graph.errors import SnGraphError

_OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def seeds() -> list[bytes]:
    """Return the seeds, serialized: each model as it is, and each that can be, inserted in both layouts."""
    plain = list(_models())
    made = [model.SerializeToString(deterministic=True) for model in plain]
    for model in plain:
        for layout in ("packed", "per-weight"):
            try:
                made.append(sn.insert(model, state_layout=layout).to_proto().SerializeToString(deterministic=True))
            except SnGraphError:  # a weight that only fold can scale
                break
    return made


def _models() -> Iterator[onnx.ModelProto]:
    node = helper.make_node
    yield _model(
        [
            node("Conv", ["x", "k", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], group=1),
            node("Relu", ["c"], ["r"]),
            node("ConvTranspose", ["r", "kt"], ["ct"], strides=[2, 2], output_padding=[1, 1]),
            node("Flatten", ["ct"], ["f"]),
            node("Gemm", ["f", "g.weight"], ["y"], transB=1, alpha=0.5),
        ],
        {"k": _drawn(4, 3, 3, 3), "b": _drawn(4), "kt": _drawn(4, 2, 2, 2), "g.weight": _drawn(5, 128)},
        [1, 3, 4, 4],
    )
    body = helper.make_graph(
        [node("MatMul", ["e", "inner"], ["z"])], "then", [], [_value("z")], [_tensor("inner", _drawn(8, 8))]
    )
    other = helper.make_graph([node("MatMul", ["e", "outer"], ["z2"])], "else", [], [_value("z2")])
    yield _model(
        [
            node("MatMul", ["x", "first"], ["e"]),
            node("ReduceSum", ["e"], ["s"], keepdims=0),
            node("Cast", ["s"], ["cond"], to=TensorProto.BOOL),
            node("If", ["cond"], ["i"], then_branch=body, else_branch=other),
            node("Constant", [], ["held"], value=numpy_helper.from_array(_drawn(8, 8))),
            node("Transpose", ["held"], ["turned"], perm=[1, 0]),
            node("MatMul", ["i", "turned"], ["m"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], axis=0),
            node("MatMul", ["m", "dq"], ["n"]),
            node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
            node("Reshape", ["wide", "sizes"], ["shaped"]),
            node("MatMul", ["n", "shaped"], ["y"]),
        ],
        {
            "first": _drawn(6, 8),
            "outer": _drawn(8, 8),
            "q": np.arange(64, dtype=np.int8).reshape(8, 8),
            "scale": np.full(8, 0.1, np.float32),
            "zero": np.zeros(8, np.int8),
            "half": _drawn(4, 16).astype(np.float16),
            "sizes": np.array([8, 8]),
        },
        [1, 6],
    )
    inner = helper.make_function("local", "Inner", ["a", "w"], ["b"], [node("MatMul", ["a", "w"], ["b"])], _OPSETS)
    calls = [node("Inner", ["a", "w"], ["h"], domain="local"), node("Inner", ["h", "w"], ["b"], domain="local")]
    outer = helper.make_function("local", "Outer", ["a", "w"], ["b"], calls, _OPSETS)
    yield _model([node("Outer", ["x", "w"], ["y"], domain="local")], {"w": _drawn(6, 6)}, [1, 6], [inner, outer])
    yield _model(
        [node("LSTM", ["x", "W", "R"], ["", "y"], hidden_size=4)],
        {"W": _drawn(1, 16, 3), "R": _drawn(1, 16, 4)},
        [2, 1, 3],
    )


def _model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[np.generic]],
    shape: Sequence[int],
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    tensors = [_tensor(*weight) for weight in weights.items()]
    graph = helper.make_graph(list(nodes), "g", [_value("x", shape)], [_value("y")], tensors)
    return helper.make_model(graph, opset_imports=_OPSETS, ir_version=8, functions=functions)


def _value(name: str, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _tensor(name: str, array: NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def _drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
