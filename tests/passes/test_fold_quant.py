"""Folding weights that QONNX's quantizers round: W and its scale together, with every integer as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import sn_graph as sn
from sn_graph.errors import VerificationFailed
from sn_graph.model import Model
from sn_graph.plan import make_plan
from sn_graph.proofs.integers import check_integers
from tests.support import qonnx
from tests.support.builders import Array, Weights, drawn, initializers, network, node, saved
from tests.support.command_line import invoke
from tests.support.oracle import sigma_max
from tests.support.tampering import tamper


def model(
    weight: Array, scale: Array, zero: float = 0.0, bits: float = 4, op_type: str = "Quant", **attributes: Any
) -> onnx.ModelProto:
    """x @ Quant(w), in which w is [k, n]."""
    held: Weights = {"w": weight, "s": scale, "z": np.array(zero, scale.dtype), "b": np.array(bits, np.float32)}
    given = ["s"] if op_type == "BipolarQuant" else ["s", "z", "b"]
    nodes = [node(op_type, ["w", *given], ["d"], domain=qonnx.DOMAIN, **attributes), node("MatMul", ["x", "d"])]
    proto = network(nodes, held, {"x": (3, weight.shape[0])})
    proto.opset_import.append(helper.make_opsetid(qonnx.DOMAIN, 1))
    return proto


def read(proto: onnx.ModelProto, output: str = "d") -> Array:
    """What a consumer gets of the weight, by the reference evaluator."""
    alone = onnx.ModelProto()
    alone.CopyFrom(proto)
    kept = [one for one in alone.graph.node if one.domain == qonnx.DOMAIN and one.output[0] == output]
    del alone.graph.node[:], alone.graph.input[:], alone.graph.output[:]
    alone.graph.node.extend(kept)
    alone.graph.output.add().name = output
    alone.graph.output[0].type.tensor_type.elem_type = 1
    return qonnx.evaluate(alone, {})[0]


def assert_folded(source: onnx.ModelProto, folded: onnx.ModelProto, bound: float = 1.0) -> None:
    """The reader gets bound / σ of what it got, every element by the same factor, and so by the same integer."""
    before, after = read(source), read(folded)
    factor = bound / sigma_max(before)
    np.testing.assert_allclose(after, before * factor, rtol=4e-7, atol=0)  # the scale, rounded once


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(), (1, 5), (7, 1)]),
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from([0.0, 1.0, -3.0]),
    st.sampled_from(qonnx.MODES),
    st.sampled_from(["any", "ties", "integers"]),
)
def test_every_integer_stays(
    seed: int, shape: tuple[int, ...], bits: int, signed: bool, zero: float, mode: str, where: str
) -> None:
    """Weights at ties and at integers are what rounding after the factor would move by a quantum."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.01, 3.0, shape).astype(np.float32)
    steps = rng.uniform(-(2**bits), 2**bits, (7, 5)).astype(np.float32)
    steps = {"any": steps, "ties": np.floor(steps) + np.float32(0.5), "integers": np.floor(steps)}[where]
    proto = model(steps * scale, scale, zero, bits, signed=int(signed), narrow=0, rounding_mode=mode)
    if not read(proto).any():
        return
    assert_folded(proto, sn.fold(proto).to_proto())


def test_elements_that_would_be_rounded_otherwise_are_moved_and_no_others() -> None:
    scale = np.array(0.1, np.float32)
    weight = (np.arange(-40, 40, dtype=np.float32).reshape(10, 8) / 10).astype(np.float32)
    proto = model(weight, scale, rounding_mode="FLOOR", bits=8)
    folded = sn.fold(proto)
    assert_folded(proto, folded.to_proto())
    after, factor = initializers(folded.to_proto())["w"], 1 / sigma_max(read(proto))
    moved = np.abs(after - weight * factor) > 1e-6 * np.abs(weight * factor)
    assert 0 < moved.sum() < weight.size
    assert (np.abs(after - weight * factor)[moved] < 0.1 * factor).all()


@pytest.mark.parametrize("op_type", ["Quant", "IntQuant", "BipolarQuant"])
def test_by_the_command(op_type: str, tmp_path: Path) -> None:
    """Written, proved by structure because onnxruntime has no such operator, with the bound as asked."""
    attributes = {} if op_type == "BipolarQuant" else {"signed": 1, "narrow": 1}
    source = model(drawn(6, 4), np.full((1, 4), 0.1, np.float32), op_type=op_type, **attributes)
    path = saved(source, tmp_path / "in.onnx")
    ended = invoke("fold", path, "-o", tmp_path / "out.onnx", "--bound", "2.5", "--json")
    assert (ended.code, ended.json["verified"]) == (0, "structure")
    (site,) = ended.json["sites"]
    assert site["sigma"] == pytest.approx(sigma_max(read(source)), rel=1e-6)
    folded = onnx.load(tmp_path / "out.onnx")
    assert_folded(source, folded, 2.5)
    assert len(folded.graph.initializer) == 4
    again = invoke("fold", tmp_path / "out.onnx", "-o", tmp_path / "again.onnx", "--bound", "2.5", "--json")
    assert again.json["sites"][0]["sigma"] == pytest.approx(2.5, rel=1e-6)
    upper = invoke("fold", path, "-o", tmp_path / "upper.onnx", "--sigma", "upper")
    assert upper.code == 0
    assert sigma_max(read(onnx.load(tmp_path / "upper.onnx")).astype(np.float64)) <= 1.0


