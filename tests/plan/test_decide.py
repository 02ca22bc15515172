"""Decisions: which weights are chosen, for which of their readers, and why the others are not."""

from __future__ import annotations

from typing import Any

import pytest

from sn_graph.errors import UsageError
from sn_graph.plan import Plan, make_plan, narrow_plan
from sn_graph.sites import MatrixView
from tests.support.builders import drawn, model, node, sites
from tests.support.networks import every_kind


def statuses(plan: Plan) -> dict[str, str]:
    return {site.id: site.status for site in plan.sites}


def test_what_is_eligible_without_options() -> None:
    plan = make_plan(every_kind())
    assert statuses(plan) == {
        "conv1.kernel": "eligible",
        "depth/kernel": "eligible",
        "table": "eligible",
        "lstm": "skipped",
        "fancy": "skipped",
        "sum": "skipped",
    }
    assert [site.id for site in plan.eligible()] == ["conv1.kernel", "depth/kernel", "table"]
    assert all(site.reason is None if site.status == "eligible" else site.reason for site in plan.sites)


@pytest.mark.parametrize(
    ("options", "eligible"),
    [
        ({"include": ["kernel"]}, ["conv1.kernel", "depth/kernel"]),
        ({"include": ["^conv", "^tab"]}, ["conv1.kernel", "table"]),
        ({"exclude": ["kernel$"]}, ["table"]),
        ({"include": ["kernel"], "exclude": [r"1\."]}, ["depth/kernel"]),
        ({"include": ["e"], "exclude": ["."]}, []),
        ({"op_types": ["LSTM"]}, ["lstm"]),
        ({"op_types": ["LSTM", "Conv"]}, ["conv1.kernel", "depth/kernel", "lstm"]),
        ({"op_types": ["Conv"], "include": ["depth"]}, ["depth/kernel"]),
        ({"op_types": ["Attention"]}, []),
    ],
)
def test_selection(options: dict[str, Any], eligible: list[str]) -> None:
    plan = make_plan(every_kind(), **options)
    assert [site.id for site in plan.eligible()] == eligible
    assert all(site.reason for site in plan.sites if site.status == "skipped")


def test_reasons_of_a_selection() -> None:
    found = sites(every_kind(), include=["kernel", "lstm"], exclude=["depth"], op_types=["Conv"])
    assert found["depth/kernel"].reason == "left out by --exclude 'depth'"
    assert found["table"].reason == "--op-type names none of its consumers (Gather, Gemm)"
    assert "com.acme::Fancy" in (found["fancy"].reason or "")
    assert sites(every_kind(), include=["kernel"])["table"].reason == "no --include matches it"


def test_op_type_that_names_some_of_the_uses() -> None:
    """The Gather keeps the original; the Gemm's own matrix and side count."""
    found = sites(every_kind(), op_types=["Gemm"], convention="torch")["table"]
    assert [use.node.path for use in found.uses] == ["logits"]
    assert (found.status, found.splits, found.view) == ("eligible", True, MatrixView(None, None, 5, 6, "cols"))
    both = sites(every_kind(), op_types=["Gemm", "Gather"], convention="torch")["table"]
    assert (both.splits, both.view) == (False, MatrixView(None, None, 5, 6, "rows"))


def test_op_type_decides_between_uses_that_need_different_matrices() -> None:
    nodes = [node("Conv", ["x", "w"], ["h"]), node("ConvTranspose", ["h", "w"])]
    made = model(nodes, {"w": drawn(4, 6, 3, 3)})
    assert sites(made, convention="torch")["w"].status == "skipped"
    chosen = sites(made, convention="torch", op_types=["ConvTranspose"])["w"]
    assert (chosen.status, chosen.view) == ("eligible", MatrixView(None, (1, 0, 2, 3), 6, 36, "rows"))


@pytest.mark.parametrize("options", [{"include": ["("]}, {"exclude": ["*"]}, {"op_types": ["Add"]}, {"op_types": [""]}])
def test_bad_selection(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as failure:
        make_plan(every_kind(), **options)
    assert "\n" not in str(failure.value)
    with pytest.raises(UsageError):
        narrow_plan(make_plan(every_kind()), **options)
