"""Places among the seeds where a weight may stand: bodies, functions, recurrences; and norms as arithmetic."""

from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from tools.fuzz.making import drawn, model, opsets, tensor, value

node = helper.make_node


def places() -> Iterator[onnx.ModelProto]:
    """Yield weights that bodies hand out or carry, that functions are called with, and of other types than float."""
    yield _branches()
    yield _scanned()
    yield _functions()
    yield _recurrent()
    yield _types()


def norms() -> Iterator[onnx.ModelProto]:
    """Yield spectral norms as exporters leave them, in arithmetic: evaluated, iterated, capped."""
    yield _iterated()
    yield _reshaped()


def _branches() -> onnx.ModelProto:
    """Return a model whose weight comes out of an If, and whose table two nodes read in different ways."""
    held = [
        helper.make_graph([node("Identity", [f"w{place}"], [f"o{place}"])], name, [], [value(f"o{place}", [6, 6])])
        for place, name in enumerate(("then", "else"))
    ]
    held[0].initializer.append(tensor("w0", drawn(6, 6)))
    return model(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Greater", ["s", "none"], ["cond"]),
            node("If", ["cond"], ["w"], then_branch=held[0], else_branch=held[1]),
            node("MatMul", ["x", "w"], ["h"]),
            node("Gemm", ["h", "table"], ["g"], transB=1),
            node("ArgMax", ["g"], ["index"], axis=1),
            node("Gather", ["table", "index"], ["y"]),
        ],
        {"none": np.array(0, np.float32), "w1": drawn(6, 6), "table": drawn(5, 6)},
        [1, 6],
    )


def _scanned() -> onnx.ModelProto:
    """Return a Scan that carries a weight beside its state and takes slices of another."""
    body = helper.make_graph(
        [
            node("Identity", ["w_in"], ["w_out"]),
            node("MatMul", ["h", "w_in"], ["p"]),
            node("Add", ["p", "row"], ["h2"]),
            node("Identity", ["h2"], ["each"]),
        ],
        "body",
        [value("w_in"), value("h"), value("row")],
        [value("w_out"), value("h2"), value("each")],
    )
    return model(
        [
            node("Scan", ["carried", "x", "rows"], ["last", "h", "all"], body=body, num_scan_inputs=1),
            node("Squeeze", ["all", "axes"], ["squeezed"]),
            node("MatMul", ["squeezed", "v"], ["y"]),
        ],
        {"carried": drawn(4, 4), "rows": drawn(3, 4), "axes": np.array([1]), "v": drawn(4, 2)},
        [1, 4],
    )


def _functions() -> onnx.ModelProto:
    """Return functions with an overload, with attributes that calls give, and with a weight of their own."""

    def function(name: str, nodes: Sequence[onnx.NodeProto], overload: str = "") -> onnx.FunctionProto:
        made = helper.make_function("local", name, ["a", "w"], ["b"], nodes, opsets(), attributes=["turned", "scale"])
        made.overload = overload
        return made

    gemm = node("Gemm", ["a", "w"], ["b"])
    for name, given in (("transB", "turned"), ("alpha", "scale")):
        kind = onnx.AttributeProto.INT if name == "transB" else onnx.AttributeProto.FLOAT
        gemm.attribute.add(name=name, ref_attr_name=given, type=kind)
    own = [
        node("Constant", [], ["own"], value=tensor("own", drawn(6, 6))),
        node("MatMul", ["a", "own"], ["h"]),
        node("MatMul", ["h", "w"], ["b"]),
    ]
    calls = [
        node("Layer", ["x", "w"], ["h"], domain="local", turned=1, scale=0.5),
        node("Layer", ["h", "w"], ["y"], domain="local"),
    ]
    calls[1].overload = "own"
    return model(calls, {"w": drawn(6, 6)}, [1, 6], [function("Layer", [gemm]), function("Layer", own, "own")])


def _recurrent() -> onnx.ModelProto:
    """Return two recurrences, one of both directions, with all inputs that may be left out."""
    return model(
        [
            node("GRU", ["x", "W", "R", "B", "", "h0"], ["g", "gh"], hidden_size=3, linear_before_reset=1),
            node("Squeeze", ["g", "axes"], ["s"]),
            node("RNN", ["s", "W2", "R2"], ["r", ""], hidden_size=2, direction="bidirectional",
                 activations=["Tanh", "Affine"], activation_alpha=[0.5, 0.5], activation_beta=[0.1, 0.1]),
            node("Reshape", ["r", "flat"], ["f"]),
            node("MatMul", ["f", "w"], ["y"]),
        ],
        {
            "W": drawn(1, 9, 3),
            "R": drawn(1, 9, 3) * 2,
            "B": drawn(1, 18),
            "h0": drawn(1, 1, 3),
            "axes": np.array([1]),
            "W2": drawn(2, 2, 3),
            "R2": drawn(2, 2, 2),
            "flat": np.array([2, -1]),
            "w": drawn(4, 2),
        },
        [2, 1, 3],
    )  # fmt: skip


