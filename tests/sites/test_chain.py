"""Chains between a weight and its consumer, run by onnx's reference, against the matrix of what the consumer reads."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from sn_graph.model import Model
from tests.support.builders import (
    Array,
    assert_same_up_to_order,
    constant,
    drawn,
    model,
    network,
    node,
    only_site,
)
from tests.support.oracle import singular_values
from tests.support.runs import evaluated

READERS = {2: ("MatMul", "MatMul left", "Gemm", "Gather"), 3: ("MatMul", "Conv", "ConvTranspose")}


def reader(kind: str, name: str) -> onnx.NodeProto:
    if kind == "Gather":
        return node("Gather", [name, "x"])
    if kind == "MatMul left":
        return node("MatMul", [name, "x"])
    return node(kind, ["x", name])


def table(kind: str, read: Array, convention: str) -> tuple[Array, int]:
    """M and the length of u, by the design's table, of the tensor that the consumer reads."""
    keras = convention == "keras"
    if kind == "ConvTranspose" and not keras:
        read = np.moveaxis(read, 1, 0)
    if kind in ("Conv", "ConvTranspose") or (kind == "MatMul left" and read.ndim == 2):
        return read.reshape(read.shape[0], -1), read.shape[0]
    if kind == "Gather":
        return read, read.shape[1 if keras else 0]
    return read.reshape(-1, read.shape[-1]), read.shape[-1]


def evaluate(nodes: Sequence[onnx.NodeProto], initializers: dict[str, Array], output: str) -> Array:
    (found,) = evaluated(network(nodes, initializers, {}, (output,)), {})
    return found


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[onnx.NodeProto], dict[str, Array], bool]:
    """A stored shape, a chain of nodes from `w` to its last output, their constants, and whether one transposes."""
    shape = tuple(draw(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=2, max_size=4)))
    stored, nodes, last, transposed = shape, [], "w", False
    consts: dict[str, Array] = {}
    for step in range(draw(st.integers(1, 4))):
        op = draw(st.sampled_from(["Identity", "Cast", "Transpose", "Transpose", "Reshape", "Reshape", *SAME]))
        output = f"v{step}"
        if op == "Identity":
            nodes.append(node(op, [last], [output]))
        elif op == "Cast":
            nodes.append(node(op, [last], [output], to=draw(st.sampled_from([TensorProto.DOUBLE, TensorProto.FLOAT]))))
        elif op == "Transpose":
            given = draw(st.booleans())
            perm = draw(st.permutations(range(len(shape)))) if given else list(reversed(range(len(shape))))
            nodes.append(node(op, [last], [output], **({"perm": perm} if given else {})))
            shape, transposed = tuple(shape[axis] for axis in perm), True
        elif op in SAME:
            more, shape = draw(same_elements(op, shape, last, output, consts))
            nodes.append(more)
        else:
            target, shape = draw(targets(shape))
            wanted = np.array(target, np.int64)
            if draw(st.booleans()):
                nodes.append(constant(f"shape{step}", wanted))
            else:
                consts[f"shape{step}"] = wanted
            nodes.append(node(op, [last, f"shape{step}"], [output]))
        last = output
    return stored, nodes, consts, transposed


SAME = ("Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Expand", "Tile", "Pad")


