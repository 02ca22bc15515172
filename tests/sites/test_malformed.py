"""Files of odd forms, on the way of a weight: a reason in one line, and no crash. Each is as fuzzing found it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.support.builders import drawn, initializer, model_of, network, node, saved, value
from tests.support.command_line import invoke

COMMANDS = ["inspect", "fold", "insert", "lift"]


def tried(model: onnx.ModelProto, command: str, folder: Path, *more: str) -> None:
    path, out = saved(model, folder / "m.onnx"), folder / "out.onnx"
    ended = invoke(command, path, *([] if command == "inspect" else ["-o", out]), *more)
    assert ended.code in (0, 3), ended.err
    assert "internal error" not in ended.err
    assert ended.code == 0 or ended.err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("op_type", ["MatMulInteger", "Cast", "Mul", "MatMul"])
def test_nodes_without_outputs(op_type: str, command: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["s", "scale"], ["both"]),
        node("Mul", ["f", "both"], ["a"]),
        node("MatMul", ["a", "v"], ["y"]),
    ]
    for one in nodes:
        if one.op_type == op_type:
            del one.output[:]
    weights = [initializer("w", np.ones((6, 5), np.int8)), initializer("scale", np.float32(0.1))]
    weights.append(initializer("v", drawn(5, 4)))
    graph = helper.make_graph(nodes, "g", [value("x", (2, 6))], [value("y")], weights)
    tried(model_of(graph), command, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_body_that_is_run_for_nothing(command: str, tmp_path: Path) -> None:
    """A public model of onnxruntime's tests has such an If."""
    branch = helper.make_graph(
        [node("MatMul", ["x", "inner"], ["z"])], "b", [], [], [initializer("inner", drawn(6, 5))]
    )
    nodes = [
        helper.make_node("If", ["go"], [], then_branch=branch, else_branch=branch),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    weights = [initializer("w", drawn(6, 5)), initializer("go", np.array(True))]
    graph = helper.make_graph(nodes, "g", [value("x", (2, 6))], [value("y")], weights)
    path, out = saved(model_of(graph), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    ended = invoke(command, path, *([] if command == "inspect" else ["-o", out]))
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.bool_, np.int32])
@pytest.mark.parametrize("op_type", ["Reshape", "Squeeze", "Unsqueeze", "Expand", "Slice"])
def test_sizes_that_are_no_integers(op_type: str, kind: type, command: str, tmp_path: Path) -> None:
    with np.errstate(invalid="ignore"):
        sizes: NDArray[np.generic] = np.array([np.inf, 5.0]).astype(kind)
    nodes = [node(op_type, ["w", "sizes", "sizes"][: 2 + (op_type == "Slice")], ["r"]), node("MatMul", ["x", "r"])]
    tried(network(nodes, {"w": drawn(6, 5), "sizes": sizes}, {"x": (2, 6)}), command, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("op_type", ["Mul", "Add", "Where", "Max"])
def test_arithmetic_of_more_axes_than_numpy_joins(op_type: str, command: str, tmp_path: Path) -> None:
    shape = (1,) * 40 + (6, 5)
    inputs = {"Where": ["mask", "w", "s"]}.get(op_type, ["w", "s"])
    nodes = [node(op_type, inputs, ["scaled"]), node("MatMul", ["x", "scaled"])]
    weights = {"w": drawn(*shape), "s": np.ones((1,) * 40, np.float32), "mask": np.ones((1,), bool)}
    tried(network(nodes, weights, {"x": (2, 6)}), command, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["value_floats", "value_float", "value_int", "value_ints"])
@pytest.mark.parametrize("kind", ["sparse", "text", "graph", "nothing"])
def test_a_constant_that_holds_another_thing(name: str, kind: str, command: str, tmp_path: Path) -> None:
    held = AttributeProto(name=name)
    if kind == "sparse":
        held.type = AttributeProto.SPARSE_TENSOR
        held.sparse_tensor.values.CopyFrom(numpy_helper.from_array(drawn(2), "v"))
    elif kind == "text":
        held.type, held.s = AttributeProto.STRING, b"text"
    elif kind == "graph":
        held.type = AttributeProto.GRAPH
        held.g.SetInParent()
    made = helper.make_node("Constant", [], ["c"])
    made.attribute.append(held)
    nodes = [made, node("Mul", ["w", "c"], ["scaled"]), node("MatMul", ["x", "scaled"])]
    tried(network(nodes, {"w": drawn(6, 5)}, {"x": (2, 6)}), command, tmp_path)


@pytest.mark.parametrize("name", ["ceil_mode", "body", "axis", "block_size"])
@pytest.mark.parametrize("quantizes", [False, True])
def test_an_insertion_repeats_what_dequantizes_with_any_attribute(name: str, quantizes: bool, tmp_path: Path) -> None:
    """An empty list tells no type, and the attribute may be one that the operator does not have."""
    odd = AttributeProto(name=name, type=AttributeProto.INTS)
    nodes = [node("DequantizeLinear", ["q" if quantizes else "w", "s", "z"], ["d"]), node("MatMul", ["x", "d"])]
    nodes[0].attribute.append(odd)
    weights: dict[str, NDArray[np.generic]] = {"w": np.arange(30, dtype=np.int8).reshape(6, 5)}
    if quantizes:
        nodes.insert(0, node("QuantizeLinear", ["w", "s", "z"], ["q"]))
        weights["w"] = drawn(6, 5)
    weights |= {"s": np.array(0.1, np.float32), "z": np.array(1, np.int8)}
    tried(network(nodes, weights, {"x": (2, 6)}), "insert", tmp_path, "--no-verify")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shape", [(), (1,), (0,)])
@pytest.mark.parametrize("op_types", [["QuantizeLinear", "DequantizeLinear"], ["DequantizeLinear"], ["Flatten"]])
def test_a_single_number_in_the_place_of_a_weight(
    op_types: Sequence[str], shape: tuple[int, ...], command: str, tmp_path: Path
) -> None:
    kind = np.float32 if op_types[0] != "DequantizeLinear" else np.int8
    names = ["w", *(f"v{place}" for place in range(len(op_types)))]
    nodes = [
        node(op_type, [names[place], *(["s"] if op_type != "Flatten" else [])], [names[place + 1]], axis=-1)
        for place, op_type in enumerate(op_types)
    ]
    nodes += [node("Reshape", [names[-1], "sizes"], ["m"]), node("MatMul", ["x", "m"])]
    weights: dict[str, NDArray[np.generic]] = {
        "w": np.ones(shape, kind),
        "s": np.array(0.1, np.float32),
        "sizes": np.array([1, -1]),
    }
    tried(network(nodes, weights, {"x": (2, 1)}), command, tmp_path)


@pytest.mark.parametrize("command", ["inspect", "fold"])
@pytest.mark.parametrize("scale", [np.inf, np.nan, 3e38, 0.0])
def test_scales_that_overflow_say_one_line(scale: float, command: str, tmp_path: Path) -> None:
    weights: dict[str, NDArray[np.generic]] = {"w": np.full((6, 5), 100, np.int8), "s": np.array(scale, np.float32)}
    weights |= {"z": np.array(100, np.int8)}
    nodes = [node("DequantizeLinear", ["w", "s", "z"], ["d"]), node("MatMul", ["x", "d"])]
    tried(network(nodes, weights, {"x": (2, 6)}), command, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("packed", [False, True])
def test_integers_in_a_sparse_tensor(packed: bool, command: str, tmp_path: Path) -> None:
    """Packed, they have a third axis, which the matrix of the operator has not."""
    values = numpy_helper.from_array(np.arange(1, 9, dtype=np.uint8), "q")
    indices = numpy_helper.from_array(np.arange(8) * 4, "places")
    shape = [4, 1, 8] if packed else [8, 4]
    if packed:
        made = node("MatMulNBits", ["x", "q", "s"], domain="com.microsoft", N=4, K=8, bits=4, block_size=16)
        model = network([made], {"s": drawn(4)}, {"x": (1, 8)})
    else:
        nodes = [node("DequantizeLinear", ["q", "s"], ["d"]), node("MatMul", ["x", "d"])]
        model = network(nodes, {"s": np.array(0.1, np.float32)}, {"x": (1, 8)})
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, shape))
    tried(model, command, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (2, 2), (4, *(1,) * 30)])
