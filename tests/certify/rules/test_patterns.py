"""Patterns: what exporters leave of an activation or a normalization is one step, and what looks like it is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.certified import check, nodes, refused, whole

F = np.float32
I = np.int64  # noqa: E741


def shape(*sizes: int) -> Any:
    return np.array(sizes, I)


ROOT_HALF, ROOT_TWO = np.array(np.sqrt(0.5), F), np.array(np.sqrt(2.0), F)
TANH = {"c": np.array(np.sqrt(2 / np.pi), F), "k": np.array(0.044715, F), "3": F(3), "1": F(1), "h": F(0.5)}
MOMENTS = {"2": F(2), "e": F(0.1), "1": F(1), "-h": F(-0.5), "h": F(0.5)}
PATTERNS: dict[str, tuple[onnx.ModelProto, float]] = {
    "swish": (nodes(("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "y")), 1.0998394),
    "swish, scaled": (
        nodes(("Mul", ["x", "t"], "u"), ("Sigmoid", ["u"], "s"), ("Mul", ["s", "x"], "y"), held={"t": F(1.702)}),
        1.0998394,
    ),
    "swish as a quotient": (
        nodes(
            ("Neg", ["x"], "n"),
            ("Exp", ["n"], "e"),
            ("Add", ["e", "1"], "d"),
            ("Div", ["x", "d"], "y"),
            held={"1": F(1)},
        ),
        1.0998394,
    ),
    "gelu of PyTorch": (
        nodes(
            ("Div", ["x", "r"], "u"),
            ("Erf", ["u"], "e"),
            ("Add", ["e", "1"], "g"),
            ("Mul", ["x", "g"], "m"),
            ("Mul", ["m", "h"], "y"),
            held={"r": ROOT_TWO, "1": F(1), "h": F(0.5)},
        ),
        1.1289042,
    ),
    "gelu, the half first": (
        nodes(
            ("Mul", ["x", "h"], "p"),
            ("Mul", ["x", "r"], "u"),
            ("Erf", ["u"], "e"),
            ("Add", ["1", "e"], "g"),
            ("Mul", ["p", "g"], "y"),
            held={"r": ROOT_HALF, "1": F(1), "h": F(0.5)},
        ),
        1.1289042,
    ),
    "gelu tanh": (
        nodes(
            ("Pow", ["x", "3"], "x3"),
            ("Mul", ["x3", "k"], "kx"),
            ("Add", ["x", "kx"], "s"),
            ("Mul", ["s", "c"], "p"),
            ("Tanh", ["p"], "t"),
            ("Add", ["t", "1"], "g"),
            ("Mul", ["x", "h"], "q"),
            ("Mul", ["q", "g"], "y"),
            held=TANH,
        ),
        1.128994,
    ),
    "gelu tanh of products": (
        nodes(
            ("Mul", ["x", "x"], "x2"),
            ("Mul", ["x2", "x"], "x3"),
            ("Mul", ["k", "x3"], "kx"),
            ("Add", ["x", "kx"], "s"),
            ("Mul", ["c", "s"], "p"),
            ("Tanh", ["p"], "t"),
            ("Add", ["1", "t"], "g"),
            ("Mul", ["x", "g"], "q"),
            ("Mul", ["h", "q"], "y"),
            held=TANH,
        ),
        1.128994,
    ),
    "mish": (nodes(("Softplus", ["x"], "s"), ("Tanh", ["s"], "t"), ("Mul", ["x", "t"], "y")), 1.0884982),
    "mish, by its logarithm": (
        nodes(
            ("Exp", ["x"], "e"),
            ("Add", ["e", "1"], "a"),
            ("Log", ["a"], "s"),
            ("Tanh", ["s"], "t"),
            ("Mul", ["x", "t"], "y"),
            held={"1": F(1)},
        ),
        1.0884982,
    ),
    "hard swish": (nodes(("HardSigmoid", ["x"], "s", {"alpha": 1 / 6}), ("Mul", ["x", "s"], "y")), 1.5000001),
    "hard swish by clips": (
        nodes(
            ("Add", ["x", "3"], "a"),
            ("Clip", ["a", "0", "6"], "c"),
            ("Mul", ["x", "c"], "m"),
            ("Div", ["m", "6"], "y"),
            held={"3": F(3), "0": F(0), "6": F(6)},
        ),
        1.5000001,
    ),
    "hard swish by bounds": (
        nodes(
            ("Add", ["x", "3"], "a"),
            ("Relu", ["a"], "b"),
            ("Min", ["b", "6"], "c"),
            ("Div", ["c", "6"], "d"),
            ("Mul", ["d", "x"], "y"),
            held={"3": F(3), "6": F(6)},
        ),
        1.5000001,
    ),
    "layer normalization": (
        nodes(
            ("ReduceMean", ["x"], "m", {"axes": [-1]}),
            ("Sub", ["x", "m"], "d"),
            ("Pow", ["d", "2"], "q"),
            ("ReduceMean", ["q"], "v", {"axes": [-1]}),
            ("Add", ["v", "e"], "w"),
            ("Sqrt", ["w"], "r"),
            ("Div", ["d", "r"], "y"),
            held=MOMENTS,
        ),
        1 / np.sqrt(0.1),
    ),
    "RMS normalization": (
        nodes(
            ("Mul", ["x", "x"], "q"),
            ("ReduceMean", ["q"], "v", {"axes": [-1]}),
            ("Add", ["v", "e"], "w"),
            ("Pow", ["w", "-h"], "r"),
            ("Mul", ["r", "x"], "y"),
            held=MOMENTS,
        ),
        1 / np.sqrt(0.1),
    ),
    "RMS normalization by an inverse": (
        nodes(
            ("Pow", ["x", "2"], "q"),
            ("ReduceMean", ["q"], "v", {"axes": [-1]}),
            ("Add", ["v", "e"], "w"),
            ("Sqrt", ["w"], "s"),
            ("Reciprocal", ["s"], "r"),
            ("Mul", ["x", "r"], "y"),
            held=MOMENTS,
        ),
        1 / np.sqrt(0.1),
    ),
    "the mean taken out": (nodes(("ReduceMean", ["x"], "m", {"axes": [1]}), ("Sub", ["x", "m"], "y")), 1.0),
    "max min": (
        whole(
            [
                helper.make_node("Split", ["x"], ["a", "b"], axis=1),
                *(helper.make_node(op, ["a", "b"], [op]) for op in ("Max", "Min")),
                helper.make_node("Concat", ["Max", "Min"], ["y"], axis=1),
            ],
            (1, 24),
        ),
        1.0,
    ),
    "max min of slices": (
        nodes(
            ("Slice", ["x", "0", "n", "1", "2"], "a"),
            ("Slice", ["x", "1", "n", "1", "2"], "b"),
            ("Min", ["b", "a"], "l"),
            ("Max", ["a", "b"], "h"),
            ("Concat", ["l", "h"], "y", {"axis": 1}),
            held={"0": shape(0), "1": shape(1), "2": shape(2), "n": shape(99)},
        ),
        1.0,
    ),
    "leaky by a maximum": (nodes(("Mul", ["x", "a"], "u"), ("Max", ["x", "u"], "y"), held={"a": F(0.2)}), 1.0),
    "leaky by a minimum": (nodes(("Mul", ["x", "a"], "u"), ("Min", ["u", "x"], "y"), held={"a": F(-3)}), 3.0),
    "leaky by its branches": (
        nodes(
            ("Greater", ["x", "0"], "c"),
            ("Mul", ["x", "a"], "u"),
            ("Where", ["c", "x", "u"], "y"),
            held={"0": F(0), "a": F(0.2)},
        ),
        1.0,
    ),
    "leaky, the other way": (
        nodes(
            ("Less", ["x", "0"], "c"),
            ("Mul", ["a", "x"], "u"),
            ("Where", ["c", "u", "x"], "y"),
            held={"0": F(0), "a": F(1.5)},
        ),
        1.5,
    ),
    "elu by its branches": (
        nodes(
            ("Exp", ["x"], "e"),
            ("Sub", ["e", "1"], "m"),
            ("Mul", ["m", "a"], "u"),
            ("Greater", ["x", "0"], "c"),
            ("Where", ["c", "x", "u"], "y"),
            held={"0": F(0), "1": F(1), "a": F(5)},
        ),
        5.0,
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    model, expected = PATTERNS[name]
    proven = check(model)
    assert expected * (1 - 1e-6) <= proven <= expected * (1 + 1e-6)


ALMOST: dict[str, onnx.ModelProto] = {
    "a sigmoid of another value": nodes(("Tanh", ["x"], "u"), ("Sigmoid", ["u"], "s"), ("Mul", ["x", "s"], "y")),
    "a sigmoid that is shifted": nodes(
        ("Add", ["x", "1"], "u"), ("Sigmoid", ["u"], "s"), ("Mul", ["x", "s"], "y"), held={"1": F(1)}
    ),
    "a factor that is shifted": nodes(
        ("Sigmoid", ["x"], "s"), ("Add", ["x", "1"], "u"), ("Mul", ["u", "s"], "y"), held={"1": F(1)}
    ),
    "an erf that does not end at 0": nodes(
        ("Erf", ["x"], "e"), ("Add", ["e", "1"], "g"), ("Mul", ["x", "g"], "y"), held={"1": F(1.1)}
    ),
    "a clip from 1": nodes(("Clip", ["x", "1", "6"], "c"), ("Mul", ["x", "c"], "y"), held={"1": F(1), "6": F(6)}),
    "a clip without an upper end": nodes(("Relu", ["x"], "c"), ("Mul", ["x", "c"], "y")),
    "another cubic": nodes(
        ("Pow", ["x", "3"], "x3"),
        ("Add", ["x", "x3"], "s"),
        ("Tanh", ["s"], "t"),
        ("Add", ["t", "1"], "g"),
        ("Mul", ["x", "g"], "y"),
        held=TANH,
    ),
    "a softplus that is scaled": nodes(
        ("Mul", ["x", "2"], "u"), ("Softplus", ["u"], "s"), ("Tanh", ["s"], "t"), ("Mul", ["x", "t"], "y"), held=MOMENTS
    ),
    "the moments of another value": nodes(
        ("Sin", ["x"], "d"),
        ("Mul", ["d", "d"], "q"),
        ("ReduceMean", ["q"], "v", {"axes": [-1]}),
        ("Add", ["v", "e"], "w"),
        ("Sqrt", ["w"], "r"),
        ("Div", ["x", "r"], "y"),
        held=MOMENTS,
    ),
    "moments without an epsilon": nodes(
        ("Mul", ["x", "x"], "q"),
        ("ReduceMean", ["q"], "v", {"axes": [-1]}),
        ("Sqrt", ["v"], "r"),
        ("Div", ["x", "r"], "y"),
    ),
    "branches that do not meet": nodes(
        ("Greater", ["x", "1"], "c"), ("Mul", ["x", "2"], "u"), ("Where", ["c", "x", "u"], "y"), held=MOMENTS
    ),
    "a branch by another value": nodes(
        ("Sin", ["x"], "s"), ("Greater", ["s", "0"], "c"), ("Where", ["c", "x", "s"], "y"), held={"0": F(0)}
    ),
    "an exponential above": nodes(
        ("Exp", ["x"], "e"),
        ("Sub", ["e", "1"], "m"),
        ("Less", ["x", "0"], "c"),
        ("Where", ["c", "x", "m"], "y"),
        held={"0": F(0), "1": F(1)},
    ),
}


@pytest.mark.parametrize("name", ALMOST)
def test_what_looks_like_a_pattern_is_none(name: str) -> None:
    refused(ALMOST[name])


def test_pairs_that_overlap_or_are_scaled_are_sorted_by_their_own_constants() -> None:
    overlapping = nodes(
        ("Slice", ["x", "0", "n"], "a"),
        ("Slice", ["x", "0", "n"], "b"),
        ("Min", ["b", "a"], "l"),
        ("Max", ["a", "b"], "h"),
        ("Concat", ["l", "h"], "y", {"axis": 1}),
        held={"0": shape(0), "n": shape(99)},
        x=(1, 3),
    )
    assert check(overlapping) >= np.sqrt(2.0)
    scaled = nodes(("Mul", ["x", "f"], "z"), ("Split", ["z"], "a"), x=(1, 4), held={"f": F(2)})
    graph = scaled.graph
    del graph.node[1]
    graph.node.append(helper.make_node("Split", ["z"], ["a", "b"], axis=1))
    graph.node.extend(helper.make_node(op, ["a", "b"], [op]) for op in ("Max", "Min"))
    graph.node.append(helper.make_node("Concat", ["Max", "Min"], ["y"], axis=1))
    assert check(scaled) == 2.0
    own = whole(
        [
            helper.make_node("Mul", ["x", "f"], ["a"]),
            helper.make_node("Mul", ["x", "g"], ["b"]),
            *(helper.make_node(op, ["a", "b"], [op]) for op in ("Max", "Min")),
            helper.make_node("Concat", ["Max", "Min"], ["y"], axis=1),
        ],
        (1, 2),
        {"f": np.array([3.0, 0.0], F), "g": np.array([0.0, 3.0], F)},
    )
    assert check(own) >= 3.0
