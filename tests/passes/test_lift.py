from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import sn_graph as sn
from sn_graph.choices import ScaleChoice
from sn_graph.model import Model
from sn_graph.passes import LiftResult
from sn_graph.sites import find_sites
from tests.support.builders import Array, drawn, initializers, node, value
from tests.support.exported import biggan, convolution, in_eval, in_train, linear, power, rows_of, stored
from tests.support.oracle import sigma_max
from tests.support.runs import run

CONV = (8, 6, 3, 3)
# One rounding of σ in float32 beyond those of the products; W/σ and W·(1/σ) differ by another.
OUTPUTS = 1e-6


def agree(source: onnx.ModelProto, lifted: onnx.ModelProto, tolerance: float = OUTPUTS) -> None:
    """The outputs are the same within a part of the largest value."""
    feeds: dict[str, Array] = {}
    stored_too = {tensor.name for tensor in source.graph.initializer}
    for one in (one for one in source.graph.input if one.name not in stored_too):
        dtype = helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type)
        sizes = [dim.dim_value or 2 for dim in one.type.tensor_type.shape.dim]
        feeds[one.name] = np.ones(sizes, bool) if dtype.kind == "b" else drawn(*sizes, seed=5, dtype=dtype)
    for before, after in zip(run(source, feeds), run(lifted, feeds), strict=True):
        wide = before.astype(np.float64)
        assert np.abs(wide - after.astype(np.float64)).max() <= tolerance * np.abs(wide).max()


def lifted_of(source: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, LiftResult]:
    before = source.SerializeToString()
    result = sn.lift(source, **options)
    assert isinstance(result, LiftResult)
    assert source.SerializeToString() == before
    return result.to_proto(), result


@pytest.mark.parametrize(
    "build", [in_eval, in_train, biggan, lambda w: in_eval(w, 1), lambda w: in_train(w, 2, parametrization=True)]
)
def test_nothing_is_left_but_the_weight(build: Callable[[Array], Any]) -> None:
    source = convolution(build(drawn(*CONV)))
    made, result = lifted_of(source)
    agree(source, made)
    assert [one.op_type for one in made.graph.node] == ["Conv"]
    assert {tensor.name for tensor in made.graph.initializer} == {"c.weight", "c.bias"}
    assert [(site.id, site.status) for site in result.sites] == [("c.weight", "lifted")]
    assert not any(site.is_computed for site in find_sites(Model.open(made)))


def test_half_precision_is_rounded_as_the_graph_rounds() -> None:
    source = convolution(in_eval(drawn(*CONV, dtype=np.float16)))
    made, _ = lifted_of(source)
    assert initializers(made)["c.weight"].dtype == np.float16
    agree(source, made, float(np.finfo(np.float16).eps))


def test_exact() -> None:
    w = drawn(*CONV)
    made, result = lifted_of(convolution(in_eval(w)), sigma="exact")
    sigma = sigma_max(rows_of(w))
    assert result.sites[0].sigma_used == pytest.approx(sigma, rel=1e-6)
    np.testing.assert_allclose(initializers(made)["c.weight"], w / sigma, rtol=1e-6)


def test_exact_below_a_cap_leaves_the_weight() -> None:
    w = drawn(*CONV)
    nodes, weights = in_eval(w)
    nodes[-1:] = [
        node("Div", ["sigma", "cap"], ["over"]),
        node("Max", ["one", "over"], ["most"]),
        node("Div", ["c.weight_orig", "most"], ["w"]),
    ]
    weights |= {"cap": np.float32(1e3), "one": np.ones(1, np.float32)}
    made, _ = lifted_of(convolution((nodes, weights)), sigma="exact")
    np.testing.assert_array_equal(initializers(made)["c.weight"], w)


