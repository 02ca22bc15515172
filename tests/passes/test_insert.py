"""Insert: y, u.next and σ of steps 1, 10 and 100 against the iteration in float64, for every operator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import sn_graph as sn
from sn_graph.choices import StateLayoutChoice
from tests.support.builders import Array, drawn, network, node
from tests.support.networks import CASES, CONVENTIONS, Case, rows, second
from tests.support.oracle import power_iteration, seeded
from tests.support.runs import ONNXRUNTIME, check, close, divided, evaluated, newest_opset, session

NEWEST = newest_opset()
OPSETS = sorted({7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 21, NEWEST})


def of_case(case: Case, opset: int = 17, ir: int = 8, dtype: str = "float32") -> tuple[onnx.ModelProto, Array, Array]:
    """The case's model with a bias where the op takes one, its weight, and x."""
    weight = drawn(*case.shape, seed=3).astype(np.dtype(dtype))
    weights, inputs = {"w": weight}, list(case.inputs)
    if case.op_type in ("Conv", "ConvTranspose"):
        outputs = case.shape[1] * case.attributes.get("group", 1) if "Transpose" in case.op_type else case.shape[0]
        weights["b"] = drawn(outputs, seed=4).astype(weight.dtype)
        inputs.append("b")
    integers = ("x",) if case.op_type == "Gather" else ()
    if case.op_type == "Gemm" and opset < 11:
        weights["b"], inputs = np.zeros(1, weight.dtype), [*inputs, "b"]
    model = network(
        [node(case.op_type, inputs, ["y"], **case.attributes)],
        weights,
        {"x": case.x},
        opset=opset,
        ir=ir,
        dtype=dtype,
        integers=integers,
    )
    x = np.array([0, 3, 10, 3]) if integers else drawn(*case.x, seed=5).astype(weight.dtype)
    return model, weight, x


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("k", [1, 3])
def test_every_operator_and_convention(case: Case, convention: str, k: int) -> None:
    model, weight, x = of_case(case)
    scale = "weight" if k == 3 and convention == "keras" else "input"
    check(model, {"w": case.matrix(weight, convention)}, {"x": x}, k=k, convention=convention, scale=scale)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in ("conv2d", "transposed", "matmul_rank3", "gemm", "gather")],
    ids=lambda c: c.name,
)
def test_every_opset(case: Case, opset: int) -> None:
    ir = 4 if opset < 9 else 8 if opset < 18 else 10
    model, weight, x = of_case(case, opset, ir)
    model = onnx.shape_inference.infer_shapes(model)  # the checker wants the shape of y
    inserted = check(model, {"w": case.matrix(weight, "torch")}, {"x": x}, convention="torch", steps=(1, 10))
    onnx.checker.check_model(inserted, full_check=True)
    assert inserted.opset_import == model.opset_import


@pytest.mark.parametrize("opset", [7, 12, 13, NEWEST])
@pytest.mark.parametrize("layout", ["packed", "per-weight"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_weights_in_one_state(opset: int, layout: StateLayoutChoice, dtype: str) -> None:
    shapes = {"a": (5, 7), "b": (7, 6), "c": (6, 3)}
    weights = {name: drawn(*shape, seed=len(name)).astype(dtype) for name, shape in shapes.items()}
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["i"]), node("MatMul", ["i", "c"], ["y"])]
    model = network(nodes, weights, {"x": (2, 5)}, opset=opset, ir=8, dtype=dtype)
    check(
        model,
        {name: w.T for name, w in weights.items()},
        {"x": drawn(2, 5).astype(dtype)},
        divide=lambda sigma: max(1.0, sigma / 1.5),
        bound=1.5,
        clip=True,
        convention="keras",
        state_layout=layout,
        steps=(1, 10),
    )


