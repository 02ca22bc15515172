"""Records: what a report says of a planned site before anything was measured."""

from collections.abc import Sequence

from sn_graph.plan.plan import PlannedSite
from sn_graph.report import SiteRecord, Status


def record_of(
    planned: PlannedSite, status: Status | None = None, reason: str | None = None, notes: Sequence[str] = ()
) -> SiteRecord:
    """Return the record of a planned site, with its own status and reason or others, and more notes."""
    site, view = planned.site, planned.view
    return SiteRecord(
        id=site.id,
        weight=site.weight,
        scope=site.scope.id,
        op_types=site.op_types,
        consumers=site.consumers,
        dtype=site.dtype,
        shape=site.shape,
        matrix=(view.rows, view.cols) if view else None,
        groups=site.groups,
        via=site.via,
        status=status or planned.status,
        reason=reason or planned.reason,
        notes=(*site.notes, *_left_alone(planned), *notes),
    )


def _left_alone(planned: PlannedSite) -> tuple[str, ...]:
    normalized = {(id(use.node), use.index) for use in planned.uses}
    others = [use.node.path for use in planned.site.uses if (id(use.node), use.index) not in normalized]
    if planned.status == "skipped" or not others:
        return ()
    return (f"also read by {', '.join(others)}, where the original values stay, for --op-type does not name it",)
