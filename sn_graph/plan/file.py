"""Plan files: what was decided about each weight, as JSON that a person or a frontend may edit."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sn_graph.choices import ConventionChoice
from sn_graph.errors import ModelError, UsageError
from sn_graph.model import Model, ModelSource, read_ordinary, write_file
from sn_graph.plan.convention import Origin, resolve_convention
from sn_graph.plan.decide import decide_all, refuse_splits
from sn_graph.plan.plan import NORMS, VERSION, Plan, PlannedSite
from sn_graph.sites import Convention, MatrixView, find_sites


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan file, atomically; its `state` is written relative to it. See `load_plan` for an example.

    Raises:
        EnvironmentUnavailable: The folder can't be written.
        UsageError: The plan's state is in memory.
    """
    content = plan.to_json()
    if isinstance(plan.state, Mapping):
        raise UsageError(
            "a plan names a file of the state", "and this one's is in memory", "save it, and give its path"
        )
    if plan.state is not None:
        content["state"] = Path(os.path.relpath(plan.state, Path(path).parent)).as_posix()
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file's name that is not UTF-8
        text = json.dumps(content, indent=1).encode()
    write_file(Path(path), text + b"\n")


def load_plan(path: str | os.PathLike[str], source: ModelSource, *, convention: ConventionChoice | None = None) -> Plan:
    """Read a plan file for a model.

    Sites that it leaves out are skipped. Its matrices and decisions replace the ones that `make_plan` would take; with
    another `convention` than its own only the decisions do.

    Raises:
        ModelError: The file can't be read, is not a plan, or names weights or matrices that the model does not have.

    >>> import tempfile
    >>> from sn_graph.plan import make_plan
    >>> model = Model.open("models/keras_dcgan_discriminator.onnx")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_plan(make_plan(model), f"{folder}/plan.json")
    ...     load_plan(f"{folder}/plan.json", model).convention_reason
    'the plan says so'
    """
    model = Model.open(source)
    try:
        content = json.loads(read_ordinary(path))
    except OSError as error:
        raise ModelError(f"plan {path} can't be read", str(error.strerror), "write one with inspect --plan") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"plan {path} is not JSON", str(error), "write one with inspect --plan") from None
    try:
        return _plan_from_json(content, Path(path), model, convention)
    except ValueError as error:
        raise ModelError(f"plan {path} is not valid", str(error), "write a fresh one with inspect --plan") from None


def _plan_from_json(content: Any, path: Path, model: Model, other: str | None) -> Plan:
    _expect(isinstance(content, dict), "it is not an object")
    version = _needed(content, "version", "it")
    _expect(_is_whole(version) and version == VERSION, f"version {version!r} is not {VERSION}")
    convention = Convention(_needed(content, "convention", "it"))
    origin = Origin(convention, "the plan says so")
    found = find_sites(model)
    own_views = other is None or other == convention
    if not own_views:
        origin = resolve_convention(other or "auto", model, found)
    norm, clip, state = content.get("norm", "matrix"), content.get("clip", False), content.get("state")
    _expect(norm in NORMS, f"norm {norm!r} is neither 'matrix' nor 'operator'")
    _expect(isinstance(clip, bool), f"clip {clip!r} is not true or false")
    _expect(state is None or (isinstance(state, str) and "\0" not in state), f"state {state!r} is not a path")
    entries = _entries(_needed(content, "sites", "it"))
    sites = decide_all(model, found, origin.convention)
    unknown = sorted(set(entries) - {planned.id for planned in sites})
    _expect(not unknown, f"the model has no weight {next(iter(unknown), '')!r}")
    return Plan(
        model=model.path.name if model.path else "",
        convention=origin.convention,
        convention_reason=origin.reason,
        sites=tuple(_apply_entry(planned, entries.get(planned.id), own_views) for planned in sites),
        power_iterations=_above_zero(content.get("power_iterations", 1), "power_iterations"),
        eps=_positive(content.get("eps", 1e-12), "eps"),
        bound=_positive(content.get("bound", 1.0), "bound"),
        clip=clip,
        norm=norm,
        state=path.parent / state if state else None,
        guessed=origin.guessed,
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
        return replace(planned, status="skipped", reason=_refusal(planned) or "the plan leaves it out")
    for key, actual in (("weight", site.weight), ("scope", site.scope.id)):
        _expect(entry.get(key, actual) == actual, f"the {key} of {name} is {actual!r}, not {entry.get(key)!r}")
    status, reason = _needed(entry, "status", name), entry.get("reason")
    _expect(status in ("eligible", "skipped"), f"status {status!r} of {name} is neither 'eligible' nor 'skipped'")
    _expect(reason is None or isinstance(reason, str), f"the reason of {name} is not a string")
    if status == "skipped":
        return replace(planned, status="skipped", reason=_refusal(planned) or reason or "the plan skips it")
    if site.refusal is not None or site.shape is None:
        return planned
    view = _view(entry, name)
    _expect(view.fits(site.shape), f"the matrix of {name} can't be taken of shape {list(site.shape)}")
    iterations, per_use = entry.get("power_iterations"), entry.get("per_use", False)
    bound, clip = entry.get("bound"), entry.get("clip")
    _expect(isinstance(per_use, bool), f"per_use of {name} is not true or false")
    _expect(clip is None or isinstance(clip, bool), f"clip of {name} is not true or false")
    chosen = replace(
        planned,
        view=view if own_view else planned.view,
        status="eligible",
        reason=None,
        power_iterations=None if iterations is None else _above_zero(iterations, f"power_iterations of {name}"),
        per_use=per_use,
        bound=None if bound is None else _positive(bound, f"bound of {name}"),
        clip=clip,
    )
    return refuse_splits(chosen)


def _refusal(planned: PlannedSite) -> str | None:
    """Return why a site can't be normalized, whatever a plan says."""
    return planned.reason if planned.explanation is not None else planned.site.refusal


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
    _expect(whole, f"{key} {axes!r} of {name} is not a list of whole numbers")
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
    _expect(_is_whole(value) and value > 0, f"{name} {value!r} is not a whole number above zero")
    return int(value)


def _positive(value: Any, name: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _expect(number and 0 < value <= sys.float_info.max, f"{name} {value!r} is not a number above zero")
    return float(value)
