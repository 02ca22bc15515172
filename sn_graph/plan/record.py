"""Records: what a report says of a planned site before anything was measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sn_graph.plan.plan import PlannedSite
from sn_graph.report import SiteRecord, Status

if TYPE_CHECKING:
    from sn_graph.recognise import Explanation


def record_of(
    planned: PlannedSite, status: Status | None = None, reason: str | None = None, notes: Sequence[str] = ()
) -> SiteRecord:
    """Return the record of a planned site, with its own status and reason or others, and more notes."""
    site, found = planned.site, planned.explanation
    view = planned.view if found is None else found.view
    known = {} if found is None else recognised(found)
    return SiteRecord(
        id=site.id,
        weight=site.weight,
        scope=site.scope.id,
        op_types=site.op_types,
        consumers=site.consumers,
        dtype=site.dtype or (found.dtype if found else None),
        shape=site.shape or (found.shape if found else None),
        matrix=(view.rows, view.cols) if view else None,
        groups=site.groups,
        via=site.via,
        status=status or planned.status,
        reason=reason or planned.reason,
        notes=(*site.notes, *(found.notes if found else ()), *_left_alone(planned), *notes),
        **known,
    )


def recognised(found: "Explanation") -> dict[str, Any]:
    """Return the fields of a record that tell of a computed weight."""
    return {
        "form": str(found.form),
        "original": found.original.name if found.original is not None else None,
        "sigma_graph": found.sigma_graph,
        "gain": found.gain,
        "cap": found.cap,
        "k": found.k,
        "u": found.u,
    }


def _left_alone(planned: PlannedSite) -> tuple[str, ...]:
    normalized = {(id(use.node), use.index) for use in planned.uses}
    others = [use.node.path for use in planned.site.uses if (id(use.node), use.index) not in normalized]
    if planned.status == "skipped" or not others:
        return ()
    return (f"also read by {', '.join(others)}, where the original values stay, for --op-type does not name it",)
