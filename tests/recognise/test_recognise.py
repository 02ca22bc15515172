from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from sn_graph.model import Model
from sn_graph.recognise import Explanation, Form, recognise
from sn_graph.sites import find_sites
from tests.support.builders import Array, constant, drawn, model, node
from tests.support.exported import (
    biggan,
    convolution,
    in_eval,
    in_train,
    linear,
    power,
    rows_of,
    stored,
)

CONV = (8, 6, 3, 3)
TIGHT = 1e-7  # both sides are float64


def explain(proto: onnx.ModelProto) -> Explanation:
    model = Model.open(proto)
    (found,) = recognise(model, find_sites(model)).values()
    return found


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_eval(dim: int, dtype: Any) -> None:
    w = drawn(*CONV, dtype=dtype)
    u, v = stored(w, dim)
    found = explain(convolution(in_eval(w, dim)))
    sigma = float(u.astype(np.float64) @ rows_of(w.astype(np.float64), dim) @ v.astype(np.float64))
    assert found.form is Form.SPECTRAL_NORM
    assert found.sigma_graph == pytest.approx(sigma, rel=TIGHT)
    assert found.view is not None
    assert (found.view.rows, found.view.perm) == ((8, None), (6, (1, 0, 2, 3)))[dim]
    assert (found.u, found.gain, found.cap, found.k) == (("c.weight_u", "c.weight_v"), 1.0, None, None)


def test_linear_normalized_over_its_inputs() -> None:
    """dim=1 of a Linear is the transposed matrix, with u on its rows."""
    w = drawn(8, 6)
    found = explain(linear(in_eval(w, 1)))
    assert found.view is not None
    assert (found.view.rows, found.view.cols, found.view.perm) == (6, 8, (1, 0))
    assert found.estimate is not None
    assert found.estimate.left is not None
    assert found.estimate.left.name == "c.weight_u"


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("parametrization", [False, True])
def test_train(k: int, parametrization: bool) -> None:
    w = drawn(*CONV)
    u, v = stored(w)
    found = explain(convolution(in_train(w, k, parametrization=parametrization)))
    matrix = rows_of(w)
    sigma, _, _ = power(matrix.T, v, k) if parametrization else power(matrix, u, k)
    assert (found.form, found.k) == (Form.SPECTRAL_NORM_TRAIN, k)
    assert found.sigma_graph == pytest.approx(sigma, rel=TIGHT)
    assert found.u == (("c.parametrizations.weight.0._v",) if parametrization else ("c.weight_u",))


def test_iterated() -> None:
    w = drawn(*CONV)
    found = explain(convolution(biggan(w)))
    assert (found.form, found.k, found.u) == (Form.SPECTRAL_NORM_ITERATED, 1, ("c.u0",))


def test_iterations_of_a_converged_u_are_counted_by_the_graph() -> None:
    w = drawn(*CONV)
    nodes, weights = in_train(w, 3)
    weights["c.weight_u"] = np.linalg.svd(rows_of(w.astype(np.float64)))[0][:, 0]
    weights["c.weight_u"] = weights["c.weight_u"].astype(np.float32)
    assert explain(convolution((nodes, weights))).k == 3


@pytest.mark.parametrize(("cap", "gain"), [(0.5, 1.0), (9.0, 1.0), (0.5, 2.5)])
def test_soft_cap(cap: float, gain: float) -> None:
    w = drawn(*CONV)
    nodes, weights = in_eval(w)
    nodes[-1:] = [
        node("Div", ["sigma", "cap"], ["over"]),
        node("Max", ["one", "over"], ["most"]),
        node("Div", ["c.weight_orig", "most"], ["capped"]),
        node("Mul", ["capped", "gain"], ["w"]),
    ]
    weights |= {"cap": np.float32(cap), "one": np.ones(1, np.float32), "gain": np.full(1, gain, np.float32)}
    found = explain(convolution((nodes, weights)))
    assert found.form is Form.SPECTRAL_NORM
    assert [found.cap, found.gain] == pytest.approx([cap, gain], rel=1e-6)


