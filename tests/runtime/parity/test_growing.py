"""Sizes of dynamic dimensions: asked by weights, grown until the model runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sn_graph import fold, verify
from sn_graph.model import Model
from sn_graph.proofs import save
from sn_graph.runtime import make_feeds
from tests.support.onnx_text import Build

Dim = int | str | None


def network(nodes: Sequence[onnx.NodeProto], shape: Sequence[Dim], **weights: NDArray[Any]) -> onnx.ModelProto:
    """A model of an input x of that shape, an output y and weights."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def shape_made(proto: onnx.ModelProto, **dims: int) -> tuple[int, ...]:
    """Return the shape that is made up for x, on which the model must run in onnx's own evaluator too."""
    (feed,) = make_feeds(Model.open(proto), dims=dims)
    (found,) = ReferenceEvaluator(proto).run(None, feed)
    assert np.size(found)
    return feed["x"].shape


def strided(steps: int, kernel: int = 4) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """Unpadded convolutions of stride 2, from x of 3 channels to a value `h` of 5."""
    weights = {f"w{i}": normal(5, 5 if i else 3, kernel, kernel) for i in range(steps)}
    names = ["x", *(f"h{i}" for i in range(steps - 1)), "h"]
    nodes = [node("Conv", f"{names[i]} w{i}", names[i + 1], strides=[2, 2]) for i in range(steps)]
    return nodes, weights


@pytest.mark.parametrize("size", [10, 28, 29, 32, 96, 224])
def test_a_gemm_behind_flatten_says_what_size_its_image_has(size: int) -> None:
    nodes, weights = strided(1)
    last = (size - 4) // 2 + 1
    nodes += [node("Flatten", "h", "f"), node("Gemm", "f v", "y", transB=1)]
    shape = shape_made(network(nodes, ["N", None, "H", "W"], **weights, v=normal(2, 5 * last * last)))
    assert shape[:2] == (2, 3)
    assert (shape[2] - 4) // 2 + 1 == last


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_strides_that_leave_nothing_of_a_small_image(steps: int) -> None:
    nodes, weights = strided(steps)
    proto = network([*nodes, node("GlobalAveragePool", "h", "y")], ["N", "C", "H", "W"], **weights)
    shape = shape_made(proto)
    assert shape[:2] == (2, 3)
    assert shape[2] == shape[3] == {1: 8, 3: 32, 5: 128}[steps]


def test_pools_that_leave_nothing_are_no_run_that_tells() -> None:
    """onnxruntime makes an empty tensor of a pool over less than its kernel, and NaN of the mean of that."""
    pools = [node("MaxPool", f"h{i}", f"h{i + 1}", kernel_shape=[3, 3], strides=[2, 2]) for i in range(3)]
    nodes = [node("Conv", "x w", "h0"), *pools, node("GlobalAveragePool", "h3", "y")]
    assert shape_made(network(nodes, ["N", 3, "H", "W"], w=normal(4, 3, 1, 1))) == (2, 3, 16, 16)


@pytest.mark.parametrize("names", [("N", "C", "H", "W"), (None, None, None, None), ("a", "b", "s", "s")])
@pytest.mark.parametrize("group", [1, 3])
def test_channels_that_only_the_weight_knows(names: Sequence[Dim], group: int) -> None:
    proto = network([node("Conv", "x w", "y", group=group, pads=[1] * 4)], names, w=normal(6, 4, 3, 3))
    assert shape_made(proto) == (2, 4 * group, 2, 2)


def test_channels_last_and_behind_what_scales_the_image() -> None:
    nodes = [
        node("Sub", "x mean", "a"),
        node("Transpose", "a", "b", perm=[0, 3, 1, 2]),
        node("Relu", "b", "c"),
        node("Conv", "c w", "y"),
    ]
    proto = network(nodes, ["N", "H", "W", "C"], w=normal(6, 7, 3, 3), mean=normal(7))
    assert shape_made(proto) == (2, 8, 8, 7)