@st.composite
def same_elements(
    draw: st.DrawFn, op: str, shape: tuple[int, ...], last: str, output: str, consts: dict[str, Array]
) -> tuple[onnx.NodeProto, tuple[int, ...]]:
    """A node that keeps every element, its constants put among `consts`, and the shape behind it."""
    rank = len(shape)

    def held(what: str, *integers: int) -> str:
        consts[f"{what} of {output}"] = np.array(integers, np.int64)
        return f"{what} of {output}"

    def signed(axis: int, ranks: int) -> int:
        return axis - ranks if draw(st.booleans()) else axis

    if op == "Flatten":
        axis = draw(st.integers(-rank, rank))
        at = axis + rank if axis < 0 else axis
        return node(op, [last], [output], axis=axis), (prod(shape[:at]), prod(shape[at:]))
    if op == "Concat":
        return node(op, [last], [output], axis=draw(st.integers(-rank, rank - 1))), shape
    if op == "Unsqueeze" and rank < 5:
        axes = sorted(draw(st.sets(st.integers(0, rank + 1), min_size=2, max_size=2)))
        wider = list(shape)
        for axis in axes:
            wider.insert(axis, 1)
        return node(op, [last, held("axes", *(signed(axis, rank + 2) for axis in axes))], [output]), tuple(wider)
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    if op == "Squeeze" and ones and rank - len(ones) >= 2:
        if draw(st.booleans()):
            return node(op, [last], [output]), tuple(size for size in shape if size != 1)
        axis = draw(st.sampled_from(ones))
        return node(op, [last, held("axes", signed(axis, rank))], [output]), (*shape[:axis], *shape[axis + 1 :])
    if op == "Slice":
        axis = draw(st.integers(0, rank - 1))
        start = draw(st.sampled_from([0, -shape[axis], -shape[axis] - 5]))
        end = draw(st.sampled_from([shape[axis], 2**63 - 1]))
        bounds = [held("starts", start), held("ends", end), held("axes", signed(axis, rank))]
        return node(op, [last, *bounds, *([held("steps", 1)] if draw(st.booleans()) else [])], [output]), shape
    if op == "Expand":
        ahead = draw(st.integers(0, 1))
        target = (
            [draw(st.sampled_from([1, size])) for size in shape][draw(st.integers(0, rank)) :]
            if not ahead
            else [1, *shape]
        )
        return node(op, [last, held("shape", *target)], [output]), (*(1,) * (len(target) - rank), *shape)
    if op == "Pad":
        return node(op, [last, held("pads", *[0] * (2 * rank))], [output]), shape
    return node("Tile", [last, held("repeats", *[1] * rank)], [output]), shape


