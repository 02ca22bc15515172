"""What shall be done to which weight: the sites of a model, each with its matrix and a decision, and the parameters.

`make_plan` decides from the command line's filters; `load_plan` reads what a person or a frontend decided.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError, UsageError
from sn_graph.model import Model
from sn_graph.model.files import write_file
from sn_graph.sites import Site, WeightUse, find_sites
from sn_graph.slots import RECURRENT, WEIGHT_OP_TYPES
from sn_graph.views import Convention, MatrixView

Status = Literal["eligible", "skipped"]
VERSION = 1


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


@dataclass(frozen=True)
class Plan:
    """The sites of a model and the parameters of a pass.

    Attributes:
        model: The model file's name without its folder.
        convention, convention_reason: Whose matrices, and why.
        power_iterations: Iterations a run.
        eps: The norm floor of the power iteration.
        bound: The spectral norm that a normalized weight gets.
        clip: Leave weights alone whose norm is at most `bound`.
        norm: "matrix" (the reshaped kernel).
        state: A safetensors file with the u of each site, or None for seeded ones.
        sites: Every site of the model.
    """

    model: str
    convention: Convention
    convention_reason: str
    sites: tuple[PlannedSite, ...]
    power_iterations: int = 1
    eps: float = 1e-12
    bound: float = 1.0
    clip: bool = False
    norm: str = "matrix"
    state: Path | None = None

    def eligible(self) -> tuple[PlannedSite, ...]:
        """Return the sites to normalize."""
        return tuple(site for site in self.sites if site.status == "eligible")

    def to_json(self) -> dict[str, Any]:
        """Return the plan file's content, except that `state` is left to `save_plan`."""
        return {
            "version": VERSION,
            "model": self.model,
            "convention": str(self.convention),
            "power_iterations": self.power_iterations,
            "eps": self.eps,
            "bound": self.bound,
            "clip": self.clip,
            "norm": self.norm,
            "state": None,
            "sites": [_site_to_json(site) for site in self.sites],
        }


def make_plan(
    model: Model,
    *,
    convention: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
) -> Plan:
    """Find a model's weights and decide which to normalize.

    Args:
        model: The model; its path names the plan's.
        convention: "auto", "keras", "torch" or "torch-parametrization".
        include, exclude: Regular expressions, searched in weight names.
        op_types: Normalize these consumers only; recurrent ones are normalized only when named here.

    Raises:
        UsageError: An expression, convention or op type is not valid.
    """
    sites = find_sites(model)
    chosen, reason = _convention(convention, model, sites)
    _check_op_types(op_types)
    planned = (_decide(site, chosen, op_types) for site in sites)
    narrowed = tuple(_filter(site, _patterns(include), _patterns(exclude)) for site in planned)
    return Plan(model.path.name if model.path else "", chosen, reason, narrowed)


def _convention(name: str, model: Model, sites: Iterable[Site]) -> tuple[Convention, str]:
    if name == "auto":
        return choose_convention(model, sites)
    try:
        return Convention(name), "asked for"
    except ValueError:
        known = ", ".join(["auto", *Convention])
        raise UsageError(f"no convention '{name}'; choose one of {known}") from None


def _check_op_types(op_types: Sequence[str]) -> None:
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


def narrow_plan(
    plan: Plan, *, include: Sequence[str] = (), exclude: Sequence[str] = (), op_types: Sequence[str] = ()
) -> Plan:
    """Return a plan with fewer sites eligible: what the filters do to a plan that came from a file."""
    _check_op_types(op_types)
    sites = tuple(_filter(site, _patterns(include), _patterns(exclude)) for site in plan.sites)
    if op_types:
        sites = tuple(_only(site, op_types) for site in sites)
    return replace(plan, sites=sites)


def _decide(site: Site, convention: Convention, op_types: Sequence[str]) -> PlannedSite:
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
    return _refuse_split_calls(planned)


def _refuse_split_calls(planned: PlannedSite) -> PlannedSite:
    if planned.status == "eligible" and planned.splits and any(use.through_call for use in planned.uses):
        reason = "it enters a local function, and something else that must keep the original reads it too"
        return replace(planned, status="skipped", reason=reason)
    return planned


def _only(planned: PlannedSite, op_types: Sequence[str]) -> PlannedSite:
    uses = tuple(use for use in planned.uses if use.node.op_type in op_types)
    if planned.status == "skipped" or uses == planned.uses:
        return planned
    if not uses:
        return replace(planned, status="skipped", reason=_not_named(planned.site))
    return _refuse_split_calls(replace(planned, uses=uses))


def _not_named(site: Site) -> str:
    return f"--op-type names none of its consumers ({', '.join(site.op_types)})"


def _patterns(expressions: Sequence[str]) -> list[re.Pattern[str]]:
    try:
        return [re.compile(expression) for expression in expressions]
    except re.error as error:
        raise UsageError(f"'{error.pattern!s}' is no regular expression: {error.msg}") from None


def _filter(
    planned: PlannedSite, include: Sequence[re.Pattern[str]], exclude: Sequence[re.Pattern[str]]
) -> PlannedSite:
    weight = planned.site.weight
    if planned.status == "skipped":
        return planned
    if include and not any(pattern.search(weight) for pattern in include):
        return replace(planned, status="skipped", reason="no --include matches it")
    hit = next((pattern for pattern in exclude if pattern.search(weight)), None)
    if hit is not None:
        return replace(planned, status="skipped", reason=f"left out by --exclude '{hit.pattern}'")
    return planned


