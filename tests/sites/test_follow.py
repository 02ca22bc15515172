"""Following a constant to what reads it: into bodies and local functions, and as far as it can be read at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.builders import constant, drawn, function, graph, model, node, only_site, sites

W = drawn(4, 6)


def branches(scope: str, nodes: list[onnx.NodeProto], initializers: dict[str, Any] | None = None) -> onnx.NodeProto:
    """An If named `scope`, whose branches are `nodes`, the else branch without a weight."""
    then = graph(nodes, initializers, (), ("z",))
    other = graph([node("Identity", ["x"], ["z"])], {}, (), ("z",))
    return node("If", ["flag"], ["y"], name=scope, then_branch=then, else_branch=other)


def test_captured_by_a_branch() -> None:
    """The main graph's weight, read inside an If inside an If."""
    inner = branches("inner", [node("MatMul", ["x", "w"], ["z"], name="deep")])
    inner.output[0] = "z"
    made = model([branches("outer", [inner])], {"w": W}, inputs=("x", "flag"))
    found = only_site(made)
    assert (found.id, found.site.scope.id, found.status) == ("w", "", "eligible")
    assert found.site.consumers == ("outer/then_branch/inner/then_branch/deep",)


def test_owned_by_a_branch() -> None:
    held = [node("Identity", ["v"], ["i"]), node("MatMul", ["x", "i"], ["h"]), constant("c", drawn(6, 6))]
    made = model(
        [branches("If_3", [*held, node("MatMul", ["h", "c"], ["z"])], {"v": W})], {"w": W}, inputs=("x", "flag")
    )
    found = sites(made)
    assert list(found) == ["If_3/then_branch::v", "If_3/then_branch::c"]
    first = found["If_3/then_branch::v"].site
    assert (first.weight, first.scope.id, first.consumers) == ("v", "If_3/then_branch", ("If_3/then_branch/MatMul#1",))


def test_unnamed_owner_of_a_branch() -> None:
    made = model(
        [node("Relu", ["x"], ["r"]), branches("", [node("MatMul", ["x", "v"], ["z"])], {"v": W})], inputs=("x", "flag")
    )
    assert only_site(made).id == "If#1/then_branch::v"


def test_shadowed_names() -> None:
    """Two weights of one name: the main graph's, and the branch's own, which hides it there."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), branches("If_0", [node("MatMul", ["h", "w"], ["z"])], {"w": -W})]
    made = model(nodes, {"w": W}, inputs=("x", "flag"))
    found = sites(made)
    assert list(found) == ["w", "If_0/then_branch::w"]
    for key, expected in (("w", W), ("If_0/then_branch::w", -W)):
        target = found[key].target
        assert target is not None
        np.testing.assert_array_equal(target.array(made), expected)
    assert [len(site.uses) for site in found.values()] == [1, 1]


@pytest.mark.parametrize("op_type", ["Loop", "Scan"])
def test_loop_and_scan_bodies(op_type: str) -> None:
    """A captured weight, and one of the body's own; a formal input hides what it shadows."""
    body = graph(
        [node("MatMul", ["a", "w"], ["h"]), node("MatMul", ["h", "own"], ["g"]), node("MatMul", ["g", "s"], ["b"])],
        {"own": drawn(6, 4)},
        ("a", "s"),
        ("b",),
    )
    made = model([node(op_type, ["x", "x"], ["y"], name="rec", body=body)], {"w": W, "s": W})
    assert list(sites(made)) == ["w", "rec/body::own"]


def test_functions_own_weights_and_take_them() -> None:
    inside = function(
        "Dense", ["a", "k"], [node("MatMul", ["a", "k"], ["h"]), constant("c", W), node("Gemm", ["h", "c"])]
    )
    made = model([node("Dense", ["x", "w"], ["y"], domain="local", name="call")], {"w": W}, functions=[inside])
    found = sites(made)
    assert list(found) == ["w", "local::Dense::c"]
    assert found["w"].site.consumers == ("local::Dense/MatMul#0",)
    assert found["w"].uses[0].through_call
    assert (found["local::Dense::c"].site.scope.id, found["local::Dense::c"].uses[0].through_call) == (
        "local::Dense",
        False,
    )
    assert all(site.status == "eligible" for site in found.values())


def test_function_called_twice() -> None:
    inside = function("Dense", ["a", "k"], [node("MatMul", ["a", "k"])])
    calls = [node("Dense", ["x", "w"], ["h"], domain="local"), node("Dense", ["h", "w"], ["y"], domain="local")]
    once = only_site(model(calls, {"w": W}, functions=[inside]))
    assert (once.status, len(once.uses), once.site.consumers) == ("eligible", 2, ("local::Dense/MatMul#0",))
    calls[0].input[1] = "v"
    apart = sites(model(calls, {"w": W, "v": W}, functions=[inside]))
    assert list(apart) == ["v", "w"], "in the order of the calls"
    calls[0].input[1] = "w"
    mixed = only_site(model([*calls, node("Add", ["w", "x"], ["s"])], {"w": W}, functions=[inside]))
    assert (mixed.status, "local function" in (mixed.reason or "")) == ("skipped", True)


def test_overloads_are_functions_of_their_own() -> None:
    bodies = [function("F", ["a"], [constant("c", W), node("MatMul", ["a", "c"])], overload=str(i)) for i in (1, 2)]
    calls = [node("F", ["x"], ["h"], domain="local", overload="1"), node("F", ["h"], domain="local", overload="2")]
    assert list(sites(model(calls, functions=bodies))) == ["local::F:1::c", "local::F:2::c"]