@pytest.mark.parametrize("weight_as", ["A", "B"])
@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("c", [None, "vector", "matrix"])
@pytest.mark.parametrize("op_type", ["Gemm", "FusedGemm"])
def test_every_gemm(weight_as: str, flip: int, other: int, c: str | None, op_type: str) -> None:
    weight = drawn(5, 7) if (weight_as == "B") != bool(flip) else drawn(7, 5)  # op(W) is [5, 7] as B and [7, 5] as A
    x = drawn(3, 5, seed=1) if weight_as == "B" else drawn(5, 3, seed=1)
    shape = (3, 7) if weight_as == "B" else (7, 3)
    weights = {"w": weight}
    inputs = ["x", "w"] if weight_as == "B" else ["w", "x"]
    if c is not None:
        weights["c"] = drawn(shape[1], seed=2) if c == "vector" else drawn(*shape, seed=2)
        inputs.append("c")
    transposed = {"B": ("transB", "transA"), "A": ("transA", "transB")}[weight_as]
    attributes: dict[str, Any] = dict(zip(transposed, (flip, other), strict=True)) | {"alpha": 0.7, "beta": -1.5}
    if op_type == "FusedGemm":
        attributes |= {"activation": "Tanh", "domain": "com.microsoft"}
    x = x.T.copy() if other else x
    model = network([node(op_type, inputs, ["y"], **attributes)], weights, {"x": x.shape})
    m = weight.T if (weight_as == "B") != bool(flip) else weight  # u on the op's output side
    check(model, {"w": m}, {"x": x}, convention="keras", steps=(1, 10))


@pytest.mark.skipif(ONNXRUNTIME < (1, 28), reason="onnxruntime before 1.28 fails on a FusedConv with a sum")
def test_fused_conv_and_fused_matmul() -> None:
    weight, bias, z = drawn(6, 3, 3, 3), drawn(6, seed=1), drawn(1, 6, 3, 3, seed=2)
    fused = node("FusedConv", ["x", "w", "b", "z"], ["y"], domain="com.microsoft", activation="Relu")
    model = network([fused], {"w": weight, "b": bias, "z": z}, {"x": (1, 3, 5, 5)})
    check(model, {"w": rows(weight)}, {"x": drawn(1, 3, 5, 5)}, convention="keras")
    weight = drawn(7, 5)
    for transposed in (0, 1):
        stored = weight.T.copy() if transposed else weight
        fused = node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", alpha=0.3, transB=transposed)
        model = network([fused], {"w": stored}, {"x": (2, 3, 7)})
        check(model, {"w": weight.T}, {"x": drawn(2, 3, 7)}, convention="keras")


@pytest.mark.parametrize("left", [False, True])
def test_a_vector_keeps_its_rank(left: bool) -> None:
    weight = drawn(5, 7) if left else drawn(7, 5)
    model = network([node("MatMul", ["w", "x"] if left else ["x", "w"], ["y"])], {"w": weight}, {"x": (7,)})
    inserted = check(model, {"w": weight if left else weight.T}, {"x": drawn(7)}, convention="keras")
    assert session(inserted).run(["y"], {"x": drawn(7)})[0].shape == (5,)


@pytest.mark.parametrize("indices", [np.array(2), np.array([[1, -1], [0, 0]])])
def test_gather_of_any_indices(indices: Array) -> None:
    table = drawn(9, 4)
    nodes = [node("Gather", ["w", "x"], ["rows"]), node("Identity", ["rows"], ["y"])]
    model = network(nodes, {"w": table}, {"x": indices.shape}, ("y", "rows"), integers=("x",))
    inserted = check(model, {"w": table.T}, {"x": indices}, convention="keras")
    (site,) = sn.insert(model).sites
    assert any("folding costs nothing" in note for note in site.notes)
    assert [one.name for one in inserted.graph.output][:2] == ["y", "rows"]


