"""The plan's file: its exact form, edited files obeyed, bad files refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from sn_graph.choices import ConventionChoice
from sn_graph.errors import EnvironmentUnavailable, ModelError
from sn_graph.model import Model
from sn_graph.plan import Plan, load_plan, make_plan, save_plan
from sn_graph.sites import MatrixView
from tests.support.builders import drawn, function, model, node
from tests.support.networks import every_kind

Json = dict[str, Any]


def written(plan: Plan, folder: Path) -> Json:
    save_plan(plan, folder / "plan.json")
    content: Json = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    return content


def read(content: Any, folder: Path, of: Model | None = None, **options: Any) -> Plan:
    path = folder / "edited.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return load_plan(path, of or every_kind(), **options)


@pytest.fixture
def content(tmp_path: Path) -> Json:
    return written(make_plan(every_kind(), convention="keras"), tmp_path)


def test_the_files_exact_form(tmp_path: Path) -> None:
    content = written(make_plan(every_kind(), convention="keras", exclude=["conv1"]), tmp_path)
    assert list(content) == [
        "version",
        "model",
        "convention",
        "power_iterations",
        "eps",
        "bound",
        "clip",
        "norm",
        "state",
        "sites",
    ]
    parameters = {key: value for key, value in content.items() if key != "sites"}
    assert parameters == {
        "version": 1,
        "model": "",
        "convention": "keras",
        "power_iterations": 1,
        "eps": 1e-12,
        "bound": 1.0,
        "clip": False,
        "norm": "matrix",
        "state": None,
    }
    keys = ["id", "weight", "scope", "status", "reason", "split", "perm", "rows", "cols", "side"]
    assert all(list(site) == keys for site in content["sites"])
    first, second, *_, computed = content["sites"]
    assert list(first.values()) == [
        "conv1.kernel",
        "conv1.kernel",
        "",
        "skipped",
        "left out by --exclude 'conv1'",
        None,
        None,
        4,
        27,
        "rows",
    ]
    assert list(second.values())[3:] == ["eligible", None, [4, 2, 3, 3], [1, 0, 2, 3], 2, 36, "rows"]
    status, reason, *rest = list(computed.values())[3:]
    assert (status, rest) == ("skipped", [None] * 5)
    assert reason.startswith("computed in the graph by")


@pytest.mark.parametrize("convention", [*get_args(ConventionChoice)][1:])
def test_round_trip(convention: ConventionChoice, tmp_path: Path) -> None:
    plan = make_plan(
        every_kind(), convention=convention, exclude=["conv1"], op_types=["Conv", "LSTM", "Gather", "Gemm"]
    )
    content = written(plan, tmp_path)
    loaded = load_plan(tmp_path / "plan.json", every_kind())
    assert loaded.to_json() == content
    assert loaded.convention_reason == "the plan says so"
    assert [site.view for site in loaded.sites] == [site.view for site in plan.sites]


def test_model_name_and_state_path(tmp_path: Path) -> None:
    every_kind().save(tmp_path / "in.onnx")
    plan = make_plan(Model.open(tmp_path / "in.onnx"))
    assert plan.model == "in.onnx"
    (tmp_path / "plans").mkdir()
    with_state = Plan(**{**vars(plan), "state": tmp_path / "u" / "in.u.safetensors"})
    content = written(with_state, tmp_path / "plans")
    assert (content["model"], content["state"]) == ("in.onnx", "../u/in.u.safetensors")
    loaded = load_plan(tmp_path / "plans" / "plan.json", every_kind())
    assert isinstance(loaded.state, Path)
    assert loaded.state.resolve() == (tmp_path / "u" / "in.u.safetensors").resolve()


def test_names_in_any_script(tmp_path: Path) -> None:
    made = model([node("MatMul", ["x", "κ/σ"])], {"κ/σ": drawn(3, 4)})
    assert written(make_plan(made), tmp_path)["sites"][0]["id"] == "κ/σ"
    assert load_plan(tmp_path / "plan.json", made).sites[0].id == "κ/σ"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnavailable):
        save_plan(make_plan(every_kind()), tmp_path / "none" / "plan.json")


def test_depthwise_or_grouped(content: Json, tmp_path: Path) -> None:
    kernel = drawn(8, 1, 3, 3)
    assert content["sites"][1]["rows"] == 2
    content["sites"][1].update(split=None, perm=None, rows=8, cols=9, side="rows")
    grouped = read(content, tmp_path).sites[1].view
    assert grouped is not None
    np.testing.assert_array_equal(grouped.matrix(kernel), kernel.reshape(8, 9))
    content["sites"][1].update(split=[4, 2, 9], perm=[1, 0, 2], rows=2, cols=36, side="cols")
    depthwise = read(content, tmp_path).sites[1].view
    assert depthwise is not None
    np.testing.assert_array_equal(depthwise.matrix(kernel), kernel.reshape(4, 2, 9).transpose(1, 0, 2).reshape(2, 36))
    assert depthwise.state_length == 36


def test_a_plan_chooses_between_matrices(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["h"]), node("ConvTranspose", ["h", "w"])]
    made = model(nodes, {"w": drawn(4, 6, 3, 3)})
    content = written(make_plan(made, convention="torch"), tmp_path)
    content["sites"][0]["status"] = "eligible"
    chosen = read(content, tmp_path, made).sites[0]
    assert (chosen.status, chosen.reason, len(chosen.uses)) == ("eligible", None, 2)
    assert chosen.view == MatrixView(None, None, 4, 54, "rows")


def test_a_plan_wakes_a_recurrent_weight_but_nothing_that_cannot_be(content: Json, tmp_path: Path) -> None:
    for site in content["sites"]:
        site["status"] = "eligible"
    plan = read(content, tmp_path)
    assert [site.id for site in plan.eligible()] == ["conv1.kernel", "depth/kernel", "table", "lstm"]
    assert (plan.sites[-1].reason or "").startswith("computed in the graph by")


def test_skipped_and_left_out(content: Json, tmp_path: Path) -> None:
    content["sites"][0].update(status="skipped", reason="the first layer stays")
    content["sites"][1].update(status="skipped", reason=None)
    del content["sites"][2:]
    plan = read(content, tmp_path)
    reasons = [site.reason for site in plan.sites]
    assert reasons[:4] == ["the first layer stays", "the plan skips it", *2 * ["the plan leaves it out"]]
    assert plan.eligible() == ()


def test_parameters_and_own_iterations(content: Json, tmp_path: Path) -> None:
    content.update(power_iterations=3, eps=1e-6, bound=2, clip=True, state="in.u.safetensors", model="else.onnx")
    content["sites"][0].update(power_iterations=5, per_use=True, bound=3.0, clip=False)
    plan = read(content, tmp_path)
    assert (plan.power_iterations, plan.eps, plan.bound, plan.clip) == (3, 1e-6, 2.0, True)
    assert plan.state == tmp_path / "in.u.safetensors"
    assert (plan.sites[0].power_iterations, plan.sites[0].per_use) == (5, True)
    assert (plan.sites[0].bound, plan.sites[0].clip) == (3.0, False)
    assert (plan.sites[1].power_iterations, plan.sites[1].per_use) == (None, False)
    again = plan.to_json()["sites"]
    assert (again[0]["power_iterations"], again[0]["per_use"]) == (5, True)
    assert "power_iterations" not in again[1]
    assert "per_use" not in again[1]


def test_only_what_is_needed(tmp_path: Path) -> None:
    """A frontend's plan may be short: parameters have defaults, and what it leaves out is untouched."""
    site = {"id": "table", "status": "eligible", "rows": 5, "cols": 6, "side": "rows"}
    plan = read({"version": 1, "convention": "torch", "sites": [site]}, tmp_path)
    assert [(site.id, site.view) for site in plan.eligible()] == [("table", MatrixView(None, None, 5, 6, "rows"))]
    assert (plan.power_iterations, plan.eps, plan.bound, plan.clip, plan.state) == (1, 1e-12, 1.0, False, None)


