"""Conventions: whose matrices a model gets, asked for or by its origin."""

from __future__ import annotations

import pytest

from sn_graph.errors import UsageError
from sn_graph.plan import make_plan
from tests.support.builders import drawn, model, node
from tests.support.networks import every_kind


def test_bad_convention() -> None:
    with pytest.raises(UsageError, match="auto, keras, torch, torch-parametrization"):
        make_plan(every_kind(), convention="jax")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("producer", "weight", "convention", "reason"),
    [
        ("pytorch", "w", "torch", "the producer is pytorch"),
        ("tf2onnx", "w", "keras", "tf2onnx"),
        ("", "w", "keras", "not named"),
        ("onnx-simplifier", "conv1.weight", "torch", "'conv1.weight'"),
        ("", "conv1.weight_orig", "torch", "'conv1.weight_orig'"),
        ("", "conv1.parametrizations.weight.original", "torch", "parametrizations"),
        ("", "conv1/weight", "keras", "not named"),
        ("", "weighted.sum", "keras", "not named"),
    ],
)
def test_auto_convention(producer: str, weight: str, convention: str, reason: str) -> None:
    plan = make_plan(model([node("MatMul", ["x", weight])], {weight: drawn(3, 4)}, producer=producer))
    assert plan.convention == convention
    assert reason in plan.convention_reason
    assert make_plan(every_kind(), convention="torch").convention_reason == "asked for"
