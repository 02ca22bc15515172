"""What shall be done to which weight: the sites of a model, each with its matrix and a decision, and the parameters.

`make_plan` decides from the command line's filters; `load_plan` reads what a person or a frontend decided.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sn_graph.decisions import (
    PlannedSite,
    Status,
    check_op_types,
    choose_convention,
    decide,
    filter_names,
    only_op_types,
    patterns,
    refuse_split_calls,
    resolve_convention,
)
from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.model.files import write_file
from sn_graph.sites import find_sites
from sn_graph.views import Convention, MatrixView

__all__ = ["Plan", "PlannedSite", "Status", "choose_convention", "load_plan", "make_plan", "narrow_plan", "save_plan"]

VERSION = 1
NORMS = ("matrix", "operator")


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
        norm: "matrix" (the reshaped kernel) or "operator" (what the consumers do).
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

    >>> plan = make_plan(Model.open("models/keras_dcgan_discriminator.onnx"), op_types=["Conv"])
    >>> [(site.site.op_types, site.status) for site in plan.sites][-2:]
    [(('Conv',), 'eligible'), (('MatMul',), 'skipped')]
    """
    sites = find_sites(model)
    chosen, reason = resolve_convention(convention, model, sites)
    check_op_types(op_types)
    planned = (decide(site, chosen, op_types) for site in sites)
    narrowed = tuple(filter_names(site, patterns(include), patterns(exclude)) for site in planned)
    return Plan(model.path.name if model.path else "", chosen, reason, narrowed)


def narrow_plan(
    plan: Plan, *, include: Sequence[str] = (), exclude: Sequence[str] = (), op_types: Sequence[str] = ()
) -> Plan:
    """Return a plan with fewer sites eligible: what the filters do to a plan that came from a file."""
    check_op_types(op_types)
    sites = tuple(filter_names(site, patterns(include), patterns(exclude)) for site in plan.sites)
    if op_types:
        sites = tuple(only_op_types(site, op_types) for site in sites)
    return replace(plan, sites=sites)


