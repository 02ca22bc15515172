"""verify_state: what insert writes is alive; what a tool made of it is found out, and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.model import Model
from sn_graph.proofs import verify_state
from sn_graph.rewrite.insertion import StateLayout, StateMode
from tests.support.networks import SHAPES, branched, discriminator, quantized, weights
from tests.support.runs import LAYOUTS, MODES, inserted


def inserted_proto(layout: StateLayout = StateLayout.PACKED, mode: StateMode = StateMode.DEFAULT) -> onnx.ModelProto:
    return inserted(discriminator(weights()), layout, mode).to_proto()


def drop(entries: object, names: set[str]) -> None:
    for entry in [entry for entry in entries if entry.name in names]:  # type: ignore[attr-defined]
        entries.remove(entry)  # type: ignore[attr-defined]


def without_inputs(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """What tools do that take a default for a constant."""
    drop(proto.graph.input, set(names))
    return proto


def baked(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The input stays, and nothing reads it any more."""
    start = next(numpy_helper.to_array(one) for one in proto.graph.initializer if one.name == name)
    proto.graph.initializer.append(numpy_helper.from_array(start, "baked"))
    for node in proto.graph.node:
        node.input[:] = ["baked" if one == name else one for one in node.input]
    return proto


def failure(proto: onnx.ModelProto) -> str:
    result = verify_state(proto)
    assert not result.ok
    with pytest.raises(VerificationFailed) as caught:
        result.raise_if_different()
    message = str(caught.value)
    assert message.startswith("the state is frozen: ")
    assert "\n" not in message
    assert result.notes[0] in message
    assert ("more findings" in message) == (len(result.notes) > 1)
    return message


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_insert_writes_is_alive(layout: StateLayout, mode: StateMode) -> None:
    result = verify_state(inserted_proto(layout, mode))
    assert result.ok
    assert result.notes == ()
    names = [one.output for one in result.comparisons]
    expected = ["sn_u.next", "sn_sigma"]
    if layout is StateLayout.PER_WEIGHT:
        expected = [f"{site}.{name}" for name in expected for site in SHAPES]
    assert sorted(names) == sorted(expected)
    assert all(one.max_abs > 0 for one in result.comparisons)
    result.raise_if_different()


@pytest.mark.parametrize("source", [quantized(), branched()], ids=["quantized", "branches"])
def test_other_ways_to_hold_a_weight_are_alive(source: onnx.ModelProto) -> None:
    assert verify_state(inserted(source)).ok


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(8, 1), (1, 8), (1, 1)])
def test_a_single_row_or_column_is_alive_though_sigma_never_moves(shape: tuple[int, int], layout: StateLayout) -> None:
    """With u of length 1, another u of the same sign gives the same u.next."""
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = inserted(source, layout).to_proto()
    for seed in range(5):
        assert verify_state(made, seed=seed).ok
    assert not verify_state(without_inputs(made, made.graph.input[-1].name)).ok


@pytest.mark.parametrize("steps", [1, 3])
def test_a_converged_state_is_alive(steps: int) -> None:
    made = inserted(discriminator(weights()), power_iterations=steps).to_proto()
    u = next(one for one in made.graph.initializer if one.name == "sn_u")
    from sn_graph.runtime.session.session import StatefulSession

    session = StatefulSession(made)
    for _ in range(200):
        session.normalize_weights()
    packed = np.concatenate(list(session.state().values())).reshape(-1, 1)
    u.CopyFrom(numpy_helper.from_array(packed, "sn_u"))
    assert verify_state(made).ok


def test_the_input_taken_for_a_constant() -> None:
    frozen = without_inputs(inserted_proto(), "sn_u")
    result = verify_state(frozen)
    assert [one.ok for one in result.comparisons] == [False, False]
    assert all(one.max_abs == 0.0 for one in result.comparisons)
    assert "the input 'sn_u' is gone" in failure(frozen)


def test_an_input_that_nothing_reads() -> None:
    message = failure(baked(inserted_proto(), "sn_u"))
    assert "the output 'sn_u.next' does not follow the u that is fed" in message
    assert "--state-mode required" in message


def test_one_weight_of_a_packed_state_frozen() -> None:
    proto = inserted_proto()
    split = next(node for node in proto.graph.node if node.op_type == "Split")
    own = split.output[1]
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((5, 1), np.float32), "baked"))
    for node in proto.graph.node:
        node.input[:] = ["baked" if one == own else one for one in node.input]
    result = verify_state(proto)
    assert [one.ok for one in result.comparisons] == [False, False]
    assert "dense/kernel" in failure(proto)
    assert "conv/kernel" not in failure(proto)


def test_one_of_the_states_of_the_weights_frozen() -> None:
    frozen = without_inputs(inserted_proto(StateLayout.PER_WEIGHT), "head/kernel.sn_u")
    rows = {one.output: one.ok for one in verify_state(frozen).comparisons}
    assert [name for name, ok in rows.items() if not ok] == ["head/kernel.sn_u.next", "head/kernel.sn_sigma"]
    assert "the input 'head/kernel.sn_u' is gone" in failure(frozen)


@pytest.mark.parametrize("output", ["sn_u.next", "sn_sigma"])
def test_an_output_cut_off(output: str) -> None:
    proto = inserted_proto()
    drop(proto.graph.output, {output})
    rows = {one.output: one.ok for one in verify_state(proto).comparisons}
    assert rows == {name: name != output for name in ("sn_u.next", "sn_sigma")}
    assert f"the output '{output}' is gone" in failure(proto)


@pytest.mark.parametrize("output", ["sn_u.next", "sn_sigma"])
@pytest.mark.parametrize("code", [TensorProto.STRING, TensorProto.BOOL, TensorProto.DOUBLE, None])
def test_an_output_that_is_something_else(code: int | None, output: str) -> None:
    """Fuzzing renamed outputs, so that one of another type or size stood in the place of u."""
    proto = inserted_proto()
    for node in proto.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    made = (
        helper.make_node("Cast", ["before"], [output], to=code)
        if code
        else helper.make_node("Concat", ["before", "before"], [output], axis=0)
    )
    proto.graph.node.append(made)
    value = next(value for value in proto.graph.output if value.name == output)
    value.type.tensor_type.elem_type = code or TensorProto.FLOAT
    value.type.tensor_type.ClearField("shape")
    assert f"the output '{output}' holds something else" in failure(proto)


def test_a_sigma_made_a_constant() -> None:
    proto = inserted_proto()
    node = next(node for node in proto.graph.node if "sn_sigma" in node.output)
    node.output[0] = "unused"
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "baked"))
    proto.graph.node.append(helper.make_node("Identity", ["baked"], ["sn_sigma"]))
    assert "the output 'sn_sigma' does not follow" in failure(proto)


def test_a_default_made_required_is_alive() -> None:
    proto = inserted_proto()
    drop(proto.graph.initializer, {"sn_u"})
    assert verify_state(proto).ok


def test_a_model_without_an_insertion_is_refused() -> None:
    with pytest.raises(ModelError, match="holds nothing that insert wrote") as caught:
        verify_state(discriminator(weights()))
    assert "insert it first" in str(caught.value)
    proto = inserted_proto()
    del proto.metadata_props[:]
    with pytest.raises(ModelError, match="no metadata key sn_graph"):
        verify_state(proto)


def test_it_takes_a_path_inputs_and_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    inserted(discriminator(weights())).save(path)
    assert verify_state(path, dims={"n": 5}, seed=3).ok
    assert verify_state(Model.open(path), inputs={"x": np.zeros((1, 3, 8, 8), np.float32)}).ok