def test_what_else_reads_the_parts_keeps_them() -> None:
    """u is an output, and the weight is read by another node: they stay as they were."""
    nodes, weights = in_eval(drawn(*CONV))
    source = convolution((nodes, weights))
    source.graph.node.append(node("Identity", ["c.weight_u"], ["u_out"]))
    source.graph.node.append(node("ReduceMax", ["c.weight_orig"], ["largest"]))
    source.graph.output.extend([value("u_out"), value("largest")])
    made, _ = lifted_of(source)
    agree(source, made)
    kept = initializers(made)
    assert set(kept) == {"c.weight_orig", "c.weight_u", "c.bias", "c.weight"}
    assert kept["c.weight_orig"].tobytes() == weights["c.weight_orig"].tobytes()


def test_a_taken_name() -> None:
    nodes, weights = in_eval(drawn(*CONV))
    source = convolution((nodes, weights))
    source.graph.node.append(node("Identity", ["c.weight_orig"], ["c.weight"]))
    source.graph.output.append(value("c.weight"))
    made, result = lifted_of(source)
    agree(source, made)
    assert result.sites[0].weight == "c.weight_1"


def test_the_weight_is_an_output_too() -> None:
    source = convolution(in_eval(drawn(*CONV)))
    source.graph.output.append(value("w"))
    made, _ = lifted_of(source)
    agree(source, made)
    assert [one.name for one in made.graph.output] == ["y", "w"]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_initializers_that_are_inputs(ir_version: int) -> None:
    source = convolution(in_eval(drawn(*CONV)), opset=9)
    source.ir_version = ir_version
    for tensor in source.graph.initializer:
        source.graph.input.append(value(tensor.name, list(tensor.dims), tensor.data_type))
    made, _ = lifted_of(source)
    agree(source, made)
    assert [one.name for one in made.graph.input] == ["x", "c.bias", "c.weight"]


def test_two_sigmas_of_one_weight() -> None:
    """A layer that is called twice in train mode: two weights in the lifted file."""
    w = drawn(*CONV)
    nodes, weights = in_train(w, 2)
    nodes += [
        node("MatMul", ["m", "v0"], ["mv_first"]),
        node("MatMul", ["u0", "mv_first"], ["sigma_first"]),
        node("Div", ["c.weight_orig", "sigma_first"], ["w_first"]),
        node("Conv", ["x", "w_first"], ["z"]),
    ]
    source = convolution((nodes, weights))
    source.graph.output.append(value("z"))
    made, result = lifted_of(source)
    agree(source, made)
    assert sorted(site.weight for site in result.sites) == ["c.weight", "c.weight_1"]
    found = initializers(made)
    sigmas = {power(rows_of(w), stored(w)[0], k)[0] for k in (1, 2)}
    given = {float(np.abs(w).max() / np.abs(found[name]).max()) for name in ("c.weight", "c.weight_1")}
    assert sorted(given) == pytest.approx(sorted(sigmas), rel=1e-6)


def test_two_divisions_by_one_sigma_are_one_weight() -> None:
    nodes, weights = in_eval(drawn(*CONV))
    nodes += [node("Div", ["c.weight_orig", "sigma"], ["again"]), node("Conv", ["x", "again"], ["z"])]
    source = convolution((nodes, weights))
    source.graph.output.append(value("z"))
    made, _ = lifted_of(source)
    agree(source, made)
    assert set(initializers(made)) == {"c.weight", "c.bias"}


def test_a_transposed_weight_is_stored_as_it_is_read() -> None:
    w = drawn(8, 6)
    nodes, weights = in_eval(w)
    source = linear(([*nodes, node("Transpose", ["w"], ["t"], perm=[1, 0])], weights))
    source.graph.node[-1].CopyFrom(node("MatMul", ["x", "t"], ["p"]))
    source.graph.node.append(node("Add", ["p", "c.bias"], ["y"]))
    made, _ = lifted_of(source)
    agree(source, made)
    assert [one.op_type for one in made.graph.node] == ["MatMul", "Add"]
    assert initializers(made)["c.weight"].shape == (6, 8)


