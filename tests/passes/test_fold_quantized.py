"""Weights behind DequantizeLinear: measured as they are read, folded by their scale, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import sn_graph as sn
from sn_graph.errors import VerificationFailed
from sn_graph.proofs import save
from sn_graph.rewrite import Scaling
from tests.support.builders import Array, Weights, constant, drawn, initializers, network, node, value
from tests.support.oracle import sigma_max
from tests.support.runs import fold_file, run

Q = np.random.default_rng(0).integers(-120, 120, (6, 5)).astype(np.int8)
ZERO = np.int8(7)
PER_TENSOR = np.array(0.02, np.float32)
PER_AXIS = np.linspace(0.01, 0.05, 5).astype(np.float32)
X = drawn(3, 6, seed=1)


def quantized(tensors: Weights, nodes: Sequence[onnx.NodeProto], x: tuple[int, ...] = (3, 6)) -> onnx.ModelProto:
    """A model of these nodes, whose output has the rank of its input."""
    proto = network(nodes, tensors, {"x": x})
    proto.graph.output[0].CopyFrom(value("y", [None] * len(x)))
    return proto


def dequantize(output: str, *inputs: str, **attributes: int) -> onnx.NodeProto:
    return node("DequantizeLinear", inputs, [output], **attributes)


def matmul(a: str, b: str, y: str) -> onnx.NodeProto:
    return node("MatMul", [a, b], [y])


def folded(proto: onnx.ModelProto, tmp_path: Path, **options: Any) -> onnx.ModelProto:
    return fold_file(proto, tmp_path, **options)[0]


@pytest.mark.parametrize("scale", [PER_TENSOR, PER_TENSOR.reshape(1), PER_AXIS], ids=["scalar", "one", "axis"])
@pytest.mark.parametrize("zero", [False, True])
def test_the_scale_is_divided(scale: Array, zero: bool, tmp_path: Path) -> None:
    held: dict[str, Array] = {"q": Q, "s": scale}
    if zero:
        held["z"] = np.full(scale.shape, ZERO)
    proto = quantized(held, [dequantize("w", *held, axis=1), matmul("x", "w", "y")])
    weight = (Q.astype(np.float64) - (float(ZERO) if zero else 0.0)) * scale
    (site,) = sn.fold(proto).sites
    assert (site.weight, site.dtype, site.via) == ("q", "int8", ("DequantizeLinear",))
    assert site.sigma == pytest.approx(sigma_max(weight), rel=1e-6)

    written = folded(proto, tmp_path)
    after = initializers(written)
    np.testing.assert_allclose(after["s"], scale / sigma_max(weight), rtol=1.1e-6)
    assert after["s"].shape == scale.shape
    np.testing.assert_array_equal(after["q"], Q)
    expected = X @ (weight / sigma_max(weight))
    np.testing.assert_allclose(run(written, {"x": X})[0], expected, rtol=0, atol=3e-6)
    assert sn.fold(written).sites[0].sigma == pytest.approx(1.0, abs=1e-6)


def test_a_scale_shared_with_another_weight_is_copied_first(tmp_path: Path) -> None:
    other = Q.T.copy()
    proto = quantized(
        {"q": Q, "p": other, "s": PER_TENSOR},
        [dequantize("w", "q", "s"), dequantize("v", "p", "s"), matmul("x", "w", "h"), matmul("h", "v", "y")],
    )
    weight = Q * float(PER_TENSOR)
    unit = weight / sigma_max(weight)
    written = folded(proto, tmp_path)
    np.testing.assert_allclose(run(written, {"x": X})[0], X @ unit @ unit.T, rtol=0, atol=5e-6)
    written = folded(proto, tmp_path, include=["q"])
    np.testing.assert_allclose(run(written, {"x": X})[0], X @ unit @ weight.T, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(initializers(written)["s"], PER_TENSOR)


@pytest.mark.parametrize("through", ["s", "i"], ids=["directly", "through_identity"])
def test_a_scale_shared_with_an_activation_is_copied_first(through: str, tmp_path: Path) -> None:
    proto = quantized(
        {"q": Q, "s": PER_TENSOR, "z": np.array(0, np.int8)},
        [
            node("Identity", ["s"], ["i"]),
            node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            dequantize("xd", "xq", "s", "z"),
            dequantize("w", "q", through),
            matmul("xd", "w", "y"),
        ],
    )
    weight = Q * float(PER_TENSOR)
    rounded = np.clip(np.rint(X / PER_TENSOR), -128, 127) * PER_TENSOR
    written = folded(proto, tmp_path)
    np.testing.assert_allclose(run(written, {"x": X})[0], rounded @ (weight / sigma_max(weight)), rtol=0, atol=3e-6)
    np.testing.assert_array_equal(initializers(written)["s"], PER_TENSOR)


def test_two_dequantizers_of_one_weight_with_one_scale(tmp_path: Path) -> None:
    square = Q[:5]
    proto = quantized(
        {"q": square, "s": PER_TENSOR},
        [dequantize("w", "q", "s"), dequantize("v", "q", "s"), matmul("x", "w", "h"), matmul("h", "v", "y")],
        x=(3, 5),
    )
    written = folded(proto, tmp_path)
    unit = square / sigma_max(square)
    np.testing.assert_allclose(run(written, {"x": X[:, :5]})[0], X[:, :5] @ unit @ unit, rtol=0, atol=5e-6)
    assert len(written.graph.initializer) == 2


def test_two_dequantizers_with_scales_of_their_own(tmp_path: Path) -> None:
    square = Q[:5]
    proto = quantized(
        {"q": square, "s": PER_TENSOR, "t": PER_TENSOR},
        [dequantize("w", "q", "s"), dequantize("v", "q", "t"), matmul("x", "w", "h"), matmul("h", "v", "y")],
        x=(3, 5),
    )
    unit = square / sigma_max(square)
    written = folded(proto, tmp_path)
    np.testing.assert_allclose(run(written, {"x": X[:, :5]})[0], X[:, :5] @ unit @ unit, rtol=0, atol=5e-6)


def test_a_split_copies_the_dequantizer_and_not_the_integers(tmp_path: Path) -> None:
    square = Q[:5]
    gemm = node("Gemm", ["h", "w"], ["y"], transB=1)
    proto = quantized({"q": square, "s": PER_TENSOR}, [dequantize("w", "q", "s"), matmul("x", "w", "h"), gemm], (3, 5))
    weight = square * float(PER_TENSOR)
    unit = weight / sigma_max(weight)
    written = folded(proto, tmp_path, op_types=["Gemm"])
    np.testing.assert_allclose(run(written, {"x": X[:, :5]})[0], X[:, :5] @ weight @ unit.T, rtol=0, atol=1e-5)
    assert sorted(initializers(written)) == ["q", "s", "s_normalized"]


def test_scales_of_constant_nodes_and_of_other_types(tmp_path: Path) -> None:
    held: dict[str, Array] = {"q": Q, "s": PER_TENSOR.astype(np.float16)}
    proto = quantized(held, [dequantize("h", "q", "s"), node("Cast", ["h"], ["w"], to=TensorProto.FLOAT)])
    proto.graph.node.append(matmul("x", "w", "y"))
    proto.opset_import[0].version, proto.ir_version = 21, 10
    del proto.graph.initializer[1]
    proto.graph.node.insert(0, constant("s", held["s"]))
    written = folded(proto, tmp_path)
    site = sn.fold(written).sites[0]
    assert site.sigma == pytest.approx(1.0, abs=2.0**-11)  # one rounding of a float16 scale
    assert len(written.graph.node) == len(proto.graph.node)


def test_a_quantized_bias_is_pointed_out() -> None:
    kernel = np.random.default_rng(1).integers(-120, 120, (4, 2, 3, 3)).astype(np.int8)
    held: dict[str, Array] = {
        "q": kernel,
        "s": PER_TENSOR,
        "b": np.arange(4, dtype=np.int32),
        "t": np.array(0.001, np.float32),
    }
    nodes = [
        dequantize("w", "q", "s"),
        dequantize("c", "b", "t"),
        node("Conv", ["x", "w", "c"], ["y"]),
    ]
    (site,) = sn.fold(quantized(held, nodes, (1, 2, 6, 6))).sites
    assert site.status == "folded"
    assert any("bias is quantized" in note for note in site.notes)


def test_integers_that_only_an_integer_op_reads_are_refused() -> None:
    held = {"q": Q, "z": np.array(0, np.int8)}
    proto = quantized(held, [node("MatMulInteger", ["x", "q"], ["y"])])
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    (site,) = sn.fold(proto).sites
    assert site.status == "skipped"
    assert "fold the floating-point model" in str(site.reason)


@pytest.mark.parametrize("blocked", [False, True])
def test_scales_by_channel_behind_a_transpose(blocked: bool, tmp_path: Path) -> None:
    scale = np.repeat(PER_AXIS[None], 3, 0) if blocked else PER_AXIS
    attributes = {"axis": 0, "block_size": 2} if blocked else {"axis": 1}
    nodes = [node("Transpose", ["q"], ["t"]), dequantize("w", "t", "s", **attributes), matmul("x", "w", "y")]
    proto = quantized({"q": np.ascontiguousarray(Q.T), "s": scale}, nodes)
    proto.opset_import[0].version, proto.ir_version = 21, 10
    weight = Q * PER_AXIS.astype(np.float64)
    written = folded(proto, tmp_path)
    np.testing.assert_allclose(run(written, {"x": X})[0], X @ (weight / sigma_max(weight)), rtol=0, atol=3e-6)
    assert sn.fold(written).sites[0].sigma == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("held", ["initializers", "weights in Constant nodes", "scale too"])
def test_a_scale_that_weights_and_others_share_is_copied_for_each_and_said_to_be(held: str, tmp_path: Path) -> None:
    """The proof took the copy of one weight for that of the other, and refused what was right."""
    rng = np.random.default_rng(0)
    weights = {name: rng.integers(-99, 99, (8, 3, 3, 3)).astype(np.int8) for name in ("w", "v")}
    tensors: dict[str, Any] = {"s": np.float32(0.01), "z": np.int8(0), **weights}
    moved = {"initializers": (), "weights in Constant nodes": ("w", "v"), "scale too": ("s", "w", "v")}[held]
    nodes = [constant(name, tensors.pop(name)) for name in moved]
    nodes += [node("DequantizeLinear", [name, "s", "z"], [f"{name}d"]) for name in weights]
    nodes += [node("Conv", ["x", "wd"], ["a"]), node("Conv", ["x", "vd"], ["b"])]
    nodes += [node("Mul", ["a", "s"], ["c"]), node("Add", ["c", "b"])]
    result = sn.fold(network(nodes, tensors, {"x": (1, 3, 6, 6)}, opset=13))
    proof = save(result, tmp_path / "out.onnx")
    assert proof.verified == "run", proof.note
    assert [site.notes for site in result.sites] == [
        (f"its scale 's' is read by others too, so the divided one is a copy, '{name}'",)
        for name in ("s_normalized", "s_normalized_1")
    ]


def test_a_node_that_reads_one_scale_for_input_and_weight() -> None:
    """Only the weight's is divided: the node reads a copy there, and the input keeps the original."""
    integers = np.random.default_rng(0).integers(-100, 100, (6, 4)).astype(np.int8)
    held: Weights = {"w": integers, "s": np.array(0.02, np.float32), "z": np.array(0, np.int8)}
    product = node("QLinearMatMul", ["x", "s", "z", "w", "s", "z", "s", "z"])
    proto = network([product], held, {"x": (3, 6)})
    for one in (proto.graph.input[0], proto.graph.output[0]):
        one.type.tensor_type.elem_type = onnx.TensorProto.INT8
    folded = sn.fold(proto).to_proto()
    read = [initializers(folded)[folded.graph.node[0].input[place]] for place in (1, 4, 6)]
    np.testing.assert_array_equal(read[0::2], [np.float32(0.02)] * 2)
    assert read[1] == pytest.approx(1 / sigma_max(integers.astype(np.float64)), rel=1e-6)


