"""Weights brought into the main graph: the rest of the model, and what it computes, stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from sn_graph.model import Model
from sn_graph.plan import make_plan
from sn_graph.rewrite import Hoist
from tests.support.builders import Array, branch, call, constant, drawn, function, network, node
from tests.support.runs import session


def hoisted(proto: onnx.ModelProto) -> tuple[Model, dict[str, str], dict[Any, Any]]:
    model = Model.open(proto).copy()
    plan = make_plan(model, convention="keras")
    done = Hoist(model).apply(plan.targets())
    return model, done.weights, done.moved


def assert_same_outputs(model: Model, original: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    for ours, theirs in zip(*(session(one).run(None, feeds) for one in (model.to_proto(), original)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_weights_of_the_main_graph_change_nothing() -> None:
    proto = network([node("MatMul", ["x", "w"], ["y"])], {"w": drawn(4, 4)}, {"x": (2, 4)})
    model, weights, moved = hoisted(proto)
    assert (weights, moved) == ({"w": "w"}, {})
    assert model.to_proto() == proto


def test_weights_of_bodies_move_under_their_ids() -> None:
    """The unnamed If at position 1 of the branch stands at 0 once the Constant before it is gone."""
    deep = branch([node("MatMul", ["h", "inner"], ["d"])], {"inner": drawn(4, 4)})
    then = branch(
        [
            constant("own", drawn(4, 4, seed=1), documentation="kept"),
            node("If", ["c"], ["a"], then_branch=deep, else_branch=branch([node("Neg", ["h"], ["n"])])),
            node("MatMul", ["a", "own"], ["t"]),
        ]
    )
    nodes = [
        node("Relu", ["x"], ["h"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=branch([node("Abs", ["h"], ["o"])])),
    ]
    proto = network(nodes, {"c": np.array(True)}, {"x": (2, 4)})
    model, weights, moved = hoisted(proto)
    at = "If#1/then_branch"
    assert weights == {f"{at}::own": f"{at}::own", f"{at}/If#1/then_branch::inner": f"{at}/If#1/then_branch::inner"}
    assert moved[at, "own"] == ("", f"{at}::own")
    assert moved[f"{at}/If#1/then_branch", "inner"] == ("", f"{at}/If#1/then_branch::inner")
    held = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    assert held[f"{at}::own"].doc_string == "kept"
    assert not any("sn_graph.tag" in tensor.doc_string for tensor in held.values())
    assert_same_outputs(model, proto, {"x": drawn(2, 4)})


@pytest.mark.parametrize("large", [False, True])
def test_a_function_is_inlined_with_its_callers_and_no_other(large: bool) -> None:
    size = 32 if large else 4
    weight, shift = drawn(size, size), drawn(size, size, seed=1)
    inner = function(
        "inner",
        ["x"],
        [
            constant("w", weight),
            constant("b", shift),
            node("MatMul", ["x", "w"], ["p"]),
            node("Add", ["p", "b"], ["y"]),
        ],
    )
    outer = function("outer", ["x"], [call("inner", ["x"], "m"), node("Tanh", ["m"], ["y"])])
    other = function("other", ["x"], [constant("k", shift), node("Mul", ["x", "k"], ["y"])])
    nodes = [call("outer", ["x"], "a"), call("other", ["a"], "b"), call("inner", ["b"], "y")]
    proto = network(nodes, {}, {"x": (size, size)}, functions=[inner, other, outer])
    model, weights, moved = hoisted(proto)
    assert weights == {"local::inner::w": "local::inner::w"}
    assert [one.name for one in model.proto.functions] == ["other"]
    assert moved["local::inner", "w"] == ("", "local::inner::w")
    assert moved["local::inner", "b"][0] == ""
    assert ("local::other", "k") not in moved
    held = [tensor.name for tensor in model.proto.graph.initializer]
    assert held == ["local::inner::w"]
    assert_same_outputs(model, proto, {"x": drawn(size, size)})


def test_operator_sets_of_functions_are_imported_once_inlined() -> None:
    fused = node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")
    imports = {"com.microsoft": 1, "third": 2}
    proto = network(
        [call("f", ["x"], "y")],
        {},
        {"x": (2, 4)},
        functions=[function("f", ["x"], [constant("w", drawn(4, 4)), fused], domains=imports)],
    )
    del proto.opset_import[1]
    model, _, _ = hoisted(proto)
    found = {entry.domain: entry.version for entry in model.proto.opset_import}
    assert found == {"": 17, "local": 1, **imports}


def test_a_weight_in_a_function_called_from_a_branch() -> None:
    dense = function("dense", ["x"], [constant("w", drawn(4, 4)), node("MatMul", ["x", "w"], ["y"])])
    then = branch([call("dense", ["h"], "t")])
    nodes = [
        node("Relu", ["x"], ["h"]),
        node("If", ["c"], ["i"], then_branch=then, else_branch=branch([node("Neg", ["h"], ["n"])])),
        call("dense", ["i"], "y"),
    ]
    proto = network(nodes, {"c": np.array(True)}, {"x": (2, 4)}, functions=[dense])
    model, weights, _ = hoisted(proto)
    assert list(weights.values()) == ["local::dense::w"]
    assert_same_outputs(model, proto, {"x": drawn(2, 4)})


def test_a_name_that_is_taken_gets_a_number() -> None:
    then = branch([node("MatMul", ["h", "w"], ["t"])], {"w": drawn(4, 4)})
    nodes = [
        node("Relu", ["x"], ["h"]),
        node(
            "If",
            ["c"],
            ["If/then_branch::w"],
            name="If",
            then_branch=then,
            else_branch=branch([node("Neg", ["h"], ["n"])]),
        ),
        node("Abs", ["If/then_branch::w"], ["y"]),
    ]
    proto = network(nodes, {"c": np.array(True)}, {"x": (2, 4)})
    model, weights, _ = hoisted(proto)
    assert weights == {"If/then_branch::w": "If/then_branch::w_1"}
    assert_same_outputs(model, proto, {"x": drawn(2, 4)})
