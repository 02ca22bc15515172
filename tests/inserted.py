"""Small models with the power iteration inserted, and the iteration in float64, written from its formula."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from sn_graph.insertion import StateLayout, StateMode
from sn_graph.model import Model
from sn_graph.passes.insert import Insert, InsertOptions
from sn_graph.plan import make_plan
from sn_graph.runtime.session import StatefulSession

Array = np.ndarray
LAYOUTS, MODES = list(StateLayout), list(StateMode)
ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}
SHAPES = {"conv/kernel": (6, 3, 3, 3), "dense/kernel": (96, 5), "head/kernel": (4, 5)}
SCALES = {"conv/kernel": 0.5, "dense/kernel": 0.3, "head/kernel": 2.0}


def weights(dtype: str = "float32", seed: int = 0) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {name: (generator.standard_normal(s) * SCALES[name]).astype(dtype) for name, s in SHAPES.items()}


def network(values: dict[str, Array], dtype: str = "float32") -> onnx.ModelProto:
    """Conv, MatMul and Gemm with a transposed weight; two outputs."""
    nodes = [
        helper.make_node("Conv", ["x", "conv/kernel"], ["c"], name="conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "dense/kernel"], ["features"], name="dense"),
        helper.make_node("Gemm", ["features", "head/kernel", "bias"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", ELEMENTS[dtype], ["n", 3, 8, 8])],
        [
            helper.make_tensor_value_info("y", ELEMENTS[dtype], ["n", 4]),
            helper.make_tensor_value_info("features", ELEMENTS[dtype], ["n", 5]),
        ],
        [numpy_helper.from_array(v.astype(dtype), k) for k, v in values.items()]
        + [numpy_helper.from_array(np.arange(4).astype(dtype), "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def inserted(
    source: onnx.ModelProto | Model,
    layout: StateLayout = StateLayout.PACKED,
    mode: StateMode = StateMode.DEFAULT,
    seed: int = 0,
    **parameters: Any,
) -> Model:
    made = Model.open(source).copy()
    plan = replace(make_plan(made, convention="keras"), **parameters)
    Insert(InsertOptions(layout=layout, mode=mode, seed=seed)).apply(made, plan)
    return made


def matrices(values: dict[str, Array]) -> dict[str, Array]:
    """M by Keras's convention with u on the rows, float64."""
    double = {name: value.astype(np.float64) for name, value in values.items()}
    return {
        "conv/kernel": double["conv/kernel"].reshape(6, -1),
        "dense/kernel": double["dense/kernel"].T,
        "head/kernel": double["head/kernel"],
    }


def seeded(name: str, length: int, seed: int = 0) -> Array:
    u = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(length)
    return (u / np.linalg.norm(u)).astype(np.float32)


def iterate(M: Array, u: Array, steps: int) -> tuple[Array, float]:
    u, sigma = u.astype(np.float64), 0.0
    for _ in range(steps):
        v = M.T @ u
        v /= max(np.linalg.norm(v), 1e-12)
        t = M @ v
        sigma = float(np.linalg.norm(t))
        u = t / max(sigma, 1e-12)
    return u, sigma


def x_of(n: int = 2, seed: int = 1, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal((n, 3, 8, 8)).astype(dtype)


def one_thread() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return options


def session(layout: StateLayout = StateLayout.PACKED, mode: StateMode = StateMode.DEFAULT, **k: Any) -> StatefulSession:
    return StatefulSession(inserted(network(weights()), layout, mode, **k), session_options=one_thread())


def quantized() -> onnx.ModelProto:
    stored = np.random.default_rng(0).integers(-100, 100, (6, 4)).astype(np.int8)
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("DequantizeLinear", ["w", "scale"], ["d"], axis=1),
                helper.make_node("MatMul", ["x", "d"], ["y"]),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
            [numpy_helper.from_array(stored, "w"), numpy_helper.from_array(np.full(4, 0.1, np.float32), "scale")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def branched() -> onnx.ModelProto:
    """A weight of a branch, which insert moves to the main graph, and one that the branch captures."""
    generator = np.random.default_rng(0)
    own, captured = (generator.standard_normal((6, 6)).astype(np.float32) for _ in range(2))
    branches = [
        helper.make_graph(
            [helper.make_node("MatMul", ["h", name], [f"{name}_out"], name=f"product_{name}")],
            f"branch_{name}",
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [1, 6])],
            [numpy_helper.from_array(own, "own")] if name == "own" else [],
        )
        for name in ("own", "outer")
    ]
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Relu", ["x"], ["h"], name="relu"),
                helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branches[0], else_branch=branches[1]),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])],
            [numpy_helper.from_array(captured, "outer"), numpy_helper.from_array(np.array(True), "c")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def assert_same_state(left: StatefulSession | dict[str, Array], right: StatefulSession | dict[str, Array]) -> None:
    ours, theirs = (side if isinstance(side, dict) else side.state() for side in (left, right))
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