@pytest.mark.parametrize(
    ("op_type", "inputs", "weights", "shape", "wanted", "attributes"),
    [
        ("Gemm", "x w", [(5, 7)], ["N", "D"], (2, 7), {"transB": 1}),
        ("Gemm", "x w", [(5, 7)], ["D", "N"], (5, 2), {"transA": 1}),
        ("Gemm", "w x", [(5, 7)], ["D", "N"], (7, 2), {}),
        ("MatMul", "x w", [(5, 7)], ["N", "T", "D"], (2, 2, 5), {}),
        ("MatMul", "w x", [(5, 7)], ["N", "D", "T"], (2, 7, 2), {}),
        ("ConvTranspose", "x w", [(5, 7, 3)], ["N", "C", "T"], (2, 5, 2), {}),
        ("GRU", "x w r", [(1, 12, 6), (1, 12, 4)], ["T", "N", "D"], (2, 2, 6), {"hidden_size": 4}),
        ("LayerNormalization", "x w", [(9,)], ["N", "T", "D"], (2, 2, 9), {}),
        ("InstanceNormalization", "x w r", [(9,), (9,)], ["N", "C", "T"], (2, 9, 2), {}),
    ],
)
def test_what_each_weight_asks_for(
    op_type: str,
    inputs: str,
    weights: list[tuple[int, ...]],
    shape: Sequence[Dim],
    wanted: tuple[int, ...],
    attributes: dict[str, Any],
) -> None:
    arrays = {name: normal(*size) for name, size in zip("wr", weights, strict=False)}
    proto = network([node(op_type, inputs, "y", **attributes)], shape, **arrays)
    (feed,) = make_feeds(Model.open(proto))
    assert feed["x"].shape == wanted


def test_inside_functions_and_branches(text: Build) -> None:
    proto = text("g (float[N,C] x, bool b) => (float[M,K] y) { y = If (b) <then_branch = t () => (float[M,K] p) "
                 "{ p = MatMul(x, w) }, else_branch = e () => (float[M,K] q) { q = MatMul(x, w) }> }")  # fmt: skip
    proto.graph.initializer.append(numpy_helper.from_array(normal(6, 3), "w"))
    (feed,) = make_feeds(Model.open(proto))
    assert feed["x"].shape == (2, 6)


def test_a_size_that_is_given_stays() -> None:
    nodes, weights = strided(3)
    proto = network([*nodes, node("GlobalAveragePool", "h", "y")], ["N", 3, "H", "W"], **weights)
    assert shape_made(proto, H=45) == (2, 3, 45, 32)
    assert shape_made(proto, N=1, H=45, W=50) == (1, 3, 45, 50)


def test_a_batch_of_one_where_the_graph_has_it_written_in() -> None:
    nodes = [node("Conv", "x w", "h"), node("GlobalAveragePool", "h", "p"), node("Reshape", "p s", "y")]
    proto = network(nodes, ["N", "C", "H", "W"], w=normal(4, 3, 5, 5), s=np.array([1, 4]))
    assert shape_made(proto) == (1, 3, 8, 8)


def test_what_runs_with_no_size_keeps_the_usual_ones() -> None:
    nodes = [node("Reshape", "x s", "h"), node("MatMul", "h w", "y")]
    proto = network(nodes, ["N", "D"], w=normal(4, 4), s=np.array([3, 5]))
    (feed,) = make_feeds(Model.open(proto))
    assert feed["x"].shape == (2, 2)


def test_an_unknown_rank_grows_too() -> None:
    nodes, weights = strided(4)
    proto = network([*nodes, node("GlobalAveragePool", "h", "y")], [], **weights)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert shape_made(proto) == (2, 3, 64, 64)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
def test_any_chain_of_convolutions_runs(channels: int, kernel: int, stride: int, depth: int) -> None:
    weights = {f"w{i}": normal(channels, channels, kernel, kernel) for i in range(depth)}
    names = ["x", *(f"h{i}" for i in range(1, depth)), "y"]
    nodes = [node("Conv", f"{names[i]} w{i}", names[i + 1], strides=[stride] * 2) for i in range(depth)]
    (feed,) = make_feeds(Model.open(network(nodes, [None] * 4, **weights)))
    (found,) = ReferenceEvaluator(network(nodes, [None] * 4, **weights)).run(None, feed)
    assert feed["x"].shape[1] == channels
    assert np.size(found)


def test_the_sizes_are_told(tmp_path: Path) -> None:
    nodes, weights = strided(3)
    proto = network([*nodes, node("GlobalAveragePool", "h", "y")], ["N", "C", "H", "W"], **weights)
    told = "run on made-up inputs of sizes that fit the weights: x [2, 3, 32, 32]"
    assert told in verify(proto).notes
    proof = save(fold(proto), tmp_path / "out.onnx")
    assert proof.verified == "run"
    assert told in (proof.note or "")
    plain = network([node("MatMul", "x w", "y")], ["N", 3], w=normal(3, 3))
    assert verify(plain).notes == ()
