"""Parts: what one matrix holds that is several weights in the frameworks, with the norm of each."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import sn_graph as sn
from tests.support.builders import drawn, network, node

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def sigmas(note: str) -> list[float]:
    return [float(found) for found in re.findall(r"\b\w+ (\d[\d.e+-]*)", note)]


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_two_directions_are_two_weights(operator: str, directions: int) -> None:
    weight = drawn(directions, GATES[operator] * 5, 4)
    recurrent = drawn(directions, GATES[operator] * 5, 5, seed=1)
    weight[-1] *= 3.0
    kind = {"direction": "bidirectional"} if directions == 2 else {}
    cell = node(operator, ["x", "w", "r"], ["y", "h"], hidden_size=5, **kind)
    proto = network([cell], {"w": weight, "r": recurrent}, {"x": [3, 1, 4]})
    for record, array in zip(sn.inspect(proto, op_types=[operator]).sites, (weight, recurrent), strict=True):
        if directions == 1:
            assert record.notes == ()
            continue
        both, norms = record.notes[:2]
        assert "both directions are one matrix" in both
        assert sigmas(norms) == pytest.approx([np.linalg.norm(one, 2) for one in array], rel=1e-4)
        assert both in next(one.notes for one in sn.fold(proto, op_types=[operator]).sites if one.id == record.id)
        assert both in next(one.notes for one in sn.insert(proto, op_types=[operator]).sites if one.id == record.id)


@pytest.mark.parametrize("widths", [None, [6, 6, 12]])
def test_query_key_and_value_are_three_weights(widths: list[int] | None) -> None:
    weight = drawn(8, 24)
    given: dict[str, Any] = {} if widths is None else {"qkv_hidden_sizes": widths}
    fused = node("Attention", ["x", "w", "b"], domain="com.microsoft", num_heads=2, **given)
    proto = network([fused], {"w": weight, "b": drawn(24, seed=1)}, {"x": [1, 3, 8]})
    (record,) = sn.inspect(proto).sites
    three, norms = record.notes[:2]
    assert "query, key and value are one matrix" in three
    parts = np.split(weight, np.cumsum(widths or [8, 8, 8])[:-1], axis=1)
    assert sigmas(norms) == pytest.approx([np.linalg.norm(one, 2) for one in parts], rel=1e-4)


@pytest.mark.parametrize("widths", [[12, -4, 16], [0, 0, 24], [24], [6, 6, 6, 6]])
def test_widths_that_are_no_parts_are_not_measured(widths: list[int]) -> None:
    fused = node("Attention", ["x", "w", "b"], domain="com.microsoft", num_heads=2, qkv_hidden_sizes=widths)
    proto = network([fused], {"w": drawn(8, 24), "b": drawn(24, seed=1)}, {"x": [1, 3, 8]})
    (record,) = sn.inspect(proto).sites
    assert not any("norms of its parts" in note for note in record.notes)
