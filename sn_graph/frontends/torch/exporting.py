"""Export: a PyTorch module with spectral normalization becomes ONNX, a plan and the module's own vectors.

PyTorch's exporters leave the normalization as loose arithmetic, fold it away, or fail on it, and the state is lost in
any case. Here it is taken off a copy first, so that the file holds W itself under the names of the state dict; the plan
says which weights were normalized and how, and the state holds u (of a parametrization v: what its next step starts
from).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sn_graph.errors import ModelError, UsageError
from sn_graph.frontends.exported import Exported
from sn_graph.frontends.torch.finding import examined
from sn_graph.frontends.torch.framework import require_torch
from sn_graph.frontends.torch.layers import Normalized
from sn_graph.frontends.torch.plain import without_normalization
from sn_graph.model import Model
from sn_graph.plan import Plan, PlannedSite, decide
from sn_graph.progress import Progress, silent
from sn_graph.sites import Convention, MatrixView, Site, find_sites
from sn_graph.state import State

_STAGES = 3


class TorchExport(Exported):
    """What came out of a PyTorch module: evaluation with W itself in place of W/σ.

    The plan's convention is torch, or torch-parametrization where all layers are parametrized; `sigma` of the state is
    u·(M v) of the pair that the module stores, which its evaluation divides by; a module that was never called in
    training mode has none yet.
    """


def export_module(
    module: Any,
    args: Sequence[Any],
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    progress: Progress = silent,
) -> TorchExport:
    """Export a module in evaluation mode, with a plan of its spectrally normalized weights and their own state.

    Args:
        module: A torch.nn.Module; it is not changed: weights, buffers, hooks, modes and PyTorch's random numbers.
        args: Example inputs, a tuple.
        dynamic_shapes, input_names, output_names: As for torch.onnx.export.
        opset: The ONNX operator set; PyTorch's own choice by default.
        progress: Told the stages.

    Raises:
        ModelError: The module can't be copied or exported, or a normalized weight can't be found in the export.
        EnvironmentUnavailable: torch or onnxscript is missing.
        UsageError: `args` is no tuple or list.
    """
    if not isinstance(args, (tuple, list)):
        raise UsageError("args are the module's example inputs", do="give a tuple of tensors, such as (x,)")
    torch = require_torch("onnxscript")
    progress("exporting", 0, _STAGES)
    with torch.random.fork_rng(devices=[]):
        found, unknown = examined(module)
        plain = without_normalization(module, found)
        calls = _calls(plain, found, args)
        progress("exporting", 1, _STAGES)
        names = {"input_names": input_names, "output_names": output_names}
        model = _exported(plain, found, tuple(args), dynamic_shapes, opset, names)
    progress("exporting", 2, _STAGES)
    plan = torch_plan(model, found, calls)
    vectors = {one.name: one.state() for one in found}
    sigmas = {one.name: sigma for one in found if (sigma := one.sigma()) > 0.0}
    progress("exporting", _STAGES, _STAGES)
    state = State(vectors, sigmas, 0, str(plan.convention))
    return TorchExport(model, plan, state, tuple(_notes(found, unknown, plan)))


def _calls(plain: Any, found: Sequence[Normalized], args: Sequence[Any]) -> Mapping[str, int]:
    """Count how often a forward pass calls each layer."""
    torch = require_torch()
    counts = dict.fromkeys((one.name for one in found), 0)
    layers = dict(plain.named_modules())
    handles = []
    for one in found:

        def count(*_: Any, name: str = one.name) -> None:
            counts[name] += 1

        handles.append(layers[one.path].register_forward_pre_hook(count))
    try:
        with torch.no_grad():
            plain(*args)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError("the module can't be called with these args", str(error).splitlines()[0]) from None
    finally:
        for handle in handles:
            handle.remove()
    return counts


def _exported(
    plain: Any,
    found: Sequence[Normalized],
    args: tuple[Any, ...],
    dynamic_shapes: Any,
    opset: int | None,
    names: Mapping[str, Sequence[str] | None],
) -> Model:
    """Export a plain module; without PyTorch's optimizations where these take a normalized weight's name."""
    torch = require_torch()
    for optimize in (True, False):
        try:
            program = torch.onnx.export(
                plain,
                args,
                dynamo=True,
                optimize=optimize,
                verbose=False,
                dynamic_shapes=dynamic_shapes,
                opset_version=opset,
                **{key: list(value) for key, value in names.items() if value is not None},
            )
        except Exception as error:  # the exporter raises errors of many kinds
            raise ModelError("PyTorch can't export the module", _root(error)) from None
        model = Model.open(program.model_proto)
        held = {site.id: site for site in find_sites(model)}
        missing = [one.name for one in found if not _is_there(model, held.get(one.name), one)]
        if not missing:
            return model
    raise ModelError(
        f"the export does not hold weight '{missing[0]}' as it is in the module",
        "because no operator that sn-graph knows reads it, or PyTorch computed something else of it",
        "take the normalization off that layer",
    )


def _root(error: BaseException) -> str:
    """Return the first line of the error that the exporter's own go back to, which only name their step."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _is_there(model: Model, site: Site | None, one: Normalized) -> bool:
    if site is None or site.tensor is None:
        return False
    stored, weight = model.array(site.tensor), np.asarray(one.original.detach().cpu())
    return stored.size == weight.size and any(
        stored.shape == turned.shape and np.array_equal(stored, turned) for turned in (weight, weight.T)
    )


