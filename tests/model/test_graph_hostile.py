"""Graphs of files that nobody exported: what no runtime could run is refused, in a time that the file's size bounds."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

import sn_graph as sn
from sn_graph.model import Graph
from tests.support.builders import call, drawn, function, graph, network, node


def doubling(depth: int) -> onnx.ModelProto:
    """Functions of which each calls the next twice."""
    last = function("F0", ["x", "w"], [node("MatMul", ["x", "w"])])
    others = [
        function(f"F{i}", ["x", "w"], [call(f"F{i - 1}", ["x", "w"], "h"), call(f"F{i - 1}", ["h", "w"], "y")])
        for i in range(1, depth)
    ]
    return network(
        [call(f"F{depth - 1}", ["x", "w"], "y")], {"w": drawn(4, 4)}, {"x": (1, 4)}, functions=[last, *others]
    )


def test_calls_that_multiply_are_refused_before_they_are_followed() -> None:
    with pytest.raises(sn.ModelError, match=r"called 1\.1e\+12 times"):
        sn.inspect(doubling(40))


def test_a_few_calls_are_followed() -> None:
    assert [site.status for site in sn.inspect(doubling(5)).sites] == ["eligible"]


@pytest.mark.parametrize("around", [["F1"], ["F2", "F1"], ["F3", "F2", "F1"]])
def test_functions_that_call_themselves_are_refused(around: list[str]) -> None:
    functions = [
        function(name, ["x", "w"], [call(other, ["x", "w"], "h"), node("MatMul", ["h", "w"])])
        for name, other in zip(around, [*around[1:], around[0]], strict=True)
    ]
    model = network([call("F1", ["x", "w"], "y")], {"w": drawn(4, 4)}, {"x": (1, 4)}, functions=functions)
    with pytest.raises(sn.ModelError, match="calls itself"):
        Graph(model)


def test_a_function_in_a_body_that_calls_itself_is_refused() -> None:
    body = graph([call("F", ["x", "w"], "z")], outputs=["z"])
    own = function("F", ["x", "w"], [node("If", ["x"], then_branch=body, else_branch=body)])
    with pytest.raises(sn.ModelError, match="'local::F' calls itself"):
        Graph(network([call("F", ["x", "w"], "y")], {"w": drawn(4, 4)}, {"x": (1, 4)}, functions=[own]))


def test_a_function_defined_twice_is_refused() -> None:
    own = function("F", ["x", "w"], [node("MatMul", ["x", "w"])])
    model = network([call("F", ["x", "w"], "y")], {"w": drawn(4, 4)}, {"x": (1, 4)}, functions=[own, own])
    with pytest.raises(sn.ModelError, match="defines function 'local::F' twice"):
        Graph(model)


def test_a_function_with_two_inputs_of_one_name_is_refused() -> None:
    own = function("F", ["x", "x"], [node("MatMul", ["x", "x"])])
    model = network([call("F", ["x", "w"], "y")], {"w": drawn(4, 4)}, {"x": (1, 4)}, functions=[own])
    with pytest.raises(sn.ModelError, match="two inputs of function 'local::F' have one name"):
        Graph(model)


@pytest.mark.parametrize("output", ["w", "h"])
def test_a_value_that_is_made_twice_is_refused(output: str) -> None:
    nodes = [node("Relu", ["x"], ["h"]), node("Neg", ["x"], [output]), node("MatMul", ["h", "w"])]
    with pytest.raises(sn.ModelError, match=f"it makes value '{output}' twice"):
        Graph(network(nodes, {"w": drawn(4, 4)}, {"x": (1, 4)}))


def test_many_bodies_and_inputs_cost_no_more_than_they_are() -> None:
    empty = graph([], outputs=[])
    nodes = [node("If", ["c"], [f"y{n}"], then_branch=empty, else_branch=empty, name="same") for n in range(3000)]
    index = Graph(network([*nodes, node("MatMul", ["x", "w"])], {"w": drawn(4, 4)}, {"x": (1, 4), "c": ()}))
    assert len({scope.id for scope in index.scopes}) == len(index.scopes) == 6001


@pytest.mark.parametrize(
    ("op_type", "name", "given", "wanted"),
    [
        ("Conv", "group", [1], "INT"),
        ("Conv", "group", 1.5, "INT"),
        ("Gemm", "transB", "yes", "INT"),
        ("Gather", "axis", [0], "INT"),
        ("Transpose", "perm", 1, "INTS"),
        ("Cast", "to", 1.0, "INT or STRING"),
    ],
)
def test_attributes_of_another_type_are_refused(op_type: str, name: str, given: Any, wanted: str) -> None:
    kernel = drawn(4, 4, 1) if op_type == "Conv" else drawn(4, 4)
    if op_type in ("Transpose", "Cast"):
        nodes = [node(op_type, ["w"], ["v"], name="odd", **{name: given}), node("MatMul", ["x", "v"])]
    else:
        nodes = [node(op_type, ["w", "x"] if op_type == "Gather" else ["x", "w"], name="odd", **{name: given})]
    with pytest.raises(sn.ModelError, match=rf"attribute '{name}' of node 'odd' is of type .*takes {wanted};"):
        sn.inspect(network(nodes, {"w": kernel}, {"x": (1, 4, 4) if op_type == "Conv" else (1, 4)}))


def test_names_that_are_no_text_are_refused_wherever_they_stand() -> None:
    model = network([node("ConvTranspose", ["x", "w"], strides=[1])], {"w": drawn(2, 2, 3)}, {"x": (1, 2, 4)})
    model.opset_import.add(domain="other", version=1)
    raw = model.SerializeToString()
    for name in (b"other", b"strides"):
        broken = onnx.ModelProto.FromString(raw.replace(name, b"\xff" + name[1:]))
        with pytest.raises(sn.ModelError, match="not text"):
            Graph(broken)
    with pytest.raises(sn.ModelError, match="not text"):
        Graph(network([node("MatMul", ["x", "w\0"])], {"w\0": drawn(4, 4)}, {"x": (1, 4)}))
