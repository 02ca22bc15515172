"""Building a network: what is asked, the sizes it may have, and that samples go their own way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sn_graph.certify import Network, network_of
from sn_graph.certify.product import output_bound, product_bounds
from sn_graph.certify.steps import Unbounded
from sn_graph.errors import ModelError, UsageError
from sn_graph.model import Model
from tests.support import builders
from tests.support.builders import drawn
from tests.support.certified import constant, network, nodes, one_node, whole

F = np.float32


def shape(*sizes: int) -> Any:
    return np.array(sizes, np.int64)


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_a_network_of_samples_apart_holds_one(batch: int | str) -> None:
    made = network(nodes(("Relu", ["x"], "h"), ("MatMul", ["h", "w"], "y"), x=(batch, 5), held={"w": drawn(5, 3)}))
    assert made.samples == 1
    assert made.is_per_sample
    assert made.sources[0].shape == (1, 5)
    assert made.sources[0].stored_shape == (4 if batch == 4 else 1, 5)
    assert not made.open


def test_an_axis_of_1_before_the_samples_does_not_hide_them() -> None:
    model = nodes(
        ("Unsqueeze", ["x", "0"], "h"),
        ("Relu", ["h"], "r"),
        ("Squeeze", ["r", "0"], "y"),
        x=("N", 4),
        held={"0": shape(0)},
    )
    assert network(model).is_per_sample


MIXING = {
    "a sum over samples": nodes(("ReduceMean", ["x"], "y", {"axes": [0]}), x=("N", 4)),
    "a matrix from the left": nodes(("MatMul", ["w", "x"], "y"), x=(3, 4), held={"w": drawn(3, 3)}),
    "samples in one row": nodes(
        ("Reshape", ["x", "s"], "h"), ("Softmax", ["h"], "y"), x=(3, 4), held={"s": shape(1, 12)}
    ),
    "a bias of each sample": nodes(("Add", ["x", "b"], "y"), x=(3, 4), held={"b": drawn(3, 4)}),
    "a factor of each sample": nodes(("Mul", ["x", "b"], "y"), x=(3, 4), held={"b": drawn(3, 4)}),
    "softmax over samples": nodes(("Softmax", ["x"], "y", {"axis": 0}), x=(3, 4)),
}


def test_a_batch_that_is_not_what_one_sample_would_be_is_whole() -> None:
    """Expand repeats a single sample, and leaves three as they are."""
    model = one_node("Expand", (3, 1), shape(3, 4))
    made = network(model)
    assert made.samples == 3
    assert constant(made) == 2.0


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_meet_stay_together(name: str) -> None:
    model = MIXING[name]
    if model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_param"):
        made = network(model)
        assert made.open == ("N",)
        assert constant(made) == 1.0  # 1/√n, whatever n: the supremum is at n = 1
    else:
        made = network(model)
        assert made.sources[0].shape[0] == 3
    assert made.samples != 1


def by_size(*parts: Any, **held: Any) -> onnx.ModelProto:
    return nodes(("Shape", ["x"], "size"), *parts, x=("N", 4), held=held)


def test_shapes_computed_of_the_batch_are_followed() -> None:
    model = by_size(
        ("Gather", ["size", "0"], "n"),
        ("Unsqueeze", ["n", "axes"], "n1"),
        ("Concat", ["n1", "two"], "target", {"axis": 0}),
        ("Reshape", ["x", "target"], "h"),
        ("Softmax", ["h"], "y", {"axis": -1}),
        **{"0": np.array(0), "axes": shape(0), "two": shape(2, 2)},
    )
    made = network(model)
    assert made.samples == 1
    assert made.is_per_sample
    assert made.output_shape == (1, 2, 2)


TRICKS = {
    "a factor of the batch's size": by_size(
        ("Gather", ["size", "0"], "n"), ("Cast", ["n"], "f", {"to": TensorProto.FLOAT}), ("Mul", ["x", "f"], "y"),
        **{"0": np.array(0)},
    ),
    "half the batch": by_size(
        ("Gather", ["size", "0"], "n"), ("Div", ["n", "2"], "half"), ("Unsqueeze", ["half", "axes"], "h1"),
        ("Concat", ["h1", "rest"], "target", {"axis": 0}), ("Reshape", ["x", "target"], "y"),
        **{"0": np.array(0), "2": np.array(2), "axes": shape(0), "rest": shape(-1)},
    ),
    "never more than 3 rows": by_size(
        ("Gather", ["size", "0"], "n"), ("Min", ["n", "3"], "m"), ("Unsqueeze", ["m", "axes"], "h1"),
        ("Concat", ["h1", "rest"], "target", {"axis": 0}), ("Reshape", ["x", "target"], "h"),
        ("ReduceSum", ["h", "1"], "y"),
        **{"0": np.array(0), "3": np.array(3), "axes": shape(0), "rest": shape(-1), "1": shape(1)},
    ),
    "a table of sizes": by_size(
        ("Gather", ["size", "0"], "n"), ("Gather", ["table", "n"], "m"), ("Unsqueeze", ["m", "axes"], "h1"),
        ("Concat", ["h1", "rest"], "target", {"axis": 0}), ("Reshape", ["x", "target"], "h"),
        ("ReduceSum", ["h", "1"], "y"),
        **{"0": np.array(0), "table": shape(0, 1, 2, 3, 1, 1, 1), "axes": shape(0), "rest": shape(-1), "1": shape(1)},
    ),
    "the first 3 less the last 3": nodes(
        ("Slice", ["x", "0", "3", "0"], "a"), ("Slice", ["x", "-3", "end", "0"], "b"), ("Relu", ["a"], "r"),
        ("Sub", ["r", "b"], "y"), x=("N", 4),
        held={"0": shape(0), "3": shape(3), "-3": shape(-3), "end": shape(1 << 40)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_what_is_apart_for_small_batches_alone_is_not_taken_for_it(name: str) -> None:
    """Networks that look as if samples went their own way at the sizes that are tried, and don't at others."""
    asked = False
    try:
        made = network_of(Model.open(TRICKS[name]))
        assert isinstance(made, Network)
        assert made.open == ("N",)
        product_bounds(made)
    except ModelError as error:
        asked = "--dim N=" in str(error)
    assert asked or name == "the first 3 less the last 3"  # of which each part has a constant that holds for all sizes


