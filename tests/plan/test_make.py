"""Making plans: narrowed, bound to a copy, and with arguments over what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sn_graph.errors import UsageError
from sn_graph.model import Model
from sn_graph.plan import Plan, build_plan, make_plan, narrow_plan, rebind, save_plan
from tests.support.builders import drawn, model, node
from tests.support.networks import every_kind


def decided() -> tuple[Model, Plan]:
    """A model, and a plan that says more of it than a model can: as a file or a frontend does."""
    made = every_kind()
    plan = make_plan(made, convention="keras")
    first, second, *others = plan.sites
    sites = (
        replace(first, power_iterations=3),
        replace(second, status="skipped", reason="the plan skips it"),
        *others,
    )
    parameters: dict[str, Any] = {"power_iterations": 2, "bound": 0.5, "clip": True, "norm": "operator", "eps": 1e-6}
    return made, replace(plan, sites=sites, state=Path("u"), **parameters)


def parameters(plan: Plan) -> dict[str, Any]:
    return {name: held for name, held in vars(plan).items() if name not in ("sites", "model")}


def test_narrowing_a_plan() -> None:
    _, plan = decided()
    narrowed = narrow_plan(plan, include=["kernel", "table"], op_types=["Conv", "Gemm"])
    assert [site.id for site in narrowed.eligible()] == ["conv1.kernel", "table"]
    table = next(site for site in narrowed.sites if site.id == "table")
    assert [use.node.path for use in table.uses] == ["logits"]
    assert narrow_plan(plan, op_types=["LSTM"]).eligible() == ()
    assert parameters(narrowed) == parameters(plan)


def test_rebinding_to_a_copy_keeps_the_choice_of_uses() -> None:
    """Also where two nodes have one name."""
    nodes = [node("Gather", ["w", "x"], ["h"], name="n"), node("Gemm", ["h", "w"], name="n")]
    made = model(nodes, {"w": drawn(5, 6)})
    plan = make_plan(made, op_types=["Gemm"])
    copy = Model.open(made.to_proto())
    (site,) = rebind(plan, copy).sites
    assert [use.node.op_type for use in site.uses] == ["Gemm"]
    assert site.uses[0].node.proto is copy.proto.graph.node[1]
    assert site.view == plan.sites[0].view


@pytest.mark.parametrize("how", ["file", "object"])
def test_what_no_argument_overrides_is_the_plans(how: str, tmp_path: Path) -> None:
    made, plan = decided()
    save_plan(replace(plan, state=tmp_path / "u"), tmp_path / "plan.json")
    built = build_plan(made, plan=tmp_path / "plan.json" if how == "file" else plan)
    own = {"state": tmp_path / "u", "convention_reason": "the plan says so"} if how == "file" else {}
    assert parameters(built) == parameters(plan) | own
    assert [(site.status, site.power_iterations, site.view) for site in built.sites] == [
        (site.status, site.power_iterations, site.view) for site in plan.sites
    ]


@pytest.mark.parametrize(
    ("option", "value"),
    [("power_iterations", 5), ("bound", 3.0), ("clip", False), ("norm", "matrix"), ("state", Path("v"))],
)
def test_an_argument_overrides_what_the_plan_says(option: str, value: Any) -> None:
    made, plan = decided()
    options: Any = {option: value}
    built = build_plan(made, plan=plan, **options)
    assert parameters(built) == parameters(plan) | {option: value}
    expected = [None if option == "power_iterations" else site.power_iterations for site in plan.sites]
    assert [site.power_iterations for site in built.sites] == expected
    assert getattr(build_plan(made, **options), option) == value


def test_filters_narrow_what_the_plan_chose() -> None:
    made, plan = decided()
    assert [site.id for site in build_plan(made, plan=plan, exclude=["table"]).eligible()] == ["conv1.kernel"]
    assert [site.id for site in build_plan(made, plan=plan, op_types=["Gather"]).eligible()] == ["table"]
    assert build_plan(made, plan=plan, include=["depth"]).eligible() == ()


def test_the_number_of_iterations_given_beats_the_plan_and_its_sites() -> None:
    made, plan = decided()
    asked = build_plan(made, plan=plan, power_iterations=5)
    assert [asked.iterations(target) for target in asked.targets()] == [5, 5]
    assert [plan.iterations(target) for target in plan.targets()] == [3, 2]


@pytest.mark.parametrize(
    "options",
    [{"bound": 0}, {"bound": -1.0}, {"bound": math.nan}, {"bound": math.inf}, {"power_iterations": 0}, {"norm": "l1"}],
)
def test_arguments_that_are_not_valid(options: dict[str, Any]) -> None:
    made, plan = decided()
    for of in (None, plan):
        with pytest.raises(UsageError) as failure:
            build_plan(made, plan=of, **options)
        assert "\n" not in str(failure.value)