def test_attention_and_embeddings_scale_the_weight() -> None:
    weight = drawn(8, 24)
    attention = node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=2)
    model = network([attention], {"w": weight, "b": drawn(24, seed=1)}, {"x": (1, 3, 8)})
    inserted = check(model, {"w": weight.T}, {"x": drawn(1, 3, 8)}, convention="keras")
    assert "sn/w/weight" in [one.output[0] for one in inserted.graph.node]

    tables = {name: drawn(size, 6, seed=size) for name, size in (("word", 9), ("position", 5), ("segment", 2))}
    embed = node("EmbedLayerNormalization", ["x", "s", *tables, "gamma", "beta"], ["y", "m"], domain="com.microsoft")
    weights = {**tables, "gamma": drawn(6), "beta": drawn(6, seed=1)}
    model = network([embed], weights, {"x": (2, 3), "s": (2, 3)}, ("y",), integers=())
    for one in model.graph.input:
        one.type.tensor_type.elem_type = onnx.TensorProto.INT32
    ids = {"x": np.array([[1, 2, 8], [0, 4, 4]], np.int32), "s": np.array([[0, 1, 1], [0, 0, 1]], np.int32)}
    check(model, {name: table.T for name, table in tables.items()}, ids, convention="keras")


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("opset", [7, 14, NEWEST])
def test_recurrent(op_type: str, gates: int, opset: int) -> None:
    w, r = drawn(2, gates * 3, 5), drawn(2, gates * 3, 3, seed=1)
    recurrent = node(op_type, ["x", "w", "r"], ["y"], hidden_size=3, direction="bidirectional")
    model = network([recurrent], {"w": w, "r": r}, {"x": (4, 2, 5)}, opset=opset)
    with_types: dict[str, Any] = {"op_types": [op_type], "convention": "keras"}
    matrices = {"w": w.reshape(-1, 5), "r": r.reshape(-1, 3)}
    check(model, matrices, {"x": drawn(4, 2, 5)}, **with_types, steps=(1, 10))
    assert {site.status for site in sn.insert(model).sites} == {"skipped"}


# Types


HALVES = {"float16": (np.dtype(np.float16), 2.0**-11), "bfloat16": (np.dtype(ml_dtypes.bfloat16), 2.0**-8)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float16(case: Case) -> None:
    """σ and X/σ, or the rows, are rounded to float16 once each, W/σ of the reference and the output too."""
    model, weight, x = of_case(case, dtype="float16")
    m = case.matrix(weight, "keras")
    check(model, {"w": m}, {"x": x}, convention="keras", tolerance=4 * 2.0**-11, state_tolerance=1e-5)


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm", "Conv", "Gather"])
def test_bfloat16_by_onnx_own_evaluator(op_type: str) -> None:
    """onnxruntime has no kernels for it on the CPU; four roundings as for float16."""
    dtype, eps = HALVES["bfloat16"]
    weight = drawn(6, 4, 3, 3) if op_type == "Conv" else drawn(7, 5)
    shape = (1, 4, 5, 5) if op_type == "Conv" else (3, 7)
    inputs = ["w", "x"] if op_type == "Gather" else ["x", "w"]
    integers = ("x",) if op_type == "Gather" else ()
    model = network(
        [node(op_type, inputs, ["y"])],
        {"w": weight.astype(dtype)},
        {"x": shape},
        opset=22,
        ir=10,
        dtype="bfloat16",
        integers=integers,
    )
    x = np.array([[0, 3], [6, 2]]) if integers else drawn(*shape, seed=1).astype(dtype)
    result = sn.insert(model, convention="keras", power_iterations=2)
    m = rows(weight.astype(dtype)) if op_type == "Conv" else weight.astype(dtype).T
    sigma, u = power_iteration(m, seeded("w", len(m)), 2)
    start = {"sn_u": seeded("w", len(m)).astype(np.float32).reshape(-1, 1)}
    y, u_next, sigmas = evaluated(result.to_proto(), {"x": x, **start})
    close(u_next, u.reshape(-1, 1), 1e-5, "u")
    close(sigmas, np.array([sigma]), 1e-5, "σ")
    close(y, evaluated(divided(model, {"w": sigma}), {"x": x})[0], 4 * eps, "y")


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.op_type in ("MatMul", "Gemm", "Gather")], ids=lambda c: c.name
)
def test_float64(case: Case) -> None:
    """The iteration runs in float64; between runs u is float32, which the reference's is not: 1e-7 of it."""
    model, weight, x = of_case(case, dtype="float64")
    m = case.matrix(weight, "keras")
    inserted = check(model, {"w": m}, {"x": x}, convention="keras", tolerance=1e-6)
    y, _, sigmas = session(inserted).run(None, {"x": x})
    sigma, _ = power_iteration(m, seeded("w", len(m)))
    expected = session(divided(model, {"w": sigma})).run(None, {"x": x})[0]
    close(y, expected, 1e-14, "the first step in float64")
    close(sigmas, np.array([sigma]), 1e-7, "σ goes out as float32")


