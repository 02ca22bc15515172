"""The spectral norms of a model's weights: what `inspect` reports and `fold` divides by."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.operators import Operators
from sn_graph.plan import Plan, PlannedSite
from sn_graph.progress import Progress, silent
from sn_graph.report import Reading, Report, SiteRecord, record_of
from sn_graph.sites import WeightUse
from sn_graph.slots import is_dequantize
from sn_graph.spectral.blocks import count_nonfinite
from sn_graph.spectral.power import power_iteration, seeded_state
from sn_graph.state import State
from sn_graph.views import Convention, MatrixView

if TYPE_CHECKING:
    from sn_graph.spectral.exact import SingularTriplet

KERAS_FLOOR = 1e-6  # of tf.keras 2.x; Keras 3 has 1e-7


def inspect(
    model: Model,
    plan: Plan,
    progress: Progress = silent,
    *,
    upper: bool = False,
    seed: int = 0,
    state: State | None = None,
) -> Report:
    """Measure every eligible weight of a model.

    Args:
        model, plan: What is measured; with the plan's norm "operator", what its nodes do too.
        progress: Told the elements measured.
        upper: Whether to prove an upper bound of each σ.
        seed, state: Where the power iteration starts from that is compared with σ: a state's u, or random ones.

    Raises:
        ModelError: A weight holds NaN or infinite values.
    """
    inspector = _Inspector(model, plan, upper, seed, state or State({}, {}))
    records = [
        inspector.record(planned) if planned.status == "eligible" else record_of(planned)
        for planned in with_progress(model, plan, progress)
    ]
    opset = {entry.domain: entry.version for entry in model.proto.opset_import}
    return replace(Report.of(model.name, opset, plan, records), totals=totals(records))


@dataclass(frozen=True)
class _Inspector:
    model: Model
    plan: Plan
    upper: bool
    seed: int
    state: State

    @cached_property
    def operators(self) -> Operators:
        return Operators(self.model)

    def record(self, planned: PlannedSite) -> SiteRecord:
        from sn_graph.spectral.bound import upper_bound
        from sn_graph.spectral.condition import hints

        matrix = planned.matrix(self.model)
        u = self._known(planned)
        leading = exact_triplet(planned, matrix, u)
        sigma = require_finite_norm(planned, matrix, leading.sigma)
        enclosed = self.operators.enclose(planned) if self.plan.norm == "operator" else None
        return record_of(
            planned,
            sigma=sigma,
            sigma_upper=upper_bound(matrix, sigma) if self.upper else None,
            sigma_operator=enclosed.lower if enclosed else None,
            sigma_operator_upper=enclosed.upper if enclosed else None,
            sigma_power=self._power(planned, matrix, u),
            hints=hints(matrix, leading) if matrix.size <= _HINTED else (),
            notes=notes(planned, sigma),
            readings=readings(self.model, planned, sigma),
        )

    def _known(self, planned: PlannedSite) -> NDArray[np.floating] | None:
        """Return the site's u, where it is one of the matrix and not of the consumer."""
        u = self.state.u.get(planned.id)
        return u if u is not None and planned.view is not None and u.size == planned.view.state_length else None

    def _power(self, planned: PlannedSite, matrix: NDArray[Any], u: NDArray[np.floating] | None) -> float:
        """Return the estimate of one step, as the frameworks make it."""
        assert planned.view is not None
        start = seeded_state(self.seed, planned.id, planned.view.state_length) if u is None else u
        return power_iteration(matrix, start, 1, planned.view.side).sigma


_HINTED = 1 << 25  # elements; beyond, 30 passes to look at the second singular value cost as much as the first


def totals(records: Sequence[SiteRecord]) -> dict[str, Any]:
    """Return what an inspection found in all."""
    eligible = [record for record in records if record.status == "eligible"]
    sigmas = [record.sigma for record in eligible if record.sigma is not None]
    return {
        "sites": len(records),
        "eligible": len(eligible),
        "skipped": len(records) - len(eligible),
        "elements": sum(math.prod(record.shape or ()) for record in eligible),
        "smallest_sigma": min(sigmas, default=None),
        "largest_sigma": max(sigmas, default=None),
    }


