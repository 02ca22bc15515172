"""The metadata of an inserted model: read back as written, whatever else they hold refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

import sn_graph as sn
from sn_graph.inserted import (
    Inserted,
    InsertedState,
    initial_state,
    pack_original,
    read_inserted,
    state_names,
    unpack_original,
    write_inserted,
)
from sn_graph.model import Model
from tests.passes.insert_reference import drawn, network, seeded

node = helper.make_node


@pytest.fixture
def proto() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Add", ["h", "shift"], ["s"]), node("MatMul", ["s", "b"], ["y"])]
    weights = {"a": drawn(5, 64), "b": drawn(64, 6, seed=1), "shift": drawn(64, seed=2), "little": drawn(2)}
    return network(nodes, weights, {"x": (2, 5)})


def inserted(proto: onnx.ModelProto, **options: str) -> tuple[Model, Inserted]:
    model = sn.insert(proto, convention="keras", **options).model  # type: ignore[arg-type]
    found = read_inserted(model)
    assert found is not None
    return model, found


def test_a_plain_model_has_none(proto: onnx.ModelProto) -> None:
    assert read_inserted(Model.open(proto)) is None


@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_what_is_written_is_read_back(layout: str, proto: onnx.ModelProto) -> None:
    model, found = inserted(proto, state_layout=layout)
    changed = replace(found, clip=True, sites=(replace(found.sites[0], power_iterations=4, per_use=True),))
    del model.proto.metadata_props[:]
    write_inserted(model, changed)
    again = read_inserted(model)
    assert again is not None
    assert replace(again, result="") == replace(changed, result="")


def test_names_and_first_values_of_the_state(proto: onnx.ModelProto) -> None:
    u = {"a": seeded("a", 64).astype(np.float32), "b": seeded("b", 6).astype(np.float32)}
    model, found = inserted(proto)
    assert state_names(found) == ({"sn_u": "sn_u.next"}, {"sn_sigma"})
    np.testing.assert_array_equal(initial_state(model, found)["sn_u"][:, 0], np.concatenate([u["a"], u["b"]]))

    model, found = inserted(proto, state_layout="per-weight", state_mode="required")
    pairs = {f"{name}.sn_u": f"{name}.sn_u.next" for name in u}
    assert state_names(found) == (pairs, {"a.sn_sigma", "b.sn_sigma"})
    for name, start in initial_state(model, found).items():
        np.testing.assert_array_equal(start[:, 0], u[name.removesuffix(".sn_u")])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", '"a"', "{}", '{"version": 1}', '{"version": 1, "kind": "inserted", "state": 3, "sites": []}'],
)
def test_other_content_under_the_key_is_refused(text: str, proto: onnx.ModelProto) -> None:
    proto.metadata_props.add(key="sn_graph", value=text)
    with pytest.raises(sn.ModelError):
        read_inserted(Model.open(proto))


def test_the_metadata_are_json_that_others_can_read(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].name = "gewicht/größe"
    proto.graph.node[0].input[1] = "gewicht/größe"
    model, found = inserted(proto)
    text = model.proto.metadata_props[0].value
    assert "gewicht/größe" in text
    assert json.loads(text)["sites"][0]["id"] == found.sites[0].id == "gewicht/größe"


def test_constants_are_kept_by_reference(proto: onnx.ModelProto) -> None:
    """Those of 64 bytes and more; a constant that the new model lacks, or holds changed, goes along."""
    model = Model.open(proto)
    twin = model.copy()
    packed = pack_original(model, twin, {})
    state = InsertedState("packed", "default", "u", "v", "s")
    metadata = Inserted("keras", 1, 1.0, False, state, (), "", "", packed)
    assert unpack_original(metadata, twin) == model.proto
    assert len(packed) < 600  # bytes; the vector alone has 256, the matrices 2,816

    del twin.proto.graph.initializer[2]
    with pytest.raises(sn.ModelError, match="damaged"):
        unpack_original(metadata, twin)
    whole = replace(metadata, original=pack_original(model, twin, {}))
    assert unpack_original(whole, twin) == model.proto

    twin.replace(twin.proto.graph.initializer[0], np.zeros((5, 64), np.float32))
    whole = replace(metadata, original=pack_original(model, twin, {}))
    restored = Model.open(unpack_original(whole, twin))
    assert restored.array(restored.proto.graph.initializer[0]).tobytes() == drawn(5, 64).tobytes()
