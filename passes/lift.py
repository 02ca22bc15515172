"""Lift the spectral norm that exporters left as arithmetic out of the graph.

    W_lifted = γ · W / σ,  or γ · W / max(1, σ/c)        with σ as the graph computes it, or exact

so that the weight input reads a stored tensor again, under the name that the framework gives it. What is recognised,
and how it looks, is told in sn_graph.recognise.forms. Miyato et al., 2018, https://arxiv.org/abs/1802.05957.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from sn_graph.errors import ModelError, leave_out
from sn_graph.model import Model
from sn_graph.norms import recognised_sigma
from sn_graph.passes.base import Pass, PassResult
from sn_graph.plan import Plan, PlannedSite, matches, record_of
from sn_graph.progress import Progress, silent
from sn_graph.recognise import Explanation, Form, Multiple, NotComputable, framework_name, result_of
from sn_graph.report import SiteRecord
from sn_graph.rewrite import Settled, Settling

_STORED = "stored as it is, with nothing to lift"


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
        weight_norm: Whether weight normalization is lifted too.
    """

    sigma: LiftedSigma = LiftedSigma.GRAPH
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    weight_norm: bool = True


@dataclass(frozen=True)
class LiftResult(PassResult):
    """What lift made.

    Attributes:
        settled: The weights that are stored now, in the order of their records.
    """

    settled: tuple[Settled, ...] = ()


class Lift(Pass[LiftOptions]):
    """Store the weights that the graph normalizes; every other node, weight and name of the model stays as it was."""

    name = "lift"

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> LiftResult:
        """Lift every recognised weight of the plan.

        Raises:
            ModelError: A weight divided by its σ is not finite.
            UsageError: A regular expression is not valid.
        """
        settling, records = Settling(model), []
        for done, planned in enumerate(plan.sites):
            found = planned.explanation
            name = "" if found is None else framework_name(model.graph, planned.site, found)
            reason = _STORED if found is None else self._left(planned, found, name)
            if found is None or reason is not None:
                records.append(record_of(planned, "unchanged", reason))
            else:
                records.append(self._lift(model, settling, planned, found, name))
            progress("lifting", done + 1, len(plan.sites))
        settled = settling.finish()
        return LiftResult(model, plan, tuple(_renamed(records, settled)), settled=settled)

    def _left(self, planned: PlannedSite, found: Explanation, name: str) -> str | None:
        """Return why a computed weight stays as it is, or None."""
        options = self.options
        if not (found.form.is_spectral_norm or (found.form is Form.WEIGHT_NORM and options.weight_norm)):
            return planned.reason
        names = [name, planned.site.weight, *([found.original.name] if found.original is not None else [])]
        if options.include and not matches(options.include, names):
            return "no --include matches it"
        if options.exclude and matches(options.exclude, names):
            return "left out by --exclude"
        return None

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
