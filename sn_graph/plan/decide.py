"""Decisions about one weight: its matrix, whether it is normalized, for which of its readers, and why not."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sn_graph.errors import UsageError
from sn_graph.model import Model
from sn_graph.plan.patience import time_limit
from sn_graph.plan.plan import PlannedSite
from sn_graph.sites import DEFAULT_OP_TYPES, QUANTIZED_OP_TYPES, WEIGHT_OP_TYPES, Convention, Site

if TYPE_CHECKING:
    from sn_graph.recognise import Explanation

SECONDS = 2.0  # for the expressions and one name: Python's engine may take longer than the world stands


def check_op_types(op_types: Sequence[str]) -> None:
    """Raise UsageError where an op type has no weight inputs."""
    if isinstance(op_types, str):
        raise UsageError("op types are a list", do=f"give ['{op_types}']")
    for op_type in op_types:
        if op_type not in (*WEIGHT_OP_TYPES, *QUANTIZED_OP_TYPES):
            raise UsageError(
                f"no weights are known at op type '{op_type}'",
                do=f"choose from {', '.join(WEIGHT_OP_TYPES)}",
            )


def decide_all(
    model: Model, sites: Sequence[Site], convention: Convention, op_types: Sequence[str] = ()
) -> list[PlannedSite]:
    """Return what `decide` says about each weight of a model, those that the graph computes explained."""
    known: dict[str, Explanation] = {}
    if any(site.is_computed for site in sites):
        from sn_graph.recognise import recognise  # 15 modules, of which few models need one

        known = recognise(model, sites)
    return [decide(site, convention, op_types, known.get(site.id)) for site in sites]


def decide(
    site: Site, convention: Convention, op_types: Sequence[str], explanation: "Explanation | None" = None
) -> PlannedSite:
    """Return what a site's own nature and `--op-type` say about it; `explanation` is that of a computed weight."""
    if explanation is not None:
        told = bool(explanation.why) or explanation.form.is_spectral_norm
        why = explanation.reason if told or site.refusal is None else site.refusal
        return PlannedSite(site, None, "skipped", why, site.uses, explanation=explanation)
    shape = site.shape or ()
    found = [(use, matrix) for use in site.uses if (matrix := use.matrix(shape, convention)) is not None]
    if not found or site.shape is None:
        return PlannedSite(site, None, "skipped", site.refusal, site.uses)
    wanted = op_types or DEFAULT_OP_TYPES.union(QUANTIZED_OP_TYPES)
    chosen = [(use, matrix) for use, matrix in found if use.node.op_type in wanted]
    known, uses = tuple(use for use, _ in found), tuple(use for use, _ in chosen)
    matrices = [matrix for _, matrix in chosen or found]
    reason = site.refusal
    if reason is None and not uses and op_types:
        reason = _not_named(site)
    elif reason is None and not uses:
        reason = f"weights of {known[0].node.op_type} are normalized only when --op-type names it"
    elif reason is None and not all(matrix.same_singular_values(matrices[0]) for matrix in matrices):
        readers = ", ".join(use.node.path for use in uses)
        reason = f"its uses ({readers}) need different matrices; choose one in a plan, or a use with --op-type"
    planned = PlannedSite(site, matrices[0].view, "skipped" if reason else "eligible", reason, uses or known)
    return refuse_splits(planned)


def refuse_splits(planned: PlannedSite) -> PlannedSite:
    """Skip an eligible site whose readers need different tensors where one of them can't be given its own."""
    apart = planned.splits or (planned.per_use and len(planned.uses) > 1)
    use = next((use for use in planned.uses if use.stands_apart), None)
    if planned.status == "skipped" or not apart or (use is None and planned.site.sparse is None):
        return planned
    if use is None:
        reason = "it is stored as a sparse tensor, and not all its readers get the same tensor; store it dense"
        return replace(planned, status="skipped", reason=reason)
    what, do = "enters a local function", "inline the function first"
    if use.piece is not None:
        what = f"is {'cut into parts' if use.piece.piece == 'cut' else 'joined with others'} by {use.piece.node.path}"
        do = "simplify the model first (onnxsim or onnxslim folds constants)"
    elif use.handed:
        what, do = f"is handed on by {use.handed[0].path}", "let its body read the weight itself"
    reason = f"it {what}, and not all its readers get the same tensor; {do}"
    return replace(planned, status="skipped", reason=reason)


def refuse_pieces(planned: PlannedSite) -> PlannedSite:
    """Skip an eligible site of which no consumer reads the whole, so that it has the norm of no operator."""
    use = next((use for use in planned.uses if use.piece is not None), None)
    if planned.status == "skipped" or use is None or use.piece is None:
        return planned
    how = "only a part of it" if use.piece.piece == "cut" else "it joined with others"
    reason = f"{use.node.path} reads {how}, so no operator has its norm; use --norm matrix"
    return replace(planned, status="skipped", reason=reason)


def only_op_types(planned: PlannedSite, op_types: Sequence[str]) -> PlannedSite:
    """Leave an eligible site the uses by these op types only."""
    uses = tuple(use for use in planned.uses if use.node.op_type in op_types)
    if planned.status == "skipped" or uses == planned.uses:
        return planned
    if not uses:
        return replace(planned, status="skipped", reason=_not_named(planned.site))
    return refuse_splits(replace(planned, uses=uses))


def _not_named(site: Site) -> str:
    return f"--op-type names none of its consumers ({', '.join(site.op_types)})"


def patterns(expressions: Sequence[str]) -> list[re.Pattern[str]]:
    """Compile regular expressions. Raises UsageError."""
    if isinstance(expressions, str):  # which would be read letter by letter
        expressions = [expressions]
    try:
        return [re.compile(expression) for expression in expressions]
    except re.error as error:
        raise UsageError(f"'{error.pattern!s}' is not a regular expression", error.msg) from None


def _too_slow(weight: str) -> UsageError:
    return UsageError(
        f"--include and --exclude take more than {SECONDS:g} s to tell whether they find '{weight[:80]}'",
        "because a repetition in them holds another",
        "write the expression without it, or with a possessive one (a++)",
    )


def filter_names(
    planned: PlannedSite, include: Sequence[re.Pattern[str]], exclude: Sequence[re.Pattern[str]]
) -> PlannedSite:
    """Skip an eligible site whose weight's name `--include` does not find or `--exclude` does."""
    if planned.status == "skipped":
        return planned
    reason = left_out_by(planned.site.weight, include, exclude)
    return planned if reason is None else replace(planned, status="skipped", reason=reason)


def left_out_by(weight: str, include: Sequence[re.Pattern[str]], exclude: Sequence[re.Pattern[str]]) -> str | None:
    """Return why `--include` and `--exclude` leave a weight out, None where they don't."""
    if not (include or exclude):
        return None
    with time_limit(SECONDS, _too_slow(weight)):
        included = not include or any(pattern.search(weight) for pattern in include)
        hit = next((pattern for pattern in exclude if pattern.search(weight)), None)
    if not included:
        return "no --include matches it"
    return None if hit is None else f"left out by --exclude '{hit.pattern}'"


def matches(expressions: Sequence[str], names: Sequence[str]) -> bool:
    """Say whether one of some regular expressions is found in one of some names. Raises UsageError."""
    return any(pattern.search(name) for pattern in patterns(expressions) for name in names)
