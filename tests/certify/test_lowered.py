"""Lowered steps against the steps that they stand for, exactly, and what their neurons prove."""

import time
from typing import Any

import numpy as np
import pytest

from sn_graph.certify import Network
from sn_graph.certify.levels import higher_levels
from sn_graph.certify.lowered import lowered
from sn_graph.certify.product import product_bounds
from sn_graph.certify.segments import Segment
from sn_graph.certify.steps import Bounded
from tests.support.certified import network, nodes

CASES: dict[str, tuple[tuple[int, ...], list[tuple[Any, ...]]]] = {
    "windows": ((1, 2, 6, 5), [("MaxPool", ["x"], "y", {"kernel_shape": [2, 2], "strides": [2, 2]})]),
    "overlap and padding": (
        (1, 1, 5, 5),
        [("MaxPool", ["x"], "y", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})],
    ),
    "all": ((1, 2, 2, 2), [("GlobalMaxPool", ["x"], "y")]),
    "pairs": (
        (1, 6),
        [("Reshape", ["x", "three"], "r"), ("TopK", ["r", "two"], "s", {"axis": 2}), ("Reshape", ["s", "flat"], "y")],
    ),
}
HELD = {
    "three": np.array([1, 3, 2]),
    "two": np.array([2]),
    "flat": np.array([1, 6]),
}


def made(name: str) -> Network:
    shape, parts = CASES[name]
    return network(nodes(*parts, x=shape, held=HELD))


@pytest.mark.parametrize("name", CASES)
def test_the_same_function(name: str) -> None:
    given = made(name)
    segment = lowered(Segment({"x": given.sources[0].shape}, given.output, given.steps))
    assert segment is not None
    assert not any(isinstance(step, Bounded) for step in segment.steps)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e3):
        x = scale * rng.standard_normal(given.sources[0].shape)
        values = {"x": x}
        for step in segment.steps:
            values[step.result] = step.forward(*(values[one] for one in step.operands))
        assert np.allclose(values[segment.end], given.forward(x), rtol=1e-13, atol=0.0)


def test_a_skip_around_sorted_pairs() -> None:
    """Sorting keeps the sum, so that nothing is left of Σ (x − sort x); only neurons that pairs share see that."""
    parts = [
        *CASES["pairs"][1][:-1],
        ("Reshape", ["s", "flat"], "p"),
        ("Sub", ["x", "p"], "d"),
        ("MatMul", ["d", "w"], "y"),
    ]
    given = network(nodes(*parts, x=(1, 6), held={**HELD, "w": np.ones((6, 1))}))
    bounds = product_bounds(given)
    assert isinstance(bounds, list)
    found = higher_levels(given, bounds, deadline=time.monotonic() + 30.0)
    assert found.bounds["product"] > 4.0
    assert found.bounds["lmi"] < 1e-3


def test_pairs_of_channels_on_a_circle() -> None:
    """MaxMin between convolutions: a kernel, its pairs, and the same kernel back."""
    rng = np.random.default_rng(1)
    pad = {"pads": [1, 1, 1, 1]}
    parts: list[tuple[Any, ...]] = [
        ("Conv", ["x", "k"], "a", pad),
        ("Split", ["a"], "b", {"axis": 1}),
        ("Max", ["b", "c"], "h"),
        ("Min", ["b", "c"], "l"),
        ("Concat", ["h", "l"], "m", {"axis": 1}),
        ("Conv", ["m", "j"], "y", pad),
    ]
    held = {"k": rng.standard_normal((4, 2, 3, 3)), "j": rng.standard_normal((2, 4, 3, 3))}
    model = nodes(*parts, x=(1, 2, 16, 16), held=held, opset=17)
    model.graph.node[1].output.append("c")
    given = network(model)
    bounds = product_bounds(given)
    assert isinstance(bounds, list)
    found = higher_levels(given, bounds, deadline=time.monotonic() + 60.0)
    assert found.bounds["lmi"] < 0.99 * found.bounds["product"]
    assert "lmi of each frequency" in found.how.values()
    x = rng.standard_normal((1, 2, 16, 16))
    best, values = 0.0, given.values([x])
    for _ in range(60):
        x = x / np.linalg.norm(x)
        y = given.push(values, [x])
        best = max(best, float(np.linalg.norm(y)))
        (x,) = given.pull(values, y)
    assert best <= found.bounds["lmi"]
