"""What is decided about one weight: its matrix, whether it is normalized, for which of its readers, and why not."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import UsageError
from sn_graph.model import Model
from sn_graph.sites import Site, WeightUse
from sn_graph.slots import RECURRENT, WEIGHT_OP_TYPES
from sn_graph.views import Convention, MatrixView

Status = Literal["eligible", "skipped"]


@dataclass(frozen=True, eq=False)
class PlannedSite:
    """A site and what is decided about it.

    Attributes:
        site: The weight.
        view: The matrix whose norm counts; None where the graph computes the weight.
        status, reason: Whether it is to be normalized, and if not, why.
        uses: The weight inputs to normalize; the others keep the original.
        power_iterations: The site's own number, or None for the plan's.
        per_use: One iteration for each use, in graph order, each divided by its own σ.
    """

    site: Site
    view: MatrixView | None
    status: Status
    reason: str | None
    uses: tuple[WeightUse, ...]
    power_iterations: int | None = None
    per_use: bool = False

    @property
    def id(self) -> str:
        return self.site.id

    @property
    def splits(self) -> bool:
        """Whether something reads the weight that must keep the original."""
        return len(self.uses) < len(self.site.uses) or bool(self.site.other_uses)

    def matrix(self, model: Model) -> NDArray[np.generic]:
        """Return M, of shape (rows, cols), in the stored type (float32 where dequantized); read-only."""
        assert self.view is not None
        return self.view.matrix(self.site.array(model))


def resolve_convention(name: str, model: Model, sites: Iterable[Site]) -> tuple[Convention, str]:
    """Return the convention of this name, or for "auto" the one that fits, and why. Raises UsageError."""
    if name == "auto":
        return choose_convention(model, sites)
    try:
        return Convention(name), "asked for"
    except ValueError:
        known = ", ".join(["auto", *Convention])
        raise UsageError(f"no convention '{name}'; choose one of {known}") from None


def check_op_types(op_types: Sequence[str]) -> None:
    """Raise UsageError where an op type has no weight inputs."""
    if isinstance(op_types, str):
        raise UsageError(f"op types are a list; give ['{op_types}']")
    for op_type in op_types:
        if op_type not in WEIGHT_OP_TYPES:
            raise UsageError(f"no weights are known at op type '{op_type}'; choose from {', '.join(WEIGHT_OP_TYPES)}")


def choose_convention(model: Model, sites: Iterable[Site]) -> tuple[Convention, str]:
    """Return the convention that the model's origin suggests, and why."""
    producer = model.proto.producer_name
    if producer == "pytorch":
        return Convention.TORCH, "the producer is pytorch"
    named = next((site.weight for site in sites if _STATE_DICT_NAME.search(site.weight)), None)
    if named is not None:
        return Convention.TORCH, f"weights are named like PyTorch's ('{named}')"
    return Convention.KERAS, f"the producer is {producer or 'not named'} and no weight is named like PyTorch's"


_STATE_DICT_NAME = re.compile(r"\.(weight|weight_orig|parametrizations\.weight\.original)$")


def decide(site: Site, convention: Convention, op_types: Sequence[str]) -> PlannedSite:
    """Return what a site's own nature and `--op-type` say about it."""
    known = tuple(use for use in site.uses if use.slot is not None)
    if not known or site.shape is None:
        return PlannedSite(site, None, "skipped", site.refusal, site.uses)
    wanted = op_types or set(WEIGHT_OP_TYPES) - RECURRENT
    uses = tuple(use for use in known if use.node.op_type in wanted)
    matrices = [use.matrix(site.shape, convention) for use in uses or known]
    reason = site.refusal
    if reason is None and not uses and op_types:
        reason = _not_named(site)
    elif reason is None and not uses:
        reason = f"weights of {known[0].node.op_type} are normalized only when --op-type names it"
    elif reason is None and not all(matrix.same_singular_values(matrices[0]) for matrix in matrices):
        readers = ", ".join(use.node.path for use in uses)
        reason = f"its uses ({readers}) need different matrices; choose one in a plan, or a use with --op-type"
    planned = PlannedSite(site, matrices[0].view, "skipped" if reason else "eligible", reason, uses or known)
    return refuse_split_calls(planned)


def refuse_split_calls(planned: PlannedSite) -> PlannedSite:
    """Skip an eligible site whose readers need different tensors where one of them stands in a called function."""
    apart = planned.splits or (planned.per_use and len(planned.uses) > 1)
    if planned.status == "eligible" and apart and any(use.through_call for use in planned.uses):
        reason = "it enters a local function, and not all its readers get the same tensor; inline the function first"
        return replace(planned, status="skipped", reason=reason)
    return planned


def only_op_types(planned: PlannedSite, op_types: Sequence[str]) -> PlannedSite:
    """Leave an eligible site the uses by these op types only."""
    uses = tuple(use for use in planned.uses if use.node.op_type in op_types)
    if planned.status == "skipped" or uses == planned.uses:
        return planned
    if not uses:
        return replace(planned, status="skipped", reason=_not_named(planned.site))
    return refuse_split_calls(replace(planned, uses=uses))


def _not_named(site: Site) -> str:
    return f"--op-type names none of its consumers ({', '.join(site.op_types)})"


def patterns(expressions: Sequence[str]) -> list[re.Pattern[str]]:
    """Compile regular expressions. Raises UsageError."""
    if isinstance(expressions, str):  # which would be read letter by letter
        expressions = [expressions]
    try:
        return [re.compile(expression) for expression in expressions]
    except re.error as error:
        raise UsageError(f"'{error.pattern!s}' is no regular expression: {error.msg}") from None


def filter_names(
    planned: PlannedSite, include: Sequence[re.Pattern[str]], exclude: Sequence[re.Pattern[str]]
) -> PlannedSite:
    """Skip an eligible site whose weight's name `--include` does not find or `--exclude` does."""
    weight = planned.site.weight
    if planned.status == "skipped":
        return planned
    if include and not any(pattern.search(weight) for pattern in include):
        return replace(planned, status="skipped", reason="no --include matches it")
    hit = next((pattern for pattern in exclude if pattern.search(weight)), None)
    if hit is not None:
        return replace(planned, status="skipped", reason=f"left out by --exclude '{hit.pattern}'")
    return planned