def test_equalised_learning_rate_under_spectral_norm() -> None:
    """The matrix is c·W's, and so is σ; c leaves no gain."""
    w = drawn(*CONV)
    nodes, weights = in_eval(w)
    scaled = node("Mul", ["c.weight_orig", "c"], ["scaled"])
    for one in nodes:
        one.input[:] = ["scaled" if name == "c.weight_orig" else name for name in one.input]
    weights["c"] = np.float32(0.1361)
    u, v = stored(w)
    found = explain(convolution(([scaled, *nodes], weights)))
    assert (found.form, found.gain) == (Form.SPECTRAL_NORM, 1.0)
    c = float(np.float32(0.1361))
    sigma = c * float(u.astype(np.float64) @ rows_of(w.astype(np.float64)) @ v)
    assert found.sigma_graph == pytest.approx(sigma, rel=1e-6)
    assert found.original is not None
    assert found.original.name == "c.weight_orig"


def other(kind: str, w: Array) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    vectors, values, _ = np.linalg.svd(w.astype(np.float64))
    right = np.linalg.svd(w.astype(np.float64))[2]
    weights: dict[str, Any] = {"c.weight": w}
    del values
    if kind == "second":
        weights |= {"u1": vectors[:, 1].astype(w.dtype), "v1": right[1].astype(w.dtype)}
        made = [node("MatMul", ["c.weight", "v1"], ["mv"]), node("MatMul", ["u1", "mv"], ["d"])]
    elif kind == "√(‖W‖₁·‖W‖∞)":
        made = [
            node("Abs", ["c.weight"], ["abs"]),
            node("ReduceSum", ["abs", "zero"], ["columns"]),
            node("ReduceSum", ["abs", "last"], ["rows"]),
            node("ReduceMax", ["columns"], ["l1"], keepdims=0),
            node("ReduceMax", ["rows"], ["linf"], keepdims=0),
            node("Mul", ["l1", "linf"], ["product"]),
            node("Sqrt", ["product"], ["d"]),
        ]
        weights |= {"zero": np.array([0]), "last": np.array([1])}
    elif kind == "frobenius":
        made = [node("ReduceL2", ["c.weight"], ["d"], keepdims=0)]
    elif kind == "mask":
        weights["d"] = (drawn(*w.shape, seed=4) > 0).astype(w.dtype) + 1
        made = []
    elif kind == "equalised":
        weights["d"] = np.float32(3.0)
        made = []
    else:
        made = [node("MatMul", ["a", "b"], ["d"])]
        weights |= {"a": drawn(w.shape[0], 2), "b": drawn(2, w.shape[1], seed=1)}
        return [*made, node("Add", ["c.weight", "d"], ["w"])], weights
    return [*made, node("Div", ["c.weight", "d"], ["w"])], weights


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("second", Form.NORMALIZED_OTHERWISE),
        ("√(‖W‖₁·‖W‖∞)", Form.NORMALIZED_OTHERWISE),
        ("frobenius", Form.COMPUTED),
        ("mask", Form.COMPUTED),
        ("equalised", Form.COMPUTED),
        ("low rank", Form.COMPUTED),
    ],
)
def test_no_spectral_norm(kind: str, form: Form) -> None:
    found = explain(linear(other(kind, drawn(8, 6))))
    assert found.form is form
    if kind.startswith("√"):
        assert kind in found.reason


def test_the_norm_of_the_convolution() -> None:
    """σ of what the node does at one size, by a Conv in the chain (DUE): no matrix of the weight."""
    w = drawn(*CONV)
    nodes = [
        node("Conv", ["v", "c.weight"], ["image"]),
        node("Reshape", ["image", "flat"], ["column"]),
        node("MatMul", ["u", "column"], ["sigma"]),
        node("Div", ["c.weight", "sigma"], ["w"]),
    ]
    weights = {"c.weight": w, "v": drawn(1, 6, 7, 7), "flat": np.array([-1]), "u": drawn(8 * 5 * 5)}
    found = explain(convolution((nodes, weights)))
    assert found.form is Form.NORMALIZED_OTHERWISE
    assert "convolution" in found.reason


