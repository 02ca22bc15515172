"""What fold must give, written from the papers' and frameworks' formulas, not from sn_graph; and models to fold."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
View = Callable[[Array], Array]
DTYPES = {
    "float16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bfloat16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    "float32": (TensorProto.FLOAT, np.dtype(np.float32)),
    "float64": (TensorProto.DOUBLE, np.dtype(np.float64)),
}
CONVENTIONS = ("keras", "torch", "torch-parametrization")
# One rounding of a stored element, relative: what the folded weight's norm may be off by.
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


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
        """Return M in float64 with the state on its rows."""
        m = (self.keras if convention == "keras" else self.torch)(weight.astype(np.float64))
        return m.T if convention == "torch-parametrization" else m

    def weight(self, dtype: str = "float32", seed: int = 0) -> Array:
        return np.random.default_rng(seed).standard_normal(self.shape).astype(DTYPES[dtype][1])

    def model(self, weight: Array, dtype: str = "float32", typed: bool = False) -> onnx.ModelProto:
        return op_model(self.op_type, self.inputs, {"w": weight}, self.x, dtype, typed, **self.attributes)


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


def op_model(
    op_type: str,
    inputs: tuple[str, ...],
    weights: dict[str, Array],
    x: tuple[int, ...],
    dtype: str = "float32",
    typed: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node reading `x` and the weights; `y` out. `typed` stores them in float_data and the like."""
    code = DTYPES[dtype][0]
    kind = TensorProto.INT64 if op_type == "Gather" else code
    tensors = [tensor(name, weight, dtype, typed) for name, weight in weights.items()]
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["y"], name="op", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", code, None)],
        tensors,
    )
    return finished(graph)


def tensor(name: str, array: Array, dtype: str = "float32", typed: bool = False) -> onnx.TensorProto:
    if typed:
        return helper.make_tensor(name, DTYPES[dtype][0], array.shape, array.astype(np.float64).reshape(-1))
    return numpy_helper.from_array(array, name)


def finished(graph: onnx.GraphProto, opset: int = 17, ir: int = 8, **more: Any) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, **more)


def saved(model: onnx.ModelProto, path: Path, external: bool = False) -> Path:
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def read(path: Path, name: str = "w") -> Array:
    """A weight of a file, by onnx's own reader."""
    (found,) = (one for one in onnx.load(path).graph.initializer if one.name == name)
    return numpy_helper.to_array(found)


def sigma_max(m: Array) -> float:
    return float(np.linalg.svd(m.astype(np.float64), compute_uv=False)[0])


def textbook(m: Array, u: Array, steps: int) -> tuple[float, Array]:
    """w = n(Mᵀs), s' = n(M w), σ = ‖M w‖, in float64 with the state on the rows."""
    sigma, state = 0.0, u.astype(np.float64)
    for _ in range(steps):
        w = m.T @ state
        w /= max(float(np.linalg.norm(w)), 1e-12)
        state = m @ w
        sigma = float(np.linalg.norm(state))
        state = state / max(sigma, 1e-12)
    return sigma, state


def first_u(seed: int, identity: str, length: int) -> Array:
    """The rule of the seed: standard normal, of length 1, by the site's id."""
    drawn = np.random.default_rng([seed, zlib.crc32(identity.encode())]).standard_normal(length)
    return drawn / np.linalg.norm(drawn)


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, feeds)
    return outputs


def drawn(shape: tuple[int, ...], seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
