"""Networks: one model for each operator and convention, and a few of several layers, with their matrices M."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from sn_graph.model import Model
from tests.support.builders import DTYPES, Array, branch, call, constant, drawn, function, model, network, node, value

View = Callable[[Array], Array]
CONVENTIONS = ("keras", "torch", "torch-parametrization")
# One rounding of a stored element, relative: what the folded weight's norm may be off by.
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


# One operator


@dataclass(frozen=True)
class Case:
    """One op with a weight `w`, and the matrix M of it by convention, with u on its rows."""

    name: str
    op_type: str
    shape: tuple[int, ...]
    keras: View
    torch: View
    x: tuple[int, ...]
    inputs: tuple[str, ...] = ("x", "w")
    attributes: dict[str, Any] = field(default_factory=dict)

    def matrix(self, weight: Array, convention: str) -> Array:
        """M in float64 with the state on its rows."""
        m = (self.keras if convention == "keras" else self.torch)(weight.astype(np.float64))
        return m.T if convention == "torch-parametrization" else m

    def weight(self, dtype: str = "float32", seed: int = 0) -> Array:
        return drawn(*self.shape, seed=seed, dtype=DTYPES[dtype])

    def model(self, weight: Array, dtype: str = "float32", typed: bool = False) -> onnx.ModelProto:
        """The node alone; `typed` stores the weight in float_data and the like."""
        integers = ("x",) if self.op_type == "Gather" else ()
        nodes = [node(self.op_type, self.inputs, name="op", **self.attributes)]
        return network(
            nodes, {"w": as_numbers(weight) if typed else weight}, {"x": self.x}, dtype=dtype, integers=integers
        )


def as_numbers(array: Array) -> onnx.TensorProto:
    """A tensor in the typed field of its type, not in raw bytes."""
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor("", code, array.shape, array.astype(np.float64).reshape(-1))


def rows(w: Array) -> Array:
    return w.reshape(len(w), -1)


def columns(w: Array) -> Array:
    return w.reshape(-1, w.shape[-1]).T


def second(w: Array) -> Array:
    return np.moveaxis(w, 1, 0).reshape(w.shape[1], -1)


def depthwise(w: Array) -> Array:
    """The kernel (kh, kw, C, m) of keras.layers.DepthwiseConv2D, flattened to (-1, m); C = 4 and m = 3 here."""
    return w.reshape(4, 3, *w.shape[2:]).transpose(2, 3, 0, 1).reshape(-1, 3).T


CASES = [
    Case("conv1d", "Conv", (6, 4, 3), rows, rows, (1, 4, 9)),
    Case("conv2d", "Conv", (8, 3, 4, 4), rows, rows, (2, 3, 9, 9), attributes={"strides": [2, 2], "dilations": [1, 2]}),
    Case("conv3d", "Conv", (5, 2, 2, 3, 2), rows, rows, (1, 2, 4, 5, 4)),
    Case("grouped", "Conv", (6, 2, 3, 3), rows, rows, (1, 4, 6, 6), attributes={"group": 2}),
    Case("depthwise", "Conv", (12, 1, 3, 3), depthwise, rows, (1, 4, 6, 6), attributes={"group": 4}),
    Case("transposed", "ConvTranspose", (4, 6, 3, 3), rows, second, (1, 4, 5, 5), attributes={"strides": [2, 2]}),
    Case("square_transposed", "ConvTranspose", (4, 4, 2, 3), rows, second, (1, 4, 5, 5)),
    Case("grouped_transposed", "ConvTranspose", (4, 3, 3, 3), rows, second, (1, 4, 5, 5), attributes={"group": 2}),
    Case("matmul", "MatMul", (7, 5), columns, columns, (3, 7)),
    Case("matmul_left", "MatMul", (5, 7), rows, rows, (7, 3), inputs=("w", "x")),
    Case("matmul_rank3", "MatMul", (2, 7, 5), columns, columns, (2, 3, 7)),
    Case("gemm", "Gemm", (7, 5), columns, columns, (3, 7), attributes={"alpha": 0.5}),
    Case("gemm_transB", "Gemm", (5, 7), rows, rows, (3, 7), attributes={"transB": 1}),
    Case("gemm_A", "Gemm", (5, 7), rows, rows, (7, 3), inputs=("w", "x")),
    Case("gemm_A_trans", "Gemm", (7, 5), columns, columns, (7, 3), inputs=("w", "x"), attributes={"transA": 1}),
    Case("gather", "Gather", (11, 6), columns, rows, (4,), inputs=("w", "x")),
]
CASE = {case.name: case for case in CASES}


# Several layers


SHAPES = {"conv/kernel": (6, 3, 3, 3), "dense/kernel": (96, 5), "head/kernel": (4, 5)}
_SCALES = {"conv/kernel": 0.5, "dense/kernel": 0.3, "head/kernel": 2.0}


def weights(dtype: str = "float32", seed: int = 0) -> dict[str, Array]:
    """The weights of `discriminator`."""
    generator = np.random.default_rng(seed)
    return {name: (generator.standard_normal(s) * _SCALES[name]).astype(dtype) for name, s in SHAPES.items()}


def discriminator(values: Mapping[str, Array] | None = None, dtype: str = "float32") -> onnx.ModelProto:
    """Conv, MatMul and Gemm with a transposed weight; two outputs."""
    code = helper.np_dtype_to_tensor_dtype(DTYPES[dtype])
    nodes = [
        node("Conv", ["x", "conv/kernel"], ["c"], name="conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"], name="relu"),
        node("Flatten", ["r"], ["f"], name="flatten"),
        node("MatMul", ["f", "dense/kernel"], ["features"], name="dense"),
        node("Gemm", ["features", "head/kernel", "bias"], ["y"], name="head", transB=1),
    ]
    held = {name: array.astype(dtype) for name, array in (values or weights()).items()} | {
        "bias": np.arange(4).astype(dtype)
    }
    proto = network(nodes, held, {"x": ["n", 3, 8, 8]}, dtype=dtype)
    del proto.graph.output[:]
    proto.graph.output.extend([value("y", ["n", 4], code), value("features", ["n", 5], code)])
    return proto


def matrices(values: Mapping[str, Array]) -> dict[str, Array]:
    """M of each weight of `discriminator` by Keras's convention with u on the rows, float64."""
    double = {name: array.astype(np.float64) for name, array in values.items()}
    return {
        "conv/kernel": rows(double["conv/kernel"]),
        "dense/kernel": double["dense/kernel"].T,
        "head/kernel": double["head/kernel"],
    }


