"""Weights that bodies of If, Loop and Scan hand on: listed with the reason, and recurrent states are none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.builders import branch, constant, drawn, graph, model, node, sites, value

W, V = drawn(4, 6), drawn(4, 6, seed=1)


def reasons(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> dict[str, str | None]:
    return {key: site.reason for key, site in sites(model(nodes, {"w": W, **weights}, inputs=("x", "c"))).items()}


@pytest.mark.parametrize("layout", [[], [node("Transpose", ["n"], ["t"])]], ids=["directly", "transposed"])
def test_the_outputs_of_an_if(layout: list[onnx.NodeProto]) -> None:
    held, captured = branch([constant("p", V)]), branch([node("Identity", ["w"], ["q"])])
    read = "t" if layout else "n"
    chosen = node("If", ["c"], ["n"], name="choice", then_branch=held, else_branch=captured)
    found = reasons([chosen, *layout, node("MatMul", ["x", read])])
    assert found == {"w": None, "choice/then_branch::p": None}


def test_an_if_that_chooses_between_a_weight_and_what_it_computes() -> None:
    bodies = branch([constant("p", V)]), branch([node("Relu", ["x"], ["q"])])
    chosen = node("If", ["c"], ["n"], name="choice", then_branch=bodies[0], else_branch=bodies[1])
    found = reasons([chosen, node("MatMul", ["x", "n"])])
    assert list(found) == ["n"]
    assert "chosen by If (node 'choice'), so it is no single stored tensor" in (found["n"] or "")


def test_an_if_that_chooses_between_activations_gives_no_weight() -> None:
    bodies = branch([node("Relu", ["x"], ["p"])]), branch([node("Neg", ["x"], ["q"])])
    choice = node("If", ["c"], ["n"], then_branch=bodies[0], else_branch=bodies[1])
    assert list(reasons([choice, node("MatMul", ["n", "w"])])) == ["w"]


def looped(body: list[onnx.NodeProto], out: str) -> onnx.NodeProto:
    inner = graph([node("Identity", ["cond"], ["go"]), *body], {}, ("turn", "cond", "k"), ("go", out, "z"))
    for index, code in enumerate((TensorProto.INT64, TensorProto.BOOL)):
        inner.input[index].CopyFrom(value(inner.input[index].name, (), code))
    return node("Loop", ["", "c", "w"], ["last", "y"], name="turns", body=inner)


def test_a_carried_weight() -> None:
    found = reasons([looped([node("MatMul", ["x", "k"], ["z"]), node("Neg", ["k"], ["k2"])], "k2")])
    assert list(found) == ["turns/body::k"]
    assert "handed to the body of Loop (node 'turns') as a value that each turn may replace" in str(found)


def test_a_carried_state_is_no_weight_and_what_it_is_multiplied_with_is() -> None:
    found = reasons([looped([node("MatMul", ["k", "v"], ["z"]), node("Identity", ["z"], ["k2"])], "k2")], v=drawn(6, 6))
    assert found == {"v": None}


def test_what_a_loop_leaves() -> None:
    loop = looped([node("Neg", ["x"], ["z"]), node("Identity", ["v"], ["k2"])], "k2")
    loop.output[1] = "rest"
    found = reasons([loop, node("MatMul", ["x", "last"])], v=V)
    assert "left by Loop (node 'turns')" in (found["last"] or "")


@pytest.mark.parametrize("scans", [0, 1])
def test_what_a_scan_is_handed(scans: int) -> None:
    nodes = [node("MatMul", ["x", "k"], ["z"]), *([] if scans else [node("Neg", ["k"], ["k2"])])]
    inner = graph(nodes, {}, ("k",), ("z",) if scans else ("k2", "z"))
    outputs = ["y"] if scans else ["last", "y"]
    scan = node("Scan", ["w" if not scans else "t"], outputs, name="turns", body=inner, num_scan_inputs=scans)
    found = reasons([scan], t=drawn(3, 4, 6))
    wanted = "another slice of a stored tensor in each turn of Scan" if scans else "handed to the body of Scan"
    assert wanted in (found["turns/body::k"] or "")


def test_a_captured_weight_stays_eligible() -> None:
    body = branch([node("MatMul", ["x", "w"], ["p"])])
    found = reasons([helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)])
    assert found == {"w": None}
