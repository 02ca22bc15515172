"""Sameness: two models are one wherever their data are stored, and every difference has a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sn_graph.model import Model, Storage
from sn_graph.proofs.sameness import first_difference
from tests.support.builders import drawn, network, node
from tests.support.networks import branched, called, discriminator, quantized

MAKERS = [discriminator, quantized, branched, called]


def large() -> onnx.ModelProto:
    """Weights that go to a data file."""
    return network([node("MatMul", ["x", "w"])], {"w": drawn(64, 64), "unused": drawn(40, 40)}, {"x": ["n", 64]})


@pytest.mark.parametrize("make", [*MAKERS, large])
@pytest.mark.parametrize("storage", list(Storage))
def test_a_model_is_the_one_that_was_written(
    make: Callable[[], onnx.ModelProto], storage: Storage, tmp_path: Path
) -> None:
    ours = Model.open(make())
    ours.save(tmp_path / "m.onnx", storage)
    theirs = Model.open(tmp_path / "m.onnx")
    assert first_difference(ours, onnx.load(tmp_path / "m.onnx")) is None
    assert first_difference(ours, theirs) is None
    assert first_difference(theirs, ours) is None
    assert first_difference(ours, make()) is None


def one_bit(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])


def renamed(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].name = "other"


def documented(proto: onnx.ModelProto) -> None:
    proto.doc_string = "other"


def reshaped(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [16, 256]


def retyped(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_type = TensorProto.INT32


def dropped(proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[1]


def reordered(proto: onnx.ModelProto) -> None:
    kept = [proto.graph.initializer[1], proto.graph.initializer[0]]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def emptied(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].ClearField("raw_data")


CHANGES: dict[Callable[[onnx.ModelProto], None], str] = {
    one_bit: "tensor 'w' is another",
    emptied: "tensor 'w' is another",
    renamed: "the graph is another",
    documented: "the graph is another",
    reshaped: "the graph is another",
    retyped: "the graph is another",
    dropped: "the graph is another",
    reordered: "the graph is another",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_difference_is_told(change: Callable[[onnx.ModelProto], None]) -> None:
    other = large()
    change(other)
    assert first_difference(Model.open(large()), other) == CHANGES[change]
    opened = Model.open(other)
    assert first_difference(Model.open(large()), opened) == CHANGES[change]


def test_another_encoding_of_the_same_numbers_is_another_tensor() -> None:
    """Equal as a proto is what strip promises."""
    typed = large()
    weight = drawn(64, 64)
    typed.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.reshape(-1)))
    assert first_difference(Model.open(large()), typed) == "tensor 'w' is another"


def test_what_was_scaled_or_replaced_in_memory_is_the_file_that_comes_of_it(tmp_path: Path) -> None:
    model = Model.open(large())
    first, second = model.proto.graph.initializer
    model.scale(first, 0.5)
    model.replace(second, np.ones((40, 40), np.float32))
    assert first_difference(model, large()) == "tensor 'w' is another"
    for storage in Storage:
        model.save(tmp_path / "m.onnx", storage)
        assert first_difference(model, onnx.load(tmp_path / "m.onnx")) is None


def test_strings_and_empty_tensors() -> None:
    def words(*held: str) -> onnx.ModelProto:
        strings = helper.make_tensor(
            "words", TensorProto.STRING, [len(held)], np.array([word.encode() for word in held], object)
        )
        empty = helper.make_tensor("empty", TensorProto.FLOAT, [0, 3], [])
        return network([node("Identity", ["words"], ["y"])], {"words": strings, "empty": empty}, {})

    assert first_difference(Model.open(words("a", "b")), words("a", "b")) is None
    assert first_difference(Model.open(words("a", "b")), words("a", "c")) is not None