@pytest.mark.parametrize("name", TRICKS)
def test_with_a_size_they_are_what_they_are(name: str) -> None:
    made = network(TRICKS[name], dims={"N": 6})
    x = np.random.default_rng(0).standard_normal((6, 4))
    other = x + np.random.default_rng(1).standard_normal((6, 4))
    moved = np.linalg.norm(made.forward(other) - made.forward(x)) / np.linalg.norm(other - x)
    assert moved <= constant(made) * (1 + 1e-12)


def test_a_size_that_is_not_known_is_a_supremum() -> None:
    weight = drawn(4, 3, 3, 3)
    made = network(one_node("Conv", ("N", 3, "H", "W"), weight))
    assert made.open == ("H", "W")
    small = constant(network(one_node("Conv", (1, 3, 6, 6), weight)))
    large = constant(network(one_node("Conv", (1, 3, 40, 40), weight)))
    assert small < constant(made)
    assert large <= constant(made) * (1 + 1e-4)


def test_a_size_without_a_supremum_is_asked_for() -> None:
    made = network(one_node("LogSoftmax", ("N", "K")))
    with pytest.raises(ModelError, match="--dim K=N"):
        product_bounds(made)
    assert constant(network(one_node("LogSoftmax", ("N", "K")), dims={"K": 4})) == 2.0


