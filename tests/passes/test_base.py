"""Passes: called, they change a copy and say what it came from; by name they get options of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sn_graph.errors import ModelError, UsageError
from sn_graph.model import Model
from sn_graph.norms import SigmaMethod
from sn_graph.passes import Fold, FoldOptions, Insert, InsertOptions, InsertResult, Pass, Strip, load_pass, make_pass
from sn_graph.plan import make_plan
from sn_graph.rewrite.insertion import StateLayout, StateMode
from tests.support.builders import initializers
from tests.support.networks import branched, called, discriminator, quantized
from tests.support.runs import inserted
from tests.support.third_party import Direction, Forgetful, Times, TimesOptions, third_party

__all__ = ["third_party"]


@pytest.mark.parametrize("make", [discriminator, quantized, branched, called])
@pytest.mark.parametrize("one", [Fold(FoldOptions()), Insert(InsertOptions()), Times(TimesOptions())])
def test_a_call_changes_a_copy_and_says_what_it_came_from(one: Pass[Any], make: Any) -> None:
    proto = make()
    source = Model.open(proto)
    plan = make_plan(source)
    result = one(source, plan)
    assert (result.source, result.plan, result.options, result.name) == (source, plan, one.options, one.name)
    assert result.model is not source
    assert not source.modified
    assert source.to_proto() == proto
    assert result.to_proto() != proto
    assert [site.id for site in result.sites] == [site.id for site in plan.sites]


@pytest.mark.parametrize("one", [Fold(FoldOptions()), Insert(InsertOptions()), Times(TimesOptions())])
def test_apply_changes_the_model_itself_and_does_the_same(one: Pass[Any]) -> None:
    source = Model.open(discriminator())
    expected = one(source, make_plan(source))
    result = one.apply(source, make_plan(source))
    assert result.model is source
    assert result.source is None
    assert source.modified
    assert result.to_proto() == expected.to_proto()
    assert result.sites == expected.sites


def test_a_pass_is_called_with_progress() -> None:
    told: list[tuple[str, int, int]] = []
    source = Model.open(discriminator())
    Times(TimesOptions())(source, make_plan(source), lambda *step: told.append(step))
    assert told == [("multiplying", done, 3) for done in (1, 2, 3)]


def test_what_a_pass_requires_is_asked_before_anything_is_copied() -> None:
    empty = Model.open(discriminator())
    del empty.proto.graph.node[:]
    with pytest.raises(ModelError, match="<model> has no weight"):
        Times(TimesOptions())(empty, make_plan(empty))


def test_what_a_pass_ensures_is_a_fault_of_its_own() -> None:
    source = Model.open(discriminator())
    with pytest.raises(RuntimeError, match="pass 'forgetful' reports on 2 of 3 weights"):
        Forgetful(TimesOptions())(source, make_plan(source))


def test_a_pass_that_changes_the_outputs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Model.open(discriminator())
    for one in (Fold(FoldOptions()), Insert(InsertOptions())):
        honest = type(one).apply

        def drop(self: Any, model: Model, *more: Any, honest: Any = honest) -> Any:
            result = honest(self, model, *more)
            del model.proto.graph.output[0]
            return result

        with monkeypatch.context() as patch:
            patch.setattr(type(one), "apply", drop)
            with pytest.raises(RuntimeError, match="changed the outputs of the model"):
                one(source, make_plan(source))


def test_insert_says_how_each_iteration_starts() -> None:
    source = Model.open(discriminator())
    result = Insert(InsertOptions())(source, make_plan(source, exclude=["dense"]))
    assert isinstance(result, InsertResult)
    assert [start.target.id for start in result.starts] == ["conv/kernel", "head/kernel"]
    packed = initializers(result.to_proto())["sn_u"]
    np.testing.assert_array_equal(packed[:, 0], np.concatenate([start.u for start in result.starts]).astype(np.float32))


def test_strip_follows_no_plan() -> None:
    source = inserted(discriminator())
    before = source.to_proto()
    result = Strip()(source)
    assert (result.source, result.plan, result.sites, result.name) == (source, None, (), "strip")
    assert result.to_proto() == discriminator()
    assert source.to_proto() == before
    applied = Strip().apply(source)
    assert applied.model is source
    assert source.to_proto() == discriminator()


def test_a_result_is_idle_where_every_weight_was_skipped() -> None:
    source = Model.open(discriminator())
    fold = Fold(FoldOptions())
    assert fold(source, make_plan(source, include=["nosuch"])).idle
    assert not fold(source, make_plan(source, include=["head"])).idle


def test_the_report_of_a_result() -> None:
    source = Model.open(discriminator())
    report = Fold(FoldOptions())(source, make_plan(source, convention="torch")).report
    assert (report.model, report.output, report.verified) == ("<model>", None, None)
    assert (report.convention, report.convention_reason) == ("torch", "asked for")
    assert report.opset[""] == 17
    stripped = Strip()(inserted(discriminator())).report
    assert (stripped.convention, stripped.convention_reason, stripped.sites) == ("", "", ())


# By name


@pytest.mark.parametrize(("name", "kind"), [("fold", Fold), ("insert", Insert), ("strip", Strip)])
def test_registered_passes_are_found(name: str, kind: type[Pass[Any]]) -> None:
    assert load_pass(name) is kind
    assert kind.name == name


def test_a_pass_that_is_not_registered() -> None:
    with pytest.raises(UsageError, match="no pass 'nosuch' is installed: there are fold, insert, lift, strip"):
        load_pass("nosuch")


@pytest.mark.usefixtures("third_party")
def test_a_pass_of_another_package() -> None:
    assert load_pass("times") is Times
    made = make_pass("times", {"factor": 3, "direction": "down"})
    assert made.options == TimesOptions(3.0, Direction.DOWN)
    with pytest.raises(UsageError, match="there are fold, forgetful, insert, lift, strip, times"):
        load_pass("nosuch")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fold", {}, FoldOptions()),
        ("fold", {"sigma": "power", "seed": 3}, FoldOptions(SigmaMethod.POWER, 3)),
        ("fold", {"sigma": SigmaMethod.UPPER}, FoldOptions(SigmaMethod.UPPER)),
        ("fold", {"known": {"w": 2.0}}, FoldOptions(known={"w": 2.0})),
        (
            "insert",
            {"layout": "per-weight", "mode": "required", "exact": True},
            InsertOptions(exact=True, layout=StateLayout.PER_WEIGHT, mode=StateMode.REQUIRED),
        ),
        ("strip", {}, None),
    ],
)
def test_options_by_name(name: str, options: Mapping[str, Any], expected: Any) -> None:
    assert make_pass(name, options).options == expected


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fold", {"sigma": "guess"}, "option 'sigma' of pass 'fold' can't be 'guess'"),
        ("fold", {"sigma": None}, "option 'sigma' of pass 'fold' can't be None"),
        ("fold", {"nosuch": 1}, "pass 'fold' has no option 'nosuch'.*seed, sigma"),
        ("strip", {"seed": 1}, "pass 'strip' has no options; leave seed out"),
        ("times", {"factor": "many"}, "option 'factor' of pass 'times' can't be 'many'"),
        ("times", {"factor": []}, "option 'factor' of pass 'times'"),
        ("times", {"direction": "sideways"}, "option 'direction' of pass 'times'"),
        ("times", {"rounds": 0}, "the options of pass 'times' don't fit together: rounds is below 1"),
        ("times", {"rounds": "two"}, "pass 'times'"),
        ("times", {"rounds": 1.5}, "pass 'times'"),
        ("times", {"bold": "yes"}, "pass 'times'"),
        ("fold", {"seed": "three"}, "pass 'fold'"),
        ("fold", {"state": "u.safetensors"}, "pass 'fold'"),
        ("insert", {"exact": "maybe"}, "pass 'insert'"),
    ],
)
def test_options_that_do_not_fit(name: str, options: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as failure:
        make_pass(name, options)
    assert "\n" not in str(failure.value)