@pytest.mark.parametrize("axes", [[1, 2, 3], None])
@pytest.mark.parametrize("scale_first", [False, True])
def test_weight_norm(axes: list[int] | None, scale_first: bool) -> None:
    v = drawn(*CONV)
    attributes = {} if axes is None else {"axes": axes}
    nodes = [node("ReduceL2", ["c.weight_v"], ["norm"], keepdims=1, **attributes)]
    if scale_first:
        nodes += [node("Div", ["c.weight_g", "norm"], ["scale"]), node("Mul", ["c.weight_v", "scale"], ["w"])]
    else:
        nodes += [node("Div", ["c.weight_v", "norm"], ["unit"]), node("Mul", ["unit", "c.weight_g"], ["w"])]
    g = np.abs(drawn(8 if axes else 1, 1, 1, 1, seed=1)) + 0.5
    found = explain(convolution((nodes, {"c.weight_v": v, "c.weight_g": g})))
    assert found.form is Form.WEIGHT_NORM
    assert found.original is not None
    assert found.original.name == "c.weight_v"


def test_used_twice_in_train_mode() -> None:
    """The second call goes on from the first one's u: two σ of one weight, one iteration each."""
    w = drawn(*CONV)
    nodes, weights = in_train(w, 2)
    nodes += [
        node("MatMul", ["m", "v0"], ["mv_first"]),
        node("MatMul", ["u0", "mv_first"], ["sigma_first"]),
        node("Div", ["c.weight_orig", "sigma_first"], ["w_first"]),
        node("Conv", ["x", "w_first"], ["z"], name="/c/Conv_first"),
    ]
    model = Model.open(convolution((nodes, weights)))
    found = recognise(model, find_sites(model))
    assert [(found[key].k, found[key].turn) for key in ("w_first", "w")] == [(1, 0), (1, 1)]
    first, second = (power(rows_of(w), stored(w)[0], k)[0] for k in (1, 2))
    assert found["w_first"].sigma_graph == pytest.approx(first, rel=TIGHT)
    assert found["w"].sigma_graph == pytest.approx(second, rel=TIGHT)


def test_arithmetic_in_a_body_of_captured_constants() -> None:
    nodes, weights = in_eval(drawn(*CONV))
    proto = convolution((nodes, weights))
    body = onnx.helper.make_graph(
        [node("Identity", ["c.weight_v"], ["own_v"]), *proto.graph.node],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
    )
    body.node[2].input[1] = "own_v"
    del proto.graph.node[:]
    branches = {
        "then_branch": body,
        "else_branch": onnx.helper.make_graph(
            [constant("y", drawn(1, 8, 5, 5))], "other", [], [onnx.helper.make_tensor_value_info("y", 1, None)]
        ),
    }
    proto.graph.node.add().CopyFrom(node("If", ["which"], ["y"], name="if", **branches))
    proto.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("which", 9, []))
    assert explain(proto).form is Form.SPECTRAL_NORM


def test_half_precision_between_casts_leaves_the_gain() -> None:
    """σ is rounded to float16 on its way; what is far beyond float16 tells the gain all the same."""
    nodes, weights = in_eval(drawn(*CONV))
    nodes[-1:] = [
        node("Cast", ["sigma"], ["narrow"], to=onnx.TensorProto.FLOAT16),
        node("Cast", ["narrow"], ["wide"], to=onnx.TensorProto.FLOAT),
        node("Div", ["c.weight_orig", "wide"], ["w"]),
    ]
    assert explain(convolution((nodes, weights))).gain == 1.0