# Parameters


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("bound", [0.5, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("scale", ["input", "weight"])
def test_bound_and_clip(bound: float, clip: bool, scale: str) -> None:
    case = CASES[1]
    model, weight, x = of_case(case)
    inserted = check(
        model,
        {"w": rows(weight)},
        {"x": x},
        divide=lambda sigma: max(1.0, sigma / bound) if clip else sigma / bound,
        bound=bound,
        clip=clip,
        scale=scale,
        convention="keras",
        steps=(1, 10),
    )
    assert inserted.metadata_props[0].value.count('"clip": true') == clip


@pytest.mark.parametrize("layout", ["packed", "per-weight"])
@pytest.mark.parametrize("mode", ["default", "required"])
@pytest.mark.parametrize("scale", ["input", "weight"])
def test_layouts_modes_and_scales(layout: StateLayoutChoice, mode: str, scale: str) -> None:
    weights = {"conv/kernel": drawn(4, 2, 3, 3), "up/kernel": drawn(4, 3, 2, 2, seed=1)}
    nodes = [node("Conv", ["x", "conv/kernel"], ["h"]), node("ConvTranspose", ["h", "up/kernel"], ["y"])]
    model = network(nodes, weights, {"x": ("n", 2, 6, 6)})
    matrices = {"conv/kernel": rows(weights["conv/kernel"]), "up/kernel": second(weights["up/kernel"])}
    more: dict[str, Any] = {"state_layout": layout, "state_mode": mode, "scale": scale, "convention": "torch"}
    check(model, matrices, {"x": drawn(3, 2, 6, 6)}, seed=9, **more, steps=(1, 10))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    convention=st.sampled_from(CONVENTIONS),
    k=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_any_shape(shape: list[int], convention: str, k: int, seed: int) -> None:
    """MatMul of any rank on the right; Conv, whose kernel has as many axes, of one group."""
    weight = drawn(*shape, seed=seed)
    matmul = network([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, {"x": (3, shape[-2])})
    m = weight.reshape(-1, shape[-1]).T
    x = drawn(3, shape[-2], seed=1)
    check(matmul, {"w": m.T if "param" in convention else m}, {"x": x}, k=k, convention=convention, steps=(1,))
    if len(shape) > 2:
        size = (2, shape[1], *(extent + 1 for extent in shape[2:]))
        conv = network([node("Conv", ["x", "w"], ["y"])], {"w": weight}, {"x": size})
        m = rows(weight)
        m = m.T if "param" in convention else m
        check(conv, {"w": m}, {"x": drawn(*size, seed=2)}, k=k, convention=convention, steps=(1,))


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_onnxruntime_does_not_fold_the_state(level: str, layout: StateLayoutChoice) -> None:
    case = CASES[8]
    model, weight, x = of_case(case, ir=3)
    inserted = sn.insert(model, convention="keras", state_layout=layout).to_proto()
    running = session(inserted, level)
    name = "sn_u" if layout == "packed" else "w.sn_u"
    for seed in range(3):
        u = drawn(5, 1, seed=seed)
        given_back, sigma = running.run([f"{name}.next", name.replace("sn_u", "sn_sigma")], {"x": x, name: u})
        expected, u_next = power_iteration(weight.T, u[:, 0])
        close(given_back, u_next.reshape(-1, 1), 1e-5, "u")
        close(sigma, np.array([expected]), 1e-5, "σ")


def test_the_reference_divides_what_it_says() -> None:
    """The checker itself can fail."""
    case = CASES[8]
    model, weight, x = of_case(case)
    with pytest.raises(AssertionError, match="y of step 1"):
        check(model, {"w": weight.T}, {"x": x}, divide=lambda sigma: sigma * 1.0001, convention="keras")
    with pytest.raises(AssertionError, match="u of step 1"):
        check(model, {"w": weight.T + 1e-3}, {"x": x}, tolerance=1, state_tolerance=1e-5, convention="keras")
    assert numpy_helper.to_array(divided(model, {"w": 2.0}).graph.initializer[0])[0, 0] == weight[0, 0] / 2
