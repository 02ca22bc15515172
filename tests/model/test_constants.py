"""Which values are constants, and which of them look like an exported spectral norm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from sn_graph.model import ConstantValues, Graph, constants, sparse_constants
from tests.support.builders import MICROSOFT, constant, drawn, function, graph, model, node, only_site, sites

LIFT = "computed in the graph; looks like an exported spectral norm: run lift first"
W, U, V = drawn(4, 6), drawn(4, seed=1), drawn(6, seed=2)


def reason(nodes: Sequence[onnx.NodeProto], **initializers: np.ndarray) -> str | None:
    """Why the Gemm weight `n` that `nodes` compute is skipped."""
    found = only_site(model([*nodes, node("Gemm", ["x", "n"], transB=1)], {"w": W, "u": U, "v": V, **initializers}))
    assert (found.id, found.status, found.view, found.site.shape) == ("n", "skipped", None, None)
    return found.reason


SIGMA = [node("MatMul", ["w", "v"], ["wv"]), node("MatMul", ["u", "wv"], ["sigma"])]


@pytest.mark.parametrize(
    "nodes",
    [
        [*SIGMA, node("Div", ["w", "sigma"], ["n"])],
        [*SIGMA, node("Reciprocal", ["sigma"], ["r"]), node("Mul", ["w", "r"], ["n"])],
        [*SIGMA, node("Reciprocal", ["sigma"], ["r"]), node("Mul", ["r", "w"], ["n"])],
        [*SIGMA, node("Transpose", ["w"], ["t"]), node("Div", ["t", "sigma"], ["d"]), node("Transpose", ["d"], ["n"])],
        [*SIGMA, node("Expand", ["sigma", "shape"], ["e"]), node("Div", ["w", "e"], ["n"])],
        [
            node("Einsum", ["u", "w", "v"], ["sigma"], equation="i,ij,j->"),
            node("Div", ["w", "sigma"], ["d"]),
            node("Identity", ["d"], ["n"]),
        ],
    ],
)
def test_spectral_norm_arithmetic(nodes: list[onnx.NodeProto]) -> None:
    assert reason(nodes, shape=np.array([4, 6])) == LIFT


@pytest.mark.parametrize(
    ("nodes", "by"),
    [
        # weight norm: g * w / |w|
        (
            [node("ReduceL2", ["w"], ["l"]), node("Div", ["w", "l"], ["d"]), node("Mul", ["d", "g"], ["n"])],
            "by Mul, Div, ReduceL2 (first node 'ReduceL2#0', last 'Mul#2'); simplify",
        ),
        # equalised learning rate, a mask, a low-rank update, a product of factors with a scale
        ([node("Mul", ["w", "g"], ["n"])], "by Mul (node 'Mul#0'); simplify the model first"),
        ([node("Mul", ["w", "w"], ["n"], name="mask")], "by Mul (node 'mask')"),
        ([node("MatMul", ["a", "b"], ["ab"]), node("Add", ["w", "ab"], ["n"])], "by Add, MatMul (first"),
        ([node("MatMul", ["a", "b"], ["ab"]), node("Mul", ["ab", "g"], ["n"])], "by Mul, MatMul (first"),
        ([node("Add", ["w", "w"], ["n"])], "by Add (node"),
        (
            [node("Slice", ["w", "from", "to"], ["c"]), node("Tile", ["c", "two"], ["n"])],
            "by Tile, Slice (first node 'Slice#0', last 'Tile#1'), so it is a part of stored tensors",
        ),
        ([node("Concat", ["w", "w"], ["n"], axis=0)], "by Concat (node 'Concat#0'), so it is a part"),
        (
            [
                node("Mul", ["w", "w"], ["m"]),
                node("QuantizeLinear", ["m", "g", "zero"], ["q"]),
                node("DequantizeLinear", ["q", "g", "zero"], ["n"]),
            ],
            "by DequantizeLinear, QuantizeLinear, Mul (first node 'Mul#0', last 'DequantizeLinear#2'), which "
            "quantizes it there; fold before quantizing",
        ),
        ([node("ConstantOfShape", ["to"], ["n"])], "ConstantOfShape (node 'ConstantOfShape#0') fills it with 0, so"),
        (
            [
                node("ConstantOfShape", ["to"], ["c"], value=helper.make_tensor("v", 1, [1], [0.25])),
                node("Transpose", ["c"], ["n"]),
            ],
            "ConstantOfShape (node 'ConstantOfShape#0') fills it with 0.25, so it holds no trained values; export",
        ),
        (
            [node("ConstantOfShape", ["to"], ["c"]), node("Add", ["c", "w"], ["n"])],
            "by Add, ConstantOfShape (first node 'ConstantOfShape#0', last 'Add#1'); simplify",
        ),
        (
            [
                node("ConstantOfShape", ["two"], ["c"]),
                node("Reshape", ["w", "c"], ["r"]),
                node("Add", ["r", "r"], ["n"]),
            ],
            "by Add, Reshape, ConstantOfShape (first",
        ),
    ],
)  # fmt: skip
def test_other_arithmetic(nodes: list[onnx.NodeProto], by: str) -> None:
    given = {"from": np.array([0, 0]), "to": np.array([2, 6]), "two": np.array([2]), "zero": np.array(0, np.int8)}
    found = reason(nodes, g=np.array(2, np.float32), a=drawn(4, 2), b=drawn(2, 6), **given) or ""
    assert found.startswith("computed in the graph")
    assert by in found


@pytest.mark.parametrize("domain", ["acme", MICROSOFT])
@pytest.mark.parametrize("inputs", [[], ["w"]])
def test_what_an_unknown_operator_receives_is_no_constant(domain: str, inputs: list[str]) -> None:
    """com.microsoft has a Recv too, whose inputs may all be constants."""
    nodes = [node("Recv", inputs, ["n"], domain=domain), node("Gemm", ["x", "n"], transB=1)]
    made = model(nodes, {"w": W})
    index = Graph(made.proto)
    assert not ConstantValues(index).holds(index.main, "n")
    found = sites(made)
    assert "n" not in found
    if inputs and domain == "acme":  # what it does with the weight is not known
        assert "acme::Recv is no operator that sn-graph knows" in (found["w"].reason or "")


def test_what_a_function_makes_is_as_constant_as_what_its_body_makes() -> None:
    held = function("Held", [], [constant("y", W)])
    receiving = function("Receiving", ["a"], [node("Recv", ["a"], domain="acme")], domains={"acme": 1})
    outer = function("Outer", ["a"], [node("Receiving", ["a"], domain="local")])
    drawing = function("Drawing", ["a"], [node("RandomNormalLike", ["a"])])
    nodes = [
        node("Held", [], ["h"], domain="local"),
        *(node(name, ["w"], [name.lower()], domain="local") for name in ("Receiving", "Outer", "Drawing")),
        node("MatMul", ["x", "h"]),
    ]
    made = model(nodes, {"w": W}, functions=[held, receiving, outer, drawing])
    index = Graph(made.proto)
    values = ConstantValues(index)
    assert [values.holds(index.main, name) for name in ("h", "receiving", "outer", "drawing")] == [True, *[False] * 3]
    assert "by Held (node 'Held#0')" in (sites(made)["h"].reason or "")


def test_a_value_that_depends_on_an_input_is_no_weight() -> None:
    assert not sites(model([node("Mul", ["w", "x"], ["n"]), node("MatMul", ["x", "n"])], {"w": W}))
    noise = [node("RandomNormal", [], ["n"], shape=[4, 6]), node("MatMul", ["x", "n"])]
    assert not sites(model(noise))
    noisy = [node("RandomNormalLike", ["w"], ["n"]), node("MatMul", ["x", "n"])]
    assert not sites(model(noisy, {"w": W}))


def test_computed_by_a_function() -> None:
    double = function("Double", ["a"], [node("Add", ["a", "a"])])
    nodes = [node("Double", ["w"], ["n"], domain="local"), node("MatMul", ["x", "n"])]
    found = only_site(model(nodes, {"w": W}, functions=[double])).reason or ""
    assert found.startswith("computed in the graph by Double (node 'Double#0'); simplify the model first (onnxsim")


def test_a_node_whose_inputs_are_all_constants_holds_no_weight() -> None:
    nodes = [
        node("MatMul", ["w", "v"], ["wv"]),
        node("Identity", ["k"], ["i"]),
        node("Conv", ["i", "c", ""], ["ck"]),
        node("Add", ["x", "wv"], ["h"]),
        node("Add", ["h", "ck"]),
    ]
    made = model(nodes, {"w": W, "v": V, "k": drawn(1, 3, 4, 4), "c": drawn(2, 3, 2, 2)})
    assert not sites(made)


@pytest.mark.parametrize(
    ("shape", "listed"), [(None, True), ((5, 3), True), ((5,), False), ((5, 3, 2), False)], ids=str
)
def test_declared_shape_of_a_computed_table(shape: tuple[int, ...] | None, listed: bool) -> None:
    made = model([node("Add", ["w", "w"], ["n"]), node("Gather", ["n", "x"])], {"w": W})
    if shape is not None:
        made.proto.graph.value_info.append(helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, shape))
    found = list(sites(made).values())
    assert bool(found) is listed
    if listed:
        assert found[0].site.shape == shape


def test_computed_values_that_are_no_floats_or_no_weight() -> None:
    made = model([node("Add", ["w", "w"], ["n"]), node("Gather", ["n", "x"])], {"w": np.ones((3, 4), np.int64)})
    made.proto.graph.value_info.append(helper.make_tensor_value_info("n", onnx.TensorProto.INT64, None))
    assert not sites(made)
    assert not sites(model([node("Add", ["w", "w"], ["n"]), node("Gather", ["n", "x"], axis=1)], {"w": W}))


def test_constants_of_every_scope() -> None:
    body = graph([constant("c", W), node("Identity", ["c"])], {"i": V})
    made = model(  # make_node sorts the branches by name
        [constant("m", W), node("If", ["x"], ["y"], name="If_0", then_branch=body, else_branch=body)],
        {"w": W},
        functions=[function("F", ["a"], [constant("f", W)])],
    )
    found = [(scope.id, name, held) for scope, name, _, held in constants(Graph(made.proto))]
    assert found == [
        ("", "w", False),
        ("", "m", True),
        ("If_0/else_branch", "i", False),
        ("If_0/else_branch", "c", True),
        ("If_0/then_branch", "i", False),
        ("If_0/then_branch", "c", True),
        ("local::F", "f", True),
    ]


def test_sparse_constants() -> None:
    values = helper.make_tensor("s", onnx.TensorProto.FLOAT, [1], [2.0])
    indices = helper.make_tensor("at", onnx.TensorProto.INT64, [1], [3])
    sparse = helper.make_sparse_tensor(values, indices, [3, 4])
    held = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    made = model([held, node("MatMul", ["x", "s"], ["h"]), node("MatMul", ["h", "c"])])
    made.proto.graph.sparse_initializer.append(sparse)
    assert [name for _, name, _ in sparse_constants(Graph(made.proto))] == ["s", "c"]
    for site in sites(made).values():
        assert (site.status, site.site.shape, site.site.dtype) == ("eligible", (3, 4), "float32")
    assert list(sites(made)) == ["s", "c"]


def test_constant_values_in_subgraphs() -> None:
    body = graph([node("Add", ["w", "w"], ["n"]), node("MatMul", ["x", "n"], ["z"])], {}, (), ("z",))
    made = model([node("If", ["x"], ["y"], name="If_0", then_branch=body, else_branch=body)], {"w": W})
    index = Graph(made.proto)
    values = ConstantValues(index)
    branch = index.scopes[1]
    assert values.holds(branch, "w")
    assert values.holds(branch, "n")
    assert not values.holds(branch, "x")
    assert not values.holds(branch, "nothing")
    assert list(sites(made)) == ["If_0/else_branch::n", "If_0/then_branch::n"]


def test_a_long_chain_of_functions() -> None:
    """Each calls the next, and the last one receives."""
    functions = [function(f"F{place}", ["a"], [node(f"F{place + 1}", ["a"], domain="local")]) for place in range(3000)]
    functions.append(function("F3000", ["a"], [node("Recv", ["a"], domain="acme")]))
    index = Graph(model([node("F0", ["w"], ["n"], domain="local")], {"w": W}, functions=functions).proto)
    assert not ConstantValues(index).holds(index.main, "n")
