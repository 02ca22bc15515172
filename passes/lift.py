"""Lift the spectral norm that exporters left as arithmetic out of the graph.

    W_lifted = γ · W / σ,  or γ · W / max(1, σ/c)        with σ as the graph computes it, or exact

so that the weight input reads a stored tensor again, under the name that the framework gives it. What is recognised,
and how it looks, is told in sn_graph.recognise.forms. Miyato et al., 2018, https://arxiv.org/abs/1802.05957.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError, leave_out
from sn_graph.model import Model
from sn_graph.norms import recognised_sigma
from sn_graph.passes.base import Pass, PassResult
from sn_graph.plan import Carried, Plan, PlannedSite, matches, record_of
from sn_graph.progress import Progress, silent
from sn_graph.recognise import Carry, Explanation, Form, Multiple, NotComputable, carry, framework_name, result_of
from sn_graph.report import SiteRecord
from sn_graph.rewrite import Settled, Settling
from sn_graph.state import State, read_inserted

_STORED = "stored as it is, with nothing to lift"


class LiftedTo(StrEnum):
    """What becomes of the normalization."""

    FOLD = "fold"
    INSERT = "insert"


class LiftedSigma(StrEnum):
    """The σ that counts."""

    GRAPH = "graph"
    EXACT = "exact"


@dataclass(frozen=True)
class LiftOptions:
    """How to lift.

    Attributes:
        sigma: The σ that the graph computes, or the exact one.
        include, exclude: Regular expressions, searched in a weight's names: the framework's, that of the tensor that it
            is made of, and that of the value that is read.
        to: Store the normalized weights, or the weights before it, for an insertion to go on with.
        power_iterations: Of an insertion's weights whose file tells of none.
        left: Reasons why weights stay as they are, by the place of the value that is read.
    """

    sigma: LiftedSigma = LiftedSigma.GRAPH
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    to: LiftedTo = LiftedTo.FOLD
    power_iterations: int = 1
    left: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class LiftResult(PassResult):
    """What lift made.

    Attributes:
        settled: The weights that are stored now, in the order of their records.
        carried, state: How an insertion goes on with them, and their u.
    """

    settled: tuple[Settled, ...] = ()
    carried: tuple[Carried, ...] = ()
    state: State = field(default_factory=lambda: State({}, {}))


class Lift(Pass[LiftOptions]):
    """Store the weights that the graph normalizes; every other node, weight and name of the model stays as it was."""

    name = "lift"

    def requires(self, source: Model, plan: Plan) -> None:  # noqa: ARG002
        """Raise ModelError where a model holds our own iteration, which is no exporter's."""
        if read_inserted(source) is not None:
            raise ModelError(
                f"{source.name} holds an inserted iteration",
                "which is not an exporter's to be lifted",
                "take it out with sn-graph strip, or bake it with sn-graph fold",
            )

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> LiftResult:
        """Lift every recognised weight of the plan.

        Raises:
            ModelError: A weight divided by its σ is not finite.
            UsageError: A regular expression is not valid.
        """
        settling, records = Settling(model), []
        carries: dict[tuple[str, str], tuple[Carry, int]] = {}
        for done, planned in enumerate(plan.sites):
            found = planned.explanation
            name = "" if found is None else framework_name(model.graph, planned.site, found)
            reason = _STORED if found is None else self._left(planned, found, name)
            if found is None or reason is not None:
                records.append(record_of(planned, "unchanged", reason))
            elif self.options.to is LiftedTo.FOLD:
                records.append(self._lift(model, settling, planned, found, name))
            else:
                record, carried = self._carry(model, settling, planned, found, name)
                records.append(record)
                if carried is not None:
                    carries[found.slot.place] = carried, found.k or self.options.power_iterations
            model.let_go()
            progress("lifting", done + 1, len(plan.sites))
        settled = settling.finish()
        going_on, state = _carried(carries, settled)
        renamed = tuple(_renamed(records, settled))
        return LiftResult(model, plan, renamed, settled=settled, carried=going_on, state=state)

    def _left(self, planned: PlannedSite, found: Explanation, name: str) -> str | None:
        """Return why a computed weight stays as it is, or None."""
        options = self.options
        if found.form is Form.WEIGHT_NORM and options.to is LiftedTo.INSERT:
            return "weight normalization, which has no iteration to insert; lift it --to fold"
        if not (found.form.is_spectral_norm or found.form is Form.WEIGHT_NORM):
            return planned.reason
        names = [name, planned.site.weight, *([found.original.name] if found.original is not None else [])]
        if options.include and not matches(options.include, names):
            return "no --include matches it"
        if options.exclude and matches(options.exclude, names):
            return "left out by --exclude"
        return options.left.get(found.slot.place)

    def _carry(
        self, model: Model, settling: Settling, planned: PlannedSite, found: Explanation, name: str
    ) -> tuple[SiteRecord, Carry | None]:
        try:
            made = carry(model, found)
        except NotComputable as error:
            raise _not_finite(name, str(error)) from None
        if isinstance(made, str):
            return record_of(planned, "unchanged", made), None
        if isinstance(made.weight, Multiple):
            settling.scale(found, made.weight.tensor, made.weight.factor, name)
        else:
            settling.put(found, made.weight, name)
        return replace(record_of(planned, "lifted"), reason=None), made

    def _lift(
        self, model: Model, settling: Settling, planned: PlannedSite, found: Explanation, name: str
    ) -> SiteRecord:
        exact = self.options.sigma is LiftedSigma.EXACT and found.form.is_spectral_norm
        try:
            sigmas = [recognised_sigma(model, part) or 0.0 for part in found.parts] if exact else None
            made = result_of(model, found, sigmas)
        except (NotComputable, ZeroDivisionError) as error:
            raise _not_finite(name, str(error)) from None
        if isinstance(made, Multiple):
            if not np.isfinite(made.factor):
                raise _not_finite(name, f"its factor is {made.factor}")
            settling.scale(found, made.tensor, made.factor, name)
        else:
            settling.put(found, made, name)
        sigma = sigmas[0] if sigmas else None
        used = found.sigma_graph if sigma is None else sigma
        # To be given the name that it gets, which only `finish` knows.
        return replace(record_of(planned, "lifted"), reason=None, sigma=sigma, sigma_used=used)


def _carried(
    carries: Mapping[tuple[str, str], tuple[Carry, int]], settled: Sequence[Settled]
) -> tuple[tuple[Carried, ...], State]:
    """Return how an insertion goes on with each weight that is stored now, and from which u."""
    found: dict[str, Carried] = {}
    vectors: dict[str, NDArray[np.floating]] = {}
    for one in settled:
        if (one.scope, one.value) not in carries:
            continue
        made, k = carries[one.scope, one.value]
        identity = f"{one.holder}::{one.name}" if one.holder else one.name
        found.setdefault(identity, Carried(identity, made.view, k, made.bound, made.clip))
        vectors.setdefault(identity, made.u)
    return tuple(found.values()), State(vectors, {})


def _renamed(records: list[SiteRecord], settled: Sequence[Settled]) -> Iterator[SiteRecord]:
    """Yield the records with the names that the lifted weights have now."""
    names = {(one.scope, one.value): one for one in settled}
    for record in records:
        now = names.get((record.scope, record.weight))
        if record.status != "lifted" or now is None:
            yield record
            continue
        identity = f"{now.holder}::{now.name}" if now.holder else now.name
        yield replace(record, id=identity, weight=now.name, scope=now.holder)


def _not_finite(name: str, why: str) -> ModelError:
    return ModelError(f"weight '{name}' can't be lifted", why, leave_out(name))