def test_sizes_that_a_later_node_fixes_are_named() -> None:
    model = nodes(("Flatten", ["x"], "h"), ("MatMul", ["h", "w"], "y"), x=("N", 1, "S"), held={"w": drawn(28, 2)})
    with pytest.raises(ModelError, match="--dim S=28"):
        network_of(Model.open(model))
    assert network(model, dims={"S": 28}).sources[0].shape == (1, 1, 28)


def test_a_dimension_without_a_name_has_one() -> None:
    model = one_node("LogSoftmax", ("N", "K"))
    model.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_param")
    assert constant(network(model, dims={"x[1]": 9})) == 3.0
    with pytest.raises(UsageError, match=r"x\[1\]"):
        network_of(Model.open(model), dims={"K": 9})


def test_after_a_global_pool_sizes_are_known() -> None:
    model = nodes(
        ("Conv", ["x", "k"], "h"), ("GlobalAveragePool", ["h"], "p"), ("Flatten", ["p"], "f"),
        ("LogSoftmax", ["f"], "y"),
        x=("N", 2, "H", "W"), held={"k": drawn(5, 2, 3, 3)},
    )  # fmt: skip
    assert np.isfinite(constant(network(model)))


def two(*parts: onnx.NodeProto, second: int = TensorProto.FLOAT, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(parts),
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("other", second, ["N", 3]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_other_inputs_may_have_any_value() -> None:
    added = two(helper.make_node("Add", ["x", "other"], ["y"]))
    assert constant(network(added, inputs=["x"])) == 1.0
    multiplied = network_of(Model.open(two(helper.make_node("Mul", ["x", "other"], ["y"]))), inputs=["x"])
    assert isinstance(multiplied, Unbounded)
    assert "input 'other'" in multiplied.reason
    masked = two(helper.make_node("Where", ["other", "x", "x"], ["y"]), second=TensorProto.BOOL)
    assert constant(network(masked)) == pytest.approx(np.sqrt(2.0))


def test_joint_inputs_join_as_roots() -> None:
    made = network(two(helper.make_node("Sub", ["x", "other"], ["y"])), inputs=["x", "other"])
    assert made.names == ("x", "other")
    bounds = product_bounds(made)
    assert not isinstance(bounds, Unbounded)
    assert bounds[-1].bound == pytest.approx(np.sqrt(2.0))


def test_inputs_that_are_no_floats_have_no_changes() -> None:
    model = two(helper.make_node("Identity", ["x"], ["y"]), second=TensorProto.INT64)
    with pytest.raises(UsageError, match="int64"):
        network_of(Model.open(model), inputs=["other"])


def function_model() -> onnx.ModelProto:
    body = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["a", "two"], ["b"]),
        helper.make_node("LeakyRelu", ["b"], ["c"]),
    ]
    reference = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    body[2].attribute.append(reference)
    opsets = [helper.make_opsetid("", 17)]
    made = helper.make_function("own", "Twice", ["a"], ["c"], body, opsets, ["slope"])
    calls = [
        helper.make_node("Twice", ["x" if i == 0 else "h"], ["h" if i == 0 else "y"], domain="own", slope=s)
        for i, s in enumerate((0.5, 3.0))
    ]
    model = whole(calls, (1, 4))
    model.functions.append(made)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def test_functions_are_walked_with_their_callers_attributes() -> None:
    made = network(function_model())
    assert constant(made) == pytest.approx(12.0)  # 2 · 1 · 2 · 3
    assert [step.path for step in made.steps] == [
        "Twice#0/Mul#1", "Twice#0/LeakyRelu#2", "Twice#1/Mul#1", "Twice#1/LeakyRelu#2"
    ]  # fmt: skip
    np.testing.assert_allclose(made.forward(np.array([[1.0, -1.0, 2.0, 0.0]])), [[4.0, -6.0, 8.0, 0.0]])


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_the_nodes_does_not_count(seed: int) -> None:
    """onnxruntime sorts them, and public models of its tests are not sorted."""
    branch = helper.make_graph([builders.node("Neg", ["late"], ["b"])], "branch", [], [builders.value("b")])
    made = [
        builders.node("Constant", [], ["w"], value=numpy_helper.from_array(drawn(3, 4), "w")),
        builders.node("MatMul", ["x", "w"], ["h"]),
        builders.node("Relu", ["h"], ["r"]),
        builders.node("Add", ["r", "h"], ["late"]),
        builders.node("If", ["go"], ["i"], then_branch=branch, else_branch=branch),
        builders.node("MatMul", ["i", "v"], ["y"]),
    ]
    bounds = []
    for order in (range(len(made)), np.random.default_rng(seed).permutation(len(made))):
        model = builders.network(
            [made[place] for place in order], {"v": drawn(4, 2), "go": np.array(True)}, {"x": (1, 3)}
        )
        found = network_of(Model.open(model))
        assert not isinstance(found, Unbounded)
        steps = product_bounds(found)
        assert not isinstance(steps, Unbounded)
        bounds.append(output_bound(found, steps))
    assert bounds[0] == bounds[1] > 0.0


