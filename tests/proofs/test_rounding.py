"""The types that weights pass on their way to their consumers."""

import numpy as np
from onnx import TensorProto

from sn_graph.model import Model
from sn_graph.plan import make_plan
from sn_graph.proofs.rounding import types_passed
from tests.support.builders import Weights, drawn, network, node


def test_what_rounds_counts_and_only_on_eligible_weights() -> None:
    nodes = [
        node("Cast", ["a"], ["ac"], to=TensorProto.FLOAT16),
        node("Cast", ["ac"], ["af"], to=TensorProto.FLOAT),
        node("MatMul", ["x", "af"], ["h"]),
        node("DequantizeLinear", ["b", "scale"], ["bf"]),
        node("MatMul", ["h", "bf"], ["y"]),
    ]
    integers = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    weights: Weights = {"a": drawn(4, 4).astype(np.float64), "b": integers, "scale": np.array(0.5, np.float32)}
    model = Model.open(network(nodes, weights, {"x": (2, 4)}))
    found = types_passed(make_plan(model))
    assert found == {np.dtype(name) for name in ("float64", "float16", "float32")}
    assert types_passed(make_plan(model, exclude=["a"])) == {np.dtype("float32")}


def test_a_cast_of_an_old_opset_names_its_type() -> None:
    nodes = [node("Cast", ["a"], ["ac"], to="FLOAT"), node("MatMul", ["x", "ac"], ["y"])]
    model = Model.open(network(nodes, {"a": drawn(4, 4).astype(np.float16)}, {"x": (2, 4)}, opset=5))
    assert types_passed(make_plan(model)) == {np.dtype("float16"), np.dtype("float32")}
