"""A small model per kind of weight-bearing op, as tools that try them all on some provider need them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def op_models() -> Iterator[tuple[str, str, onnx.ModelProto]]:
    """Yield name, op type and model."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)

    image = [2, 32, 24, 24]
    kinds: list[tuple[str, str, list[int], NDArray[Any], dict[str, Any]]] = [
        ("Conv 1-D", "Conv", [2, 32, 64], weight(48, 32, 5), {}),
        ("Conv 2-D, stride 2", "Conv", image, weight(48, 32, 4, 4), {"strides": [2, 2], "pads": [1] * 4}),
        ("Conv 3-D", "Conv", [2, 16, 8, 12, 12], weight(24, 16, 3, 3, 3), {}),
        ("Conv 2-D, 4 groups", "Conv", image, weight(48, 8, 3, 3), {"group": 4}),
        ("Conv 2-D, depthwise", "Conv", image, weight(64, 1, 3, 3), {"group": 32}),
        ("Conv 2-D, dilation 2", "Conv", image, weight(48, 32, 3, 3), {"dilations": [2, 2]}),
        ("ConvTranspose 1-D", "ConvTranspose", [2, 32, 64], weight(32, 16, 4), {"strides": [2]}),
        ("ConvTranspose 2-D", "ConvTranspose", image, weight(32, 16, 4, 4), {"strides": [2, 2], "pads": [1] * 4}),
        ("ConvTranspose 2-D, 2 groups", "ConvTranspose", image, weight(32, 16, 4, 4), {"group": 2}),
        *(
            (
                f"Gemm, transA={a}, transB={b}",
                "Gemm",
                [256, 16] if a else [16, 256],
                weight(128, 256) if b else weight(256, 128),
                {"transA": a, "transB": b},
            )
            for a in (0, 1)
            for b in (0, 1)
        ),
        ("MatMul, weight right", "MatMul", [4, 16, 256], weight(256, 128), {}),
        ("MatMul, weight left", "MatMul", [4, 256, 16], weight(128, 256), {"left": True}),
        ("MatMul, weight of rank 3", "MatMul", [4, 16, 256], weight(4, 256, 128), {}),
        ("Gather", "Gather", [2, 50], weight(1000, 64), {"left": True}),
    ]
    for name, op, shape, array, attributes in kinds:
        yield name, op, op_model(op, shape, array, **attributes)
    for name, op, shape, array, attributes in kinds:
        if name in ("Conv 2-D, stride 2", "ConvTranspose 2-D", "MatMul, weight right", "Gather") or op == "Gemm":
            yield f"{name}, float16", op, op_model(op, shape, array.astype(np.float16), **attributes)
    for flag in (True, False):
        yield f"If, captured weight, {'then' if flag else 'else'}", "MatMul", if_model(weight(256, 128), taken=flag)


def op_model(
    op: str, shape: Sequence[int], weight: NDArray[Any], *, left: bool = False, **attributes: Any
) -> onnx.ModelProto:
    """One node of `op` with `weight` as its second input, or its first (`left`)."""
    element = helper.np_dtype_to_tensor_dtype(weight.dtype)
    node = helper.make_node(op, ["w", "x"] if left else ["x", "w"], ["y"], name=op, **attributes)
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info("x", TensorProto.INT64 if op == "Gather" else element, shape)],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def if_model(weight: NDArray[np.float32], *, taken: bool) -> onnx.ModelProto:
    """Both branches multiply by the outer graph's weight; which one runs depends on the input, not on a constant."""

    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    then = branch("a", [helper.make_node("MatMul", ["x", "w"], ["a"], name="then")])
    other = branch(
        "b", [helper.make_node("MatMul", ["x", "w"], ["c"], name="else"), helper.make_node("Neg", ["c"], ["b"])]
    )
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("ReduceMax", ["squares"], ["most"], keepdims=0),
        helper.make_node("Greater" if taken else "Less", ["most", "zero"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other, name="If"),
    ]
    graph = helper.make_graph(
        nodes,
        "If",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
