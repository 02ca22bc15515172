"""Baking: an inserted model folded by σ that are known, to the weights that the run which gave them computed with.

    W_baked = W · bound / σ        (with clip: only where σ > bound)

What insert wrote is taken out first, so the result is the original model with other weights. A weight that was divided
by another σ at each of its uses gets the last one: what Keras has stored after such a call.
"""

from collections.abc import Mapping
from dataclasses import replace

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.norms import require_divisor
from sn_graph.plan import Plan, PlannedSite, decide
from sn_graph.rewrite.original import restore
from sn_graph.rewrite.scale import Scaling
from sn_graph.sites import Convention, MatrixView, find_sites, unscalable
from sn_graph.state import Inserted, InsertedSite


def bake(model: Model, inserted: Inserted, sigma: Mapping[str, float]) -> Model:
    """Return the plain model whose weights are those that an inserted model's run of these σ used.

    Args:
        model, inserted: An inserted model, which stays as it is, and its metadata.
        sigma: σ of every inserted site, by id, as the run gave it (before bound and clip).

    Raises:
        ModelError: The model was changed since the insertion, a σ is missing or 0 by accident, or a scale can't be
            divided without changing more than the weight.
    """
    bare = restore(model, inserted)
    plan = insertion_plan(bare, inserted)
    scaling = Scaling(bare)
    for target in plan.targets():
        if target.id not in sigma:
            raise ModelError(f"no σ is known of weight '{target.id}'", do="run the model once and save its state again")
        used = sigma[target.id]
        require_divisor(target, target.matrix(bare), used)
        if used > 0.0 and not (plan.clips(target) and used <= plan.bound_of(target)):
            fixed = unscalable(bare, target.uses)
            if fixed is not None:
                raise ModelError(
                    f"weight '{target.id}' can't be divided in the file",
                    f"because {fixed}",
                    "go on with the inserted model, or fold it with its state (fold --state), which folds the others",
                )
            scaling.divide(target, [used], plan.bound_of(target))
    bare.edited()
    return bare


def insertion_plan(bare: Model, inserted: Inserted) -> Plan:
    """Return the plan that an insertion followed.

    Args:
        bare: The model before the insertion, as `restore` gives it.
        inserted: The metadata of the inserted model.

    Raises:
        ModelError: The model lacks a weight that was inserted, or can't have been inserted as the metadata say.
    """
    entries, convention = {entry.id: entry for entry in inserted.sites}, Convention(inserted.convention)
    sites = tuple(_planned(decide(site, convention, ()), entries, bare.name) for site in find_sites(bare))
    lost = sorted(set(entries) - {planned.id for planned in sites})
    if lost:
        raise ModelError(
            f"{bare.name} lost weight '{lost[0]}' since the insertion", do="take the original model instead"
        )
    return Plan(
        model=bare.path.name if bare.path else "",
        convention=convention,
        convention_reason="the insertion's",
        sites=sites,
        power_iterations=inserted.power_iterations,
        bound=inserted.bound,
        clip=inserted.clip,
        norm=inserted.norm,
    )


def _planned(planned: PlannedSite, entries: Mapping[str, InsertedSite], name: str) -> PlannedSite:
    """Return what the insertion had decided about a site."""
    entry = entries.get(planned.id)
    if entry is None:
        return replace(planned, status="skipped", reason=planned.reason or "the insertion left it out")
    view = MatrixView(entry.split, entry.perm, entry.rows, entry.cols, "rows" if entry.side == "rows" else "cols")
    uses = tuple(use for use in planned.site.uses if use.node.op_type in entry.op_types)
    if planned.site.shape is None or planned.site.refusal is not None or not view.fits(planned.site.shape) or not uses:
        raise ModelError(
            f"{name} has damaged metadata",
            f"weight '{planned.id}' can't be what they say",
            "take the model from before the insertion",
        )
    return replace(
        planned,
        view=view,
        status="eligible",
        reason=None,
        uses=uses,
        power_iterations=entry.power_iterations,
        per_use=entry.per_use,
        bound=entry.bound,
        clip=entry.clip,
    )