def test_another_convention_than_the_plans(content: Json, tmp_path: Path) -> None:
    content["sites"][0]["status"] = "skipped"
    plan = read(content, tmp_path, convention="torch")
    assert plan.convention == "torch"
    assert plan.sites[1].view == MatrixView(None, None, 8, 9, "rows")
    assert plan.sites[0].status == "skipped"
    same = read(content, tmp_path, convention="keras")
    assert same.sites[1].view == MatrixView((4, 2, 3, 3), (1, 0, 2, 3), 2, 36, "rows")


def test_one_iteration_for_each_use_can_not_be_inside_a_function(tmp_path: Path) -> None:
    inside = function("Dense", ["a", "k"], [node("MatMul", ["a", "k"])])
    calls = [node("Dense", ["x", "w"], ["h"], domain="local"), node("Dense", ["h", "w"], domain="local")]
    made = model(calls, {"w": drawn(4, 4)}, functions=[inside])
    content = written(make_plan(made), tmp_path)
    assert content["sites"][0]["status"] == "eligible"
    content["sites"][0]["per_use"] = True
    found = read(content, tmp_path, made).sites[0]
    assert (found.status, "local function" in (found.reason or "")) == ("skipped", True)


def test_a_plan_can_not_split_what_enters_a_function(tmp_path: Path) -> None:
    inside = function("Dense", ["a", "k"], [node("MatMul", ["a", "k"])])
    calls = [node("Dense", ["x", "w"], ["h"], domain="local"), node("Add", ["h", "w"])]
    made = model(calls, {"w": drawn(4, 4)}, functions=[inside])
    content = written(make_plan(made), tmp_path)
    content["sites"][0]["status"] = "eligible"
    assert read(content, tmp_path, made).sites[0].status == "skipped"