def test_sparse_values_of_several_axes(shape: tuple[int, ...], command: str, tmp_path: Path) -> None:
    sparse = onnx.SparseTensorProto(dims=[6, 5])
    sparse.values.CopyFrom(numpy_helper.from_array(drawn(4).reshape(shape), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "places"))
    model = network([node("MatMul", ["x", "w"])], {}, {"x": (2, 6)})
    model.graph.sparse_initializer.append(sparse)
    tried(model, command, tmp_path)


@pytest.mark.parametrize("offset", ["", "0", None])
@pytest.mark.parametrize("length", ["", "24", None])
def test_entries_of_external_data_that_are_empty(offset: str | None, length: str | None, tmp_path: Path) -> None:
    """onnx's own reader, which the proof of a fold takes, reads no empty number."""
    model = network([node("MatMul", ["x", "w"]), node("Add", ["x", "b"], ["z"])], {"w": drawn(6, 5)}, {"x": (2, 6)})
    bias = TensorProto(name="b", data_type=TensorProto.FLOAT, dims=[6], data_location=TensorProto.EXTERNAL)
    for key, entry in (("location", "b.bin"), ("offset", offset), ("length", length)):
        if entry is not None:
            bias.external_data.add(key=key, value=entry)
    model.graph.initializer.append(bias)
    (tmp_path / "b.bin").write_bytes(drawn(6).tobytes())
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    ended = invoke("fold", path, "-o", tmp_path / "out.onnx")
    assert ended.code == 0, ended.err
    assert np.array_equal(numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[1]), drawn(6))
