"""The functions of the public API that join the rooms: a source in, a result out."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from sn_graph import measure
from sn_graph.bake import restore_plan
from sn_graph.errors import UsageError
from sn_graph.inserted import read_inserted, site_vectors
from sn_graph.insertion import StateLayout, StateMode
from sn_graph.model import Model
from sn_graph.passes.base import PassResult
from sn_graph.passes.fold import Fold, FoldOptions, SigmaMethod
from sn_graph.passes.insert import Insert, InsertOptions, Scale
from sn_graph.passes.strip import Strip, StripOptions
from sn_graph.plan import NORMS, Plan, load_plan, make_plan, narrow_plan, rebind
from sn_graph.progress import Progress, silent
from sn_graph.report import Report
from sn_graph.state import State, plan_state
from sn_graph.views import Convention

Source = str | os.PathLike[str] | onnx.ModelProto | Model
PathName = str | os.PathLike[str]


def build_plan(
    model: Model,
    *,
    plan: PathName | Plan | None = None,
    convention: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
    power_iterations: int | None = None,
    bound: float | None = None,
    clip: bool | None = None,
    norm: str | None = None,
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
        made = plan if isinstance(plan, Plan) else load_plan(plan, model, convention=convention)
        made = narrow_plan(made, include=include, exclude=exclude, op_types=op_types)
    if bound is not None and not 0 < bound < math.inf:
        raise UsageError(f"a bound of {bound:g} is no norm; give a number above zero")
    if power_iterations is not None and power_iterations < 1:
        raise UsageError(f"{power_iterations} power iterations are none; give at least 1")
    if power_iterations is not None:  # over a site's own number too
        made = replace(made, sites=tuple(replace(site, power_iterations=None) for site in made.sites))
    if norm is not None and norm not in NORMS:
        raise UsageError(f"no norm '{norm}'; choose one of {', '.join(NORMS)}")
    return replace(
        made,
        norm=norm or made.norm,
        power_iterations=made.power_iterations if power_iterations is None else power_iterations,
        bound=made.bound if bound is None else bound,
        clip=made.clip if clip is None else clip,
        state=made.state if state is None else Path(state),
    )


def inspect(
    source: Source,
    *,
    sigma: str = "exact",
    norm: str | None = None,
    seed: int = 0,
    state: PathName | None = None,
    plan: PathName | Plan | None = None,
    convention: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
    progress: Progress = silent,
) -> Report:
    """Measure the exact spectral norm of each weight of a model.

    Args:
        source: A path, a ModelProto or a Model.
        sigma: "exact", or "upper" for a proven upper bound besides.
        norm: "matrix", or "operator" for the norms of what the nodes do besides.
        seed, state: Where the one power step starts from that is compared with σ: random u, a state file's, or those
            that an inserted model holds.
        plan, convention, include, exclude, op_types: As for `fold`.
        progress: Told the elements measured.

    Raises:
        ModelError: The model can't be read, or a weight holds NaN or infinite values.
        UsageError: An argument is not valid.

    >>> report = inspect("models/keras_dcgan_discriminator.onnx")
    >>> report.sites[0].op_types, report.sites[0].matrix, round(report.sites[0].sigma, 4)
    (('Conv',), (32, 75), 0.3584)
    """
    if sigma not in (SigmaMethod.EXACT, SigmaMethod.UPPER):
        raise UsageError(f"inspect measures σ exactly; '{sigma}' is neither 'exact' nor 'upper'")
    opened = Model.open(source)
    inserted = read_inserted(opened)
    model, known = original(opened), None if inserted is None else State(site_vectors(opened, inserted), {})
    made = build_plan(
        model,
        plan=rebind(plan, model) if isinstance(plan, Plan) else plan,
        convention=convention,
        include=include,
        exclude=exclude,
        op_types=op_types,
        norm=norm,
        state=state,
    )
    if made.state is not None:
        known = plan_state(made, model)
    return measure.inspect(model, made, progress, upper=sigma == SigmaMethod.UPPER, seed=seed, state=known)


def original(source: Source) -> Model:
    """Open a model; of one that `insert` wrote, what it was before."""
    model = Model.open(source)
    return model if read_inserted(model) is None else strip(model).model


def fold(
    source: Source,
    *,
    sigma: str = "exact",
    power_iterations: int | None = None,
    seed: int = 0,
    state: PathName | None = None,
    bound: float | None = None,
    clip: bool | None = None,
    norm: str | None = None,
    convention: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
    plan: PathName | None = None,
    progress: Progress = silent,
) -> PassResult:
    """Replace each weight W of a model by bound · W / σ(W).

    A model that `insert` wrote is baked: its iteration is taken out, its weights are divided by the σ of the last run
    where `state` is a saved state that holds them, else as for any model, from the u that the model holds.

    Args:
        source: A path, a ModelProto or a Model; none of them is changed.
        sigma: "exact" (relative error at most 1e-6), "power" for the frameworks' estimate, or "upper" for a proven
            upper bound, so that the weights as stored have a norm of at most `bound` for certain.
        power_iterations, seed, state: Of the estimate: how many iterations (1), from random u or those of a file.
        bound: The spectral norm that the weights get (1.0).
        clip: Leave weights alone whose norm is at most `bound`.
        norm: "matrix" (the default), or "operator" for what the consumers do to their input: strides, padding,
            dilation and groups of convolutions counted, at their input's size.
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
    try:
        method = SigmaMethod(sigma)
    except ValueError:
        raise UsageError(f"no estimator '{sigma}'; choose one of {', '.join(SigmaMethod)}") from None
    opened = Model.open(source)
    inserted = read_inserted(opened)
    model, restored = (opened.copy(), None) if inserted is None else restore_plan(opened)
    made = build_plan(
        model,
        plan=plan or restored,
        convention=convention,
        include=include,
        exclude=exclude,
        op_types=op_types,
        power_iterations=power_iterations,
        bound=bound,
        clip=clip,
        norm=norm,
        state=state,
    )
    options = FoldOptions(method, seed)
    if inserted is not None:
        # Neither its u nor its σ are those of another norm.
        held = State(site_vectors(opened, inserted) if made.norm == inserted.norm else {}, {})
        known = plan_state(made, model) if made.state else held
        last_run = made.norm == inserted.norm and all(site.id in known.sigma for site in made.eligible())
        options = replace(options, state=known, last_run=last_run and made.state is not None and method != "upper")
    return Fold(options).apply(model, made, progress)


