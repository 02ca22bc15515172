"""Seeds: small models with every kind of weight and of place that it may stand in, plain and inserted."""

import functools
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import sn_graph as sn
from sn_graph.errors import SnGraphError
from tools.fuzz.making import MICROSOFT, drawn, model, opsets, tensor, value
from tools.fuzz.networks import networks
from tools.fuzz.places import norms, places
from tools.fuzz.quantized import quantized


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Return the seeds, serialized: each model as it is, and each that can be, inserted in both layouts."""
    plain = [*_models(), *places(), *norms(), *quantized(), *networks()]
    made = [one.SerializeToString(deterministic=True) for one in plain]
    for one in plain:
        for layout in ("packed", "per-weight"):
            try:
                made.append(sn.insert(one, state_layout=layout).to_proto().SerializeToString(deterministic=True))
            except SnGraphError:  # a weight that only fold can scale
                break
    return tuple(dict.fromkeys(made))


def _models() -> Iterator[onnx.ModelProto]:
    node = helper.make_node
    yield model(
        [
            node("Conv", ["x", "k", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], group=1),
            node("Relu", ["c"], ["r"]),
            node("ConvTranspose", ["r", "kt"], ["ct"], strides=[2, 2], output_padding=[1, 1]),
            node("Flatten", ["ct"], ["f"]),
            node("Gemm", ["f", "g.weight"], ["y"], transB=1, alpha=0.5),
        ],
        {"k": drawn(4, 3, 3, 3), "b": drawn(4), "kt": drawn(4, 2, 2, 2), "g.weight": drawn(5, 162)},
        [1, 3, 4, 4],
    )
    body = helper.make_graph(
        [node("MatMul", ["e", "inner"], ["z"])], "then", [], [value("z")], [tensor("inner", drawn(8, 8))]
    )
    other = helper.make_graph([node("MatMul", ["e", "outer"], ["z2"])], "else", [], [value("z2")])
    yield model(
        [
            node("MatMul", ["x", "first"], ["e"]),
            node("ReduceSum", ["e"], ["s"], keepdims=0),
            node("Cast", ["s"], ["cond"], to=TensorProto.BOOL),
            node("If", ["cond"], ["i"], then_branch=body, else_branch=other),
            node("Constant", [], ["held"], value=numpy_helper.from_array(drawn(8, 8))),
            node("Transpose", ["held"], ["turned"], perm=[1, 0]),
            node("MatMul", ["i", "turned"], ["m"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], axis=0),
            node("MatMul", ["m", "dq"], ["n"]),
            node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
            node("Reshape", ["wide", "sizes"], ["shaped"]),
            node("MatMul", ["n", "shaped"], ["y"]),
        ],
        {
            "first": drawn(6, 8),
            "outer": drawn(8, 8),
            "q": np.arange(64, dtype=np.int8).reshape(8, 8),
            "scale": np.full(8, 0.1, np.float32),
            "zero": np.zeros(8, np.int8),
            "half": drawn(4, 16).astype(np.float16),
            "sizes": np.array([8, 8]),
        },
        [1, 6],
    )
    inner = helper.make_function("local", "Inner", ["a", "w"], ["b"], [node("MatMul", ["a", "w"], ["b"])], opsets())
    calls = [node("Inner", ["a", "w"], ["h"], domain="local"), node("Inner", ["h", "w"], ["b"], domain="local")]
    outer = helper.make_function("local", "Outer", ["a", "w"], ["b"], calls, opsets())
    yield model([node("Outer", ["x", "w"], ["y"], domain="local")], {"w": drawn(6, 6)}, [1, 6], [inner, outer])
    yield from _pieces()
    yield from _integers()
    yield _exported()
    yield model(
        [node("LSTM", ["x", "W", "R"], ["", "y"], hidden_size=4)],
        {"W": drawn(1, 16, 3), "R": drawn(1, 16, 4)},
        [2, 1, 3],
    )


def _pieces() -> Iterator[onnx.ModelProto]:
    """Yield a model whose weights are cut, joined, handed on by a body, or stored as a sparse tensor."""
    node = helper.make_node
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["goes"]),
            node("Identity", ["w_in"], ["w_out"]),
            node("MatMul", ["h", "w_in"], ["h2"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("w_in"), value("h")],
        [value("goes", [], TensorProto.BOOL), value("w_out"), value("h2")],
    )
    made = model(
        [
            node("Split", ["cut", "sizes"], ["left", "right"], axis=1),
            node("MatMul", ["x", "left"], ["a"]),
            node("MatMul", ["x", "right"], ["b"]),
            node("Concat", ["first", "second"], ["joint"], axis=1),
            node("Add", ["a", "b"], ["sum"]),
            node("MatMul", ["sum", "joint"], ["c"]),
            node("Loop", ["turns", "", "carried", "c"], ["last", "looped"], body=body),
            node("MatMul", ["looped", "sparse"], ["y"]),
        ],
        {
            "cut": drawn(6, 8),
            "sizes": np.array([4, 4]),
            "first": drawn(4, 3),
            "second": drawn(4, 5),
            "carried": drawn(8, 8),
            "turns": np.array(2),
        },
        [1, 6],
    )
    places = numpy_helper.from_array(np.arange(0, 32, 3), "places")
    sparse = helper.make_sparse_tensor(tensor("sparse", drawn(11)), places, [8, 4])
    made.graph.sparse_initializer.append(sparse)
    yield made


def _integers() -> Iterator[onnx.ModelProto]:
    """Yield a model of operators that take their weights as integers."""
    node = helper.make_node
    octets = {name: np.arange(64, dtype=np.uint8).reshape(8, 8) for name in ("wi", "wl")}
    yield model(
        [
            node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
            node("MatMulInteger", ["xq", "wi", "xz", "zero"], ["p"]),
            node("Cast", ["p"], ["pf"], to=TensorProto.FLOAT),
            node("Mul", ["xs", "scale"], ["both"]),
            node("Mul", ["pf", "both"], ["a"]),
            node("DynamicQuantizeMatMul", ["a", "wl", "scale", "zero"], ["b"], domain=MICROSOFT),
            node("MatMulNBits", ["b", "packed", "steps"], ["c"], domain=MICROSOFT, N=4, K=8, bits=4, block_size=16),
            node("ArgMax", ["c"], ["index"], axis=1),
            node("Gather", ["table", "index"], ["y"]),
        ],
        {
            **octets,
            "zero": np.array(3, np.uint8),
            "scale": np.array(0.1, np.float32),
            "packed": np.arange(32, dtype=np.uint8).reshape(4, 1, 8),
            "steps": np.full(4, 0.2, np.float32),
            "table": drawn(5, 4),
        },
        [1, 8],
    )


def _exported() -> onnx.ModelProto:
    """Return a spectral norm and a weight norm as PyTorch's exporter leaves them."""
    node = helper.make_node
    return model(
        [
            node("MatMul", ["c.weight_orig", "c.weight_v"], ["mv"]),
            node("MatMul", ["c.weight_u", "mv"], ["sigma"]),
            node("Div", ["c.weight_orig", "sigma"], ["w"]),
            node("MatMul", ["x", "w"], ["a"]),
            node("ReduceL2", ["d.weight_v"], ["norm"], axes=[1], keepdims=1),
            node("Div", ["d.weight_v", "norm"], ["unit"]),
            node("Mul", ["unit", "d.weight_g"], ["d"]),
            node("Gemm", ["a", "d"], ["y"], transB=1),
        ],
        {
            "c.weight_orig": drawn(6, 4),
            "c.weight_u": drawn(6),
            "c.weight_v": drawn(4),
            "d.weight_v": drawn(3, 4),
            "d.weight_g": drawn(3, 1),
        },
        [1, 6],
    )
