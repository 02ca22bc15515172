"""Reports as data: the JSON words and nothing that is not JSON."""

from __future__ import annotations

import json
import math

import numpy as np

import sn_graph as sn
from sn_graph.report import Reading, Report, SiteRecord
from sn_graph.report.records import plain
from tests.support.networks import CASES


def record(**changes: object) -> SiteRecord:
    fields: dict[str, object] = {
        "id": "w",
        "weight": "w",
        "scope": "",
        "op_types": ("Conv",),
        "consumers": ("/c",),
        "dtype": "float32",
        "shape": (2, 3),
        "matrix": (2, 3),
        "groups": 1,
        "via": (),
        "status": "folded",
        "reason": None,
    }
    return SiteRecord(**(fields | changes))  # type: ignore[arg-type]


def test_plain_makes_json_of_what_is_none() -> None:
    value = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": ({"d": (1, "x", None, True)},)}
    assert plain(value) == {"a": None, "b": [None, None, 1.5], "c": [{"d": [1, "x", None, True]}]}


def test_readings_are_there_only_where_conventions_differ() -> None:
    assert "readings" not in record().to_json()
    content = record(readings=(Reading("keras", (2, 3), math.nan),)).to_json()
    assert content["readings"] == [{"convention": "keras", "matrix": [2, 3], "sigma": None}]


def test_a_report_survives_json() -> None:
    report = Report(
        "in.onnx", None, {"": 17, "com.microsoft": 1}, "keras", "asked for", None, (record(sigma=math.inf),)
    )
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["opset"] == {"": 17, "com.microsoft": 1}
    assert content["verified"] is None
    assert content["sites"][0]["sigma"] is None


def test_numbers_are_python_numbers() -> None:
    """json knows no numpy scalars."""
    case = CASES[5]
    json.dumps(sn.fold(case.model(case.weight())).report.to_json(), allow_nan=False)
    json.dumps(sn.inspect(case.model(np.zeros(case.shape, np.float32))).to_json(), allow_nan=False)