@pytest.mark.parametrize(
    ("original", "bias", "wanted"),
    [
        ("c.parametrizations.weight.original", "b", "c.weight"),
        ("onnx::MatMul_7", "layers.0.bias", "layers.0.weight"),
        ("gen.module.weight_bar", "b", "gen.module.weight"),
        ("lstm.weight_ih_l0_orig", "b", "lstm.weight_ih_l0"),
        ("own.kernel", "own.bias", "own.kernel"),
    ],
)
def test_names(original: str, bias: str, wanted: str) -> None:
    nodes, weights = in_eval(drawn(*CONV))
    source = convolution((nodes, weights))
    renamed = {"c.weight_orig": original, "c.bias": bias, "c.weight_u": "U", "c.weight_v": "V"}
    for one in source.graph.node:
        one.input[:] = [renamed.get(name, name) for name in one.input]
    for tensor in source.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    made, _ = lifted_of(source)
    agree(source, made)
    assert wanted in initializers(made)


def in_body(parts: Any) -> onnx.ModelProto:
    proto = convolution(parts)
    out = [value("y")]
    body = helper.make_graph(list(proto.graph.node), "then", [], out)
    other = helper.make_graph([node("Conv", ["x", "c.weight_orig"], name="plain")], "else", [], out)
    del proto.graph.node[:]
    proto.graph.node.append(node("If", ["which"], ["y"], name="if", then_branch=body, else_branch=other))
    proto.graph.input.append(value("which", [], onnx.TensorProto.BOOL))
    return proto


def test_in_a_body_of_captured_constants() -> None:
    """The other branch reads the plain weight, which therefore stays."""
    source = in_body(in_eval(drawn(*CONV)))
    made, result = lifted_of(source)
    agree(source, made)
    assert {"c.weight", "c.weight_orig"} <= set(initializers(made))
    assert "c.weight_u" not in initializers(made)
    assert {site.status for site in result.sites} == {"lifted", "unchanged"}


def test_in_a_function_of_its_own_constants() -> None:
    nodes, weights = in_eval(drawn(*CONV))
    constants = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(array), name))
        for name, array in weights.items()
    ]
    imports = [helper.make_opsetid("", 17)]
    body = [*constants, *nodes, node("Conv", ["x", "w"], ["y"])]
    function = helper.make_function("own", "layer", ["x"], ["y"], body, imports)
    graph = helper.make_graph(
        [node("layer", ["x"], ["y"], domain="own")], "g", [value("x", ["n", 6, 7, 7])], [value("y")]
    )
    opsets = [*imports, helper.make_opsetid("own", 1)]
    source = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)
    made, result = lifted_of(source)
    agree(source, made)
    assert [one.op_type for one in made.functions[0].node] == ["Constant", "Conv"]
    assert result.sites[0].status == "lifted"


def test_filters_find_the_frameworks_name_and_the_files() -> None:
    source = convolution(in_eval(drawn(*CONV)))
    for pattern in ("^c.weight$", "weight_orig", "^w$"):
        assert lifted_of(source, include=[pattern])[1].settled
        made, result = lifted_of(source, exclude=[pattern])
        assert not result.settled
        assert made == source
    with pytest.raises(sn.UsageError, match="regular expression"):
        sn.lift(source, include=["("])


def test_weight_norm() -> None:
    v, g = drawn(*CONV), np.abs(drawn(8, 1, 1, 1, seed=1)) + 0.5
    nodes = [
        node("ReduceL2", ["c.weight_v"], ["norm"], axes=[1, 2, 3], keepdims=1),
        node("Div", ["c.weight_v", "norm"], ["unit"]),
        node("Mul", ["unit", "c.weight_g"], ["w"]),
    ]
    source = convolution((nodes, {"c.weight_v": v, "c.weight_g": g}))
    made, _ = lifted_of(source)
    agree(source, made)
    assert set(initializers(made)) == {"c.weight", "c.bias"}