def test_insert_and_strip_give_the_source_back(tmp_path: Path) -> None:
    path = saved(model(drawn(6, 4), np.array(0.1, np.float32)), tmp_path / "in.onnx")
    ended = invoke("insert", path, "-o", tmp_path / "out.onnx", "--json")
    assert (ended.code, ended.json["verified"]) == (0, "structure")
    assert invoke("strip", tmp_path / "out.onnx", "-o", tmp_path / "back.onnx").code == 0
    assert (tmp_path / "back.onnx").read_bytes() == path.read_bytes()


def test_a_scale_that_an_activation_is_quantized_by_is_copied() -> None:
    proto = model(drawn(6, 4), np.array(0.1, np.float32))
    proto.graph.node.insert(0, node("Quant", ["x", "s", "z", "b"], ["q"], domain=qonnx.DOMAIN))
    proto.graph.node[2].input[0] = "q"
    result = sn.fold(proto)
    folded = result.to_proto()
    assert_folded(proto, folded)
    assert folded.graph.node[0].input[1] == "s"
    assert initializers(folded)["s"] == np.float32(0.1)
    assert "its scale 's' is read by others too" in result.sites[0].notes[0]


def test_a_weight_that_is_read_without_its_quantizer_too_is_copied(tmp_path: Path) -> None:
    proto = model(drawn(4, 4), np.array(0.1, np.float32))
    proto.graph.node.append(node("Add", ["y", "w"], ["z0"]))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    proto.graph.output[0].name = "z0"
    ended = invoke("fold", saved(proto, tmp_path / "in.onnx"), "-o", tmp_path / "out.onnx")
    assert ended.code == 0, ended.err
    folded = onnx.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(initializers(folded)["w"], drawn(4, 4))
    x = drawn(4, 4, seed=2)
    expected = x @ (read(proto) / sigma_max(read(proto))) + drawn(4, 4)
    np.testing.assert_allclose(qonnx.evaluate(folded, {"x": x})[0], expected, atol=1e-6)


def test_two_weights_of_one_scale() -> None:
    proto = model(drawn(4, 4), np.array(0.1, np.float32))
    proto.graph.initializer.append(numpy_helper.from_array(drawn(4, 4, seed=5) * 3, "v"))
    proto.graph.node.insert(0, node("Quant", ["v", "s", "z", "b"], ["e"], domain=qonnx.DOMAIN))
    proto.graph.node[2].input[0] = "h"
    proto.graph.node.insert(2, node("MatMul", ["x", "e"], ["h"]))
    folded = sn.fold(proto).to_proto()
    for name in ("d", "e"):
        before, after = read(proto, name), read(folded, name)
        np.testing.assert_allclose(after, before / sigma_max(before), rtol=4e-7)


def test_a_scale_of_16_bits_is_left_with_a_reason(tmp_path: Path) -> None:
    proto = model(drawn(6, 4), np.array(0.1, np.float16))
    ended = invoke("fold", saved(proto, tmp_path / "in.onnx"), "-o", tmp_path / "out.onnx")
    assert ended.code == 3
    site = sn.inspect(proto).sites[0]
    assert "fold leaves it as it is: its Quant divides by a scale of 16 bits" in site.notes[0]


def test_integers_that_changed_are_found() -> None:
    """The proof by itself: one element moved over a tie."""
    proto = model(drawn(6, 4), np.array(0.1, np.float32), bits=8)
    result = sn.fold(proto)
    source = Model.open(proto)
    plan = make_plan(source, convention="keras")
    written = {("", one.name): one for one in result.to_proto().graph.initializer}
    check_integers(plan, source, result.rescaled, written)
    array = initializers(result.to_proto())["w"].copy()
    array[2, 3] += 1.01 * float(initializers(result.to_proto())["s"])
    written["", "w"] = numpy_helper.from_array(array, "w")
    with pytest.raises(VerificationFailed, match="quantized to other integers"):
        check_integers(plan, source, result.rescaled, written)
    with pytest.raises(VerificationFailed, match="another shape or type"):
        check_integers(plan, source, result.rescaled, {**written, ("", "w"): numpy_helper.from_array(array[:5], "w")})


def other_weight_read(written: onnx.ModelProto) -> None:
    """The quantizer's copy reads the original weight beside the new scale."""
    node = next(one for one in written.graph.node if one.output[0] == "d_normalized")
    node.input[0] = "w"


def other_scale_read(written: onnx.ModelProto) -> None:
    node = next(one for one in written.graph.node if one.output[0] == "d_normalized")
    node.input[1] = "s"


def other_weight(written: onnx.ModelProto) -> None:
    tensor = next(one for one in written.graph.initializer if one.name == "w_normalized")
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0] = -array[0, 0]
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def adder_reads_the_copy(written: onnx.ModelProto) -> None:
    next(one for one in written.graph.node if one.op_type == "Add").input[1] = "w_normalized"


def other_rounding(written: onnx.ModelProto) -> None:
    node = next(one for one in written.graph.node if one.output[0] == "d_normalized")
    node.attribute.append(helper.make_attribute("rounding_mode", "CEIL"))


@pytest.mark.parametrize(
    "wrong", [other_weight_read, other_scale_read, other_weight, adder_reads_the_copy, other_rounding]
)
def test_a_file_that_was_written_wrongly_is_refused(
    wrong: Callable[[onnx.ModelProto], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = model(drawn(4, 4), np.array(0.1, np.float32))
    proto.graph.node.append(node("Add", ["y", "w"], ["z0"]))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    proto.graph.output[0].name = "z0"
    tamper(monkeypatch, wrong)
    ended = invoke("fold", saved(proto, tmp_path / "in.onnx"), "-o", tmp_path / "out.onnx")
    assert ended.code == 1, ended.err
    assert not (tmp_path / "out.onnx").exists()
