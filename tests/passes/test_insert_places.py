"""Insert behind operators: chains to the weight, quantized weights, weights with several uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import sn_graph as sn
from sn_graph.choices import ScaleChoice
from tests.support.builders import Array, Weights, constant, drawn, network, node
from tests.support.oracle import power_iteration, seeded
from tests.support.runs import check, close, newest_opset, session, strips_to

KERAS: dict[str, Any] = {"convention": "keras", "steps": (1, 10)}


# Behind operators


# How what the MatMul reads is stored, and the operators between.
CHAINS: dict[str, tuple[Callable[[Array], Array], list[tuple[str, dict[str, Any], Array | None]]]] = {
    "Transpose": (lambda read: read.T, [("Transpose", {}, None)]),
    "Identity": (lambda read: read, [("Identity", {}, None)]),
    "Reshape": (lambda read: read.reshape(2, 3, 4), [("Reshape", {}, np.array((6, 4)))]),
    "Cast": (lambda read: read.astype(np.float16), [("Cast", {"to": TensorProto.FLOAT}, None)]),
    "Squeeze Unsqueeze": (
        lambda read: read.T.reshape(1, 4, 1, 6),
        [
            ("Squeeze", {}, np.array([0, 2])),
            ("Unsqueeze", {}, np.array([-1])),
            ("Reshape", {}, np.array((4, 6))),
            ("Transpose", {}, None),
        ],
    ),
    "Flatten": (lambda read: read.reshape(6, 2, 2), [("Flatten", {}, None)]),
    "Concat": (lambda read: read, [("Concat", {"axis": 0}, None)]),
    "Expand": (lambda read: read, [("Expand", {}, np.array((1, 4)))]),
    "Tile Pad": (lambda read: read, [("Tile", {}, np.array((1, 1))), ("Pad", {}, np.array((0, 0, 0, 0)))]),
    "Reshape Transpose": (
        lambda read: read.T.reshape(4, 2, 3),
        [("Reshape", {}, np.array((4, -1))), ("Transpose", {"perm": [1, 0]}, None)],
    ),
    "Cast Transpose": (
        lambda read: read.T.astype(np.float16),
        [("Cast", {"to": TensorProto.FLOAT}, None), ("Transpose", {}, None)],
    ),
}


@pytest.mark.parametrize("scale", ["input", "weight"])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("held", ["initializer", "node"])
def test_behind_operators(chain: str, scale: str, held: str) -> None:
    """u is on the columns of what the MatMul reads, [6, 4], whatever is stored."""
    half = "Cast" in chain
    read = drawn(6, 4).astype(np.float16 if half else np.float32).astype(np.float32)
    store, steps = CHAINS[chain]
    weight = np.ascontiguousarray(store(read))
    weights: dict[str, Any] = {"w": weight} if held == "initializer" else {}
    nodes = [constant("w", weight)] if held == "node" else []
    name = "w"
    for number, (op_type, attributes, shape) in enumerate(steps):
        inputs = [name]
        if shape is not None:
            weights[f"shape{number}"] = shape
            inputs.append(f"shape{number}")
        name = f"v{number}"
        nodes.append(node(op_type, inputs, [name], name=f"chain{number}", **attributes))
    model = network([*nodes, node("MatMul", ["x", name], ["y"])], weights, {"x": (3, 6)})
    x = drawn(3, 6, seed=1)
    # Scaled float16 weights are rounded once in the graph and once in the reference, and σ once.
    tolerance = 3 * 2.0**-11 if half else 1e-5
    inserted = check(model, {"w": read.T}, {"x": x}, scale=scale, tolerance=tolerance, state_tolerance=1e-5, **KERAS)
    strips_to(inserted, model)


@pytest.mark.parametrize("kind", ["tensor", "axis", "blocked"])
@pytest.mark.parametrize("scale", ["input", "weight"])
def test_behind_dequantize(kind: str, scale: ScaleChoice) -> None:
    """σ is that of the dequantized weight; the input is scaled, whatever was asked for."""
    stored = np.random.default_rng(0).integers(-100, 100, (6, 4)).astype(np.int8)
    scales = {"tensor": np.float32(0.1), "axis": drawn(4, seed=1) ** 2, "blocked": drawn(3, 4, seed=1) ** 2}[kind]
    scales = np.asarray(scales, np.float32) + np.float32(0.01)
    attributes = {"tensor": {}, "axis": {"axis": 1}, "blocked": {"axis": 0, "block_size": 2}}[kind]
    dequantized = node("DequantizeLinear", ["w", "s"], ["d"], **attributes)
    model = network(
        [dequantized, node("MatMul", ["x", "d"], ["y"])], {"w": stored, "s": scales}, {"x": (3, 6)}, opset=21, ir=10
    )
    full = stored * (np.repeat(scales, 2, 0) if kind == "blocked" else scales)
    x = drawn(3, 6)
    inserted = sn.insert(model, scale=scale, convention="keras")
    assert any("integer operator" in note for note in inserted.sites[0].notes)
    y, u_next, sigma = session(inserted.to_proto()).run(None, {"x": x})
    expected, u = power_iteration(full.T, seeded("w", 4))
    close(y, x @ full / expected, 1e-5, "y")
    close(u_next, u.reshape(-1, 1), 1e-5, "u")
    close(sigma, np.array([expected]), 1e-5, "σ")
    strips_to(inserted.to_proto(), model)


@pytest.mark.parametrize("kind", ["transposed", "reshaped", "blocked"])
def test_scales_by_channel_behind_a_transpose_or_reshape(kind: str) -> None:
    """The iteration dequantizes the weight in the layout that the model does."""
    generator = np.random.default_rng(0)
    read = generator.integers(-100, 100, (6, 4)).astype(np.int8)
    scales = generator.uniform(0.01, 0.1, (3, 4) if kind == "blocked" else 4).astype(np.float32)
    if kind == "reshaped":
        stored, chain = (
            read.T.reshape(2, 2, 6),
            [
                node("Reshape", ["w", "shape"], ["r"]),
                node("Transpose", ["r"], ["t"]),
            ],
        )
    else:
        stored, chain = read.T, [node("Transpose", ["w"], ["t"])]
    attributes = {"axis": 0, "block_size": 2} if kind == "blocked" else {"axis": 1}
    nodes = [*chain, node("DequantizeLinear", ["t", "s"], ["d"], **attributes), node("MatMul", ["x", "d"], ["y"])]
    held: Weights = {"w": np.ascontiguousarray(stored), "s": scales, "shape": np.array([4, 6])}
    model = network(nodes, held, {"x": (3, 6)}, opset=21, ir=10)
    full = read * (np.repeat(scales, 2, 0) if kind == "blocked" else scales)
    x = drawn(3, 6)
    inserted = sn.insert(model, convention="keras").to_proto()
    y, u_next, sigma = session(inserted).run(None, {"x": x})
    expected, u = power_iteration(full.T, seeded("w", 4))
    close(y, x @ full / expected, 1e-5, "y")
    close(u_next, u.reshape(-1, 1), 1e-5, "u")
    close(sigma, np.array([expected]), 1e-5, "σ")
    strips_to(inserted, model)


def test_dequantized_to_another_type_than_its_scale() -> None:
    """output_dtype (opset 23) decides what the consumer reads."""
    if newest_opset() < 23:
        pytest.skip("no onnxruntime at hand knows opset 23")
    stored = np.random.default_rng(0).integers(-100, 100, (6, 4)).astype(np.int8)
    dequantized = node("DequantizeLinear", ["w", "s"], ["d"], output_dtype=TensorProto.FLOAT16)
    model = network(
        [dequantized, node("MatMul", ["x", "d"], ["y"])],
        {"w": stored, "s": np.float32(0.01)},
        {"x": (3, 6)},
        opset=23,
        ir=11,
        dtype="float16",
    )
    x = drawn(3, 6).astype(np.float16)
    expected, _ = power_iteration((stored * np.float32(0.01)).T, seeded("w", 4))
    y, _, sigma = session(sn.insert(model, convention="keras").to_proto()).run(None, {"x": x})
    close(y, x.astype(np.float32) @ (stored * np.float32(0.01)) / expected, 4 * 2.0**-11, "y")
    close(sigma, np.array([expected]), 1e-3, "σ of a matrix rounded to float16")


def test_quantized_weights_of_what_is_not_linear_are_skipped() -> None:
    stored = np.random.default_rng(0).integers(-100, 100, (1, 12, 5)).astype(np.int8)
    nodes = [node("DequantizeLinear", ["w", "s"], ["d"]), node("LSTM", ["x", "d", "r"], ["y"], hidden_size=3)]
    weights: Weights = {"w": stored, "s": np.float32(0.1), "r": drawn(1, 12, 3)}
    model = network(nodes, weights, {"x": (4, 2, 5)}, opset=17)
    first, other = sn.insert(model, op_types=["LSTM"]).sites
    assert (first.status, other.status) == ("skipped", "inserted")
    assert "not linear" in str(first.reason)


# Shared


def test_shared_weights_are_iterated_once() -> None:
    weight = drawn(5, 5)
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Tanh", ["h"], ["t"]),
        node("Transpose", ["w"], ["wt"]),
        node("Gemm", ["t", "wt"], ["g"], transB=1),
        node("MatMul", ["g", "w"], ["y"]),
    ]
    model = network(nodes, {"w": weight}, {"x": (2, 5)}, ("y", "h"))
    for scale in ("input", "weight"):
        inserted = check(model, {"w": weight.T}, {"x": drawn(2, 5)}, scale=scale, **KERAS)
        assert sum(one.op_type == "ReduceL2" for one in inserted.graph.node) == 3  # u, v and σ
        strips_to(inserted, model)


def test_only_the_uses_asked_for() -> None:
    weight = drawn(5, 5)
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Gemm", ["h", "w"], ["y"])]
    model = network(nodes, {"w": weight}, {"x": (2, 5)}, ("y", "h"))
    x = drawn(2, 5)
    for scale in ("input", "weight"):
        y, h, *_ = session(sn.insert(model, op_types=["Gemm"], scale=scale).to_proto()).run(None, {"x": x})
        sigma, _ = power_iteration(weight.T, seeded("w", 5))
        np.testing.assert_array_equal(h, session(model).run(["h"], {"x": x})[0])
        close(y, x @ weight @ weight / sigma, 1e-5, "y")


def test_nodes_stay_in_topological_order() -> None:
    """The rows of a Gather are scaled behind it, before what its reader's own scaling adds."""
    weight, table = drawn(4, 4), drawn(6, 4, seed=1)
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Gather", ["table", "i"], ["rows"]),
        node("MatMul", ["rows", "w"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    model = network(nodes, {"w": weight, "table": table}, {"x": (2, 4), "i": (2,)}, integers=("i",))
    feeds = {"x": drawn(2, 4), "i": np.array([1, 5])}
    strips_to(check(model, {"w": weight.T, "table": table.T}, feeds, **KERAS), model)