def with_progress(model: Model, plan: Plan, progress: Progress) -> Iterator[PlannedSite]:
    """Yield the plan's sites, telling after each how many elements have been measured."""
    sizes = [int(np.prod(site.site.shape or (0,))) if site.status == "eligible" else 0 for site in plan.sites]
    done = 0
    for planned, size in zip(plan.sites, sizes, strict=True):
        yield planned
        done += size
        progress("measuring", done, sum(sizes))


def exact_sigma(planned: PlannedSite, matrix: NDArray[Any]) -> float:
    """Return the spectral norm of a site's matrix. Raises ModelError where a value is not finite."""
    from sn_graph.spectral.exact import spectral_norm

    require_finite(planned, matrix)
    return require_finite_norm(planned, matrix, spectral_norm(matrix))


def require_finite_norm(planned: PlannedSite, matrix: NDArray[Any], sigma: float) -> float:
    """Return a computed norm. Raises ModelError where it is not finite, saying why."""
    if not math.isfinite(sigma):
        require_finite(planned, matrix)
        raise ModelError(
            f"weight '{planned.id}' is so large that its norm passes float64's range, so nothing can be divided by it; "
            f"repair the model or leave it out with --exclude '^{escaped(planned.site.weight)}$'"
        )
    return sigma


def exact_triplet(
    planned: PlannedSite, matrix: NDArray[Any], u: NDArray[np.floating] | None = None
) -> "SingularTriplet":
    """Return σ and its two vectors, sooner from a `u` near one. Raises ModelError where a value is not finite."""
    from sn_graph.spectral.exact import leading_singular_triplet

    require_finite(planned, matrix)
    return leading_singular_triplet(matrix, u, planned.view.side if planned.view else "cols")


def require_finite(planned: PlannedSite, matrix: NDArray[Any]) -> None:
    """Raise ModelError where a matrix holds NaN or infinite values, saying how many and what to do."""
    nan, infinite = count_nonfinite(matrix)
    if nan or infinite:
        counts = [f"{count} {what}" for count, what in ((nan, "NaN"), (infinite, "infinite")) if count]
        raise ModelError(
            f"weight '{planned.id}' holds {' and '.join(counts)} value{'s' if nan + infinite > 1 else ''}, so it has "
            f"no spectral norm; repair the model or leave it out with --exclude '^{escaped(planned.site.weight)}$'"
        )


def escaped(name: str) -> str:
    """Return a regular expression that finds `name` itself; re.escape would escape harmless characters too."""
    return "".join("\\" + character if character in r"\.^$*+?{}[]|()" else character for character in name)


def readings(model: Model, planned: PlannedSite, sigma: float | None) -> tuple[Reading, ...]:
    """Return every convention's matrix where they disagree; with σ where the plan's own is known exactly."""
    site = planned.site
    if site.shape is None or not all(use.slot for use in planned.uses):
        return ()
    first = planned.uses[0]
    matrices = {convention: first.matrix(site.shape, convention) for convention in Convention}
    if matrices[Convention.KERAS].same_singular_values(matrices[Convention.TORCH]):
        return ()
    known = {} if sigma is None or planned.view is None else {_without_side(planned.view): sigma}
    found: list[Reading] = []
    for convention, matrix in matrices.items():
        view = _without_side(matrix.view)
        if sigma is not None and view not in known:
            known[view] = exact_sigma(planned, view.matrix(site.array(model)))
        found.append(Reading(str(convention), (view.rows, view.cols), known.get(view)))
    return tuple(found)


def _without_side(view: MatrixView) -> MatrixView:
    return replace(view, side="rows")  # the side of u does not change the norm


def notes(planned: PlannedSite, sigma: float) -> tuple[str, ...]:
    """Return what a reader should know about a weight of this norm."""
    found: list[str] = []
    if 0.0 < sigma < KERAS_FLOOR:
        found.append(
            f"its norm {sigma:.3g} is so small that Keras's own epsilon would act "
            "(a floor of 1e-6 in 2.x, 1e-7 in 3) and divide by something else"
        )
    if any(_has_quantized_bias(use) for use in planned.uses if use.quantization is not None):
        found.append(
            "its consumer's bias is quantized by the scales of input and weight; runtimes that fuse the three into an "
            "integer operator do so no more once the weight's scale is another (fold before quantizing to keep that)"
        )
    return tuple(found)


def _has_quantized_bias(use: WeightUse) -> bool:
    inputs = use.node.proto.input
    maker = use.node.scope.producers.get(inputs[2]) if len(inputs) > 2 else None
    return maker is not None and is_dequantize(maker)
