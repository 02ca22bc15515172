"""Replace each weight W by bound · W / σ(W).

    W_folded = W · (bound / σ),  σ = max ‖M x‖ / ‖x‖,  M = matrix view of W

Miyato et al., 2018, https://arxiv.org/abs/1802.05957, eq. 6-7. A quantized weight is folded by its scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sn_graph.divisor import Divider, Divisors, SigmaMethod
from sn_graph.errors import ModelError
from sn_graph.measure import escaped, notes, readings, with_progress
from sn_graph.model import Model
from sn_graph.model.graph import Graph, Scope
from sn_graph.operators import MADE_ZERO
from sn_graph.passes.base import Pass, PassResult, Rescaled
from sn_graph.plan import Plan, PlannedSite
from sn_graph.progress import Progress, silent
from sn_graph.quantized import Quantization
from sn_graph.report import SiteRecord, record_of
from sn_graph.rewire import copy_constant, copy_reading, redirect
from sn_graph.sites import WeightUse
from sn_graph.state import State, plan_state

__all__ = ["Fold", "FoldOptions", "SigmaMethod"]


@dataclass(frozen=True)
class FoldOptions:
    """How to fold.

    Attributes:
        sigma: The estimator; of which norm, the plan says.
        seed: Of the vectors u that no state gives; `power` only.
        state: Where `power` starts from, in place of the plan's state file.
        last_run: Divide by the σ that `state` holds.
    """

    sigma: SigmaMethod = SigmaMethod.EXACT
    seed: int = 0
    state: State | None = None
    last_run: bool = False


class Fold(Pass[FoldOptions]):
    """Fold the spectral norm into the weights; the graph stays as it was, but for weights that must be split."""

    name = "fold"

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        """Scale every eligible weight of the plan.

        Raises:
            ModelError: A weight is not finite, the state file does not fit, or u is orthogonal to a weight.
        """
        options = self.options
        state = options.state or plan_state(plan, model)
        divider = Divider(model, plan, options.sigma, state, options.seed)
        graph = Graph(model.proto)
        records: list[SiteRecord] = []
        rescaled: list[Rescaled] = []
        for planned in with_progress(model, plan, progress):
            if planned.status == "skipped":
                records.append(record_of(planned))
                continue
            last = state.sigma[planned.id] if options.last_run else None
            record, found = _measured(model, plan, planned, divider, last)
            if record.status == "folded":
                rescaled += _scale(model, graph, planned, [_factor(planned, plan.bound, used) for used in found.used])
            records.append(record)
        return PassResult(model, plan, tuple(records), tuple(rescaled))


def _measured(
    model: Model, plan: Plan, planned: PlannedSite, divider: Divider, last: float | None
) -> tuple[SiteRecord, Divisors]:
    """Return a site's record and what was measured; `last` is the σ of the last run where that counts."""
    matrix = planned.matrix(model)
    found = divider.measure(planned, matrix) if last is None else Divisors((last,))
    used = found.used[-1]
    record = partial(
        record_of,
        planned,
        sigma=found.sigma,
        sigma_upper=found.upper,
        sigma_operator=found.operator,
        sigma_operator_upper=found.operator_upper,
        sigma_used=used,
        notes=notes(planned, used),
        readings=readings(model, planned, found.sigma),
    )
    if used == 0.0:
        if np.any(matrix) and found.operator is None:
            raise ModelError(
                f"the u of weight '{planned.id}' is orthogonal to it, so its estimate of the norm is 0; "
                "start from another --seed or --state, or use --sigma exact"
            )
        reason = "all zeros: no spectral norm to divide by"
        if np.any(matrix):
            reason = MADE_ZERO
        return record(status="unchanged", sigma_used=None, reason=reason), found
    if plan.clip and max(found.used) <= plan.bound:
        reason = f"its norm is at most {plan.bound:g}, and --clip was asked for"
        return record(status="unchanged", sigma_used=None, reason=reason), found
    return record(status="folded"), found


# The smallest normal number of each type: a weight of a smaller norm would be rounded away.
_SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def _factor(planned: PlannedSite, bound: float, sigma: float) -> float:
    factor = bound / sigma
    smallest = _SMALLEST.get(planned.site.dtype or "", 0.0)
    if bound < smallest:
        raise ModelError(
            f"weight '{planned.id}' can't get norm {bound:g}, for {planned.site.dtype} holds nothing of use below "
            f"{smallest:.2g}; give a larger --bound"
        )
    if not 0.0 < factor < math.inf:
        raise ModelError(
            f"weight '{planned.id}' of norm {sigma:.3g} can't get norm {bound:g}, for no float64 holds the factor; "
            f"leave it out with --exclude '^{escaped(planned.site.weight)}$', or give another --bound"
        )
    return factor


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
    dequantizers = {id(q.node.proto): q for use in uses if isinstance(q := use.quantization, Quantization)}
    done: dict[str, Rescaled] = {}
    for quantization in dequantizers.values():
        scope, original = quantization.scale_owner, quantization.scale_name
        if original not in done:
            name, tensor = original, quantization.scale
            if copies or not _readers(graph, scope, original) <= dequantizers.keys():
                name, tensor = copy_constant(graph, scope, original)
            model.scale(tensor, factor)
            done[original] = Rescaled(scope.id, name, original, factor)
        if done[original].name != original:
            reader = copies.get(id(quantization.node)) or quantization.node.proto
            reader.input[_SCALE] = _through_identities(graph, quantization, done[original].name)
    return list(done.values())


def _through_identities(graph: Graph, quantization: Quantization, name: str) -> str:
    """Return what to read in place of the scale that an Identity may hand on: `name`, through copies of those."""
    scope, read, passed = quantization.node.scope, quantization.node.proto.input[_SCALE], []
    while read != quantization.scale_name and (maker := graph.producer(scope, read)) is not None:
        passed.append(maker)
        scope, read = maker.scope, maker.proto.input[0]
    for maker in reversed(passed):
        name = copy_reading(graph, maker, name).output[0]
    return name


def _readers(graph: Graph, scope: Scope, name: str) -> set[int]:
    """Return the `id` of each NodeProto that reads a value still; of others, one that no node has.

    The sites have scopes and nodes of their own index; what both indexes have in common are the protos.
    """
    own = next(other for other in graph.scopes if other.proto is scope.proto)
    return {
        0 if use.node is None else id(use.node.proto)
        for use in graph.uses(own, name)
        if use.node is None or use.node.proto.input[use.index] == name
    }


_SCALE = 1  # DequantizeLinear's input
