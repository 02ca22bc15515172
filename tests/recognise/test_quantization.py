"""Quantization of constants, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sn_graph.model import Model
from sn_graph.recognise import Evaluator
from tests.support.certified import constant, network, nodes

F = np.float32
RNG = np.random.default_rng(0)


def both(op_type: str, arrays: list[NDArray[Any]], opset: int, **attributes: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """What the evaluator and onnxruntime give."""
    codes = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays]
    names = ["a", "b", "c"][: len(arrays)]
    given = [
        helper.make_tensor_value_info(name, code, array.shape)
        for name, code, array in zip(names, codes, arrays, strict=True)
    ]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], **attributes)],
        "g",
        given,
        [helper.make_value_info("y", _type(op_type, arrays))],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, dict(zip(names, arrays, strict=True)))[0]
    model = Model.open(proto)
    (ours,) = Evaluator(model, wide=False).run(model.graph.main.nodes[0], arrays)
    return ours, theirs


def _type(op_type: str, arrays: list[NDArray[Any]]) -> Any:
    code = TensorProto.FLOAT
    if op_type == "QuantizeLinear":
        code = helper.np_dtype_to_tensor_dtype(arrays[2].dtype) if len(arrays) > 2 else TensorProto.UINT8
    return helper.make_tensor_type_proto(code, None)


@pytest.mark.parametrize("opset", [13, 19, 21])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_dequantize(axis: int | None, kind: Any, opset: int) -> None:
    x = RNG.integers(np.iinfo(kind).min, np.iinfo(kind).max, (3, 4)).astype(kind)
    size = 1 if axis is None else x.shape[axis]
    scale, zero = (0.01 + RNG.random(size)).astype(F), RNG.integers(0, 9, size).astype(kind)
    if axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    options = {} if axis is None else {"axis": axis}
    for arrays in ([x, scale, zero], [x, scale]):
        ours, theirs = both("DequantizeLinear", arrays, opset, **options)
        np.testing.assert_array_equal(ours, theirs)


def test_dequantize_in_blocks() -> None:
    x = RNG.integers(-128, 127, (4, 6)).astype(np.int8)
    scale = (0.01 + RNG.random((2, 6))).astype(F)
    ours, theirs = both("DequantizeLinear", [x, scale], 21, axis=0, block_size=2)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantize(axis: int | None, kind: Any) -> None:
    x = (3 * RNG.standard_normal((3, 4))).astype(F)
    x[0, 0], x[0, 1], x[0, 2] = 1e6, 0.05, 0.15  # out of range, and halves
    scale, zero = np.full(4, 0.1, F), np.arange(4).astype(kind)
    if axis is None:
        scale, zero = scale[0], zero[1]
    ours, theirs = both(
        "QuantizeLinear", [x, np.asarray(scale), np.asarray(zero)], 13, **({} if axis is None else {"axis": 1})
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_a_quantized_weight_is_certified_as_what_it_stands_for(opset: int) -> None:
    weight = RNG.integers(-127, 127, (5, 4)).astype(np.int8)
    scale = np.array([0.01, 0.02, 0.03, 0.04], F)
    model = nodes(
        ("DequantizeLinear", ["q", "s"], "w", {"axis": 1}),
        ("MatMul", ["x", "w"], "y"),
        x=("N", 5),
        held={"q": weight, "s": scale},
        opset=opset,
    )
    exact = float(np.linalg.norm((weight * scale).astype(np.float64), 2))
    assert exact <= constant(network(model)) * (1 + 1e-12) <= exact * (1 + 1e-6)
