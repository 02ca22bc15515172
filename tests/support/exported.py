"""Exported: the arithmetic that PyTorch's exporters leave of a normalized weight, written node by node.

Each builder returns nodes that make the value `w` of the initializers that it names. `unit` and `power` are the oracle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.support.builders import Array, drawn, initializer, node, value

Parts = tuple[list[onnx.NodeProto], dict[str, Any]]


def unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x))


def rows_of(w: Array, dim: int = 0) -> Array:
    """The matrix that torch takes: `dim` first."""
    return np.moveaxis(w, dim, 0).reshape(w.shape[dim], -1)


def power(matrix: Array, u: Array, k: int) -> tuple[float, Array, Array]:
    """σ, u and v after k of the hook's iterations from u, in float64."""
    u, v = u.astype(np.float64), np.zeros(0)
    for _ in range(k):
        v = unit(matrix.T.astype(np.float64) @ u)
        u = unit(matrix.astype(np.float64) @ v)
    return float(u @ matrix @ v), u, v


def stored(w: Array, dim: int = 0, seed: int = 3) -> tuple[Array, Array]:
    """A u and v that are near to the leading ones, and no further."""
    _, u, v = power(rows_of(w, dim), drawn(w.shape[dim], seed=seed), 3)
    return u.astype(w.dtype), v.astype(w.dtype)


def matrix_nodes(w: Array, dim: int, name: str = "c.weight_orig") -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """Nodes that make the matrix `m` of a weight."""
    perm = [dim, *(axis for axis in range(w.ndim) if axis != dim)]
    made = [node("Transpose", [name], ["moved"], perm=perm)] if dim else []
    inputs = ["moved" if dim else name, "shape"]
    return [*made, node("Reshape", inputs, ["m"])], {"shape": np.array([w.shape[dim], -1], np.int64)}


def in_eval(w: Array, dim: int = 0, prefix: str = "c.") -> Parts:
    """torch.nn.utils.spectral_norm in eval: w / uᵀ(Mv)."""
    u, v = stored(w, dim)
    nodes, more = matrix_nodes(w, dim, f"{prefix}weight_orig")
    nodes += [
        node("MatMul", ["m", f"{prefix}weight_v"], ["mv"]),
        node("MatMul", [f"{prefix}weight_u", "mv"], ["sigma"]),
        node("Div", [f"{prefix}weight_orig", "sigma"], ["w"]),
    ]
    return nodes, {f"{prefix}weight_orig": w, f"{prefix}weight_u": u, f"{prefix}weight_v": v, **more}


def half_step(matrix: str, vector: str, output: str) -> list[onnx.NodeProto]:
    """n(A x) as F.normalize is exported."""
    return [
        node("MatMul", [matrix, vector], [f"{output}_raw"]),
        node("ReduceL2", [f"{output}_raw"], [f"{output}_norm"], keepdims=1),
        node("Clip", [f"{output}_norm", "eps"], [f"{output}_floor"]),
        node("Shape", [f"{output}_raw"], [f"{output}_shape"]),
        node("Expand", [f"{output}_floor", f"{output}_shape"], [f"{output}_wide"]),
        node("Div", [f"{output}_raw", f"{output}_wide"], [output]),
    ]


def in_train(w: Array, k: int = 1, *, parametrization: bool = False) -> Parts:
    """The hook's k iterations from u, or the parametrization's from v, and the division."""
    u, v = stored(w)
    name = "c.parametrizations.weight.original" if parametrization else "c.weight_orig"
    nodes, more = matrix_nodes(w, 0, name)
    nodes.append(node("Transpose", ["m"], ["mt"], perm=[1, 0]))
    first = "c.parametrizations.weight.0._v" if parametrization else "c.weight_u"
    at = first
    for step in range(k):
        one, other = (("m", "u"), ("mt", "v")) if parametrization else (("mt", "v"), ("m", "u"))
        nodes += half_step(one[0], at, f"{one[1]}{step}")
        nodes += half_step(other[0], f"{one[1]}{step}", f"{other[1]}{step}")
        at = f"{other[1]}{step}"
    nodes += [
        node("MatMul", ["m", f"v{k - 1}"], ["mv"]),
        node("MatMul", [f"u{k - 1}", "mv"], ["sigma"]),
        node("Div", [name, "sigma"], ["w"]),
    ]
    return nodes, {name: w, first: v if parametrization else u, "eps": np.array(1e-12, w.dtype), **more}


def biggan(w: Array) -> Parts:
    """BigGAN-PyTorch: an iteration from a row u [1, n], in eval too."""
    u, _ = stored(w)
    nodes, more = matrix_nodes(w, 0, "c.weight")
    nodes.append(node("Transpose", ["m"], ["mt"], perm=[1, 0]))

    def row(vector: str, matrix: str, output: str) -> list[onnx.NodeProto]:
        made = half_step(vector, matrix, output)
        made[1].attribute.append(helper.make_attribute("axes", [1]))
        return made

    nodes += [
        *row("c.u0", "m", "v1"),
        *row("v1", "mt", "u1"),
        node("MatMul", ["v1", "mt"], ["last"]),
        node("Transpose", ["u1"], ["column"], perm=[1, 0]),
        node("MatMul", ["last", "column"], ["square"]),
        node("Squeeze", ["square"], ["sigma"]),
        node("Div", ["c.weight", "sigma"], ["w"]),
    ]
    return nodes, {"c.weight": w, "c.u0": u.reshape(1, -1), "eps": np.array(1e-12, w.dtype), **more}


def convolution(parts: Parts, *more: onnx.NodeProto, reads: str = "w", opset: int = 17) -> onnx.ModelProto:
    """A Conv that reads a computed weight, `w` or what `more` nodes make of it, with a bias named as torch's."""
    nodes, weights = parts
    out = (rows := weights[next(iter(weights))]).shape[0]
    weights = {**weights, "c.bias": drawn(out, seed=9, dtype=rows.dtype)}
    code = helper.np_dtype_to_tensor_dtype(rows.dtype)
    return helper.make_model(
        helper.make_graph(
            [*nodes, *more, node("Conv", ["x", reads, "c.bias"], name="/c/Conv")],
            "g",
            [value("x", ["n", rows.shape[1], 7, 7], code)],
            [value("y", None, code)],
            [initializer(*one) for one in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="pytorch",
        ir_version=8,
    )


def linear(parts: Parts, opset: int = 17) -> onnx.ModelProto:
    """A Gemm, x Wᵀ + b, that reads a computed weight `w` [out, in]."""
    nodes, weights = parts
    w = weights[next(iter(weights))]
    weights = {**weights, "c.bias": drawn(w.shape[0], seed=9, dtype=w.dtype)}
    code = helper.np_dtype_to_tensor_dtype(w.dtype)
    return helper.make_model(
        helper.make_graph(
            [*nodes, node("Gemm", ["x", "w", "c.bias"], transB=1, name="/c/Gemm")],
            "g",
            [value("x", ["n", w.shape[1]], code)],
            [value("y", None, code)],
            [initializer(*one) for one in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="pytorch",
        ir_version=8,
    )
