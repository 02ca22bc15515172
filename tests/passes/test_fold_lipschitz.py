"""Folding to a Lipschitz constant of the network: chains, skips, several inputs and outputs, and what none has."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import sn_graph as sn
from tests.support.builders import drawn, initializer, initializers, node, saved, value
from tests.support.command_line import invoke

NEAR = 1.0 - 2e-4


def chain(*sizes: int, skip: bool = False, dtype: Any = np.float32, seed: int = 0) -> onnx.ModelProto:
    """Dense layers with ReLU between; with `skip` the input of each is added to its output."""
    weights, nodes, at = [], [], "x"
    for number, (rows, cols) in enumerate(pairwise(sizes)):
        weights.append(initializer(f"w{number}", drawn(rows, cols, seed=seed + number, dtype=dtype)))
        nodes.append(node("MatMul", [at, f"w{number}"], [f"m{number}"]))
        nodes.append(node("Relu", [f"m{number}"], [f"r{number}"]))
        if skip:
            nodes.append(node("Add", [f"r{number}", at], [f"s{number}"]))
        at = nodes[-1].output[0]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(nodes, "g", [value("x", ("N", sizes[0]), element)], [value(at, None, element)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.floats(1e-4, 1e4), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_a_chain_gets_the_root_of_the_constant(sizes: list[int], target: float, seed: int) -> None:
    result = sn.fold(chain(*sizes, seed=seed), lipschitz=target)
    assert result.lipschitz is not None
    assert target * NEAR <= result.lipschitz <= target
    norms = [np.linalg.norm(w.astype(np.float64), 2) for w in initializers(result.to_proto()).values()]
    np.testing.assert_allclose(norms, target ** (1.0 / len(norms)), rtol=1e-3)
    found = sn.certify(result.to_proto(), level="product", budget=0.5)
    assert found.proven is not None
    assert found.proven <= target


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("norm", ["matrix", "operator"])
def test_skips_leave_what_is_above_one(dtype: Any, norm: Any) -> None:
    model = chain(5, 5, 5, 5, skip=True, dtype=dtype)
    result = sn.fold(model, lipschitz=8.0, norm=norm)
    assert result.plan is not None
    assert result.lipschitz is not None
    # (1 + b)³ = 8; in float16 an element's rounding moves the norm by 5e-4.
    assert result.plan.bound == pytest.approx(1.0, rel=1e-3)
    assert 8.0 * (1.0 - 2e-3) <= result.lipschitz <= 8.0
    with pytest.raises(sn.ModelError, match="what is not folded has"):
        sn.fold(model, lipschitz=0.9)


def test_clip_leaves_small_weights() -> None:
    model = chain(4, 6, 3)
    model.graph.initializer[0].CopyFrom(initializer("w0", 1e-3 * drawn(4, 6)))
    result = sn.fold(model, lipschitz=0.5e-3 * float(np.linalg.norm(drawn(4, 6), 2)), clip=True)
    np.testing.assert_array_equal(initializers(result.to_proto())["w0"], initializers(model)["w0"])
    assert [site.status for site in result.sites] == ["unchanged", "folded"]
    assert np.linalg.norm(initializers(result.to_proto())["w1"], 2) == pytest.approx(0.5, rel=1e-3)


def test_several_inputs_and_outputs_count_together() -> None:
    """y = [x W; z V] and t = x W: the outputs together are a map of [x; z]."""
    weights = [initializer("w", drawn(4, 3, seed=1)), initializer("v", drawn(5, 3, seed=2))]
    nodes = [
        node("MatMul", ["x", "w"], ["t"]),
        node("MatMul", ["z", "v"], ["u"]),
        node("Concat", ["t", "u"], ["y"], axis=1),
    ]
    inputs = [value("x", (1, 4), TensorProto.FLOAT), value("z", (1, 5), TensorProto.FLOAT)]
    outputs = [value("y", None, TensorProto.FLOAT), value("t", None, TensorProto.FLOAT)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = sn.fold(model, lipschitz=2.0)
    held = initializers(found.to_proto())
    whole = np.block([[held["w"], np.zeros((4, 3)), held["w"]], [np.zeros((5, 3)), held["v"], np.zeros((5, 3))]])
    assert np.linalg.norm(whole, 2) <= 2.0
    assert found.lipschitz is not None
    assert 2.0 * NEAR <= found.lipschitz <= 2.0
    # Of x alone there is more room.
    alone = sn.fold(model, lipschitz=2.0, input="x")
    assert np.linalg.norm(initializers(alone.to_proto())["w"], 2) == pytest.approx(np.sqrt(2.0), rel=1e-3)


@pytest.mark.parametrize("target", [0.0, -1.0, np.nan, np.inf])
def test_a_constant_that_none_has(target: float) -> None:
    with pytest.raises(sn.UsageError, match="no network has the Lipschitz constant"):
        sn.fold(chain(3, 3), lipschitz=target)


def test_a_bound_besides_is_refused() -> None:
    with pytest.raises(sn.UsageError, match="leave --bound out"):
        sn.fold(chain(3, 3), lipschitz=1.0, bound=2.0)


def test_a_network_without_a_constant_names_the_node() -> None:
    model = chain(3, 3)
    model.graph.node.append(node("Mul", ["r0", "r0"], ["squared"], name="square"))
    model.graph.output[0].name = "squared"
    with pytest.raises(sn.ModelError, match="unbounded at square"):
        sn.fold(model, lipschitz=1.0)


def test_from_the_command_line(tmp_path: Path) -> None:
    model = saved(chain(6, 7, 4), tmp_path / "m.onnx")
    ended = invoke("fold", model, "-o", tmp_path / "out.onnx", "--lipschitz", "0.5", "--json")
    assert ended.code == 0, ended.err
    told = ended.json
    assert 0.5 * NEAR <= told["lipschitz"] <= 0.5
    assert told["bound"] == pytest.approx(np.sqrt(0.5), rel=1e-3)
    assert "Lipschitz constant 0.5 at most" in ended.err or "Lipschitz constant 0.49" in ended.err
    ended = invoke("certify", tmp_path / "out.onnx", "--at-most", "0.5", "--level", "product", "--budget", "1")
    assert ended.code == 0, ended.err