@pytest.mark.parametrize("kind", ["mask", "frobenius", "second"])
def test_what_is_no_spectral_norm_stays_byte_for_byte(kind: str) -> None:
    w = drawn(8, 6)
    left, _, right = np.linalg.svd(w)
    nodes = {
        "mask": [node("Mul", ["c.weight", "mask"], ["w"])],
        "frobenius": [node("ReduceL2", ["c.weight"], ["d"], keepdims=0), node("Div", ["c.weight", "d"], ["w"])],
        "second": [
            node("MatMul", ["c.weight", "v1"], ["mv"]),
            node("MatMul", ["u1", "mv"], ["d"]),
            node("Div", ["c.weight", "d"], ["w"]),
        ],
    }[kind]
    more = {"mask": {"mask": (w > 0).astype(w.dtype)}, "second": {"u1": left[:, 1], "v1": right[1]}}.get(kind, {})
    source = linear((nodes, {"c.weight": w, **more}))
    made, result = lifted_of(source)
    assert made.SerializeToString() == source.SerializeToString()
    assert result.sites[0].reason


def test_batchnorm_stays_in_the_arithmetic_that_is_its_own() -> None:
    """A scale for each channel behind the division goes into the weight; σ is that of the weight before."""
    w = drawn(*CONV)
    nodes, weights = in_eval(w)
    nodes[-1].output[0] = "normalized"
    nodes.append(node("Mul", ["normalized", "scale"], ["w"]))
    weights["scale"] = np.abs(drawn(8, 1, 1, 1, seed=4)) + 0.5
    source = convolution((nodes, weights))
    made, _ = lifted_of(source)
    agree(source, made)
    assert set(initializers(made)) == {"c.weight", "c.bias"}


def given(calls: int) -> onnx.ModelProto:
    """A local function that normalizes the weight that its calls give, each its own."""
    nodes, weights = in_eval(drawn(*CONV))
    names = list(weights)
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function(
        "own", "layer", ["x", *names], ["y"], [*nodes, node("Conv", ["x", "w"], ["y"])], imports
    )
    made: dict[str, Any] = {}
    body = []
    for call in range(calls):
        _, own = in_eval(drawn(*CONV, seed=call), prefix="c.")
        made |= {f"layers.{call}.{name[2:] if name.startswith('c.') else name}": array for name, array in own.items()}
        inputs = [f"layers.{call}.{name[2:] if name.startswith('c.') else name}" for name in names]
        body.append(node("layer", ["x", *inputs], [f"y{call}"], domain="own", name=f"call{call}"))
    graph = helper.make_graph(
        body,
        "g",
        [value("x", ["n", 6, 7, 7])],
        [value(f"y{call}") for call in range(calls)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in made.items()],
    )
    opsets = [*imports, helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_function_that_is_given_its_weight(calls: int) -> None:
    source = given(calls)
    made, result = lifted_of(source)
    agree(source, made)
    wanted = {f"layers.{call}.weight" for call in range(calls)}
    assert wanted == {site.weight for site in result.sites if site.status == "lifted"}
    assert set(initializers(made)) == wanted
    assert not made.functions


@pytest.mark.parametrize("calls", [1, 2])
def test_a_function_that_is_given_its_weight_is_not_normalized_by_accident(calls: int) -> None:
    """Its products read nothing but constants, so they are no layers."""
    source = given(calls)
    for result in (sn.fold(source), sn.insert(source)):
        assert {site.status for site in result.sites} == {"skipped"}


@pytest.mark.parametrize("scale", ["input", "weight"])
def test_our_own_iteration_is_not_an_exporters(scale: ScaleChoice) -> None:
    inserted = sn.insert(
        convolution(([node("Identity", ["c.weight"], ["w"])], {"c.weight": drawn(*CONV)})), scale=scale
    )
    with pytest.raises(sn.ModelError, match="holds an inserted iteration"):
        sn.lift(inserted.to_proto())
