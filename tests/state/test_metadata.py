"""The metadata of an inserted model: read back as written, whatever else they hold refused."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.state import Inserted, read_inserted, write_inserted
from tests.support.builders import drawn, network, node


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
    changed = replace(
        found, clip=True, sites=(replace(found.sites[0], power_iterations=4, per_use=True), *found.sites[1:])
    )
    del model.proto.metadata_props[:]
    write_inserted(model, changed)
    again = read_inserted(model)
    assert again is not None
    assert replace(again, result="") == replace(changed, result="")


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
