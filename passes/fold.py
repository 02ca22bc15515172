"""Replace each weight W by bound · W / σ(W).

    W_folded = W · (bound / σ),  σ = max ‖M x‖ / ‖x‖,  M = matrix view of W

Miyato et al., 2018, https://arxiv.org/abs/1802.05957, eq. 6-7. A quantized weight is folded by its scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.measure import exact_sigma, notes, readings, require_finite, with_progress
from sn_graph.model import Model
from sn_graph.model.graph import Graph
from sn_graph.passes.base import Pass, PassResult, Rescaled
from sn_graph.plan import Plan, PlannedSite
from sn_graph.progress import Progress, silent
from sn_graph.quantized import Quantization
from sn_graph.report import SiteRecord, record_of
from sn_graph.rewire import copy_constant, redirect
from sn_graph.sites import WeightUse
from sn_graph.spectral.power import power_iteration, seeded_state
from sn_graph.state import State, load_state


class SigmaMethod(StrEnum):
    """How σ is estimated: exactly, or as the frameworks do by a few power iterations."""

    EXACT = "exact"
    POWER = "power"


@dataclass(frozen=True)
class FoldOptions:
    """How to fold.

    Attributes:
        sigma: The estimator.
        seed: Of the vectors u that the plan's state file does not give; `power` only.
    """

    sigma: SigmaMethod = SigmaMethod.EXACT
    seed: int = 0


class Fold(Pass[FoldOptions]):
    """Fold the spectral norm into the weights; the graph stays as it was, but for weights that must be split."""

    name = "fold"

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        """Scale every eligible weight of the plan.

        Raises:
            ModelError: A weight is not finite, the state file does not fit, or u is orthogonal to a weight.
        """
        lengths = {site.id: site.view.state_length for site in plan.eligible() if site.view}
        state = load_state(plan.state, model, lengths) if plan.state else State({}, {})
        graph = Graph(model.proto)
        records: list[SiteRecord] = []
        rescaled: list[Rescaled] = []
        for planned in with_progress(model, plan, progress):
            if planned.status == "skipped":
                records.append(record_of(planned))
                continue
            record, sigmas = self._measure(model, plan, planned, state)
            if record.status == "folded":
                factors = [plan.bound / sigma for sigma in sigmas]
                rescaled += _scale(model, graph, planned, factors)
            records.append(record)
        return PassResult(model, plan, tuple(records), tuple(rescaled))

    def _measure(self, model: Model, plan: Plan, planned: PlannedSite, state: State) -> tuple[SiteRecord, list[float]]:
        """Return the site's record, and σ for each use that is divided by its own (else one σ)."""
        matrix = planned.matrix(model)
        if self.options.sigma is SigmaMethod.EXACT:
            exact: float | None = exact_sigma(planned, matrix)
            sigmas = [exact or 0.0]
        else:
            exact, sigmas = None, self._power(plan, planned, matrix, state)
        sigma = sigmas[-1]
        record = partial(
            record_of,
            planned,
            sigma=exact,
            sigma_used=sigma,
            notes=notes(planned, sigma),
            readings=readings(model, planned, exact),
        )
        if sigma == 0.0:
            if np.any(matrix):
                raise ModelError(
                    f"the u of weight '{planned.id}' is orthogonal to it, so its estimate of the norm is 0; "
                    "start from another --seed or --state, or use --sigma exact"
                )
            return record(status="unchanged", sigma_used=None, reason="all zeros: no spectral norm to divide by"), []
        if plan.clip and max(sigmas) <= plan.bound:
            reason = f"its norm is at most {plan.bound:g}, and --clip was asked for"
            return record(status="unchanged", sigma_used=None, reason=reason), []
        return record(status="folded"), sigmas

    def _power(self, plan: Plan, planned: PlannedSite, matrix: NDArray[Any], state: State) -> list[float]:
        """Return σ after k iterations; where each use has its own, after k, 2k, … of them."""
        assert planned.view is not None
        side, length = planned.view.side, planned.view.state_length
        u: NDArray[Any] = state.u.get(planned.id, seeded_state(self.options.seed, planned.id, length))
        sigmas = []
        for _ in planned.uses if planned.per_use else planned.uses[:1]:
            result = power_iteration(matrix, u, planned.power_iterations or plan.power_iterations, side)
            if not math.isfinite(result.sigma):
                require_finite(planned, matrix)
            sigmas.append(result.sigma)
            u = result.state
        return sigmas


def _scale(model: Model, graph: Graph, planned: PlannedSite, factors: list[float]) -> list[Rescaled]:
    """Multiply what the planned uses read: all by one factor, or each by its own."""
    site, uses, done = planned.site, planned.uses, []
    groups = [uses] if len(factors) == 1 else [(use,) for use in uses]
    for group, factor in zip(groups, factors, strict=True):
        in_place = group is groups[-1] and not planned.splits
        if site.quantization is not None:
            done += _scale_quantization(model, graph, planned, group, factor, in_place)
            continue
        name, tensor = site.weight, site.tensor
        if not in_place:
            name, tensor = copy_constant(graph, site.scope, site.weight)
            redirect(graph, group, name)
        assert tensor is not None
        model.scale(tensor, factor)
        done.append(Rescaled(site.scope.id, name, site.weight, factor))
    return done


def _scale_quantization(
    model: Model, graph: Graph, planned: PlannedSite, uses: Sequence[WeightUse], factor: float, in_place: bool
) -> list[Rescaled]:
    """Multiply the scale that `uses` are dequantized with; what else reads that scale keeps the original."""
    copies = {} if in_place else redirect(graph, uses, planned.site.weight)
    readings = {id(q.node): q for use in uses if isinstance(q := use.quantization, Quantization)}
    done: dict[str, Rescaled] = {}
    for key, quantization in readings.items():
        held = graph.holder(quantization.node.scope, quantization.node.proto.input[_SCALE])
        assert held is not None
        scope, original = held
        if original not in done:
            readers = {(id(use.node), use.index) for use in graph.uses(scope, original)}
            name, tensor = original, quantization.scale
            if copies or readers > {(key, _SCALE) for key in readings}:
                name, tensor = copy_constant(graph, scope, original)
            model.scale(tensor, factor)
            done[original] = Rescaled(scope.id, name, original, factor)
        (copies.get(key) or quantization.node.proto).input[_SCALE] = done[original].name
    return list(done.values())


_SCALE = 1  # DequantizeLinear's input