def insert(
    source: Source,
    *,
    sigma: str = "power",
    power_iterations: int | None = None,
    seed: int = 0,
    state: PathName | None = None,
    state_layout: str = "packed",
    state_mode: str = "default",
    scale: str = "input",
    bound: float | None = None,
    clip: bool | None = None,
    norm: str | None = None,
    convention: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
    plan: PathName | None = None,
    progress: Progress = silent,
) -> PassResult:
    """Insert the power iteration into a model, so that each run normalizes its weights as training does.

    The model gets an input `sn_u` [N, 1] float32, all vectors u end to end, and outputs `sn_u.next` [N, 1] and
    `sn_sigma` [number of weights], float32, behind its own.

    Args:
        source: A path, a ModelProto or a Model; none of them is changed.
        sigma: "power" to start from random u, "exact" to start from the leading singular vectors, "upper" for that
            with a proven bound in the records.
        power_iterations: Iterations a run (1).
        seed, state: Where u starts: random, or a state file's.
        state_layout: "packed", or "per-weight" for inputs and outputs of each weight's own.
        state_mode: "default" gives the input a default, so that old clients still run; "required" does not.
        scale: "input" divides what the nodes read by σ; "weight" the weights.
        bound, clip, norm, convention, include, exclude, op_types, plan, progress: As for `fold`. With norm "operator"
            u has the shape of the consumer's output at its static input size.

    Returns:
        The result: `save(path)`, `to_proto()`, and `sites`, one record a weight.

    Raises:
        ModelError: The model is inserted already, has an opset below 7, or can't be used.
        UsageError: An argument is not valid.

    Source: Miyato et al., 2018, https://arxiv.org/abs/1802.05957, algorithm 1.

    >>> result = insert("models/keras_dcgan_discriminator.onnx")
    >>> [output.name for output in result.to_proto().graph.output][-2:]
    ['sn_u.next', 'sn_sigma']
    """
    options = insert_options(sigma=sigma, seed=seed, layout=state_layout, mode=state_mode, scale=scale)
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
        norm=norm,
        state=state,
    )
    return Insert(options).apply(model, made, progress)


def insert_options(*, sigma: str, seed: int, layout: str, mode: str, scale: str) -> InsertOptions:
    """Return Insert's options from the words of the command line. Raises UsageError for others."""
    try:
        return InsertOptions(
            exact=SigmaMethod(sigma) is not SigmaMethod.POWER,
            upper=SigmaMethod(sigma) is SigmaMethod.UPPER,
            seed=seed,
            layout=StateLayout(layout),
            mode=StateMode(mode),
            scale=Scale(scale),
        )
    except ValueError as error:
        raise UsageError(f"{error}; see insert --help for what there is") from None


def strip(source: Source) -> PassResult:
    """Take out what `insert` wrote: the model before it, equal as a proto.

    Raises:
        ModelError: The model holds no insertion, or another tool changed it since.

    >>> inserted = insert("models/keras_dcgan_discriminator.onnx").to_proto()
    >>> strip(inserted).to_proto() == onnx.load("models/keras_dcgan_discriminator.onnx")
    True
    """
    model = Model.open(source).copy()
    plan = Plan(model.path.name if model.path else "", Convention.KERAS, "strip needs none", ())
    return Strip(StripOptions()).apply(model, plan)