@st.composite
def targets(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
    """A shape to give Reshape, with 0 and -1 in places, and what it comes to."""
    left, sizes = prod(shape), []
    for _ in range(draw(st.integers(1, 2))):
        sizes.append(draw(st.sampled_from([d for d in range(1, left + 1) if left % d == 0])))
        left //= sizes[-1]
    sizes.append(left)
    written = list(sizes)
    if draw(st.booleans()):
        written[draw(st.integers(0, len(sizes) - 1))] = -1
    for axis, size in enumerate(sizes):
        if axis < len(shape) and shape[axis] == size and written[axis] != -1 and draw(st.booleans()):
            written[axis] = 0
    return written, tuple(sizes)


@settings(max_examples=150, deadline=None)
@given(chains(), st.sampled_from(["keras", "torch"]), st.data())
def test_chains(chain: Any, convention: str, data: st.DataObject) -> None:
    shape, nodes, consts, transposed = chain
    weight = drawn(*shape)
    last = nodes[-1].output[0]
    read = evaluate(nodes, {"w": weight, **consts}, last)
    kind = data.draw(st.sampled_from(READERS[min(read.ndim, 3)]))
    if kind == "MatMul left" and read.ndim > 2:
        kind = "MatMul"
    found = only_site(model([*nodes, reader(kind, last)], {"w": weight, **consts}), convention=convention)
    assert list(found.site.via) == list(dict.fromkeys(n.op_type for n in nodes if n.op_type != "Constant"))
    if found.status == "skipped":
        assert transposed, "without a Transpose every Reshape can be followed"
        assert "cuts across the axes of a Transpose" in (found.reason or "")
        return
    assert found.view is not None
    assert found.view.fits(shape)
    expected, state = table(kind, read.astype(np.float32), convention)
    matrix = found.view.matrix(weight)
    assert_same_up_to_order(matrix, expected)
    np.testing.assert_allclose(singular_values(matrix), singular_values(expected), rtol=1e-12, atol=1e-10)
    assert found.view.state_length == state


def test_depthwise_through_a_chain() -> None:
    """Keras's own kernel (k, k, C, m), brought to (C·m, 1, k, k) in the graph."""
    weight = drawn(3, 3, 4, 2)
    nodes = [
        node("Transpose", ["w"], ["t"], perm=[2, 3, 0, 1]),
        node("Reshape", ["t", "shape"], ["r"]),
        node("Conv", ["x", "r"], group=4),
    ]
    made = model(nodes, {"w": weight, "shape": np.array([8, 1, 3, 3])})
    view = only_site(made, convention="keras").view
    assert view is not None
    kernel_matrix = weight.reshape(-1, 2)  # kernel.reshape(-1, kernel.shape[-1])
    assert_same_up_to_order(view.matrix(weight).T, kernel_matrix)
    assert view.state_length == 2


def test_reshape_across_axes_without_transpose() -> None:
    weight = drawn(6, 4)
    made = model(
        [node("Reshape", ["w", "shape"], ["r"]), node("MatMul", ["x", "r"])], {"w": weight, "shape": ints(4, 6)}
    )
    view = only_site(made).view
    assert view is not None
    np.testing.assert_array_equal(view.matrix(weight), weight.reshape(4, 6))
    assert view.side == "cols"


def test_reshape_across_a_transpose_is_refused() -> None:
    nodes = [node("Transpose", ["w"], ["t"]), node("Reshape", ["t", "shape"], ["r"]), node("MatMul", ["x", "r"])]
    found = only_site(model(nodes, {"w": drawn(5, 6), "shape": ints(5, 6)}))
    assert (found.status, found.view) == ("skipped", None)
    assert "Reshape cuts across" in (found.reason or "")


def ints(*sizes: int) -> Array:
    return np.array(sizes, np.int64)


def reshaped(target: onnx.NodeProto | Array, shape: tuple[int, ...] = (2, 3, 4), **attributes: Any) -> Model:
    """`w` of `shape` through a Reshape to `target` and into MatMul."""
    last = [node("Reshape", ["w", "shape"], ["r"], **attributes), node("MatMul", ["x", "r"])]
    weight = {"w": drawn(*shape)}
    if isinstance(target, onnx.NodeProto):
        return model([target, *last], weight)
    return model(last, {**weight, "shape": target})


def test_reshape_shape_forms() -> None:
    view = only_site(reshaped(ints(0, -1))).view
    assert view is not None
    assert (view.rows, view.cols) == (2, 12)
    in_node = only_site(reshaped(node("Constant", [], ["shape"], value_ints=[6, -1]))).view
    assert in_node is not None
    assert (in_node.rows, in_node.cols) == (6, 4)
    old = model([node("Reshape", ["w"], ["r"], shape=[-1, 3]), node("MatMul", ["x", "r"])], {"w": drawn(2, 6)}, opset=4)
    attribute = only_site(old).view
    assert attribute is not None
    assert (attribute.rows, attribute.cols) == (4, 3)


def test_allowzero() -> None:
    """With allowzero a 0 is a length of 0, which a weight with elements can't have; without, it copies."""
    assert only_site(reshaped(ints(0, 12))).status == "eligible"
    empty = only_site(reshaped(ints(0, 12), allowzero=1))
    assert (empty.status, "does not fit" in (empty.reason or "")) == ("skipped", True)
    assert only_site(reshaped(ints(2, 12), allowzero=1)).status == "eligible"


@pytest.mark.parametrize("target", [ints(5, 5), ints(-1, -1), ints(-2, -12), ints(2, 3, 4, 0), ints(-1, 5)])
def test_reshape_that_does_not_fit(target: Array) -> None:
    found = only_site(reshaped(target))
    assert found.status == "skipped"
    assert "does not fit" in (found.reason or "")


def test_reshape_to_a_shape_that_is_no_constant() -> None:
    fed = model(
        [node("Reshape", ["w", "shape"], ["r"]), node("MatMul", ["x", "r"])],
        {"w": drawn(2, 6)},
        inputs=("x", "shape"),
    )
    computed = reshaped(node("Concat", ["a", "a"], ["shape"], axis=0))
    computed.proto.graph.initializer.append(numpy_helper.from_array(ints(2), "a"))
    for made in (fed, computed):
        found = only_site(made)
        assert (found.id, found.status) == ("w", "skipped")
        assert "not stored as a constant" in (found.reason or "")


def test_shape_stored_in_an_external_file(tmp_path: Any) -> None:
    proto = reshaped(ints(6, 4)).to_proto()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    view = only_site(Model.open(tmp_path / "m.onnx")).view
    assert view is not None
    assert (view.rows, view.cols) == (6, 4)


TO_MATMUL = node("MatMul", ["x", "m"])


@pytest.mark.parametrize(
    ("changing", "by"),
    [
        (node("Expand", ["w", "wide"], ["m"]), "by Expand"),
        (node("Tile", ["w", "repeats"], ["m"]), "by Tile"),
        (node("Pad", ["w", "pads"], ["m"]), "by Pad"),
    ],
    ids=lambda given: getattr(given, "op_type", ""),
)
def test_what_changes_the_elements_is_no_chain(changing: onnx.NodeProto, by: str) -> None:
    held = {"wide": ints(2, 3, 4), "repeats": ints(1, 2), "pads": ints(0, 0, 0, 1)}
    found = only_site(model([changing, TO_MATMUL], {"w": drawn(3, 4), **held}))
    assert (found.id, found.status) == ("m", "skipped")
    assert f"computed in the graph {by} (node" in (found.reason or "")
    assert "a part of stored tensors or put together of them" in (found.reason or "")


@pytest.mark.parametrize(
    ("fed", "reason"),
    [
        (node("Slice", ["w", "n", "x"], ["m"]), "the ends that its Slice takes are not stored as a constant"),
        (node("Slice", ["w", "x", "n"], ["m"]), "the starts that its Slice takes are not stored as a constant"),
        (node("Expand", ["w", "x"], ["m"]), "the shape that its Expand takes is not stored as a constant"),
        (node("Unsqueeze", ["w", "x"], ["m"]), "the axes that its Unsqueeze takes are not stored as a constant"),
        (node("Squeeze", ["w", "n"], ["m"]), "its Squeeze does not fit its shape"),
        (node("Unsqueeze", ["w", "far"], ["m"]), "its Unsqueeze does not fit its shape"),
        (node("Flatten", ["w"], ["m"], axis=3), "its Flatten does not fit its shape"),
    ],
    ids=lambda given: getattr(given, "op_type", ""),
)
def test_layouts_that_cannot_be_told(fed: onnx.NodeProto, reason: str) -> None:
    found = only_site(model([fed, TO_MATMUL], {"w": drawn(3, 4), "n": ints(0), "far": ints(9)}))
    assert (found.id, found.status) == ("w", "skipped")
    assert reason in (found.reason or "")


@pytest.mark.parametrize("op_type", ["Squeeze", "Unsqueeze", "Slice", "Pad"])
def test_attributes_of_older_opsets(op_type: str) -> None:
    attributes = {
        "Squeeze": {"axes": [0]},
        "Unsqueeze": {"axes": [0]},
        "Slice": {"starts": [0, 0], "ends": [99, 4], "axes": [0, 2]},
        "Pad": {"pads": [0] * 6},
    }[op_type]
    made = model([node(op_type, ["w"], ["m"], **attributes), TO_MATMUL], {"w": drawn(1, 3, 4)}, opset=9)
    found = only_site(made)
    assert (found.status, found.site.via) == ("eligible", (op_type,))
    assert found.view is not None
    assert (found.view.rows, found.view.cols) == (3, 4)


def test_cast_to_integers_is_no_chain() -> None:
    nodes = [node("Cast", ["w"], ["i"], to=TensorProto.INT32), node("MatMul", ["x", "i"])]
    found = only_site(model(nodes, {"w": drawn(3, 4)}))
    assert found.id == "i"
    assert "computed in the graph by Cast (node" in (found.reason or "")


def test_cast_with_a_word_as_before_opset_6() -> None:
    nodes = [node("Cast", ["w"], ["d"], to="DOUBLE"), node("MatMul", ["x", "d"])]
    assert only_site(model(nodes, {"w": drawn(3, 4)}, opset=5)).site.via == ("Cast",)


def test_transpose_of_another_rank() -> None:
    nodes = [node("Transpose", ["w"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"])]
    assert "does not fit" in (only_site(model(nodes, {"w": drawn(3, 4)})).reason or "")