def torch_plan(model: Model, found: Sequence[Normalized], calls: Mapping[str, int]) -> Plan:
    """Return the plan of an exported module: its normalized weights are eligible, and nothing else.

    Args:
        model: The export.
        found: The normalized weights, named as in the export.
        calls: How often a forward pass calls each one's layer.
    """
    own = {one.name: one for one in found}
    kinds = {one.kind for one in found}
    convention = Convention.TORCH_PARAMETRIZATION if kinds == {"parametrization"} else Convention.TORCH
    iterations = sorted(one.iterations for one in found)
    common = max(iterations, key=iterations.count, default=1)
    floors = {one.eps for one in found}
    return Plan(
        model="",
        convention=convention,
        convention_reason="the module is PyTorch's own",
        sites=tuple(_planned(site, own.get(site.id), convention, common, calls) for site in find_sites(model)),
        power_iterations=common,
        eps=floors.pop() if len(floors) == 1 else 1e-12,
    )


def _planned(
    site: Site,
    one: Normalized | None,
    convention: Convention,
    common: int,
    calls: Mapping[str, int],
) -> PlannedSite:
    planned = decide(site, convention, ())
    if one is None:
        return replace(planned, status="skipped", reason=site.refusal or "not spectrally normalized in the module")
    if site.refusal is not None or site.tensor is None:
        raise ModelError(f"weight '{one.name}' can't be normalized", str(site.refusal), "take the normalization off it")
    return replace(
        planned,
        view=_view(tuple(site.tensor.dims), tuple(one.original.shape), one),
        status="eligible",
        reason=None,
        uses=site.uses,
        power_iterations=None if one.iterations == common else one.iterations,
        per_use=calls[one.name] > 1 and len(site.uses) > 1,
        bound=None if one.bound == 1.0 else one.bound,
        clip=one.clip or None,
    )


def _view(stored: tuple[int, ...], shape: tuple[int, ...], one: Normalized) -> MatrixView:
    """Return M as a view of the stored tensor, with the next iteration's vector on its side."""
    dim = one.dim if stored == shape else len(shape) - 1 - one.dim  # stored transposed, of two axes
    rows = stored[dim]
    cols = int(np.prod(stored)) // rows
    order = (dim, *(axis for axis in range(len(stored)) if axis != dim))
    plain = order == tuple(range(len(stored)))
    return MatrixView(None, None if plain else order, rows, cols, one.begins)


def _notes(found: Sequence[Normalized], unknown: Sequence[str], plan: Plan) -> list[str]:
    notes = [
        f"{name}: divided by a number that grows with it, and that no estimate from a stored vector explains, so it is "
        "left as the module computes it"
        for name in unknown
    ]
    if not found:
        notes.append("the module has no spectrally normalized weight")
    if len({one.eps for one in found}) > 1:
        notes.append(
            f"the layers' eps differ; the plan's is {plan.eps:g}, which acts on weights of about that size only"
        )
    return notes
