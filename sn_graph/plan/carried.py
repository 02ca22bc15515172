"""Carried weights: what a lifted model's insertion goes on with, from what the export's arithmetic held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sn_graph.model import Model
from sn_graph.plan.decide import decide, refuse_splits
from sn_graph.plan.plan import Plan, PlannedSite
from sn_graph.sites import Convention, MatrixView, find_sites


@dataclass(frozen=True)
class Carried:
    """A weight whose normalization goes on.

    Attributes:
        id: The site's id in the lifted model.
        view: The matrix that the export took, and the side of its u.
        power_iterations: Its iterations a run.
        bound, clip: Its target norm; with `clip`, the soft cap c of W / max(1, σ/c).
    """

    id: str
    view: MatrixView
    power_iterations: int
    bound: float
    clip: bool


def carried_plan(model: Model, carried: Sequence[Carried], convention: Convention) -> Plan:
    """Return the plan of an insertion that carries weights on, and leaves every other weight alone.

    A weight that several nodes read is iterated once for each, as a layer is that is called several times.
    """
    entries: Mapping[str, Carried] = {one.id: one for one in carried}
    sites = tuple(_planned(decide(site, convention, ()), entries.get(site.id)) for site in find_sites(model))
    name = model.path.name if model.path else ""
    return Plan(name, convention, "the export's", sites)


def _planned(planned: PlannedSite, entry: Carried | None) -> PlannedSite:
    if entry is None or planned.site.shape is None:
        return replace(planned, status="skipped", reason=planned.reason or "stored as it is, with nothing to lift")
    site = planned.site
    chosen = replace(
        planned,
        view=entry.view,
        status="eligible" if site.refusal is None else "skipped",
        reason=site.refusal,
        uses=site.uses,
        power_iterations=entry.power_iterations,
        per_use=len(site.uses) > 1,
        bound=entry.bound,
        clip=entry.clip,
    )
    return refuse_splits(chosen)