def rebind(plan: Plan, model: Model) -> Plan:
    """Return the same plan for a copy of the model it was made for."""
    found = {site.id: site for site in find_sites(model)}

    def rebound(planned: PlannedSite) -> PlannedSite:
        site = found[planned.id]
        places = [planned.site.uses.index(use) for use in planned.uses]  # names of nodes need not be unique
        return replace(planned, site=site, uses=tuple(site.uses[place] for place in places))

    return replace(plan, sites=tuple(map(rebound, plan.sites)))


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
    """Write a plan file, atomically; its `state` is written relative to it. See `load_plan` for an example.

    Raises:
        EnvironmentUnavailable: The folder can't be written.
    """
    content = plan.to_json()
    if plan.state is not None:
        content["state"] = Path(os.path.relpath(plan.state, Path(path).parent)).as_posix()
    write_file(Path(path), (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def load_plan(path: str | os.PathLike[str], model: Model, *, convention: str | None = None) -> Plan:
    """Read a plan file for a model.

    Sites that it leaves out are skipped. Its matrices and decisions replace the ones that `make_plan` would take; with
    another `convention` than its own only the decisions do.

    Raises:
        ModelError: The file can't be read, is no plan, or names weights or matrices that the model does not have.

    >>> import tempfile
    >>> model = Model.open("models/keras_dcgan_discriminator.onnx")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_plan(make_plan(model), f"{folder}/plan.json")
    ...     load_plan(f"{folder}/plan.json", model).convention_reason
    'the plan says so'
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ModelError(f"plan {path} can't be read: {error.strerror}; write one with inspect --plan") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"plan {path} is no JSON: {error}; write one with inspect --plan") from None
    try:
        return _plan_from_json(content, Path(path), model, convention)
    except ValueError as error:
        raise ModelError(f"plan {path} is not valid: {error}; write a fresh one with inspect --plan") from None


def _plan_from_json(content: Any, path: Path, model: Model, other: str | None) -> Plan:
    _expect(isinstance(content, dict), "it is not an object")
    version = _needed(content, "version", "it")
    _expect(_is_whole(version) and version == VERSION, f"version {version!r} is not {VERSION}")
    convention, reason = Convention(_needed(content, "convention", "it")), "the plan says so"
    found = find_sites(model)
    own_views = other is None or other == convention
    if not own_views:
        convention, reason = resolve_convention(other or "auto", model, found)
    norm, clip, state = content.get("norm", "matrix"), content.get("clip", False), content.get("state")
    _expect(norm in NORMS, f"norm {norm!r} is neither 'matrix' nor 'operator'")
    _expect(isinstance(clip, bool), f"clip {clip!r} is not true or false")
    _expect(state is None or (isinstance(state, str) and "\0" not in state), f"state {state!r} is no path")
    entries = _entries(_needed(content, "sites", "it"))
    sites = [decide(site, convention, ()) for site in found]
    unknown = sorted(set(entries) - {planned.id for planned in sites})
    _expect(not unknown, f"the model has no weight {next(iter(unknown), '')!r}")
    return Plan(
        model=model.path.name if model.path else "",
        convention=convention,
        convention_reason=reason,
        sites=tuple(_apply_entry(planned, entries.get(planned.id), own_views) for planned in sites),
        power_iterations=_above_zero(content.get("power_iterations", 1), "power_iterations"),
        eps=_positive(content.get("eps", 1e-12), "eps"),
        bound=_positive(content.get("bound", 1.0), "bound"),
        clip=clip,
        norm=norm,
        state=path.parent / state if state else None,
    )


def _entries(sites: Any) -> dict[str, Mapping[str, Any]]:
    _expect(isinstance(sites, list), "its sites are not a list")
    entries: dict[str, Mapping[str, Any]] = {}
    for entry in sites:
        _expect(isinstance(entry, dict), "a site is not an object")
        site = _needed(entry, "id", "a site")
        _expect(isinstance(site, str), f"the id {site!r} is not a string")
        _expect(site not in entries, f"site {site!r} is there twice")
        entries[site] = entry
    return entries


def _apply_entry(planned: PlannedSite, entry: Mapping[str, Any] | None, own_view: bool) -> PlannedSite:
    site, name = planned.site, f"site {planned.id!r}"
    if entry is None:
        return replace(planned, status="skipped", reason=site.refusal or "the plan leaves it out")
    for key, actual in (("weight", site.weight), ("scope", site.scope.id)):
        _expect(entry.get(key, actual) == actual, f"the {key} of {name} is {actual!r}, not {entry.get(key)!r}")
    status, reason = _needed(entry, "status", name), entry.get("reason")
    _expect(status in ("eligible", "skipped"), f"status {status!r} of {name} is neither 'eligible' nor 'skipped'")
    _expect(reason is None or isinstance(reason, str), f"the reason of {name} is not a string")
    if status == "skipped":
        return replace(planned, status="skipped", reason=site.refusal or reason or "the plan skips it")
    if site.refusal is not None or site.shape is None:
        return planned
    view = _view(entry, name)
    _expect(view.fits(site.shape), f"the matrix of {name} can't be taken of shape {list(site.shape)}")
    iterations, per_use = entry.get("power_iterations"), entry.get("per_use", False)
    _expect(isinstance(per_use, bool), f"per_use of {name} is not true or false")
    chosen = replace(
        planned,
        view=view if own_view else planned.view,
        status="eligible",
        reason=None,
        power_iterations=None if iterations is None else _above_zero(iterations, f"power_iterations of {name}"),
        per_use=per_use,
    )
    return refuse_split_calls(chosen)


def _view(entry: Mapping[str, Any], name: str) -> MatrixView:
    rows, cols = (_above_zero(_needed(entry, key, name), f"{key} of {name}") for key in ("rows", "cols"))
    side = _needed(entry, "side", name)
    _expect(side in ("rows", "cols"), f"side {side!r} of {name} is neither 'rows' nor 'cols'")
    return MatrixView(_axes(entry, "split", name), _axes(entry, "perm", name), rows, cols, side)


def _axes(entry: Mapping[str, Any], key: str, name: str) -> tuple[int, ...] | None:
    axes = entry.get(key)
    if axes is None:
        return None
    whole = isinstance(axes, list) and all(_is_whole(axis) and axis >= 0 for axis in axes)
    _expect(whole, f"{key} {axes!r} of {name} is no list of whole numbers")
    return tuple(axes)


def _expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise ValueError(complaint)


def _needed(content: Mapping[str, Any], key: str, name: str) -> Any:
    _expect(key in content, f"{name} has no {key!r}")
    return content[key]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _above_zero(value: Any, name: str) -> int:
    _expect(_is_whole(value) and value > 0, f"{name} {value!r} is no whole number above zero")
    return int(value)


def _positive(value: Any, name: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _expect(number and 0 < value <= sys.float_info.max, f"{name} {value!r} is no number above zero")
    return float(value)
