"""Transfer: what it makes of a site is what another search of the copy finds, object by object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.errors import UsageError
from sn_graph.model import Model
from sn_graph.plan import make_plan, rebind
from sn_graph.sites import Quantization, Site, Transfer, WeightUse, find_sites
from tests.support.builders import branch, call, constant, drawn, function, model, node
from tests.support.networks import branched, called, discriminator, quantized
from tests.support.places import ONNX_MODELS

WIDTH = 4
Nodes = list[onnx.NodeProto]
Held = dict[str, Any]


def products(draw: st.DrawFn, at: str, x: str, y: str, held: Held) -> Nodes:
    """Nodes that multiply `x` by a weight held in one of the many ways; `held` gets its initializers."""
    weight, name = drawn(WIDTH, WIDTH, seed=draw(st.integers(0, 9))), f"{at}w"
    nodes: Nodes = []
    if draw(st.booleans()):
        held[name] = weight
    else:
        nodes.append(constant(name, weight))
    read = name
    for place, step in enumerate(draw(st.lists(st.sampled_from(["Identity", "Transpose", "Dequantize"]), max_size=2))):
        behind = f"{at}v{place}"
        if step == "Dequantize":
            nodes += dequantized(draw, at, read, behind, held, place)
        else:
            nodes.append(node(step, [read], [behind]))
        read = behind
    nodes.append(node(draw(st.sampled_from(["MatMul", "Gemm"])), [x, read], [f"{at}p"]))
    match draw(st.sampled_from(["once", "twice", "added", "third party"])):
        case "once":
            nodes.append(node("Tanh", [f"{at}p"], [y]))
        case "twice":
            nodes.append(node("MatMul", [f"{at}p", read], [y], name="same"))
        case "added":
            nodes += [node("ReduceMax", [name], [f"{at}m"], keepdims=0), node("Add", [f"{at}p", f"{at}m"], [y])]
        case _:
            nodes.append(node("Fancy", [f"{at}p", name], [y], domain="com.acme"))
    return nodes


def dequantized(draw: st.DrawFn, at: str, read: str, output: str, held: Held, place: int) -> Nodes:
    """DequantizeLinear, by tensor or by axis, its constants held in one of three ways."""
    shape = draw(st.sampled_from([(), (WIDTH,)]))
    inputs, nodes = [read], Nodes()
    parts: Held = {"s": np.full(shape, 0.5, np.float32), "z": np.ones(shape, np.int8)}
    for kind, array in list(parts.items())[: draw(st.integers(1, 2))]:
        name = f"{at}{kind}{place}"
        way = draw(st.sampled_from(["initializer", "constant", "identity"]))
        if way == "constant":
            nodes.append(constant(name, array))
        else:
            held[name] = array
        if way == "identity":
            nodes.append(node("Identity", [name], [f"{name}i"]))
            name = f"{name}i"
        inputs.append(name)
    return [*nodes, node("DequantizeLinear", inputs, [output], axis=draw(st.sampled_from([0, 1, -1])))]


@st.composite
def networks(draw: st.DrawFn) -> Model:
    """Products one behind another: in the main graph, in bodies, in functions, and by weights handed to those."""
    nodes, held, functions = Nodes(), Held(flag=np.array(True)), list[onnx.FunctionProto]()
    kinds = draw(st.lists(st.sampled_from(["plain", "body", "captured", "function", "handed"]), min_size=1, max_size=4))
    for place, kind in enumerate(kinds):
        at, x, y = f"l{place}", "x" if not place else f"h{place - 1}", f"h{place}"
        if kind == "plain":
            nodes += products(draw, at, x, y, held)
        elif kind in ("body", "captured"):
            own: Held = {}
            inner = products(draw, at, x, f"{at}out", own)
            if kind == "captured":
                held |= own
                own = {}
            names = {} if draw(st.booleans()) else {"name": "choice"}
            other = branch([node("Identity", [x], [f"{at}else"])])
            nodes.append(node("If", ["flag"], [y], then_branch=branch(inner, own), else_branch=other, **names))
        elif kind == "function":
            constants: Held = {}
            body = products(draw, at, "a", "b", constants)
            body = [*(constant(name, array) for name, array in constants.items()), *body]
            functions.append(function(f"f{place}", ["a"], body, outputs=["b"]))
            nodes.append(call(f"f{place}", [x], y))
        else:
            held[f"{at}w"] = drawn(WIDTH, WIDTH)
            inner = [node("Transpose", ["k"], ["t"]), node("MatMul", ["a", "t"], ["b"])]
            functions.append(function(f"g{place}", ["a", "k"], inner, outputs=["b"]))
            nodes.append(call(f"g{place}", [x, f"{at}w"], y))
    outputs = (f"h{len(kinds) - 1}", *(name for name in held if draw(st.booleans()) and name.endswith("w")))
    return model(nodes, held, ("x",), outputs, functions)


def facts_of_use(use: WeightUse) -> tuple[object, ...]:
    read: object = use.quantization
    if isinstance(use.quantization, Quantization):
        read = tuple(map(key, vars(use.quantization).values()))
    steps = [(id(step.node), step.layout) for step in use.steps]
    return id(use.node), use.index, use.slot, steps, read, [id(one) for one in use.calls], use.reason


def facts(site: Site) -> dict[str, object]:
    """All that a site says; what it refers to by identity."""
    others = [(None if use.node is None else id(use.node), use.index) for use in site.other_uses]
    own = {name: key(held) for name, held in vars(site).items() if name not in ("uses", "other_uses")}
    return {**own, "uses": [facts_of_use(use) for use in site.uses], "other_uses": others}


def key(held: object) -> object:
    return held if held is None or isinstance(held, (str, int, tuple)) else id(held)


def assert_same_as_searched(source: Model, copy: Model) -> None:
    sites, searched = find_sites(source), find_sites(copy)
    transfer = Transfer(copy.graph)  # the index that the search has made
    assert [facts(transfer.site(site)) for site in sites] == [facts(site) for site in searched]


@settings(max_examples=150, deadline=None)
@given(networks())
def test_as_another_search_finds_them(source: Model) -> None:
    assert_same_as_searched(source, source.copy())


@pytest.mark.parametrize("make", [discriminator, quantized, branched, called])
def test_a_copy_that_was_written_and_read_again(make: Any) -> None:
    source = Model.open(make())
    assert_same_as_searched(source, Model.open(source.to_proto()))


@pytest.mark.parametrize("path", ONNX_MODELS, ids=lambda path: path.stem)
def test_real_models(path: Any) -> None:
    source = Model.open(path)
    assert_same_as_searched(source, source.copy())


def test_the_sites_themselves_stay_as_they_were() -> None:
    source = Model.open(branched())
    sites = find_sites(source)
    before = [facts(site) for site in sites]
    carried = [Transfer(source.copy().graph).site(site) for site in sites]
    assert [facts(site) for site in sites] == before
    assert all(one.scope is not other.scope for one, other in zip(sites, carried, strict=True))


def test_the_copy_is_changed_through_them_and_the_original_is_not() -> None:
    source = Model.open(quantized())
    copy = source.copy()
    (target,) = rebind(make_plan(source), copy).targets()
    assert target.site.quantization is not None
    copy.scale(target.site.quantization.scale, 2.0)
    np.testing.assert_array_equal(target.array(copy), 2 * make_plan(source).targets()[0].array(source))


# Plans


@settings(max_examples=60, deadline=None)
@given(networks(), st.data())
def test_a_plan_keeps_what_was_decided(source: Model, data: st.DataObject) -> None:
    plan = make_plan(source, op_types=data.draw(st.sampled_from([[], ["MatMul"], ["Gemm"]])))
    sites = tuple(replace(site, per_use=data.draw(st.booleans()), power_iterations=3) for site in plan.sites)
    plan = replace(plan, sites=sites, bound=2.0)
    copy = source.copy()
    bound = rebind(plan, copy)
    assert replace(bound, sites=()) == replace(plan, sites=())
    for ours, theirs in zip(bound.sites, plan.sites, strict=True):
        assert replace(ours, site=theirs.site, uses=theirs.uses).__dict__ == theirs.__dict__
        places = [theirs.site.uses.index(use) for use in theirs.uses]
        assert [ours.site.uses.index(use) for use in ours.uses] == places


def linear(*names: str, late: bool = False) -> Model:
    """x times each weight in turn; the Relu stands first or last."""
    nodes, weights, at = [node("Relu", ["x"], ["h"])], {}, "h"
    for name in names:
        nodes.append(node("MatMul", [at, name], [f"{name}_out"]))
        weights[name], at = drawn(WIDTH, WIDTH), f"{name}_out"
    if late:
        nodes = [*nodes[1:], node("Relu", [at], ["r"])]
        nodes[0].input[0] = "x"
    return model(nodes, weights, outputs=(nodes[-1].output[0],))


OTHERS = {
    "fewer nodes": (linear("a", "b"), linear("a")),
    "another weight": (linear("a", "b"), linear("a", "c")),
    "nodes in another order": (linear("a"), linear("a", late=True)),
    "a body in place of the graph": (linear("a"), Model.open(branched())),
    "the graph in place of a body": (Model.open(branched()), linear("own", "outer")),
    "a function in place of the graph": (linear("w"), Model.open(called())),
    "the graph in place of a function": (Model.open(called()), linear("w")),
}


@pytest.mark.parametrize(("source", "other"), OTHERS.values(), ids=OTHERS)
def test_a_plan_of_another_model_is_refused(source: Model, other: Model) -> None:
    with pytest.raises(UsageError, match="the plan was made for another model than <model>"):
        rebind(make_plan(source), other)
