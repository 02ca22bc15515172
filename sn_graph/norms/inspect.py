"""Inspection: every norm of a model's weights, measured for a report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.model import Model
from sn_graph.norms.against import Base, compared_with
from sn_graph.norms.matrix import exact_sigma, exact_triplet, recognised_sigma, require_finite_norm
from sn_graph.norms.remarks import doubt, notes, parts, readings
from sn_graph.plan import Plan, PlannedSite, Target, one_at_a_time, record_of
from sn_graph.progress import Progress, silent
from sn_graph.recognise import ANONYMOUS, Form
from sn_graph.report import Report, SiteRecord
from sn_graph.spectral.matrix import frobenius_norm, hints, power_iteration, seeded_state, upper_bound
from sn_graph.state import State

if TYPE_CHECKING:
    from sn_graph.norms.operator import Operators


def inspect(
    model: Model,
    plan: Plan,
    progress: Progress = silent,
    *,
    upper: bool = False,
    seed: int = 0,
    state: State | None = None,
    base: Base | None = None,
) -> Report:
    """Measure every eligible weight of a model.

    Args:
        model, plan: What is measured; with the plan's norm "operator", what its nodes do too.
        progress: Told the elements measured.
        upper: Whether to prove an upper bound of each σ.
        base: The weights to compare with, by id.
        seed, state: Where the power iteration starts from that is compared with σ: a state's u, or random ones.

    Raises:
        ModelError: A weight holds NaN or infinite values.
    """
    inspector = _Inspector(model, plan, upper, seed, state or State({}, {}), base)
    records = [inspector.record(planned) for planned in one_at_a_time(model, plan, progress)]
    opset = {entry.domain: entry.version for entry in model.proto.opset_import}
    report = Report.of(model.name, opset, str(plan.convention), plan.convention_reason, records)
    return replace(report, totals=totals([record.to_json() for record in records]))


@dataclass(frozen=True)
class _Inspector:
    model: Model
    plan: Plan
    upper: bool
    seed: int
    state: State
    base: Base | None

    @cached_property
    def operators(self) -> "Operators":
        from sn_graph.norms.operator import Operators

        return Operators(self.model)

    def record(self, planned: PlannedSite) -> SiteRecord:
        target = planned.target
        if target is not None:
            return self._measured(planned, target)
        sigma = None if planned.explanation is None else recognised_sigma(self.model, planned.explanation)
        return replace(record_of(planned), sigma=sigma)

    def _measured(self, planned: PlannedSite, target: Target) -> SiteRecord:
        matrix = target.matrix(self.model)
        u = self._known(target)
        leading = exact_triplet(target, matrix, u)
        sigma = require_finite_norm(target, matrix, leading.sigma)
        folded = self._folded_by_exporter(target, matrix, sigma)
        enclosed = self.operators.enclose(target) if self.plan.norm == "operator" else None
        read = readings(self.model, target, sigma)
        said = (*notes(target, sigma), *self._of_parts(target, matrix), *doubt(self.plan, read))
        record = record_of(planned, notes=(*said, *([_FOLDED] if folded else [])))
        return replace(
            record,
            form=str(Form.FOLDED_BY_EXPORTER) if folded else None,
            sigma=sigma,
            sigma_upper=upper_bound(matrix, sigma) if self.upper else None,
            sigma_operator=enclosed.lower if enclosed else None,
            sigma_operator_upper=enclosed.upper if enclosed else None,
            sigma_power=self._power(target, matrix, u),
            hints=hints(matrix, leading) if matrix.size <= _HINTED else (),
            readings=read,
            frobenius=frobenius_norm(matrix),
            **compared_with(self.base, record, matrix),
        )

    def _of_parts(self, target: Target, matrix: NDArray[Any]) -> tuple[str, ...]:
        """Return a note with the norm of each part that frameworks keep as a weight of its own, where there are any."""
        sigmas = [f"{name} {exact_sigma(target, part):.6g}" for name, part in parts(target, matrix).items()]
        return (f"the norms of its parts: {', '.join(sigmas)}",) if sigmas else ()

    def _folded_by_exporter(self, target: Target, matrix: NDArray[Any], sigma: float) -> bool:
        """Say whether there is evidence that an exporter has divided a weight: its norm, its name, and its company."""
        if not ANONYMOUS.match(target.site.weight) or target.site.quantization is not None:
            return False
        # An estimate is below the norm, by a quarter at most where training has kept it going.
        if self._holds_chains:
            return 1.0 - _SURE <= sigma <= _ESTIMATED
        if abs(sigma - 1.0) > _SURE:
            return False
        frobenius = float(np.square(matrix, dtype=np.float64).sum())
        return bool(frobenius < 0.99 * min(matrix.shape))  # else it is orthogonal, as networks are initialized

    @cached_property
    def _holds_chains(self) -> bool:
        known = (site.explanation for site in self.plan.sites)
        return any(found.form.is_spectral_norm for found in known if found is not None)

    def _known(self, target: Target) -> NDArray[np.floating] | None:
        """Return the site's u, where it is one of the matrix and not of the consumer."""
        u = self.state.u.get(target.id)
        return u if u is not None and u.size == target.view.state_length else None

    def _power(self, target: Target, matrix: NDArray[Any], u: NDArray[np.floating] | None) -> float:
        """Return the estimate of one step, as the frameworks make it."""
        start = seeded_state(self.seed, target.id, target.view.state_length) if u is None else u
        return power_iteration(matrix, start, 1, target.view.side).sigma


_FOLDED = (
    "probably divided by its norm already, by the exporter's constant folding: the weight before that, its u and v are "
    "not in the file; export the module again without optimization to lift it with them"
)
_SURE = 1e-4  # of a norm of 1: fifteen iterations, as the parametrization makes before anything else
_ESTIMATED = 1.3
_HINTED = 1 << 25  # elements; beyond, 30 passes to look at the second singular value cost as much as the first


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what an inspection found in all, from records as JSON."""
    eligible = [row for row in rows if row["status"] == "eligible"]
    sigmas = [row["sigma"] for row in eligible if row["sigma"] is not None]
    return {
        "sites": len(rows),
        "eligible": len(eligible),
        "skipped": len(rows) - len(eligible),
        "elements": sum(math.prod(row["shape"] or ()) for row in eligible),
        "smallest_sigma": min(sigmas, default=None),
        "largest_sigma": max(sigmas, default=None),
    }
