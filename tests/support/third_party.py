"""Passes of another package, registered under the entry point group `sn_graph.passes` while a test runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import EntryPoint, EntryPoints, entry_points

import pytest

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.passes import Pass, PassResult
from sn_graph.plan import Plan, record_of
from sn_graph.progress import Progress, silent

GROUP = "sn_graph.passes"


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True)
class TimesOptions:
    """Options of every kind that a command line gives."""

    factor: float = 2.0
    direction: Direction = Direction.UP
    rounds: int = 1
    bold: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError("rounds is below 1")


class Times(Pass[TimesOptions]):
    """Multiply every eligible weight by a factor; the graph stays."""

    name = "times"

    def requires(self, source: Model, plan: Plan) -> None:
        if not plan.sites:
            raise ModelError(f"{source.name} has no weight")

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        options = self.options
        factor = (options.factor if options.direction is Direction.UP else 1 / options.factor) ** options.rounds
        for done, target in enumerate(plan.targets()):
            model.scale(target.tensor, factor)
            progress("multiplying", done + 1, len(plan.targets()))
        records = [
            record_of(site) if site.target is None else record_of(site, "unchanged", f"times {factor:g}")
            for site in plan.sites
        ]
        return PassResult(model, plan, tuple(records))


class Forgetful(Times):
    """A pass that reports on all weights but the last."""

    name = "forgetful"

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        result = super().apply(model, plan, progress)
        return replace(result, sites=result.sites[:-1])


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which another package has registered `Times` and `Forgetful`."""

    def registered(group: str) -> EntryPoints:
        theirs = (EntryPoint(kind.name, f"{__name__}:{kind.__name__}", group) for kind in (Times, Forgetful))
        return EntryPoints((*entry_points(group=group), *theirs))

    monkeypatch.setattr("importlib.metadata.entry_points", registered)