def site_edit(**changes: Any) -> Callable[[Json], Any]:
    return lambda content: content["sites"][0].update(changes)


def drop(*path: Any) -> Callable[[Json], Any]:
    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return edit


BAD: dict[str, Callable[[Json], Any]] = {
    "no version": drop("version"),
    "no convention": drop("convention"),
    "no sites": drop("sites"),
    "no id": drop("sites", 0, "id"),
    "no status": drop("sites", 0, "status"),
    "no rows": drop("sites", 0, "rows"),
    "no side": drop("sites", 0, "side"),
    "version 2": lambda content: content.update(version=2),
    "version true": lambda content: content.update(version=True),
    "version '1'": lambda content: content.update(version="1"),
    "convention": lambda content: content.update(convention="jax"),
    "convention list": lambda content: content.update(convention=["keras"]),
    "convention auto": lambda content: content.update(convention="auto"),
    "iterations 0": lambda content: content.update(power_iterations=0),
    "iterations 1.0": lambda content: content.update(power_iterations=1.0),
    "iterations true": lambda content: content.update(power_iterations=True),
    "iterations null": lambda content: content.update(power_iterations=None),
    "eps 0": lambda content: content.update(eps=0),
    "eps NaN": lambda content: content.update(eps=float("nan")),
    "bound -1": lambda content: content.update(bound=-1),
    "bound infinite": lambda content: content.update(bound=float("inf")),
    "bound NaN": lambda content: content.update(bound=float("nan")),
    "bound huge": lambda content: content.update(bound=10**400),
    "bound '1'": lambda content: content.update(bound="1"),
    "bound true": lambda content: content.update(bound=True),
    "clip 1": lambda content: content.update(clip=1),
    "norm": lambda content: content.update(norm="frobenius"),
    "state 5": lambda content: content.update(state=5),
    "state with NUL": lambda content: content.update(state="a\0b"),
    "sites object": lambda content: content.update(sites={"a": 1}),
    "sites number": lambda content: content.update(sites=3),
    "site string": lambda content: content["sites"].append("conv1.kernel"),
    "site twice": lambda content: content["sites"].append(content["sites"][0]),
    "unknown site": site_edit(id="nowhere"),
    "unknown site with line break": site_edit(id="no\nwhere"),
    "id 5": site_edit(id=5),
    "weight of another": site_edit(weight="table"),
    "scope of another": site_edit(scope="If_0/then_branch"),
    "status": site_edit(status="folded"),
    "status null": site_edit(status=None),
    "status list": site_edit(status=[]),
    "reason 5": site_edit(reason=5),
    "rows 0": site_edit(rows=0),
    "rows null": site_edit(rows=None),
    "rows 4.0": site_edit(rows=4.0),
    "rows true": site_edit(rows=True, cols=108),
    "rows of another shape": site_edit(rows=5),
    "split of another size": site_edit(split=[4, 3, 3]),
    "split -1": site_edit(split=[4, -1]),
    "split string": site_edit(split="43"),
    "split number": site_edit(split=108),
    "split 0": site_edit(split=[0, 108]),
    "perm twice": site_edit(perm=[0, 0, 1, 2]),
    "perm of another rank": site_edit(perm=[1, 0]),
    "perm beyond": site_edit(perm=[1, 2, 3, 4]),
    "perm null in it": site_edit(perm=[0, 1, 2, None]),
    "side": site_edit(side="columns"),
    "side null": site_edit(side=None),
    "own iterations 0": site_edit(power_iterations=0),
    "own iterations '5'": site_edit(power_iterations="5"),
    "per_use 1": site_edit(per_use=1),
}


@pytest.mark.parametrize("edit", BAD.values(), ids=BAD)
def test_bad_plans(edit: Callable[[Json], Any], content: Json, tmp_path: Path) -> None:
    edit(content)
    with pytest.raises(ModelError) as failure:
        read(content, tmp_path)
    message = str(failure.value)
    assert "edited.json is not valid: " in message
    assert "inspect --plan" in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\ufeff{}", "nul", "[" * 100_000, "1" * 5_000])
def test_files_that_are_no_json(text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as failure:
        read(text, tmp_path)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"plan"', "{}"])
def test_json_that_is_no_plan(text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not valid"):
        read(text, tmp_path)


def test_bytes_that_are_no_text_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ModelError, match="is not JSON"):
        load_plan(tmp_path / "plan.json", every_kind())
    with pytest.raises(ModelError, match="can't be read"):
        load_plan(tmp_path / "none.json", every_kind())
    with pytest.raises(ModelError, match="can't be read"):
        load_plan(tmp_path, every_kind())
