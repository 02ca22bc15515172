"""Fold an inserted model by σ that are known: the weights that the run which gave them computed with.

    W_baked = W · bound / σ        (with clip: only where σ > bound)

What insert wrote is taken out first, so the result is the original model with other weights. A weight that was divided
by another σ at each of its uses gets the last one: what Keras has stored after such a call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sn_graph.decisions import PlannedSite, decide
from sn_graph.errors import ModelError
from sn_graph.inserted import Inserted, InsertedSite, read_inserted
from sn_graph.model import Model
from sn_graph.passes.base import PassResult
from sn_graph.passes.fold import Fold, FoldOptions, SigmaMethod
from sn_graph.passes.strip import Strip, StripOptions
from sn_graph.plan import Plan
from sn_graph.sites import find_sites
from sn_graph.state import State
from sn_graph.views import Convention, MatrixView


def bake(model: Model, sigma: Mapping[str, float]) -> Model:
    """Return the plain model whose weights are those that an inserted model's run of these σ used.

    Args:
        model: An inserted model; it stays as it is.
        sigma: σ of every inserted site, by id, as the run gave it (before bound and clip).

    Raises:
        ModelError: The model holds no insertion or was changed since, or a σ is missing or no norm.
    """
    return fold_inserted(model, sigma).model


def fold_inserted(model: Model, sigma: Mapping[str, float]) -> PassResult:
    """Bake as `bake` does; return the result with its record of every site."""
    bare, plan = restore_plan(model)
    missing = next((site.id for site in plan.eligible() if site.id not in sigma), None)
    if missing is not None:
        raise ModelError(f"no σ is known of weight '{missing}'; run the model once and save its state again")
    options = FoldOptions(SigmaMethod.POWER, state=State({}, sigma), last_run=True)
    return Fold(options).apply(bare, plan)


def restore_plan(model: Model) -> tuple[Model, Plan]:
    """Return the model before the insertion, a copy, and the plan that the insertion followed.

    Raises:
        ModelError: The model holds no insertion, or was changed since.
    """
    inserted = read_inserted(model)
    if inserted is None:
        raise ModelError(f"{model.name} holds nothing that insert wrote, so there is nothing to bake; fold it instead")
    entries = {entry.id: entry for entry in inserted.sites}
    bare = model.copy()
    Strip(StripOptions()).apply(bare, _plan(inserted, bare, ()))
    sites = tuple(_planned(decide(site, _convention(inserted), ()), entries) for site in find_sites(bare))
    lost = sorted(set(entries) - {planned.id for planned in sites})
    if lost:
        raise ModelError(f"{model.name} lost weight '{lost[0]}' since the insertion; take the original model instead")
    return bare, _plan(inserted, bare, sites)


def _convention(inserted: Inserted) -> Convention:
    return Convention(inserted.convention)


def _plan(inserted: Inserted, model: Model, sites: Sequence[PlannedSite]) -> Plan:
    return Plan(
        model=model.path.name if model.path else "",
        convention=_convention(inserted),
        convention_reason="the insertion's",
        sites=tuple(sites),
        power_iterations=inserted.power_iterations,
        bound=inserted.bound,
        clip=inserted.clip,
        norm=inserted.norm,
    )


def _planned(planned: PlannedSite, entries: Mapping[str, InsertedSite]) -> PlannedSite:
    """Return what the insertion had decided about a site."""
    entry = entries.get(planned.id)
    if entry is None:
        return replace(planned, status="skipped", reason=planned.reason or "the insertion left it out")
    return replace(
        planned,
        view=MatrixView(entry.split, entry.perm, entry.rows, entry.cols, "rows" if entry.side == "rows" else "cols"),
        status="eligible",
        reason=None,
        uses=tuple(use for use in planned.site.uses if use.node.op_type in entry.op_types),
        power_iterations=entry.power_iterations,
        per_use=entry.per_use,
    )