def test_weight_passed_through_two_functions_and_a_chain() -> None:
    inner = function("Inner", ["k", "a"], [node("Gemm", ["a", "k"])])
    outer = function("Outer", ["a", "k"], [node("Transpose", ["k"], ["t"]), node("Inner", ["t", "a"], domain="local")])
    made = model([node("Outer", ["x", "w"], domain="local")], {"w": W}, functions=[inner, outer])
    found = only_site(made)
    assert (found.site.consumers, found.site.via) == (("local::Inner/Gemm#0",), ("Transpose",))
    assert found.view is not None
    np.testing.assert_array_equal(found.view.matrix(W), W.T)


def by_caller(name: str, kind: onnx.AttributeProto.AttributeType = onnx.AttributeProto.INT) -> onnx.AttributeProto:
    """An attribute that takes the caller's value of the same name."""
    return onnx.AttributeProto(name=name, ref_attr_name=name, type=kind)


def dense_function(default: int | None = None) -> onnx.FunctionProto:
    gemm = node("Gemm", ["a", "k"], alpha=1.0)
    gemm.attribute.append(by_caller("transB"))
    defaults = [] if default is None else [helper.make_attribute("transB", default)]
    return function("Dense", ["a", "k"], [gemm], [] if defaults else ["transB"], defaults)


@pytest.mark.parametrize(
    ("default", "given", "side"),
    [(None, 1, "rows"), (None, 0, "cols"), (None, None, "cols"), (1, None, "rows"), (1, 0, "cols")],
)
def test_attributes_that_the_call_gives(default: int | None, given: int | None, side: str) -> None:
    attributes: dict[str, Any] = {} if given is None else {"transB": given}
    made = model(
        [node("Dense", ["x", "w"], domain="local", **attributes)], {"w": W}, functions=[dense_function(default)]
    )
    view = only_site(made).view
    assert view is not None
    assert view.side == side


def test_calls_that_give_different_attributes() -> None:
    conv = node("Conv", ["a", "k"])
    conv.attribute.append(by_caller("group"))
    inside = function("C", ["a", "k"], [conv], ["group"])
    calls = [node("C", ["x", "w"], ["h"], domain="local", group=4), node("C", ["h", "w"], domain="local", group=2)]
    made = model(calls, {"w": drawn(4, 1, 3, 3)}, functions=[inside])
    assert "different matrices" in (only_site(made, convention="keras").reason or "")
    assert only_site(made, convention="torch").status == "eligible"


def test_attributes_of_a_functions_own_weight() -> None:
    """What no single call decides is not guessed; alpha decides nothing."""
    gemm = node("Gemm", ["a", "c"])
    gemm.attribute.append(by_caller("transB"))
    inside = function("F", ["a"], [constant("c", W), gemm], ["transB"])
    found = only_site(model([node("F", ["x"], domain="local", transB=1)], functions=[inside]))
    assert (found.status, "callers give its attributes" in (found.reason or "")) == ("skipped", True)
    gemm.attribute[0].CopyFrom(by_caller("alpha", onnx.AttributeProto.FLOAT))
    inside = function("F", ["a"], [constant("c", W), gemm], ["alpha"])
    assert only_site(model([node("F", ["x"], domain="local", alpha=2.0)], functions=[inside])).status == "eligible"


def test_third_party_consumer() -> None:
    nodes = [node("Fancy", ["x", "w"], domain="com.acme", name="fancy")]
    found = only_site(model(nodes, {"w": W}))
    assert (found.status, found.view, found.site.consumers) == ("skipped", None, ("fancy",))
    assert "com.acme::Fancy" in (found.reason or "")
    # onnxruntime's own blocked layout is not one that the table knows
    blocked = only_site(model([node("Conv", ["x", "w"], domain="com.microsoft.nchwc")], {"w": drawn(8, 8, 3, 3)}))
    assert "com.microsoft.nchwc::Conv" in (blocked.reason or "")
    assert not sites(model([node("Scaler", ["x", "w"], domain="ai.onnx.ml")], {"w": W}))
    assert not sites(model(nodes, {"w": np.ones((3, 3), np.int64)}))


def test_third_party_beside_a_known_consumer_keeps_the_original() -> None:
    nodes = [node("Fancy", ["x", "w"], ["h"], domain="com.acme", name="fancy"), node("MatMul", ["h", "w"])]
    found = only_site(model(nodes, {"w": W}))
    assert (found.status, found.splits, found.site.consumers) == ("eligible", True, ("MatMul#1",))
    assert "fancy" in found.site.notes[0]


def test_an_unreadable_use_beside_a_readable_one_skips_the_weight() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Reshape", ["w", "shape"], ["r"]),
        node("MatMul", ["h", "r"]),
    ]
    found = only_site(model(nodes, {"w": W}, inputs=("x", "shape")))
    assert (found.status, found.view is None) == ("skipped", False)
    assert "not stored as a constant" in (found.reason or "")


def test_corrupt_graphs_end() -> None:
    """Cycles, which no valid model has, neither hang nor overflow; nor do chains that nobody exports."""
    turns = [node("Identity", ["v"], ["u"]), node("Cast", ["u"], ["v"], to=1)]
    assert not list(sites(model([*turns, node("MatMul", ["x", "v"])], {"w": W})))
    nodes = [node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)]
    assert only_site(model([*nodes, node("MatMul", ["x", "v3000"])], {"v0": W})).status == "eligible"
    nodes = [node("Transpose", [f"v{i}"], [f"v{i + 1}"], perm=[1, 0]) for i in range(3000)]
    planned = only_site(model([*nodes, node("MatMul", ["x", "v3000"])], {"v0": W}))
    assert planned.reason == "more than 256 operators stand between it and its consumer"