def _types() -> onnx.ModelProto:
    """Return weights of 16 and 64 bits, and one whose numbers stand in a list, as attributes and as typed fields."""
    made = model(
        [
            node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            node("MatMul", ["half", "w16"], ["h"]),
            node("Cast", ["h"], ["d"], to=TensorProto.DOUBLE),
            node("MatMul", ["d", "w64"], ["e"]),
            node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
            node("Cast", ["wb"], ["wide"], to=TensorProto.FLOAT),
            node("MatMul", ["f", "wide"], ["g"]),
            node("Constant", [], ["flat"], value_floats=[float(number) for number in drawn(16)]),
            node("Constant", [], ["sizes"], value_ints=[4, -1]),
            node("Reshape", ["flat", "sizes"], ["shaped"]),
            node("MatMul", ["g", "shaped"], ["i"]),
            node("MatMul", ["i", "typed"], ["y"]),
        ],
        {
            "w16": drawn(4, 4).astype(np.float16),
            "w64": drawn(4, 4).astype(np.float64),
            "wb": drawn(4, 4).astype(ml_dtypes.bfloat16),
        },
        [1, 4],
    )
    made.graph.initializer.append(helper.make_tensor("typed", TensorProto.FLOAT, [4, 3], drawn(12).tolist()))
    return made


def _iterated() -> onnx.ModelProto:
    """Return a step of the power iteration in front of a product, capped and with a gain, as own classes write it."""
    return model(
        [
            node("Transpose", ["w.weight_orig"], ["turned"], perm=[1, 0]),
            node("MatMul", ["turned", "w.weight_u"], ["wu"]),
            node("ReduceL2", ["wu"], ["length"], axes=[0], keepdims=1),
            node("Max", ["length", "epsilon"], ["safe"]),
            node("Div", ["wu", "safe"], ["v"]),
            node("MatMul", ["w.weight_orig", "v"], ["wv"]),
            node("LpNormalization", ["wv"], ["u"], axis=0, p=2),
            node("MatMul", ["u", "wv"], ["sigma"]),
            node("Max", ["sigma", "cap"], ["capped"]),
            node("Div", ["w.weight_orig", "capped"], ["normal"]),
            node("Mul", ["normal", "gain"], ["w"]),
            node("Gemm", ["x", "w", "b"], ["y"], transB=1),
        ],
        {
            "w.weight_orig": drawn(5, 4),
            "w.weight_u": drawn(5),
            "epsilon": np.array([1e-12], np.float32),
            "cap": np.array(1, np.float32),
            "gain": np.array(2, np.float32),
            "b": drawn(5),
        },
        [1, 4],
    )


def _reshaped() -> onnx.ModelProto:
    """Return the spectral norm of a kernel by its stored vectors, and a weight norm by squares, sums and roots."""
    return model(
        [
            node("Reshape", ["k.weight_orig", "rows"], ["matrix"]),
            node("Unsqueeze", ["k.weight_v", "last"], ["column"]),
            node("MatMul", ["matrix", "column"], ["mv"]),
            node("Squeeze", ["mv", "last"], ["flat"]),
            node("Mul", ["k.weight_u", "flat"], ["products"]),
            node("ReduceSum", ["products"], ["sigma"], keepdims=0),
            node("Div", ["k.weight_orig", "sigma"], ["k"]),
            node("Conv", ["x", "k"], ["c"], kernel_shape=[2, 2]),
            node("Mul", ["d.weight_v", "d.weight_v"], ["squares"]),
            node("ReduceSum", ["squares", "others"], ["sum"], keepdims=1),
            node("Sqrt", ["sum"], ["length"]),
            node("Div", ["d.weight_g", "length"], ["factor"]),
            node("Mul", ["d.weight_v", "factor"], ["d"]),
            node("Conv", ["c", "d"], ["y"]),
        ],
        {
            "k.weight_orig": drawn(3, 2, 2, 2),
            "rows": np.array([3, -1]),
            "k.weight_u": drawn(3),
            "k.weight_v": drawn(8),
            "last": np.array([1]),
            "d.weight_v": drawn(2, 3, 1, 1),
            "d.weight_g": drawn(2, 1, 1, 1),
            "others": np.array([1, 2, 3]),
        },
        [1, 2, 3, 3],
    )
