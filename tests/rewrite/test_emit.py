"""Nodes in the making: each opset's forms against numpy, and every node in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sn_graph.model import Graph
from sn_graph.rewrite import Edits, Emitter
from tests.support.builders import drawn, node, value
from tests.support.runs import newest_opset, session

OPSETS = [7, 8, 10, 11, 12, 13, 18, newest_opset()]


def empty(opset: int, code: int, inputs: dict[str, Any]) -> onnx.ModelProto:
    graph = helper.make_graph([], "g", [value(name, shape, code) for name, shape in inputs.items()], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("double", [False, True])
def test_arithmetic_of_every_opset(opset: int, double: bool) -> None:
    code, dtype = (TensorProto.DOUBLE, np.float64) if double else (TensorProto.FLOAT, np.float32)
    model = empty(opset, code, {"m": (3, 5), "v": (5, 1), "w": (3, 1)})
    graph = Graph(model)
    emitter = Emitter(graph)
    outputs = [
        emitter.gemv("m", "v", "forward", transposed=False, double=double),
        emitter.gemv("m", "w", "back", transposed=True, double=double),
    ]
    length = emitter.norm("v", 5, "length")
    outputs.append(length)
    floors = [emitter.constant("floor", np.full((1, 1), least, dtype)) for least in (1e-12, 100.0)]
    outputs += [emitter.maximum(length, floor, "max", double=double) for floor in floors]
    outputs += emitter.split_column("v", [2, 1, 2], ["a", "b", "c"])
    outputs.append(emitter.reshape("v", (1, 5, 1), "reshaped"))
    emitter.join_to(outputs[-4:-1], "joined", "join")
    edits = Edits()
    edits.behind(None, emitter.take())
    edits.apply(graph)
    assert emitter.nodes == []
    outputs += ["joined"]
    model.graph.output.extend(value(name, None, code) for name in outputs)
    m, v, w = drawn(3, 5, dtype=dtype), drawn(5, 1, seed=1, dtype=dtype), drawn(3, 1, seed=2, dtype=dtype)
    norm = np.sqrt(np.sum(v**2, keepdims=True))
    expected = [m @ v, m.T @ w, norm, norm, np.full((1, 1), 100.0), v[:2], v[2:3], v[3:], v.reshape(1, 5, 1), v]
    for ours, theirs in zip(session(model).run(None, {"m": m, "v": v, "w": w}), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14 if double else 1e-6)
        assert ours.dtype == dtype


@pytest.mark.parametrize("opset", [7, newest_opset()])
@pytest.mark.parametrize("count", [32, 33, 64, 1057])
def test_no_node_cuts_or_joins_more_than_cuda_graphs_take(opset: int, count: int) -> None:
    """onnxruntime-gpu 1.31: CUDA Concat supports at most 32 inputs during CUDA Graph capture."""
    lengths = [1 + number % 3 for number in range(count)]
    model = empty(opset, TensorProto.FLOAT, {"v": (sum(lengths), 1)})
    emitter, edits = Emitter(Graph(model)), Edits()
    pieces = emitter.split_column("v", lengths, [f"piece_{number}" for number in range(count)])
    emitter.join_to(pieces, "joined", "join")
    backwards = emitter.join(pieces[::-1], "backwards")
    edits.behind(None, emitter.take())
    edits.apply(Graph(model))
    assert max(len(one.input) for one in model.graph.node if one.op_type == "Concat") <= 32
    assert max(len(one.output) for one in model.graph.node) <= 32
    model.graph.output.extend(value(name) for name in ("joined", backwards))
    v = drawn(sum(lengths), 1)
    joined, turned = session(model).run(None, {"v": v})
    np.testing.assert_array_equal(joined, v)
    ends = np.cumsum(lengths)
    cut = [v[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    np.testing.assert_array_equal(turned, np.concatenate(cut[::-1]))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("size", [1 << 21, 1_000_003])
def test_the_norm_of_many_elements_is_that_of_few(size: int, opset: int) -> None:
    """One running sum loses 1e-4 of the first and 1e-5 of the second, which is prime and has no rows."""
    model = empty(opset, TensorProto.FLOAT, {"v": (size, 1)})
    graph = Graph(model)
    emitter, edits = Emitter(graph), Edits()
    length = emitter.norm("v", size, "length")
    edits.behind(None, emitter.take())
    edits.apply(graph)
    model.graph.output.append(value(length, (1, 1), TensorProto.FLOAT))
    v = np.linspace(0.5, 1.5, size, dtype=np.float32)[:, None]
    (found,) = session(model).run(None, {"v": v})
    truth = np.linalg.norm(v.astype(np.float64))
    assert found == pytest.approx(truth, rel=1e-6 if size % 2 == 0 else 1e-3)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("chosen", [True, False])
def test_a_choice_lets_nothing_of_the_other_through(opset: int, chosen: bool) -> None:
    model = empty(opset, TensorProto.FLOAT, {"a": (3, 1), "b": (3, 1)})
    model.graph.input.append(value("condition", (1, 1), TensorProto.BOOL))
    graph = Graph(model)
    emitter = Emitter(graph)
    output = emitter.select("condition", "a", "b", "select")
    edits = Edits()
    edits.behind(None, emitter.take())
    edits.apply(graph)
    model.graph.output.append(value(output))
    dead, alive = np.array([[np.nan], [np.inf], [0.0]], np.float32), drawn(3, 1)
    feeds = {"a": alive if chosen else dead, "b": dead if chosen else alive, "condition": np.array([[chosen]])}
    (ours,) = session(model).run(None, feeds)
    np.testing.assert_array_equal(ours, alive)
    assert not any(one.op_type == "If" for one in model.graph.node)  # CUDA graphs take no control flow


def test_names_are_free_and_constants_shared() -> None:
    model = empty(17, TensorProto.FLOAT, {"x": (2, 1)})
    emitter = Emitter(Graph(model))
    assert [emitter.norm("x", 2, name) for name in ("x", "n", "n")] == ["x_1", "n", "n_1"]
    one = emitter.constant("one", np.ones((1, 1), np.float32))
    assert emitter.constant("other", np.ones((1, 1), np.float32)) == one
    assert emitter.constant("one", np.ones((1, 1), np.float64)) == "one_1"
    assert emitter.split_column("x", [2], ["part"]) == ["x"]
    assert [tensor.name for tensor in model.graph.initializer] == ["one", "one_1"]


def test_every_node_in_its_place() -> None:
    body = helper.make_graph([node("Neg", ["x"], ["inner"])], "b", [], [value("inner", None)])
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("If", ["c"], ["b"], then_branch=body, else_branch=body),
        node("Abs", ["b"], ["y"]),
    ]
    graph_proto = helper.make_graph(
        nodes, "g", [value("x", (2,)), value("c", (), TensorProto.BOOL)], [value("y", None)]
    )
    model = helper.make_model(graph_proto)
    graph = Graph(model)
    edits = Edits()

    def mark(name: str) -> list[onnx.NodeProto]:
        return [node("Identity", ["x"], [name])]

    relu, choice, absolute = graph.main.nodes
    edits.before(absolute, mark("before_abs"))
    edits.behind(choice, mark("behind_if"))
    edits.behind(None, mark("first"))
    edits.behind(relu, mark("behind_relu"))
    edits.behind(relu, mark("behind_relu_too"))
    edits.last += mark("last")
    edits.before(choice.subgraphs[1].nodes[0], mark("in_then"))
    graph.insert_after(relu, node("Identity", ["x"], ["by_another_hand"]))
    edits.apply(graph)
    names = [one.output[0] for one in model.graph.node]
    assert names[:2] == ["first", "a"]
    assert set(names[2:5]) == {"behind_relu", "behind_relu_too", "by_another_hand"}
    assert names[5:] == ["b", "behind_if", "before_abs", "y", "last"]
    bodies = {a.name: [one.output[0] for one in a.g.node] for a in model.graph.node[5].attribute}
    assert sorted(bodies.values(), key=len) == [["inner"], ["in_then", "inner"]]