@pytest.mark.parametrize("names", [("h", "r"), ("y", "y"), ("missing", "r")])
def test_values_that_nothing_makes_or_that_depend_on_themselves_end_in_a_line(names: tuple[str, str]) -> None:
    first, second = names
    made = [
        builders.node("Add", ["x", first], ["h"]),
        builders.node("Relu", ["h"], ["r"]),
        builders.node("Add", [second, "h"], ["y"]),
    ]
    with pytest.raises(ModelError, match="is read, and nothing makes it"):
        network_of(Model.open(builders.network(made, {}, {"x": (1, 3)})))


@pytest.mark.parametrize(("condition", "expected"), [(True, 3.0), (False, 1.0)])
def test_a_known_branch_is_taken(condition: bool, expected: float) -> None:
    def branch(name: str, node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    chosen = helper.make_node(
        "If",
        ["c"],
        ["y"],
        then_branch=branch("t", helper.make_node("Mul", ["x", "three"], ["t"])),
        else_branch=branch("e", helper.make_node("Neg", ["x"], ["e"])),
    )
    model = whole([chosen], (1, 3), {"c": np.array(condition), "three": F(3)})
    assert constant(network(model)) == expected


def test_spectral_norm_that_an_exporter_left_is_the_weight_it_gives() -> None:
    weight = drawn(6, 5)
    u = np.linalg.svd(weight)[0][:, 0].astype(F)
    model = nodes(
        ("MatMul", ["wt", "u"], "v0"), ("ReduceL2", ["v0"], "n", {"keepdims": 0}), ("Div", ["v0", "n"], "v"),
        ("MatMul", ["w", "v"], "wv"), ("Mul", ["u", "wv"], "p"), ("ReduceSum", ["p"], "sigma", {"keepdims": 0}),
        ("Div", ["w", "sigma"], "weight"), ("Gemm", ["x", "weight"], "y", {"transB": 1}),
        x=("N", 5), held={"w": weight, "wt": np.ascontiguousarray(weight.T), "u": u},
    )  # fmt: skip
    assert constant(network(model)) == pytest.approx(1.0, rel=1e-5)


def test_weights_that_are_not_finite_are_refused() -> None:
    weight = drawn(3, 3)
    weight[1, 1] = np.nan
    with pytest.raises(ModelError, match="1 NaN or infinite"):
        network_of(Model.open(one_node("MatMul", (1, 3), weight)))


def test_sparse_weights_are_what_they_stand_for() -> None:
    model = nodes(("MatMul", ["x", "w"], "y"), x=(1, 3))
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [3.0, -4.0])
    places = helper.make_tensor("i", TensorProto.INT64, [2], [0, 5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 2]))
    assert constant(network(model)) == pytest.approx(4.0)
