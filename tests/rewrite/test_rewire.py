"""Copies for some readers of a constant: the same form, fresh names, the others undisturbed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sn_graph.model import Model
from sn_graph.plan import make_plan
from sn_graph.rewrite import Copy, Rewiring
from tests.support.builders import constant, drawn, model, node


def test_an_initializer_is_copied_with_its_data() -> None:
    weight = drawn(3, 4)
    opened = model([node("MatMul", ["x", "w"])], {"w": weight})
    rewiring = Rewiring(opened.graph)
    name, tensor = rewiring.copy_constant(opened.graph.main, "w")
    assert name == "w_normalized"
    assert rewiring.copies == [Copy("w_normalized", "w")]
    opened.scale(tensor, 2.0)
    found = {one.name: numpy_helper.to_array(one) for one in opened.to_proto().graph.initializer}
    np.testing.assert_array_equal(found["w"], weight)
    np.testing.assert_array_equal(found[name], weight * 2)


def test_a_constant_node_is_copied_as_a_node() -> None:
    weight = drawn(3, 4)
    opened = model([constant("w", weight, name="here"), node("MatMul", ["x", "w"])])
    rewiring = Rewiring(opened.graph)
    name, tensor = rewiring.copy_constant(opened.graph.main, "w")
    assert rewiring.copies == [Copy(name, "w")]
    opened.scale(tensor, 0.5)
    first, second, matmul = opened.to_proto().graph.node
    assert (first.output[0], second.output[0], matmul.input[1]) == ("w", name, "w")
    assert (first.name, second.name) == ("here", "here_1")
    np.testing.assert_array_equal(numpy_helper.to_array(first.attribute[0].t), weight)
    np.testing.assert_array_equal(numpy_helper.to_array(second.attribute[0].t), weight * 0.5)


@pytest.mark.parametrize(("ir", "listed"), [(3, True), (4, False)])
def test_ir_3_gets_an_input_for_the_copy(ir: int, listed: bool) -> None:
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"])],
        "g",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [2, 3]), ("w", [3, 4]))],
        [helper.make_tensor_value_info("y", 1, [2, 4])],
        [numpy_helper.from_array(drawn(3, 4), "w")],
    )
    opened = Model.open(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=ir))
    Rewiring(opened.graph).copy_constant(opened.graph.main, "w")
    names = [value.name for value in opened.proto.graph.input]
    assert names == ["x", "w"] + ["w_normalized"] * listed
    onnx.checker.check_model(opened.to_proto())


def test_readers_behind_a_shared_chain_share_its_copy() -> None:
    nodes = [
        node("Transpose", ["w"], ["t"], name="turn"),
        node("MatMul", ["x", "t"], ["a"]),
        node("MatMul", ["a", "t"], ["b"]),
        node("MatMul", ["b", "t"], ["y"]),
    ]
    opened = model(nodes, {"w": drawn(3, 3)})
    (planned,) = make_plan(opened).sites
    rewiring = Rewiring(opened.graph)
    name, _ = rewiring.copy_constant(opened.graph.main, "w")
    copies = rewiring.redirect(planned.uses[1:], name)
    assert rewiring.copies == [Copy("w_normalized", "w"), Copy("t_normalized", "t")]
    assert [copy.output[0] for copy in copies.values()] == ["t_normalized"]
    turn, copy, *readers = opened.proto.graph.node
    assert (turn.input[0], copy.input[0], copy.name) == ("w", name, "turn_1")
    assert [reader.input[1] for reader in readers] == ["t", "t_normalized", "t_normalized"]
