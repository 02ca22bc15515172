"""Fold an inserted model by σ that are known: the weights that the run which gave them computed with.

    W_baked = W · bound / σ        (with clip: only where σ > bound)

What insert wrote is taken out first, so the result is the original model with other weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

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
        ModelError: The model holds no insertion or was changed since, a σ is missing or no norm, or a weight is divided
            by another σ at each of its uses.
    """
    return fold_inserted(model, sigma).model


def fold_inserted(model: Model, sigma: Mapping[str, float]) -> PassResult:
    """Bake as `bake` does; return the result with its record of every site."""
    inserted = read_inserted(model)
    if inserted is None:
        raise ModelError(f"{model.name} holds nothing that insert wrote, so there is nothing to bake; fold it instead")
    entries = {entry.id: entry for entry in inserted.sites}
    missing = next((site for site in entries if site not in sigma), None)
    if missing is not None:
        raise ModelError(f"no σ is known of weight '{missing}'; run the model once and save its state again")
    bare = model.copy()
    Strip(StripOptions()).apply(bare, _plan(inserted, bare, ()))
    sites = tuple(_planned(inserted, decide(site, _convention(inserted), ()), entries) for site in find_sites(bare))
    lost = sorted(set(entries) - {planned.id for planned in sites})
    if lost:
        raise ModelError(f"{model.name} lost weight '{lost[0]}' since the insertion; take the original model instead")
    return _GivenSigma(sigma).apply(bare, _plan(inserted, bare, sites))


class _GivenSigma(Fold):
    """Fold with the estimates of someone else."""

    def __init__(self, sigma: Mapping[str, float]) -> None:
        super().__init__(FoldOptions(SigmaMethod.POWER))
        self._sigma = sigma

    def _power(self, plan: Plan, planned: PlannedSite, matrix: NDArray[Any], state: State) -> list[float]:
        return [self._sigma[planned.id]]


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
    )


def _planned(inserted: Inserted, planned: PlannedSite, entries: Mapping[str, InsertedSite]) -> PlannedSite:
    """Return what the insertion had decided about a site."""
    entry = entries.get(planned.id)
    if entry is None:
        return replace(planned, status="skipped", reason=planned.reason or "the insertion left it out")
    uses = tuple(use for use in planned.site.uses if use.node.op_type in entry.op_types)
    if entry.per_use and len(uses) > 1:
        raise ModelError(
            f"weight '{planned.id}' is divided by another σ at each of its uses, and a state holds the last one alone; "
            "strip the model, then fold it with the same plan and --sigma power"
        )
    view = MatrixView(entry.split, entry.perm, entry.rows, entry.cols, "rows" if entry.side == "rows" else "cols")
    return replace(
        planned, view=view, status="eligible", reason=None, uses=uses, power_iterations=entry.power_iterations
    )