def test_the_proof_finds_a_scale_that_was_divided_for_others_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second reader of the scale, which the structure of the file had from the beginning."""
    nodes = [dequantize("d", "q", "s"), matmul("x", "d", "h"), node("Mul", ["h", "s"])]
    proto = quantized({"q": Q, "s": PER_TENSOR}, nodes)
    monkeypatch.setattr(Scaling, "_readers", lambda *_: set())
    with pytest.raises(VerificationFailed, match="which was divided for others"):
        save(sn.fold(proto), tmp_path / "out.onnx")


def looked_up(*, per_column: bool = False, others: bool = False) -> onnx.ModelProto:
    """Rows of integers that are dequantized behind the Gather, as quantize_dynamic leaves an embedding."""
    scale = np.full(5, 0.02, np.float32) if per_column else PER_TENSOR
    held: Weights = {"q": Q, "s": scale, "z": np.full(scale.shape, ZERO)}
    axis = {"axis": 1} if per_column else {}
    nodes = [node("Gather", ["q", "x"], ["r"]), dequantize("d" if others else "y", "r", "s", "z", **axis)]
    if others:
        nodes += [node("Mul", ["d", "s"])]
    proto = quantized(held, nodes, (3,))
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    proto.graph.output[0].CopyFrom(value("y", [3, 5]))
    return proto


@pytest.mark.parametrize("others", [False, True])
def test_a_table_whose_rows_are_dequantized_behind_the_gather(others: bool, tmp_path: Path) -> None:
    proto = looked_up(others=others)
    written, _ = fold_file(proto, tmp_path)
    table = (Q.astype(np.float64) - ZERO) * PER_TENSOR
    rows = np.array([5, 0, 2])
    expected = table[rows] / sigma_max(table) * (PER_TENSOR if others else 1)
    np.testing.assert_allclose(run(written, {"x": rows})[0], expected, rtol=2e-6)
    np.testing.assert_array_equal(initializers(written)["q"], Q)
    assert bool(initializers(written)["s"] == PER_TENSOR) is others
    (site,) = sn.insert(proto).sites
    assert site.reason == "looked up as integers, which are dequantized behind that; fold it"


def test_a_table_whose_columns_have_scales_of_their_own_is_skipped() -> None:
    (site,) = sn.inspect(looked_up(per_column=True)).sites
    assert "with a scale behind it that is not one constant" in (site.reason or "")
