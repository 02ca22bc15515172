"""The original in the metadata: packed by reference where the inserted model holds a constant, and restored."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.rewrite import pack_original, restore
from sn_graph.state import Inserted, InsertedState, skeleton_hash
from tests.support.builders import drawn, network, node


@pytest.fixture
def proto() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Add", ["h", "shift"], ["s"]), node("MatMul", ["s", "b"], ["y"])]
    weights = {"a": drawn(5, 64), "b": drawn(64, 6, seed=1), "shift": drawn(64, seed=2), "little": drawn(2)}
    return network(nodes, weights, {"x": (2, 5)})


def restored(original: str, model: Model) -> Model:
    """What comes back of a packed original, from a model as it is."""
    state = InsertedState("packed", "default", "u", "v", "s")
    return restore(model, Inserted("keras", 1, 1.0, False, state, (), "", skeleton_hash(model), original))


def test_constants_are_kept_by_reference(proto: onnx.ModelProto) -> None:
    """Those of 64 bytes and more; a constant that the new model lacks, or holds changed, goes along."""
    model = Model.open(proto)
    twin = model.copy()
    packed = pack_original(model, twin, {})
    assert restored(packed, twin).to_proto() == proto
    assert len(packed) < 600  # bytes; the vector alone has 256, the matrices 2,816

    del twin.proto.graph.initializer[2]
    twin.edited()
    with pytest.raises(sn.ModelError, match="damaged"):
        restored(packed, twin)
    assert restored(pack_original(model, twin, {}), twin).to_proto() == proto

    twin.replace(twin.proto.graph.initializer[0], np.zeros((5, 64), np.float32))
    assert restored(pack_original(model, twin, {}), twin).to_proto() == proto
