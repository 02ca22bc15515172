"""Weights that others read too, or that live elsewhere: split, tied, captured, in subgraphs, functions and IR 3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

import sn_graph as sn
from tests.support.builders import Array, constant, drawn, function, node, saved
from tests.support.oracle import sigma_max
from tests.support.runs import fold_file, run

HEAD = '<ir_version: {ir}, opset_import: ["": {opset}, "local": 1]>'
W = drawn(4, 4, seed=1)
S = W / sigma_max(W)
X = drawn(2, 4, seed=2)
# The factor is right to 1e-6, and up to three products of four terms follow.
ATOL = 5e-6


def model(text: str, weights: Mapping[str, Array] | None = None, ir: int = 8, opset: int = 17) -> onnx.ModelProto:
    proto = parse_model(HEAD.format(ir=ir, opset=opset) + text)
    for name, array in ({"w": W} if weights is None else weights).items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def folded(proto: onnx.ModelProto, tmp_path: Path, **options: Any) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    written, result = fold_file(proto, tmp_path, **options)
    return written, tuple(site.status for site in result.sites)


def check(proto: onnx.ModelProto, expected: Array, **feeds: Array) -> None:
    np.testing.assert_allclose(run(proto, {"x": X, **feeds})[0], expected, rtol=0, atol=ATOL)


def test_an_addition_keeps_the_original(tmp_path: Path) -> None:
    proto, statuses = folded(
        model(
            "g (float[2,4] x) => (float[4,4] y) {h = MatMul(x, w)  t = Transpose(x)  k = MatMul(t, h)  y = Add(k, w)}"
        ),
        tmp_path,
    )
    assert statuses == ("folded",)
    check(proto, X.T @ (X @ S) + W)
    assert [tensor.name for tensor in proto.graph.initializer] == ["w", "w_normalized"]


def test_a_graph_output_keeps_the_original(tmp_path: Path) -> None:
    proto, _ = folded(model("g (float[2,4] x) => (float[2,4] y, float[4,4] w) {y = MatMul(x, w)}"), tmp_path)
    y, w = run(proto, {"x": X})
    np.testing.assert_allclose(y, X @ S, rtol=0, atol=ATOL)
    np.testing.assert_array_equal(w, W)


TWO = "g (float[2,4] x) => (float[2,4] y) {a = MatMul(x, w)  y = Gemm<transB = 1>(a, w)}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, X @ S @ S.T),
        ({"op_types": ["Gemm"]}, X @ W @ S.T),
        ({"op_types": ["MatMul"]}, X @ S @ W.T),
        ({"op_types": ["MatMul", "Gemm"]}, X @ S @ S.T),
    ],
)
def test_op_types_split_a_tied_weight(options: dict[str, list[str]], expected: Array, tmp_path: Path) -> None:
    proto, statuses = folded(model(TWO), tmp_path, **options)
    assert statuses == ("folded",)
    check(proto, expected)
    assert len(proto.graph.initializer) == (2 if len(options.get("op_types", "..")) == 1 else 1)


def test_a_split_passes_through_the_chain(tmp_path: Path) -> None:
    """The copy gets copies of Transpose and Cast; who reads the middle of the chain keeps the original."""
    text = """g (float[2,4] x) => (float[2,4] y) {
        t = Transpose<perm = [1, 0]>(w)  c = Cast<to = 1>(t)  a = MatMul(x, c)  b = Gemm(a, c)
        s = ReduceSum(c)  r = Reshape(s, one)  y = Add(b, r) }"""
    proto = model(text, {"w": W.astype(np.float64), "one": np.array([1, 1])}, opset=12)
    written, _ = folded(proto, tmp_path, op_types=["Gemm"])
    check(written, X @ W.T @ S.T + W.sum())
    types = [node.op_type for node in written.graph.node]
    assert types.count("Transpose") == types.count("Cast") == 2
    assert types.count("MatMul") == types.count("Gemm") == 1


def test_a_constant_node_is_split_and_folded_in_place(tmp_path: Path) -> None:
    def holding(reader: str) -> onnx.ModelProto:
        proto = model(f"g (float[2,4] x) => (float[2,4] y) {{a = MatMul(x, w)  {reader}}}", {})
        proto.graph.node.insert(0, constant("w", W))
        return proto

    proto, _ = folded(holding("y = MatMul(a, w)"), tmp_path)
    check(proto, X @ S @ S)
    assert len(proto.graph.node) == 3
    proto, _ = folded(holding("m = ReduceMax<keepdims = 0>(w)  y = Add(a, m)"), tmp_path)
    check(proto, X @ S + W.max())
    assert [node.op_type for node in proto.graph.node].count("Constant") == 2


def test_tied_embedding_and_head_share_the_factor(tmp_path: Path) -> None:
    text = "g (int64[3] x) => (float[3,6] y) {e = Gather(w, x)  y = Gemm<transB = 1>(e, w)}"
    table = drawn(6, 4, seed=1)
    proto, statuses = folded(model(text, {"w": table}), tmp_path)
    assert statuses == ("folded",)
    scaled = table / sigma_max(table)
    index = np.array([5, 0, 3])
    np.testing.assert_allclose(run(proto, {"x": index})[0], scaled[index] @ scaled.T, rtol=0, atol=ATOL)


BODIES = """g (float[2,4] x, bool c) => (float[2,4] y) {
    y = If (c) <then_branch = t () => (float[2,4] p) {p = MatMul(x, w)},
                else_branch = e () => (float[2,4] q) {h = MatMul(x, w)  q = Add(h, v)}> }"""


def test_captured_weights(tmp_path: Path) -> None:
    proto, _ = folded(model(BODIES, {"w": W, "v": X}), tmp_path)
    check(proto, X @ S, c=np.array(True))
    check(proto, X @ S + X, c=np.array(False))


def test_a_captured_weight_is_split_inside_the_body(tmp_path: Path) -> None:
    text = """g (float[2,4] x, bool c) => (float[2,4] y) {
        y = If (c) <then_branch = t () => (float[2,4] p) {i = Transpose(w)  j = Transpose(i)  p = MatMul(x, j)},
                    else_branch = e () => (float[2,4] q) {m = ReduceMax<keepdims = 0>(w)  q = Add(x, m)}> }"""
    proto, _ = folded(model(text), tmp_path)
    check(proto, X @ S, c=np.array(True))
    check(proto, X + W.max(), c=np.array(False))


def test_a_weight_of_a_loop_body(tmp_path: Path) -> None:
    text = """g (float[2,4] x) => (float[2,4] y) {
        n = Constant<value = int64 {3}>()  go = Constant<value = bool {1}>()
        y = Loop (n, go, x) <body = b (int64 i, bool on, float[2,4] state)
            => (bool on_out, float[2,4] next) {on_out = Identity(on)  next = MatMul(state, w)}> }"""
    proto = model(text, {})
    body = proto.graph.node[2].attribute[0].g
    body.initializer.append(numpy_helper.from_array(W, "w"))
    written, statuses = folded(proto, tmp_path)
    assert statuses == ("folded",)
    check(written, X @ S @ S @ S)
    captured = model(text)
    written, _ = folded(captured, tmp_path)
    check(written, X @ S @ S @ S)


def test_a_weight_of_a_function_is_folded_in_place(tmp_path: Path) -> None:
    proto = model("g (float[2,4] x) => (float[2,4] y) {a = local.f(x)  y = local.f(a)}", {}, ir=9)
    nodes = [
        constant("w", W),
        node("MatMul", ["a", "w"], ["b"]),
    ]
    proto.functions.append(function("f", ["a"], nodes, outputs=["b"]))
    written, statuses = folded(proto, tmp_path)
    assert statuses == ("folded",)
    check(written, X @ S @ S)


def test_a_weight_handed_to_a_function(tmp_path: Path) -> None:
    proto = model("g (float[2,4] x) => (float[2,4] y) {a = local.f(x, w)  y = MatMul(a, w)}", ir=9)
    nodes = [node("MatMul", ["a", "v"], ["b"])]
    proto.functions.append(function("f", ["a", "v"], nodes, outputs=["b"]))
    written, _ = folded(proto, tmp_path)
    check(written, X @ S @ S)


@pytest.mark.parametrize("reader", ["y = Relu(a)", "m = ReduceMax<keepdims = 0>(w)  y = Add(a, m)"])
def test_ir_3_lists_initializers_as_inputs(reader: str, tmp_path: Path) -> None:
    proto = model(f"g (float[2,4] x, float[4,4] w) => (float[2,4] y) {{a = MatMul(x, w)  {reader}}}", ir=3, opset=8)
    source = sn.fold(proto)
    assert any("graph input" in note for note in source.sites[0].notes)
    written, _ = folded(proto, tmp_path)
    split = "Add" in reader
    check(written, X @ S + W.max() if split else np.maximum(X @ S, 0))
    assert [value.name for value in written.graph.input] == ["x", "w", *(["w_normalized"] if split else [])]


def test_names_that_are_taken_are_avoided(tmp_path: Path) -> None:
    text = """g (float[2,4] x) => (float[2,4] y) {
        w_normalized = MatMul(x, w)  m = ReduceMax<keepdims = 0>(w)  y = Add(w_normalized, m) }"""
    proto, _ = folded(model(text), tmp_path)
    check(proto, X @ S + W.max())
    assert "w_normalized_1" in {tensor.name for tensor in proto.graph.initializer}


def test_include_and_exclude_search_names(tmp_path: Path) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) {a = MatMul(x, net_head)  b = MatMul(a, net_body)  y = MatMul(b, other)}"
    proto = model(text, {"net_head": W, "net_body": W + 1, "other": W + 2})
    _, statuses = folded(proto, tmp_path, include=["^net"], exclude=["head$"])
    assert statuses == ("skipped", "folded", "skipped")
    _, statuses = folded(proto, tmp_path, include=["ead", "oth"])
    assert statuses == ("folded", "skipped", "folded")


def test_uses_that_need_different_matrices_wait_for_a_choice() -> None:
    kernel = drawn(4, 4, 3, 3, seed=1)
    text = """g (float[1,4,5,5] x) => (float[1,4,5,5] y) {
        a = Conv<pads = [1,1,1,1]>(x, w)  y = ConvTranspose<pads = [1,1,1,1]>(a, w) }"""
    proto = model(text, {"w": kernel})
    (site,) = sn.fold(proto, convention="torch").sites
    assert site.status == "skipped"
    assert "different matrices" in str(site.reason)
    result = sn.fold(proto, convention="torch", op_types=["ConvTranspose"])
    moved = np.moveaxis(kernel, 1, 0).reshape(4, -1)
    assert result.sites[0].sigma == pytest.approx(sigma_max(moved), rel=1e-6)
    assert len(result.to_proto().graph.initializer) == 2


def test_external_data_of_a_split_weight(tmp_path: Path) -> None:
    source = saved(model(TWO), tmp_path / "in.onnx", external=True)
    sn.fold(source, op_types=["Gemm"]).save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    check(written, X @ W @ S.T)


def test_a_weight_that_is_left_out_leaves_the_proto_as_it_was() -> None:
    proto = model(TWO)
    result = sn.fold(proto, exclude=["w"])
    assert result.to_proto() == proto


@pytest.mark.parametrize("shared", [False, True])
def test_behind_operators_that_keep_the_elements(shared: bool, tmp_path: Path) -> None:
    """What else reads the weight keeps the original, through the same operators."""
    held = {
        "w": W.reshape(1, 4, 4), "first": np.array([0]), "last": np.array([-1]), "begin": np.array([0, 0]),
        "end": np.array([4, 99]), "ones": np.array([1, 1]),
    }  # fmt: skip
    text = """g (float[2,4] x) => (float[2,4] y) {
        a = Squeeze(w, first)  b = Unsqueeze(a, last)  c = Flatten <axis = -2> (b)  d = Slice(c, begin, end)
        e = Concat <axis = 1> (d)  f = Expand(e, ones)  h = MatMul(x, f)  y = %s}"""
    proto, statuses = folded(model(text % ("MatMul(h, d)" if not shared else "Sub(h, x)"), held), tmp_path)
    assert statuses == ("folded",)
    check(proto, X @ S @ S if not shared else X @ S - X)
    text = text.replace("y = %s", "k = Relu(f)  y = MatMul(h, k)")
    proto, statuses = folded(model(text, held), tmp_path)
    check(proto, X @ S @ np.maximum(W, 0.0))
