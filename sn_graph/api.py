"""The functions of the public API that join the rooms: a source in, a result out."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from sn_graph import measure
from sn_graph.errors import UsageError
from sn_graph.model import Model
from sn_graph.passes.base import PassResult
from sn_graph.passes.fold import Fold, FoldOptions, SigmaMethod
from sn_graph.plan import Plan, load_plan, make_plan, narrow_plan
from sn_graph.progress import Progress, silent
from sn_graph.report import Report

Source = str | os.PathLike[str] | onnx.ModelProto | Model
PathName = str | os.PathLike[str]


def build_plan(
    model: Model,
    *,
    plan: PathName | None = None,
    convention: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
    power_iterations: int | None = None,
    bound: float | None = None,
    clip: bool | None = None,
    state: PathName | None = None,
) -> Plan:
    """Return the plan of a file, or of the model itself, with the given arguments over it; None leaves the plan's.

    Raises:
        ModelError: The plan file can't be used for the model.
        UsageError: An argument is not valid.
    """
    if plan is None:
        made = make_plan(model, convention=convention or "auto", include=include, exclude=exclude, op_types=op_types)
    else:
        made = load_plan(plan, model, convention=convention)
        made = narrow_plan(made, include=include, exclude=exclude, op_types=op_types)
    if bound is not None and not 0 < bound < math.inf:
        raise UsageError(f"a bound of {bound:g} is no norm; give a number above zero")
    if power_iterations is not None and power_iterations < 1:
        raise UsageError(f"{power_iterations} power iterations are none; give at least 1")
    return replace(
        made,
        power_iterations=made.power_iterations if power_iterations is None else power_iterations,
        bound=made.bound if bound is None else bound,
        clip=made.clip if clip is None else clip,
        state=made.state if state is None else Path(state),
    )


def inspect(
    source: Source,
    *,
    plan: PathName | None = None,
    convention: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
) -> Report:
    """Measure the exact spectral norm of each weight of a model.

    Args:
        source: A path, a ModelProto or a Model.
        plan, convention, include, exclude, op_types: As for `fold`.

    Raises:
        ModelError: The model can't be read, or a weight holds NaN or infinite values.
        UsageError: An argument is not valid.

    >>> report = inspect("models/keras_dcgan_discriminator.onnx")
    >>> report.sites[0].op_types, report.sites[0].matrix, round(report.sites[0].sigma, 4)
    (('Conv',), (32, 75), 0.3584)
    """
    model = Model.open(source)
    made = build_plan(model, plan=plan, convention=convention, include=include, exclude=exclude, op_types=op_types)
    return measure.inspect(model, made)


def fold(
    source: Source,
    *,
    sigma: str = "exact",
    power_iterations: int | None = None,
    seed: int = 0,
    state: PathName | None = None,
    bound: float | None = None,
    clip: bool | None = None,
    convention: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
    plan: PathName | None = None,
    progress: Progress = silent,
) -> PassResult:
    """Replace each weight W of a model by bound · W / σ(W).

    Args:
        source: A path, a ModelProto or a Model; none of them is changed.
        sigma: "exact" (relative error at most 1e-6), or "power" for the frameworks' estimate.
        power_iterations, seed, state: Of the estimate: how many iterations (1), from random u or those of a file.
        bound: The spectral norm that the weights get (1.0).
        clip: Leave weights alone whose norm is at most `bound`.
        convention: "auto" (the default), "keras", "torch" or "torch-parametrization".
        include, exclude: Regular expressions, searched in weight names.
        op_types: Only these consumers.
        plan: A plan file, whose parameters hold where no argument is given.
        progress: Told the elements measured.

    Returns:
        The result: `save(path)`, `to_proto()`, and `sites`, one record a weight.

    Raises:
        ModelError: The model or state can't be used, or a weight holds NaN or infinite values.
        UsageError: An argument is not valid.

    Source: Miyato et al., 2018, https://arxiv.org/abs/1802.05957.

    >>> result = fold("models/torch_patchgan_discriminator.onnx", sigma="power", power_iterations=5)
    >>> result.sites[0].status, result.sites[0].matrix
    ('folded', (16, 96))
    """
    model = Model.open(source).copy()
    made = build_plan(
        model,
        plan=plan,
        convention=convention,
        include=include,
        exclude=exclude,
        op_types=op_types,
        power_iterations=power_iterations,
        bound=bound,
        clip=clip,
        state=state,
    )
    try:
        method = SigmaMethod(sigma)
    except ValueError:
        raise UsageError(f"no estimator '{sigma}'; choose one of {', '.join(SigmaMethod)}") from None
    return Fold(FoldOptions(method, seed)).apply(model, made, progress)
