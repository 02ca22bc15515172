"""Replace each weight W by bound · W / σ(W).

    W_folded = W · (bound / σ),  σ = max ‖M x‖ / ‖x‖,  M = matrix view of W

Miyato et al., 2018, https://arxiv.org/abs/1802.05957, eq. 6-7. A quantized weight is folded by its scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.norms import (
    MADE_ZERO,
    Divider,
    Divisors,
    SigmaMethod,
    doubt,
    notes,
    plan_state,
    readings,
    require_divisor,
)
from sn_graph.passes.base import Pass, PassResult, require_seed
from sn_graph.plan import Plan, Target, one_at_a_time, record_of
from sn_graph.progress import Progress, silent
from sn_graph.report import SiteRecord
from sn_graph.rewrite import Copy, Scaling
from sn_graph.sites import Quantization, unscalable
from sn_graph.spectral.matrix import frobenius_norm
from sn_graph.state import State, read_inserted

__all__ = ["Fold", "FoldOptions", "SigmaMethod"]


@dataclass(frozen=True)
class FoldOptions:
    """How to fold.

    Attributes:
        sigma: The estimator; of which norm, the plan says.
        seed: Of the vectors u that no state gives; `power` only.
        state: Where `power` starts from, in place of the plan's state file.
        known: σ of each site by id, where it is known, from an inserted model's last run: nothing is estimated then.
        as_written: Fold a weight too whose bias runtimes would divide along with it, for those that follow the file.
    """

    sigma: SigmaMethod = SigmaMethod.EXACT
    seed: int = 0
    state: State | None = None
    known: Mapping[str, float] | None = None
    as_written: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a seed that no generator takes."""
        require_seed(self.seed)

    def known_divisors(self, target: Target) -> Divisors | None:
        """Return what is known of a weight; None where it is to be measured."""
        if self.known is None:
            return None
        if target.id not in self.known:
            raise ModelError(f"no σ is known of weight '{target.id}'", do="give one, or let fold measure it")
        return Divisors((self.known[target.id],))


class Fold(Pass[FoldOptions]):
    """Fold the spectral norm into the weights; the graph stays as it was, but for weights that must be split."""

    name = "fold"

    def requires(self, source: Model, plan: Plan) -> None:  # noqa: ARG002
        """Raise ModelError where a model is an inserted one: `sn_graph.fold` takes its iteration out first."""
        if read_inserted(source) is not None:
            raise ModelError(
                f"{source.name} holds an inserted iteration",
                "and its weights would be scaled twice",
                "take it out with strip first, or bake it: sn-graph fold, or sn_graph.fold",
            )

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        """Scale every eligible weight of the plan.

        Raises:
            ModelError: A weight is not finite, the state file does not fit, or u is orthogonal to a weight.
        """
        options = self.options
        state = options.state or plan_state(plan, model)
        divider = Divider(model, plan, options.sigma, state, options.seed)
        scaling = Scaling(model)
        records: list[SiteRecord] = []
        vectors: dict[str, NDArray[np.float64]] = {}
        for planned in one_at_a_time(model, plan, progress):
            target = planned.target
            fixed = None if target is None else unscalable(model, target.uses, as_written=options.as_written)
            if target is None or fixed is not None:
                records.append(record_of(planned, None if fixed is None else "skipped", fixed))
                continue
            matrix = target.matrix(model)
            found = options.known_divisors(target) or divider.measure(target, matrix)
            reason = _kept(plan, target, matrix, found)
            # Before the weight is scaled, because its readings are of what it was.
            read = readings(model, target, found.sigma)
            said = (*notes(target, found.used[-1]), *doubt(plan, read))
            record = record_of(planned, "folded" if reason is None else "unchanged", reason, said)
            records.append(_measured(replace(record, readings=read), matrix, found))
            if reason is None:
                before = len(scaling.copies)
                scaling.divide(target, found.used, plan.bound_of(target))
                records[-1] = _told(records[-1], target, scaling.copies[before:])
                if found.right is not None:
                    vectors[target.id] = found.right
        model.edited()
        return PassResult(model, plan, tuple(records), tuple(scaling.rescaled), scaling.copies, vectors)

    def ensures(self, result: PassResult) -> None:
        """Raise RuntimeError where the model's inputs and outputs are not the source's."""
        super().ensures(result)
        if result.source is not None:
            before, after = result.source.proto.graph, result.model.proto.graph
            if [value.name for value in before.output] != [value.name for value in after.output]:
                raise RuntimeError("fold changed the outputs of the model")


def _told(record: SiteRecord, target: Target, copies: Sequence[Copy]) -> SiteRecord:
    """Return a record that says which scales were copied: the file has tensors then that it had not."""
    scales = {use.quantization.scale_name for use in target.uses if isinstance(use.quantization, Quantization)}
    told = tuple(
        f"its scale '{copy.original}' is read by others too, so the divided one is a copy, '{copy.name}'"
        for copy in copies
        if copy.original in scales
    )
    return replace(record, notes=(*record.notes, *told))


def _kept(plan: Plan, target: Target, matrix: NDArray[Any], found: Divisors) -> str | None:
    """Return why a weight stays as it is, or None."""
    if found.used[-1] == 0.0:
        if found.operator is None:
            require_divisor(target, matrix, found.used[-1])
        return MADE_ZERO if np.any(matrix) else "all zeros: no spectral norm to divide by"
    if plan.clips(target) and max(found.used) <= plan.bound_of(target):
        return f"its norm is at most {plan.bound_of(target):g}, and --clip was asked for"
    return None


def _measured(record: SiteRecord, matrix: NDArray[Any], found: Divisors) -> SiteRecord:
    return replace(
        record,
        sigma=found.sigma,
        sigma_upper=found.upper,
        sigma_operator=found.operator,
        sigma_operator_upper=found.operator_upper,
        sigma_used=found.used[-1] if record.status == "folded" else None,
        frobenius=None if found.sigma is None else frobenius_norm(matrix),
    )
