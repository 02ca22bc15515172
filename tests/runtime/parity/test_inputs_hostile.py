"""Inputs that a small file asks for, and that no ordinary machine holds."""

from __future__ import annotations

import onnx
import pytest

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.runtime import make_inputs
from tests.support.builders import Shape, drawn, network, node


def asking(inputs: dict[str, Shape]) -> onnx.ModelProto:
    return network([node("MatMul", ["x", "w"])], {"w": drawn(8, 4)}, inputs)


@pytest.mark.parametrize("shape", [(100_000, 1000, 8), (2**40, 8), (2**62, 2**62)])
def test_inputs_far_larger_than_the_model_are_not_drawn(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="draws no more than 67 MB"):
        make_inputs(Model.open(asking({"x": shape})))


def test_thousands_of_inputs_are_not_drawn() -> None:
    with pytest.raises(ModelError, match="5,001 inputs"):
        make_inputs(Model.open(asking({"x": (1, 8), **{f"i{i}": (1,) for i in range(5000)}})))
