"""Insert where weights are captured by bodies, owned by them, or held by local functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import sn_graph as sn
from tests.support.builders import Array, branch, call, constant, drawn, function, network, node, value
from tests.support.oracle import power_iteration, seeded
from tests.support.runs import check, close, session, strips_to

KERAS: dict[str, Any] = {"convention": "keras", "steps": (1, 10)}


# Captured and hoisted


@pytest.mark.parametrize("scale", ["input", "weight"])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("held", ["initializer", "node"])
def test_weights_captured_and_owned_by_nested_branches(held: str, named: bool, scale: str) -> None:
    """An unnamed If is called by its position, which hoisting a Constant from before it changes."""
    outer, own, inner = drawn(4, 4), drawn(4, 4, seed=1), drawn(4, 4, seed=2)
    more: dict[str, Any] = {"name": "If_inner"} if named else {}
    at = "If_outer/then_branch/" + ("If_inner" if named else f"If#{1 + (held == 'node')}") + "/else_branch::inner"
    made = (
        {"nodes": [constant("inner", inner)], "weights": None}
        if held == "node"
        else {"nodes": [], "weights": {"inner": inner}}
    )
    deep = branch([*made["nodes"], node("MatMul", ["h1", "inner"], ["d"])], made["weights"], name="deep")  # type: ignore[misc, arg-type]
    flat = branch([node("MatMul", ["h1", "outer"], ["f"])], name="flat")
    first = [constant("own", own)] if held == "node" else []
    then = branch(
        [
            *first,
            node("MatMul", ["h", "own"], ["h1"]),
            node("If", ["c2"], ["t"], then_branch=flat, else_branch=deep, **more),
        ],
        None if held == "node" else {"own": own},
        name="then",
    )
    other = branch([node("MatMul", ["h", "outer"], ["o"])], name="other")
    nodes = [
        node("Relu", ["x"], ["h"]),
        node("If", ["c1"], ["y"], name="If_outer", then_branch=then, else_branch=other),
    ]
    model = network(nodes, {"outer": outer}, {"x": (2, 4), "c1": (), "c2": ()})
    for one in model.graph.input[1:]:
        one.type.tensor_type.elem_type = TensorProto.BOOL
    ids = {"own": "If_outer/then_branch::own", "inner": at}
    matrices = {"outer": outer.T, ids["own"]: own.T, ids["inner"]: inner.T}  # else_branch stands first
    names = {ids["own"]: "own", ids["inner"]: "inner"}
    for c1, c2 in ((True, False), (True, True), (False, True)):
        feeds = {"x": drawn(2, 4), "c1": np.array(c1), "c2": np.array(c2)}
        inserted = check(model, matrices, feeds, names=names, scale=scale, **KERAS)
    strips_to(inserted, model)
    assert {ids["own"], ids["inner"]} < {tensor.name for tensor in inserted.graph.initializer}


@pytest.mark.parametrize("op_type", ["Loop", "Scan"])
@pytest.mark.parametrize("opset", [9, 17])
def test_loops(op_type: str, opset: int) -> None:
    """Three turns: y = x (W1 W2)³; W1 is owned by the body, W2 captured."""
    own, captured = drawn(4, 4), drawn(4, 4, seed=1)
    products = [node("MatMul", ["s", "own"], ["a"]), node("MatMul", ["a", "captured"], ["next"])]
    body_weights = [numpy_helper.from_array(own, "own")]
    if op_type == "Loop":
        go = [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL)]
        keep = node("Identity", ["go"], ["go_on"])
        body = helper.make_graph(
            [*products, keep],
            "body",
            [*go, value("s", (2, 4))],
            [value("go_on", [], TensorProto.BOOL), value("next", (2, 4))],
            body_weights,
        )
        nodes = [node("Loop", ["three", "", "x"], ["y"], name="loop", body=body)]
        weights: dict[str, Any] = {"captured": captured, "three": np.array(3)}
    else:
        take = node("Identity", ["e"], ["out"])
        body = helper.make_graph(
            [*products, take],
            "body",
            [value("s", (2, 4)), value("e", (1,))],
            [value("next", (2, 4)), value("out", (1,))],
            body_weights,
        )
        nodes = [node("Scan", ["x", "each"], ["y", "outs"], name="loop", body=body, num_scan_inputs=1)]
        weights = {"captured": captured, "each": np.zeros((3, 1), np.float32)}
    model = network(nodes, weights, {"x": (2, 4)}, opset=opset)
    matrices = {"loop/body::own": own.T, "captured": captured.T}
    inserted = check(model, matrices, {"x": drawn(2, 4)}, names={"loop/body::own": "own"}, **KERAS)
    strips_to(inserted, model)


def test_a_quantized_weight_in_a_branch_takes_its_scale_along() -> None:
    stored = np.random.default_rng(0).integers(-100, 100, (4, 4)).astype(np.int8)
    scales, zeros = drawn(4) ** 2 + np.float32(0.1), np.array([1, 2, 3, 4], np.int8)
    held: dict[str, Array] = {"w": stored, "s": scales, "z": zeros}
    products = [node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1), node("MatMul", ["h", "d"], ["t"])]
    nodes = [
        node("Relu", ["x"], ["h"]),
        node(
            "If",
            ["c"],
            ["y"],
            name="If",
            then_branch=branch(products, held, name="a"),
            else_branch=branch([node("Neg", ["h"], ["n"])], name="b"),
        ),
    ]
    model = network(nodes, {"c": np.array(True)}, {"x": (2, 4)})
    full = (stored.astype(np.float64) - zeros) * scales
    inserted = sn.insert(model, convention="keras").to_proto()
    x = drawn(2, 4)
    y, _, sigma = session(inserted).run(None, {"x": x})
    expected, _ = power_iteration(full.T, seeded("If/then_branch::w", 4))
    close(sigma, np.array([expected]), 1e-5, "σ")
    close(y, np.maximum(x, 0) @ full / expected, 1e-5, "y")
    strips_to(inserted, model)


def test_a_branch_that_gives_its_weight_out_keeps_it() -> None:
    own = drawn(4, 4)
    then = helper.make_graph(
        [node("MatMul", ["h", "own"], ["p"])],
        "a",
        [],
        [value("p", None), value("own", None)],
        [numpy_helper.from_array(own, "own")],
    )
    other = helper.make_graph(
        [node("Neg", ["h"], ["n"]), node("Neg", ["h"], ["m"])], "b", [], [value("n", None), value("m", None)]
    )
    nodes = [
        node("Relu", ["x"], ["h"]),
        node("If", ["c"], ["y", "given"], name="If", then_branch=then, else_branch=other),
    ]
    model = network(nodes, {"c": np.array(True)}, {"x": (2, 4)}, ("y", "given"))
    inserted = sn.insert(model).to_proto()
    assert session(inserted).run(["given"], {"x": drawn(2, 4)})[0].tobytes() == own.tobytes()
    strips_to(inserted, model)


# Functions


HOLDER = "local::dense::w"


@pytest.mark.parametrize("scale", ["input", "weight"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_weight_in_a_function_that_is_called_twice(nested: bool, scale: str) -> None:
    """One iteration for all calls; a function that calls the holder is inlined with it, another stays."""
    weight = drawn(4, 4)
    dense = function("dense", ["x"], [constant("w", weight), node("MatMul", ["x", "w"], ["y"])])
    wrap = function("wrap", ["x"], [call("dense", ["x"], "m"), node("Tanh", ["m"], ["y"])])
    apart = function("apart", ["x"], [node("Neg", ["x"], ["y"])])
    caller = "wrap" if nested else "dense"
    nodes = [call(caller, ["x"], "a"), call("apart", ["a"], "b"), call("dense", ["b"], "y")]
    model = network(nodes, {}, {"x": (2, 4)}, functions=[apart, wrap, dense] if nested else [apart, dense])
    inserted = check(model, {HOLDER: weight.T}, {"x": drawn(2, 4)}, names={HOLDER: "w"}, scale=scale, **KERAS)
    assert [one.name for one in inserted.functions] == ["apart"]
    assert [tensor.name for tensor in inserted.graph.initializer].count(HOLDER) == 1
    strips_to(inserted, model)


def test_a_weight_in_a_branch_of_a_function() -> None:
    weight = drawn(4, 4)
    then = branch([node("MatMul", ["x", "bw"], ["p"])], {"bw": weight}, name="a")
    choose = function(
        "choose",
        ["x", "c"],
        [node("If", ["c"], ["y"], then_branch=then, else_branch=branch([node("Neg", ["x"], ["n"])], name="b"))],
    )
    model = network(
        [call("choose", ["x", "c"], "h"), call("choose", ["h", "c"], "y")],
        {"c": np.array(True)},
        {"x": (2, 4)},
        functions=[choose],
    )
    (site,) = sn.insert(model).sites
    inserted = check(model, {site.id: weight.T}, {"x": drawn(2, 4)}, names={site.id: "bw"}, **KERAS)
    strips_to(inserted, model)


def test_weights_handed_to_functions() -> None:
    weight, other = drawn(4, 4), drawn(4, 4, seed=1)
    inner = function("inner", ["x", "k"], [node("MatMul", ["x", "k"], ["y"])])
    outer = function("outer", ["x", "k"], [call("inner", ["x", "k"], "m"), node("Tanh", ["m"], ["y"])])
    nodes = [call("outer", ["x", "w"], "a"), call("inner", ["a", "v"], "b"), node("MatMul", ["b", "w"], ["y"])]
    model = network(nodes, {"w": weight, "v": other}, {"x": (2, 4)}, functions=[outer, inner])
    strips_to(check(model, {"w": weight.T, "v": other.T}, {"x": drawn(2, 4)}, **KERAS), model)


def test_a_function_of_another_opset_that_holds_no_weight_stays() -> None:
    weight = drawn(4, 4)
    dense = function("dense", ["x"], [constant("w", weight), node("MatMul", ["x", "w"], ["y"])])
    old = function("old", ["x"], [node("Neg", ["x"], ["y"])], opset=13)
    nodes = [call("dense", ["x"], "a"), call("old", ["a"], "y")]
    model = network(nodes, {}, {"x": (2, 4)}, functions=[old, dense])
    inserted = check(model, {HOLDER: weight.T}, {"x": drawn(2, 4)}, names={HOLDER: "w"}, **KERAS)
    assert [one.name for one in inserted.functions] == ["old"]
    strips_to(inserted, model)


def test_functions_that_cannot_be_inlined_are_skipped_with_the_reason() -> None:
    held = [constant("w", drawn(4, 4)), node("MatMul", ["x", "w"], ["y"])]
    for opset, called, reason in ((13, True, "another opset"), (17, False, "never calls")):
        nodes = [call("dense", ["x"], "y")] if called else [node("Neg", ["x"], ["y"])]
        functions = [function("dense", ["x"], held, opset=opset)]
        if not called:
            functions.append(function("idle", ["x"], [call("dense", ["x"], "y")]))
        result = sn.insert(network(nodes, {}, {"x": (2, 4)}, functions=functions))
        (site,) = result.sites
        assert site.status == "skipped"
        assert reason in str(site.reason)


def test_functions_that_hold_large_constants_of_no_weight_come_back() -> None:
    """Twice inlined, or dropped with a function that nothing calls: strip still has them."""
    weight, shift = drawn(32, 32), drawn(32, 32, seed=1)
    dense = function(
        "dense",
        ["x"],
        [
            constant("w", weight),
            constant("b", shift),
            node("MatMul", ["x", "w"], ["p"]),
            node("Add", ["p", "b"], ["y"]),
        ],
    )
    idle = function(
        "idle", ["x"], [constant("big", shift * 2), call("dense", ["x"], "m"), node("Add", ["m", "big"], ["y"])]
    )
    model = network(
        [call("dense", ["x"], "a"), call("dense", ["a"], "y")], {}, {"x": (32, 32)}, functions=[dense, idle]
    )
    strips_to(check(model, {HOLDER: weight.T}, {"x": drawn(32, 32)}, names={HOLDER: "w"}, **KERAS), model)
