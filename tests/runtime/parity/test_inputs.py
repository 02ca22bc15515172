"""Inputs drawn from a signature, and inputs read from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.errors import ModelError, UsageError
from sn_graph.model import Model
from sn_graph.runtime import load_inputs, make_inputs
from tests.support.onnx_text import Build


def draw(proto: onnx.ModelProto, **options: Any) -> dict[str, NDArray[Any]]:
    return make_inputs(Model.open(proto), **options)


def with_table(
    nodes: Sequence[onnx.NodeProto],
    size: int = 5,
    element: int = TensorProto.INT64,
    shape: Sequence[int | str] = (64,),
    domain: str = "",
    opset: int = 18,
    more: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A model in which `ids` [64] may reach `table` [size, 3]."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", element, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros((size, 3), np.float32), "table"), *more],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=10)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def constant(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def body(nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "body",
        [],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    )


SHAPE, AXES = constant("shape", [8, 8]), constant("axes", [0])
PATHS = {
    "direct": [node("Gather", "table ids", "y")],
    "cast": [node("Cast", "ids", "i", to=TensorProto.INT32), node("Gather", "table i", "y")],
    "reshape, transpose": [
        node("Reshape", "ids shape", "i"),
        node("Transpose", "i", "j"),
        node("Gather", "table j", "y"),
    ],
    "unsqueeze, concat, squeeze": [
        node("Unsqueeze", "ids axes", "i"),
        node("Concat", "i i", "j", axis=0),
        node("Identity", "j", "k"),
        node("Gather", "table k", "y"),
    ],
    "table behind Identity": [node("Identity", "table", "t"), node("Gather", "t ids", "y")],
    "captured by a branch": [
        helper.make_node(
            "If",
            ["flag"],
            ["y"],
            then_branch=body([node("Gather", "table ids", "a")], "a"),
            else_branch=body([node("Gather", "table ids", "b")], "b"),
        )
    ],
}


@pytest.mark.parametrize("nodes", PATHS.values(), ids=PATHS)
def test_indices_stay_within_the_table_and_use_all_of_it(nodes: list[onnx.NodeProto]) -> None:
    flag = numpy_helper.from_array(np.array(True), "flag")
    ids = draw(with_table(nodes, more=[SHAPE, AXES, flag]))["ids"]
    assert set(ids.tolist()) == set(range(5))


def test_axis_and_transpose_choose_the_size() -> None:
    assert draw(with_table([node("Gather", "table ids", "y", axis=1)]))["ids"].max() == 2
    nodes = [node("Transpose", "table", "t"), node("Gather", "t ids", "y")]
    assert draw(with_table(nodes, size=50))["ids"].max() == 2


def test_the_smallest_table_counts() -> None:
    nodes = [node("Gather", "table ids", "a"), node("Gather", "small ids", "b"), node("Add", "a b", "y")]
    small = numpy_helper.from_array(np.zeros((2, 3), np.float32), "small")
    assert set(draw(with_table(nodes, more=[small]))["ids"].tolist()) == {0, 1}


def test_float_ids_are_whole_and_within_the_table() -> None:
    """tf2onnx writes Embedding as Cast(float ids) > Gather."""
    nodes = [node("Cast", "ids", "i", to=TensorProto.INT32), node("Gather", "table i", "y")]
    ids = draw(with_table(nodes, element=TensorProto.FLOAT))["ids"]
    assert ids.dtype == np.float32
    assert set(ids.tolist()) == set(range(5))
    half = draw(with_table(nodes, size=3000, element=TensorProto.FLOAT16))["ids"]
    assert half.max() < 2048  # float16 rounds odd integers beyond it, 2999 up to 3000
    assert (
        draw(with_table([node("Gather", "table ids", "y")], size=3000, element=TensorProto.INT32))["ids"].max() > 2048
    )


def test_indices_that_no_table_bounds_are_0_or_1() -> None:
    nodes = [node("Cast", "ids", "y", to=TensorProto.FLOAT)]
    assert set(draw(with_table(nodes))["ids"].tolist()) == {0, 1}


def test_gather_nd_counts_the_axes_that_its_indices_name() -> None:
    nodes = [node("GatherND", "table ids", "y")]
    assert draw(with_table(nodes, shape=(64, 2)))["ids"].max() == 2
    assert draw(with_table(nodes, shape=(64, 1)))["ids"].max() == 4


def test_inside_a_loop_and_a_function() -> None:
    loop_body = body([node("Identity", "c", "c2"), node("Gather", "table v", "s")], "s")
    for name, kind, shape in (
        ("i", TensorProto.INT64, []),
        ("c", TensorProto.BOOL, []),
        ("v", TensorProto.INT64, [64]),
    ):
        loop_body.input.append(helper.make_tensor_value_info(name, kind, shape))
    outputs = [("c2", TensorProto.BOOL), ("v", TensorProto.INT64)]
    for position, (name, kind) in enumerate(outputs):
        loop_body.output.insert(position, helper.make_tensor_value_info(name, kind, None))
    loop = helper.make_node("Loop", ["trips", "", "ids"], ["last", "y"], body=loop_body)
    model = with_table([loop], more=[numpy_helper.from_array(np.array(1), "trips")])
    assert draw(model)["ids"].max() == 4
    model = with_table([helper.make_node("Embed", ["table", "ids"], ["y"], domain="local")])
    model.functions.append(
        helper.make_function(
            "local", "Embed", ["t", "i"], ["o"], [node("Gather", "t i", "o")], [helper.make_opsetid("", 18)]
        )
    )
    assert draw(model)["ids"].max() == 4


def test_embed_layer_normalization(text: Build) -> None:
    tables = {"words": 9, "positions": 4, "segments": 3}
    model = text(
        "g (int32[2,30] ids, int32[2,30] segment) => (float[2,30,2] y, int32[2] m) "
        "{ y, m = com.microsoft.EmbedLayerNormalization(ids, segment, words, positions, segments, words, words) }"
    )
    for name, size in tables.items():
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((size, 2), np.float32), name))
    inputs = draw(model)
    assert (inputs["ids"].max(), inputs["segment"].max()) == (8, 2)


def test_dtypes_shapes_and_repeatability(text: Build) -> None:
    model = text(
        "g (float[N,3] a, float16[N,M] b, double c, bool[64] d, string[N] e, bfloat16[3] f, complex64[N] h,"
        " uint8[64] i, float[?,2] j, float[0,3] k) => (float[N,3] y) { y = Identity(a) }"
    )
    inputs = draw(model, dims={"N": 4})
    shapes = [(4, 3), (4, 2), (), (64,), (4,), (3,), (4,), (64,), (2, 2), (0, 3)]
    assert {name: array.shape for name, array in inputs.items()} == dict(zip("abcdefhijk", shapes, strict=True))
    assert inputs["b"].dtype == np.float16
    assert inputs["f"].dtype == ml_dtypes.bfloat16
    assert inputs["h"].dtype == np.complex64
    assert inputs["d"].dtype == bool
    assert 0 < inputs["d"].mean() < 1
    assert set(inputs["e"]) <= {"a", "b"}
    for step in (0, 1):
        again = draw(model, dims={"N": 4}, step=step)
        assert np.array_equal(again["a"], inputs["a"]) == (step == 0)
    assert not np.array_equal(draw(model, seed=1, dims={"N": 4})["a"], inputs["a"])


def test_floats_are_standard_normal(text: Build) -> None:
    drawn = draw(text("g (float[20000] x) => (float[20000] y) { y = Identity(x) }"))["x"]
    assert abs(drawn.mean()) < 0.05  # 7 standard errors
    assert abs(drawn.std() - 1) < 0.05


def test_initializers_are_no_inputs_to_feed(op: Build) -> None:
    model = op("MatMul", [1, 4], np.eye(4, dtype=np.float32))
    model.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [4, 4]))
    assert list(draw(model)) == ["x"]


def test_unknown_rank_takes_the_shape_of_the_first_weight(op: Build) -> None:
    weight = np.zeros((8, 3, 3, 3), np.float32)
    for op_type, w, shape, attributes in (
        ("Conv", weight, (2, 6, 16, 16), {"group": 2}),
        ("ConvTranspose", weight, (2, 8, 16, 16), {}),
        ("Gemm", np.zeros((5, 7), np.float32), (2, 7), {"transB": 1}),
        ("MatMul", np.zeros((5, 7), np.float32), (2, 5), {}),
        ("Mul", np.zeros((2, 2), np.float32), (2, 2), {}),
    ):
        model = op(op_type, [1], w, **attributes)
        model.graph.input[0].type.tensor_type.ClearField("shape")
        assert draw(model)["x"].shape == shape


def test_old_exporters_write_minus_one(op: Build) -> None:
    model = op("Relu", [1, 4])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert draw(model)["x"].shape == (2, 4)


def test_dims_are_checked(text: Build) -> None:
    model = text("g (float[N,3] x) => (float[N,3] y) { y = Identity(x) }")
    with pytest.raises(UsageError, match="'batch'; choose from N"):
        draw(model, dims={"batch": 4})
    with pytest.raises(UsageError, match="-1"):
        draw(model, dims={"N": -1})


def test_what_is_no_tensor_is_refused(text: Build) -> None:
    model = text("g (seq(float[2]) x) => (float[2] y) { y = ConcatFromSequence <axis: int = 0> (x) }")
    with pytest.raises(ModelError, match=r"'x' is a seq\(tensor\(float\)\)"):
        draw(model)


@pytest.fixture
def signed(text: Build) -> Model:
    return Model.open(text("g (float[N,3] a, bfloat16[2] b, string[1] c) => (float[N,3] y) { y = Identity(a) }"))


GOOD: dict[str, Any] = {"a": np.ones((7, 3), np.float32), "b": np.ones(2, ml_dtypes.bfloat16), "c": np.array(["x"])}


def test_load_inputs(signed: Model, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **GOOD)
    loaded = load_inputs(tmp_path / "in.npz", signed)
    assert {name: array.dtype for name, array in loaded.items()} == {
        "a": np.dtype("f"),
        "b": np.dtype(ml_dtypes.bfloat16),
        "c": np.dtype(object),
    }
    np.testing.assert_array_equal(loaded["b"], GOOD["b"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"a": None}, "lacks the input 'a'"),
        ({"z": np.ones(1)}, "holds 'z'.*a, b, c"),
        ({"a": np.ones((7, 3))}, "'a' must be float32, and is float64"),
        ({"a": np.ones(3, np.float32)}, "'a' must have rank 2"),
        ({"a": np.ones((7, 4), np.float32)}, "'a' must have size 3 on axis 1, and has 4"),
        ({"b": np.ones(2, np.float16)}, "'b' must be bfloat16"),
        ({"c": np.array([object()])}, "no objects"),
    ],
)
def test_load_inputs_names_what_is_wrong(
    signed: Model, tmp_path: Path, changes: dict[str, NDArray[Any] | None], told: str
) -> None:
    arrays: dict[str, Any] = {name: array for name, array in {**GOOD, **changes}.items() if array is not None}
    np.savez(tmp_path / "in.npz", **arrays)
    with pytest.raises(ModelError, match=told):
        load_inputs(tmp_path / "in.npz", signed)


def test_load_inputs_refuses_what_is_no_npz(signed: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "garbage.npz").write_bytes(b"PK\x03\x04 garbage")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("array.npy", "garbage.npz", "empty.npz", "missing.npz", "."):
        with pytest.raises(ModelError):
            load_inputs(tmp_path / name, signed)


def test_onnx_reference_runs_on_what_was_drawn() -> None:
    from onnx.reference import ReferenceEvaluator

    model = with_table(PATHS["cast"], shape=("N", 4))
    inputs = draw(model, dims={"N": 3})
    (found,) = ReferenceEvaluator(onnx.ModelProto.FromString(model.SerializeToString())).run(None, inputs)
    assert np.shape(found) == (3, 4, 3)


def test_an_input_of_more_axes_than_arrays_have() -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1] * 71) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", ends[:1], ends[1:])
    proto = helper.make_model(graph)
    with pytest.raises(ModelError, match="input 'x' has 71 axes, and arrays have 64 at most"):
        make_inputs(Model.open(proto))


def test_two_inputs_of_one_name() -> None:
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape) for shape in ([2, 3], [2, 3, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    proto = helper.make_model(helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", ends, outputs))
    with pytest.raises(ModelError, match="the model has two inputs of the name 'x', and no runtime runs it"):
        make_inputs(Model.open(proto))
