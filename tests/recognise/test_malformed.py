"""Nodes that lack an input, on the way of a weight: a reason, and no crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.builders import drawn, initializer, network, node, saved, value
from tests.support.command_line import invoke

COMMANDS = ["inspect", "fold", "insert", "lift"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("op_type", ["Mul", "Div", "Transpose", "Reshape", "Identity", "Cast", "Concat"])
@pytest.mark.parametrize("count", [0, 1])
def test_arithmetic_behind_a_weight(op_type: str, count: int, command: str, tmp_path: Path) -> None:
    nodes = [node(op_type, ["w"][:count], ["scaled"]), node("MatMul", ["x", "scaled"])]
    model = network(nodes, {"w": drawn(6, 5)}, {"x": (2, 6)})
    path, out = saved(model, tmp_path / "m.onnx"), tmp_path / "out.onnx"
    ended = invoke(command, path, *([] if command == "inspect" else ["-o", out]))
    assert ended.code in (0, 1, 3), ended.err
    assert "internal error" not in ended.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", [0, 1])
def test_products_behind_integers(place: int, command: str, tmp_path: Path) -> None:
    weights = [initializer("w", np.ones((6, 5), np.int8)), initializer("scale", np.float32(0.1))]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["s", "scale"] if place else ["s"], ["both"]),
        node("Mul", ["f"] if place else ["f", "both"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", (2, 6))], [value("y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path, out = saved(model, tmp_path / "m.onnx"), tmp_path / "out.onnx"
    ended = invoke(command, path, *([] if command == "inspect" else ["-o", out]))
    assert ended.code in (0, 1, 3), ended.err
    assert "internal error" not in ended.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_that_leaves_out_the_weight_of_its_function(command: str, tmp_path: Path) -> None:
    """As fuzzing found it: the weight is the first of two inputs, and once bodies stand in the graph none reads it."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    inner = helper.make_function("local", "Inner", ["a", "w"], ["b"], [node("MatMul", ["a", "w"], ["b"])], opsets)
    calls = [
        helper.make_node("Inner", ["a", "w"], ["h"], domain="local"),
        helper.make_node("Inner", ["h", "w"], ["b"], domain="local"),
    ]
    outer = helper.make_function("local", "Outer", ["a", "w"], ["b"], calls, opsets)
    nodes, weights = [helper.make_node("Outer", ["w"], ["y"], domain="local")], [initializer("w", drawn(6, 6))]
    graph = helper.make_graph(nodes, "g", [value("x", (1, 6))], [value("y")], weights)
    model = helper.make_model(graph, opset_imports=opsets, functions=[inner, outer], ir_version=8)
    path, out = saved(model, tmp_path / "m.onnx"), tmp_path / "out.onnx"
    ended = invoke(command, path, *([] if command == "inspect" else ["-o", out]))
    assert ended.code in (0, 1, 3), ended.err
    assert "internal error" not in ended.err