def test_a_gain_over_sigma_times_the_weight() -> None:
    nodes, weights = in_eval(drawn(*CONV))
    nodes[-1:] = [node("Div", ["gain", "sigma"], ["scale"]), node("Mul", ["scale", "c.weight_orig"], ["w"])]
    found = explain(convolution((nodes, {**weights, "gain": np.float32(1.5)})))
    assert found.form is Form.SPECTRAL_NORM
    assert found.gain == pytest.approx(1.5)


def test_u_in_a_constant_node_and_a_weight_reshaped_behind_the_division() -> None:
    """No floor, u a column in a Constant, and the 4-D weight nowhere: only its matrix and that transposed."""
    w = drawn(*CONV)
    u, _ = stored(w)
    matrix = rows_of(w)
    nodes = [
        constant("u", u.reshape(-1, 1)),
        node("MatMul", ["onnx::MatMul_8", "u"], ["raw"]),
        node("Reshape", ["raw", "flat"], ["vector"]),
        node("ReduceL2", ["vector"], ["length"], keepdims=0),
        node("Div", ["raw", "length"], ["v"]),
        node("Transpose", ["u"], ["row"]),
        node("MatMul", ["row", "onnx::MatMul_7"], ["rm"]),
        node("MatMul", ["rm", "v"], ["square"]),
        node("Squeeze", ["square"], ["sigma"]),
        node("Div", ["onnx::MatMul_7", "sigma"], ["flatter"]),
        node("Reshape", ["flatter", "shape"], ["w"]),
    ]
    weights = {
        "first": np.zeros((8, 6, 1, 1), np.float32),
        "onnx::MatMul_7": matrix,
        "onnx::MatMul_8": np.ascontiguousarray(matrix.T),
        "flat": np.array([-1]),
        "shape": np.array(CONV),
    }
    found = explain(convolution((nodes, weights)))
    assert found.form.is_spectral_norm
    assert found.sigma_graph == pytest.approx(float(np.linalg.norm(matrix.T.astype(np.float64) @ u)), rel=TIGHT)
    assert found.original is not None
    assert found.original.name == "onnx::MatMul_7"


def test_in_a_loops_body() -> None:
    nodes, weights = in_eval(drawn(*CONV))
    proto = convolution((nodes, weights))
    body = onnx.helper.make_graph(
        [*proto.graph.node, node("Identity", ["going"], ["on"])],
        "body",
        [onnx.helper.make_tensor_value_info("turn", 7, []), onnx.helper.make_tensor_value_info("going", 9, [])],
        [onnx.helper.make_tensor_value_info("on", 9, []), onnx.helper.make_tensor_value_info("y", 1, None)],
    )
    del proto.graph.node[:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2), "turns"))
    proto.graph.node.append(node("Loop", ["turns", ""], ["ys"], name="loop", body=body))
    proto.graph.output[0].name = "ys"
    assert explain(proto).form is Form.SPECTRAL_NORM


@pytest.mark.parametrize("attributes", [{}, {"to": 99}, {"to": b"NOTHING"}])
def test_a_weight_of_no_known_type_is_only_computed(attributes: dict[str, Any]) -> None:
    nodes = [node("Cast", ["w"], ["c"], **attributes), node("Mul", ["c", "c"], ["m"]), node("MatMul", ["x", "m"])]
    opened = Model.open(model(nodes, {"w": drawn(4, 6)}).to_proto())
    (found,) = recognise(opened, find_sites(opened)).values()
    assert found.form is Form.COMPUTED


@pytest.mark.parametrize("op_type", ["Relu", "Neg", "Sqrt", "Abs"])
def test_more_operators_in_a_row_than_are_computed(op_type: str) -> None:
    nodes = [node(op_type, [f"c{place}" if place else "w"], [f"c{place + 1}"]) for place in range(3000)]
    proto = model([*nodes, node("MatMul", ["x", "c3000"])], {"w": drawn(4, 6)}).to_proto()
    opened = Model.open(proto)
    (found,) = recognise(opened, find_sites(opened)).values()
    assert found.form is Form.COMPUTED