def x_of(n: int = 2, seed: int = 1, dtype: Any = np.float32) -> Array:
    """An input of `discriminator`."""
    return drawn(n, 3, 8, 8, seed=seed, dtype=dtype)


def quantized() -> onnx.ModelProto:
    """A MatMul by integers that are dequantized channel by channel."""
    stored = np.random.default_rng(0).integers(-100, 100, (6, 4)).astype(np.int8)
    nodes = [node("DequantizeLinear", ["w", "scale"], ["d"], axis=1), node("MatMul", ["x", "d"])]
    return network(nodes, {"w": stored, "scale": np.full(4, 0.1, np.float32)}, {"x": [1, 6]})


def branched() -> onnx.ModelProto:
    """A weight of a branch, which insert moves to the main graph, and one that the branch captures."""
    generator = np.random.default_rng(0)
    own, captured = (generator.standard_normal((6, 6)).astype(np.float32) for _ in range(2))
    then, other = (
        branch([node("MatMul", ["h", name], [f"{name}_out"], name=f"product_{name}")], held, f"branch_{name}")
        for name, held in (("own", {"own": own}), ("outer", {}))
    )
    nodes = [
        node("Relu", ["x"], ["h"], name="relu"),
        node("If", ["c"], name="choice", then_branch=then, else_branch=other),
    ]
    return network(nodes, {"outer": captured, "c": np.array(True)}, {"x": [1, 6]})


def called() -> onnx.ModelProto:
    """A weight that a local function holds, called twice."""
    dense = function("dense", ["x"], [constant("w", drawn(6, 6)), node("MatMul", ["x", "w"])])
    return network([call("dense", ["x"], "h"), call("dense", ["h"], "y")], {}, {"x": [1, 6]}, functions=[dense])


def every_kind() -> Model:
    """Conv, a depthwise Conv, a tied Gather and Gemm, an LSTM, a third-party op and a computed weight; not to run."""
    nodes = [
        node("Conv", ["x", "conv1.kernel"], ["a"]),
        node("Conv", ["a", "depth/kernel"], ["b"], group=4),
        node("Gather", ["table", "ids"], ["c"], name="embed"),
        node("Gemm", ["b", "table"], ["d"], name="logits"),
        node("LSTM", ["d", "lstm", "r"], ["e"]),
        node("Fancy", ["e", "fancy"], ["f"], domain="com.acme"),
        node("Add", ["half", "half"], ["sum"]),
        node("MatMul", ["f", "sum"]),
    ]
    held = {
        "conv1.kernel": drawn(4, 3, 3, 3),
        "depth/kernel": drawn(8, 1, 3, 3),
        "table": drawn(5, 6),
        "lstm": drawn(1, 12, 5),
        "fancy": drawn(3, 3),
        "half": drawn(3, 4),
    }
    return model(nodes, held, inputs=("x", "ids", "r"))
