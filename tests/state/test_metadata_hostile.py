"""Metadata that nobody wrote: every command ends with exit 3 in one line, and nothing is allocated by what they say."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.rewrite import restore
from sn_graph.state import read_inserted
from tests.support.builders import drawn, network, node
from tests.support.command_line import invoke, one_line

Change = Callable[[dict[str, Any]], object]


def changed(change: Change, **options: Any) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"])]
    plain = network(nodes, {"a": drawn(5, 64), "b": drawn(64, 6, seed=1)}, {"x": (2, 5)})
    proto = sn.insert(plain, convention="keras", **options).to_proto()
    content = json.loads(proto.metadata_props[0].value)
    change(content)
    proto.metadata_props[0].value = json.dumps(content)
    return proto


def put(*path: Any) -> Change:
    *way, last, value = path

    def change(content: dict[str, Any]) -> None:
        at: Any = content
        for key in way:
            at = at[key]
        at[last] = value

    return change


KEYS = ("convention", "power_iterations", "bound", "state", "sites", "model", "result", "original", "norm", "clip")
OTHERS: list[Any] = [[1], ["other"], {"a": "b"}]
NO_NAMES: list[Any] = [[], {}, 1, ""]
NO_PARTS: list[Any] = [None, -1, 10**12, 2.0, True, [], [[1], 2], {}, "5"]
CHANGES: dict[str, Change] = {
    **{f"{key} is {value!r}": put(key, value)
       for key in KEYS for value in OTHERS},
    **{f"the state's {key} is {value!r}": put("state", key, value)
       for key in ("layout", "mode", "input", "output", "sigma") for value in NO_NAMES},
    **{f"a site's {key} is {value!r}": put("sites", 1, key, value)
       for key in ("id", "weight", "u", "sigma", "length", "op_types", "rows", "cols", "side")
       for value in NO_PARTS
       if not (key in ("id", "weight") and value == "5")},
    "an id twice": lambda content: content["sites"].append(content["sites"][0]),
    "an unknown id": put("sites", 0, "id", "elsewhere"),
    "u that overlap": put("sites", 1, "u", [0, 6]),
    "u behind the end": put("sites", 1, "u", [64, 7]),
    "σ of the other": put("sites", 1, "sigma", 0),
    "sizes of another matrix": lambda content: content["sites"][0].update(rows=64, cols=5, length=5, u=[0, 5]),
    "a split of another size": put("sites", 0, "split", [5, 65]),
    "a perm that is none": put("sites", 0, "perm", [0, 0]),
    "no such operator": put("sites", 0, "op_types", ["Conv"]),
    "an unknown key": put("more", 1),
    "an unknown key of a site": put("sites", 0, "more", 1),
    "a key less": lambda content: content.pop("original"),
    "half a character": put("sites", 0, "id", "\ud800"),
    "a number of 5000 digits": put("bound", 10**4000),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_metadata_of_another_form_end_with_3(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(changed(CHANGES[name]), path)
    one_line(invoke("fold", path, "-o", tmp_path / "o.onnx"), 3)
    assert not (tmp_path / "o.onnx").exists()
    assert invoke("strip", path, "-o", tmp_path / "o.onnx").code in (0, 3)  # it needs the original alone
    for command in (["inspect", path], ["verify", path]):
        assert invoke(*command).code in (0, 3)


def test_per_weight_names_are_names_and_differ() -> None:
    for change in (put("sites", 0, "u", ["sn", "sn"]), put("sites", 0, "u", [0, 64]), put("sites", 0, "sigma", 0)):
        with pytest.raises(sn.ModelError, match="damaged metadata"):
            read_inserted(Model.open(changed(change, state_layout="per-weight")))


def test_the_original_is_unpacked_no_further_than_an_original_can_be() -> None:
    bomb = base64.b85encode(zlib.compress(bytes(100 << 20), 9)).decode()
    model = Model.open(changed(put("original", bomb)))
    found = read_inserted(model)
    assert found is not None
    with pytest.raises(sn.ModelError, match="damaged metadata"):
        restore(model, found)


@pytest.mark.parametrize("text", ["", "[]", "1", '"a"', "{}", "[" * 100_000, '{"version": ' + "9" * 5000 + "}"])
def test_what_is_no_entry_is_refused(text: str) -> None:
    proto = network([node("MatMul", ["x", "a"])], {"a": drawn(4, 4)}, {"x": (1, 4)})
    proto.metadata_props.add(key="sn_graph", value=text)
    with pytest.raises(sn.ModelError):
        read_inserted(Model.open(proto))