def _site_to_json(planned: PlannedSite) -> dict[str, Any]:
    site, view = planned.site, planned.view
    record: dict[str, Any] = {
        "id": site.id,
        "weight": site.weight,
        "scope": site.scope.id,
        "status": planned.status,
        "reason": planned.reason,
        "split": list(view.split) if view and view.split is not None else None,
        "perm": list(view.perm) if view and view.perm is not None else None,
        "rows": view.rows if view else None,
        "cols": view.cols if view else None,
        "side": view.side if view else None,
    }
    if planned.power_iterations is not None:
        record["power_iterations"] = planned.power_iterations
    if planned.per_use:
        record["per_use"] = True
    return record


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan file, atomically; its `state` is written relative to it."""
    content = plan.to_json()
    if plan.state is not None:
        content["state"] = os.path.relpath(plan.state, Path(path).parent)
    write_file(Path(path), (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def load_plan(path: str | os.PathLike[str], model: Model, *, convention: str | None = None) -> Plan:
    """Read a plan file for a model.

    Sites that it leaves out are skipped. Its matrices and decisions replace the ones that `make_plan` would take; with
    another `convention` than its own only the decisions do.

    Raises:
        ModelError: The file can't be read, is no plan, or names weights or matrices that the model does not have.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ModelError(f"plan {path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"plan {path} is no JSON: {error}; write one with inspect --plan") from None
    try:
        return _plan_from_json(content, Path(path), model, convention)
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"plan {path} is not valid: {what}; write a fresh one with inspect --plan") from None


def _plan_from_json(content: Any, path: Path, model: Model, other: str | None) -> Plan:
    _expect(isinstance(content, dict), "it is not an object")
    _expect(content["version"] == VERSION, f"version {content['version']!r} is not {VERSION}")
    found = find_sites(model)
    convention, reason = Convention(content["convention"]), "the plan says so"
    own_views = other is None or other == convention
    if not own_views:
        convention, reason = _convention(other or "auto", model, found)
    norm = content.get("norm", "matrix")
    _expect(norm == "matrix", f"norm {norm!r} is not 'matrix'")
    clip = content.get("clip", False)
    _expect(isinstance(clip, bool), f"clip {clip!r} is not true or false")
    state = content.get("state")
    _expect(state is None or isinstance(state, str), "state is not a path")
    entries: dict[str, Any] = {}
    for entry in content["sites"]:
        _expect(isinstance(entry, dict) and isinstance(entry["id"], str), "a site is not an object with an id")
        _expect(entry["id"] not in entries, f"site '{entry['id']}' is there twice")
        entries[entry["id"]] = entry
    sites = [_decide(site, convention, ()) for site in found]
    unknown = sorted(set(entries) - {planned.id for planned in sites})
    _expect(not unknown, f"the model has no weight '{unknown[0] if unknown else ''}'")
    return Plan(
        model=model.path.name if model.path else "",
        convention=convention,
        convention_reason=reason,
        sites=tuple(_apply_entry(planned, entries.get(planned.id), own_views) for planned in sites),
        power_iterations=_whole(content.get("power_iterations", 1)),
        eps=_positive(content.get("eps", 1e-12), "eps"),
        bound=_positive(content.get("bound", 1.0), "bound"),
        clip=clip,
        norm=norm,
        state=path.parent / state if state else None,
    )


def _apply_entry(planned: PlannedSite, entry: Mapping[str, Any] | None, own_view: bool) -> PlannedSite:
    if entry is None:
        return replace(planned, status="skipped", reason=planned.reason or "the plan leaves it out")
    name = f"site '{planned.id}'"
    status = entry["status"]
    _expect(status in ("eligible", "skipped"), f"status {status!r} of {name} is neither 'eligible' nor 'skipped'")
    if status == "skipped":
        reason = planned.reason or entry.get("reason") or "the plan skips it"
        return replace(planned, status="skipped", reason=str(reason))
    shape = planned.site.shape
    if planned.site.refusal is not None or shape is None:
        return planned
    side = entry["side"]
    _expect(side in ("rows", "cols"), f"side {side!r} of {name} is neither 'rows' nor 'cols'")
    split, perm = (
        None if entry.get(key) is None else tuple(map(_whole_or_zero, entry[key])) for key in ("split", "perm")
    )
    view = MatrixView(split, perm, _whole(entry["rows"]), _whole(entry["cols"]), side)
    _expect(view.fits(shape), f"the matrix of {name} can't be taken of shape {list(shape)}")
    iterations, per_use = entry.get("power_iterations"), entry.get("per_use", False)
    _expect(isinstance(per_use, bool), f"per_use of {name} is not true or false")
    return replace(
        planned,
        view=view if own_view else planned.view,
        status="eligible",
        reason=None,
        power_iterations=None if iterations is None else _whole(iterations),
        per_use=per_use,
    )


def _expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise ValueError(complaint)


def _whole_or_zero(value: Any) -> int:
    _expect(isinstance(value, int) and not isinstance(value, bool) and value >= 0, f"{value!r} is no whole number")
    return int(value)


def _whole(value: Any) -> int:
    _expect(_whole_or_zero(value) > 0, f"{value!r} is not above zero")
    return int(value)


def _positive(value: Any, name: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _expect(number and 0 < value < math.inf, f"{name} {value!r} is no number above zero")
    return float(value)
