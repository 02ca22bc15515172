"""Certifying as a whole: what a certificate says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import sn_graph as sn
from sn_graph.certify import upwards
from sn_graph.certify.certificate import downwards
from sn_graph.errors import EnvironmentUnavailable, UsageError
from tests.support.builders import drawn
from tests.support.certified import nodes, one_node

F = np.float32


def test_the_levels_go_down_and_the_least_is_the_answer() -> None:
    first, second = 0.5 * drawn(6, 8), 0.5 * drawn(8, 6, seed=1)
    model = nodes(
        ("MatMul", ["x", "w"], "h"), ("Relu", ["h"], "r"), ("MatMul", ["r", "u"], "b"), ("Add", ["x", "b"], "y"),
        x=("N", 6), held={"w": first, "u": second},
    )  # fmt: skip
    found = sn.certify(model, budget=10.0)
    assert next(iter(found.levels)) == "product"
    assert found.proven == min(found.levels.values())
    assert found.level in found.levels
    assert found.levels["lmi"] < found.levels["product"]
    assert found.attained is not None
    assert found.proven is not None
    assert 0.5 * found.proven <= found.attained <= found.proven


def test_an_unbounded_network_says_what_to_do() -> None:
    found = sn.certify(nodes(("Sigmoid", ["x"], "s"), ("Mul", ["s", "s"], "y", {"name": "gate"})), budget=1.0)
    assert found.proven is None
    assert found.unbounded is not None
    assert (found.unbounded.node, found.unbounded.op_type) == ("gate", "Mul")
    assert found.unbounded.do
    assert "unbounded at gate" in repr(found)
    assert sn.certify(one_node("Sign", (1, 3)), budget=1.0, at_most=1e9).ok is False


def test_an_output_that_does_not_depend_on_the_input() -> None:
    model = nodes(("Add", ["a", "a"], "y"), held={"a": drawn(2)})
    found = sn.certify(model, budget=1.0)
    assert (found.attained, found.proven) == (0.0, 0.0)
    assert any("does not depend" in note for note in found.notes)


def test_integers_beside_floats_are_no_question() -> None:
    """A classifier with a label and scores: the scores are what is asked."""
    model = nodes(("ArgMax", ["x"], "label"), ("Softmax", ["x"], "y"), x=("N", 4))
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, None))
    found = sn.certify(model, budget=1.0)
    assert (found.output, found.proven) == ("y", 0.5)


def test_a_batch_that_is_fixed_has_a_witness_of_its_shape() -> None:
    model = nodes(("MatMul", ["x", "w"], "y"), x=(3, 4), held={"w": drawn(4, 4)})
    found = sn.certify(model, budget=2.0)
    assert found.witness is not None
    assert found.witness.x0["x"].shape == (3, 4)
    assert found.attained == pytest.approx(found.proven, rel=1e-3)


def test_a_file_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = nodes(("MatMul", ["x", "w"], "y"), x=(3, 4), held={"w": drawn(4, 4)}).SerializeToString()
    path.write_bytes(whole)

    def change(*_: object) -> None:
        path.write_bytes(whole + b"\0")

    with pytest.raises(EnvironmentUnavailable, match=r"model\.onnx"):
        sn.certify(path, budget=1.0, progress=change)


@pytest.mark.parametrize("options", [{"level": "best"}, {"budget": 0.0}, {"budget": math.nan}, {"at_most": -1.0}])
def test_arguments_that_are_none(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        sn.certify(one_node("Relu", (1, 3)), **options)  # type: ignore[arg-type]


@given(st.floats(1e-200, 1e200))
def test_what_is_shown_encloses(value: float) -> None:
    assert float(downwards(value)) <= value <= float(upwards(value))
    assert float(upwards(value)) <= value * (1 + 2e-6)
    assert float(downwards(value)) >= value * (1 - 2e-6)
