"""The public API: a source in, a result out."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import onnx

# Rooms by their names: what a function takes of them is imported when it runs.
from sn_graph import norms, passes, recognise, rewrite
from sn_graph.choices import (
    FormChoice,
    LevelChoice,
    LiftedSigmaChoice,
    LiftedToChoice,
    MeasureChoice,
    ScaleChoice,
    SigmaChoice,
    StateLayoutChoice,
    StateModeChoice,
)
from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.model import Model, ModelSource, checkpoint, remote, watched
from sn_graph.model.checkpoint import is_checkpoint
from sn_graph.passes import PassResult, make_pass
from sn_graph.plan import Plan, PlanOptions, build_plan, carried_plan, record_of, require_whole
from sn_graph.progress import Progress, silent
from sn_graph.report import Report, SiteRecord, log_report
from sn_graph.rewrite import insertion
from sn_graph.sites import Convention, find_sites
from sn_graph.state import Inserted, State, read_inserted, site_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sn_graph.certify import Certificate, Network, Witness
    from sn_graph.frontends.exported import Exported

Source = ModelSource


@dataclass(frozen=True)
class Opened:
    """A model to measure or fold.

    Attributes:
        model: The model; of one that insert wrote, what it was before.
        inserted: What the metadata of an inserted model say, else None.
        held: The u that an inserted model holds, else none.
    """

    model: Model
    inserted: Inserted | None
    held: State

    @classmethod
    def of(cls, source: Source) -> "Opened":
        """Open a source. Raises ModelError where it can't be read."""
        model = Model.open(source)
        inserted = read_inserted(model)
        if inserted is None:
            return cls(model, None, State({}, {}))
        return cls(rewrite.restore(model, inserted), inserted, State(site_vectors(model, inserted), {}))

    def state(self, plan: Plan) -> State:
        """Return the u that a plan names, else those that an inserted model holds."""
        return self.held if plan.state is None else norms.plan_state(plan, self.model)


def inspect(
    source: Source,
    *,
    sigma: MeasureChoice = "exact",
    seed: int = 0,
    against: Source | None = None,
    per_head: bool = False,
    weights: Sequence[str] | None = None,
    progress: Progress = silent,
    **options: Unpack[PlanOptions],
) -> Report:
    """Measure the exact spectral norm of each weight of a model.

    Args:
        source: A path, a ModelProto, a Model or a PassResult; a path may be that of a checkpoint, `.safetensors`,
            `.safetensors.index.json` or `.gguf`.
        sigma: "exact", or "upper" for a proven upper bound besides.
        seed: Of the random u that the one power step starts from which is compared with σ; the u of `state`, or those
            that an inserted model holds, come first.
        against: A base: a record gets `sigma_base`, the norm of the weight of the same id there, and `sigma_delta`,
            that of the difference.
        per_head: Measure each attention head of a checkpoint's query and key projections too (`sigma_heads`), where a
            config.json beside it, or its own header, tells their number.
        weights: The weights of a checkpoint that are looked at, by name; all by default.
        progress: Told the elements measured, of a checkpoint the bytes.
        **options: What is measured: see `PlanOptions`. Of a checkpoint `include` and `exclude` alone.

    Raises:
        ModelError: The model can't be read, or a weight holds NaN or infinite values.
        UsageError: An argument is not valid.

    >>> report = inspect("models/keras_dcgan_discriminator.onnx")
    >>> report.sites[0].op_types, report.sites[0].matrix, round(report.sites[0].sigma, 4)
    (('Conv',), (32, 75), 0.3584)
    """
    _require_known("inspect", options, without=("power_iterations", "bound", "clip"))
    if is_checkpoint(source):
        chosen = _names_alone(options)
        return norms.inspect_checkpoint(
            _checkpoint(source),
            progress,
            upper=_is_upper(sigma),
            per_head=per_head,
            weights=weights,
            base=None if against is None else base_of(against, {}),
            **chosen,
        )
    if per_head:
        raise UsageError("an ONNX graph does not tell which rows of a weight are a head", do="give its checkpoint")
    if weights is not None:
        raise UsageError("weights are chosen by name in a checkpoint", do="give include, exclude or op_types")
    opened = Opened.of(source)
    plan = build_plan(opened.model, **options)
    base = None if against is None else base_of(against, options)
    return examine(opened, plan, sigma=sigma, seed=seed, progress=progress, base=base)


def examine(
    opened: Opened, plan: Plan, *, sigma: MeasureChoice, seed: int, progress: Progress, base: "norms.Base | None" = None
) -> Report:
    """Measure an opened model by a plan that was made of it; the rest is as in `inspect`."""
    upper = _is_upper(sigma)
    state = opened.state(plan)
    report = norms.inspect(opened.model, plan, progress, upper=upper, seed=seed, state=state, base=base)
    log_report("inspect", report)
    return report


def _is_upper(sigma: MeasureChoice) -> bool:
    if sigma not in ("exact", "upper"):
        raise UsageError("inspect measures σ exactly", do=f"'{sigma}' is neither 'exact' nor 'upper'")
    return sigma == "upper"


def _checkpoint(source: str | os.PathLike[str]) -> "checkpoint.Checkpoint":
    """Open a checkpoint by its path or URL."""
    place = remote.local_path(source) if isinstance(source, str) else source
    if not isinstance(place, str) or not remote.is_url(place):
        return checkpoint.Checkpoint.open(place)
    held = remote.Held(place)
    return replace(checkpoint.Checkpoint.open(held.path), url=place, held=held)


def base_of(against: Source, options: PlanOptions) -> "norms.Base":
    """Return the weights of a base, by the matrices that the same options take of them."""
    if is_checkpoint(against):
        return norms.base_of_checkpoint(_checkpoint(against))
    opened = Opened.of(against)
    alike = PlanOptions(convention=options.get("convention"), op_types=options.get("op_types") or ())
    return norms.base_of_model(opened.model, build_plan(opened.model, **alike))


class Names(TypedDict):
    """Which weights of a checkpoint, by regular expressions that are searched in their names."""

    include: Sequence[str]
    exclude: Sequence[str]


def _names_alone(options: PlanOptions, known: Sequence[str] = ()) -> Names:
    """Return the names chosen. Raises UsageError for what only a graph can tell."""
    plain = {"convention": ("auto", "torch"), "norm": ("matrix",)}
    for key, value in options.items():
        if key not in (*Names.__annotations__, *known) and value not in (None, (), [], *plain.get(key, ())):
            flag = key.replace("_", "-").removesuffix("s")
            raise UsageError(
                f"--{flag} says nothing of a checkpoint",
                "because it holds weights and no operators that read them",
                f"leave --{flag} out",
            )
    return Names(include=options.get("include") or (), exclude=options.get("exclude") or ())


def fold(
    source: Source,
    *,
    sigma: SigmaChoice = "exact",
    seed: int = 0,
    lipschitz: float | None = None,
    input: str | Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Unpack[PlanOptions],
) -> PassResult:
    """Replace each weight W of a model by bound · W / σ(W).

    A model that `insert` wrote is baked: its iteration is taken out, its weights are divided by the σ of the last run
    where `state` is a saved state that holds them, else as for any model, from the u that the model holds.

    Args:
        source: A path, a ModelProto, a Model or a PassResult; none of them is changed.
        sigma: "exact" (relative error at most 1e-6), "power" for the frameworks' estimate, or "upper" for a proven
            upper bound, so that the weights as stored have a norm of at most `bound` for certain.
        seed: Of the estimate's random u, where no `state` is given.
        lipschitz: Choose the bound, one for all folded weights, so that the product over the graph proves this
            Lipschitz constant, of all float outputs together; `certify` may prove less of it.
        input: With `lipschitz`, the inputs whose changes count, jointly; none for all float inputs.
        dims: With `lipschitz`, sizes of dynamic dimensions by name.
        force: Fold the plain weights of a model that holds spectral norm as arithmetic, which `lift` is for.
        progress: Told the elements measured.
        **options: Which weights, which norm, which bound: see `PlanOptions`.

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
    _require_known("fold", options)
    try:
        method = norms.SigmaMethod(sigma)
    except ValueError:
        raise UsageError(f"no estimator '{sigma}'", do=f"choose one of {', '.join(norms.SigmaMethod)}") from None
    if is_checkpoint(source):
        raise UsageError("a checkpoint holds no graph", do="fold it with sn_graph.fold_checkpoint")
    opened = Opened.of(source)
    if lipschitz is not None:
        again = partial(fold, opened.model, sigma=sigma, seed=seed, force=force, progress=progress)
        inputs = [input] if isinstance(input, str) else input
        return _folded_to(lipschitz, again, inputs, dims, options)
    if opened.inserted is None:
        made = require_whole(build_plan(opened.model, **options), opened.model, options, force=force)
        return passes.Fold(passes.FoldOptions(method, seed))(opened.model, made, progress)
    chosen = options.copy()
    if not chosen.get("plan"):
        chosen["plan"] = rewrite.insertion_plan(opened.model, opened.inserted)
    plan = build_plan(opened.model, **chosen)
    return passes.Fold(_baking(opened, opened.inserted, plan, method, seed))(opened.model, plan, progress)


def _folded_to(
    lipschitz: float,
    folded: Callable[..., PassResult],
    inputs: Sequence[str],
    dims: Mapping[str, int] | None,
    options: PlanOptions,
) -> PassResult:
    """Return a model folded with the bound by which the product over the graph proves a Lipschitz constant."""
    if not 0.0 < lipschitz < math.inf:
        raise UsageError(f"no network has the Lipschitz constant {lipschitz:g}", do="give a positive number")
    if options.get("bound") is not None:
        raise UsageError("--lipschitz chooses the bound of the weights", do="leave --bound out")
    from sn_graph.certify import fold_to

    made: dict[float, PassResult] = {1.0: folded(**options)}
    if made[1.0].idle:
        return made[1.0]

    def model(bound: float) -> Model:
        if bound not in made:
            made.clear()
            made[bound] = folded(**{**options, "bound": bound})
        return made[bound].model

    bound, proven = fold_to(lipschitz, model, inputs, dims)
    model(bound)
    return replace(made[bound], lipschitz=proven)


def fold_checkpoint(
    path: str | os.PathLike[str],
    *,
    sigma: SigmaChoice = "exact",
    seed: int = 0,
    progress: Progress = silent,
    **options: Unpack[PlanOptions],
) -> "passes.CheckpointResult":
    """Replace each 2-D weight W of a safetensors file by bound · W / σ(W).

    Args:
        path: A `.safetensors` file; it stays as it is.
        sigma, seed: As in `fold`.
        progress: Told the bytes measured.
        **options: `include`, `exclude`, `bound`, `clip` and `power_iterations`, as in `fold`; no other.

    Returns:
        The result: `save(path)`, and `sites`, one record a weight. Saving streams the file, with its header as it was.

    Raises:
        ModelError: The file can't be used, or a weight holds NaN or infinite values.
        UsageError: An argument is not valid.
    """
    _require_known("fold_checkpoint", options)
    try:
        method = norms.SigmaMethod(sigma)
    except ValueError:
        raise UsageError(f"no estimator '{sigma}'", do=f"choose one of {', '.join(norms.SigmaMethod)}") from None
    chosen = passes.CheckpointOptions(
        method,
        1.0 if (bound := options.get("bound")) is None else bound,
        bool(options.get("clip")),
        power_iterations=1 if (steps := options.get("power_iterations")) is None else steps,
        seed=seed,
        **_names_alone(options, known=("bound", "clip", "power_iterations")),
    )
    if not os.fspath(path).lower().endswith(".safetensors"):
        raise UsageError(
            f"{os.fspath(path)} can't be written again", "because it is not one .safetensors file", "give its files"
        )
    return passes.fold_checkpoint(_checkpoint(path), chosen, progress)


def _require_known(function: str, options: Mapping[str, Any], without: Sequence[str] = ()) -> None:
    """Raise TypeError for a keyword that is not among the plan's, as Python itself would."""
    known = PlanOptions.__annotations__.keys() - set(without)
    for key in options:
        if key not in known:
            raise TypeError(f"{function}() got an unexpected keyword argument '{key}'")


def _baking(
    opened: Opened, inserted: Inserted, plan: Plan, method: "norms.SigmaMethod", seed: int
) -> "passes.FoldOptions":
    """Return how an inserted model is folded: by the σ of its last run where they are known, else from its u."""
    if plan.state is None:  # neither its u nor its σ are those of another norm
        return passes.FoldOptions(method, seed, opened.held if plan.norm == inserted.norm else State({}, {}))
    state = norms.plan_state(plan, opened.model)
    last_run = plan.norm == inserted.norm and all(target.id in state.sigma for target in plan.targets())
    return passes.FoldOptions(
        method, seed, state, state.sigma if last_run and method is not norms.SigmaMethod.UPPER else None
    )


def insert(
    source: Source,
    *,
    sigma: SigmaChoice = "power",
    seed: int = 0,
    state_layout: StateLayoutChoice = "packed",
    state_mode: StateModeChoice = "default",
    scale: ScaleChoice = "input",
    force: bool = False,
    progress: Progress = silent,
    **options: Unpack[PlanOptions],
) -> "passes.InsertResult":
    """Insert the power iteration into a model, so that each run normalizes its weights as training does.

    The model gets an input `sn_u` [N, 1] float32, all vectors u end to end, and outputs `sn_u.next` [N, 1] and
    `sn_sigma` [number of weights], float32, behind its own.

    Args:
        source: A path, a ModelProto, a Model or a PassResult; none of them is changed.
        sigma: "power" to start from random u, "exact" to start from the leading singular vectors, "upper" for that
            with a proven bound in the records.
        seed: Of the random u, where no `state` is given.
        state_layout: "packed", or "per-weight" for inputs and outputs of each weight's own.
        state_mode: "default" gives the input a default, so that old clients still run; "required" does not.
        scale: "input" divides what the nodes read by σ; "weight" the weights.
        force: Insert for the plain weights of a model that holds spectral norm as arithmetic, which `lift` is for.
        progress: Told the elements measured.
        **options: Which weights, which norm, which bound: see `PlanOptions`. With norm "operator" u has the shape of
            the consumer's output at its static input size.

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
    _require_known("insert", options)
    try:
        chosen = passes.InsertOptions(
            exact=norms.SigmaMethod(sigma) is not norms.SigmaMethod.POWER,
            upper=norms.SigmaMethod(sigma) is norms.SigmaMethod.UPPER,
            seed=seed,
            layout=insertion.StateLayout(state_layout),
            mode=insertion.StateMode(state_mode),
            scale=passes.Scale(scale),
        )
    except ValueError as error:
        raise UsageError(str(error), do="see insert --help for what there is") from None
    model = Model.open(source)
    plan = require_whole(build_plan(model, **options), model, options, force=force)
    result = passes.Insert(chosen)(model, plan, progress)
    assert isinstance(result, passes.InsertResult), "what Insert.apply returns"
    return result


def lift(
    source: Source,
    *,
    to: LiftedToChoice = "fold",
    sigma: LiftedSigmaChoice = "graph",
    power_iterations: int = 1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Progress = silent,
) -> PassResult:
    """Take the spectral norm that exporters left as arithmetic out of the graph, or carry it on as an iteration.

    Spectral norm is recognised by structure and by number: PyTorch's hook and parametrization, in eval and in train
    mode, and the classes of public projects, with caps and gains; weight normalization too. What is normalized or
    computed otherwise stays as it was, and so does every plain layer.

    Args:
        source: A path, a ModelProto, a Model or a PassResult; none of them is changed.
        to: "fold" to store what the arithmetic gives; "insert" for our iteration from the u that is stored beside the
            weight, by the export's own matrix, iterations, gain and cap.
        sigma: Of "fold": "graph" for the σ that the export computes, so that the outputs stay; "exact" for the norm.
        power_iterations: Of "insert": iterations a run of the weights whose file tells of none.
        include, exclude: Regular expressions, searched in the weights' names: the framework's, and the file's.
        progress: Told the weights lifted.

    Returns:
        The result: `save(path)`, `to_proto()`, and `sites`, one record a weight.

    Raises:
        ModelError: The model can't be read, or a weight can't be evaluated.
        UsageError: An argument is not valid.

    >>> lift("models/keras_dcgan_discriminator.onnx").sites[0].reason
    'stored as it is, with nothing to lift'
    """
    try:
        chosen = passes.LiftOptions(
            passes.LiftedSigma(sigma), tuple(include), tuple(exclude), passes.LiftedTo(to), power_iterations
        )
    except ValueError as error:
        raise UsageError(str(error), do="see lift --help for what there is") from None
    if power_iterations < 1:
        raise UsageError(f"{power_iterations} power iterations are none", do="give at least 1")
    if chosen.to is passes.LiftedTo.INSERT and chosen.sigma is not passes.LiftedSigma.GRAPH:
        raise UsageError("an iteration has no exact σ", do="leave --sigma out, or lift --to fold")
    model = Model.open(source)
    inner = _without_given_weights(model)
    result = _lifted(model if inner is None else inner, chosen, progress)
    if inner is not None and not any(site.status == "lifted" for site in result.sites):
        return _lifted(model, chosen, progress)
    return result


def _lifted(model: Model, options: "passes.LiftOptions", progress: Progress) -> PassResult:
    plan = build_plan(model)
    result = passes.Lift(options)(model, plan, progress)
    assert isinstance(result, passes.LiftResult), "what Lift.apply returns"
    return _carried_on(model, plan, options, result) if result.carried else result


def _without_given_weights(model: Model) -> Model | None:
    """Return a copy without the functions that compute weights from what their calls give; None where there is none.

    What such a function is given differs from call to call, and a stored weight has no place in its body.
    """
    copy, found = model, False
    while names := {
        (site.scope.proto.domain, site.scope.proto.name)
        for site in find_sites(copy)
        if site.is_computed and isinstance(site.scope.proto, onnx.FunctionProto) and recognise.reads_inputs(site)
    }:
        copy, found = copy.copy(), True
        rewrite.inline(copy.proto, names)
        copy.edited()
    return copy if found else None


def _carried_on(model: Model, plan: Plan, options: "passes.LiftOptions", lifted: "passes.LiftResult") -> PassResult:
    """Return the insertion that goes on with the weights of a lifted model; what it can't take stays as it was."""
    named = [one.original.name for site in plan.sites if (one := site.explanation) and one.original is not None]
    parametrized = any("parametrizations." in name for name in named)
    convention = Convention.TORCH_PARAMETRIZATION if parametrized else Convention.TORCH
    going_on = carried_plan(lifted.model, lifted.carried, convention)
    result = passes.Insert(passes.InsertOptions(state=lifted.state))(lifted.model, going_on)
    assert isinstance(result, passes.InsertResult), "what Insert.apply returns"
    done = {record.id: record for record in result.sites if record.status == "inserted"}
    # A weight that is stored before its normalization must not be left without one.
    lost = {record.id: record.reason or "" for record in result.sites if record.id not in done}
    left = {
        (one.scope, one.value): lost[identity]
        for one in lifted.settled
        if (identity := f"{one.holder}::{one.name}" if one.holder else one.name) in lost
    }
    if left:
        options = replace(options, left={**options.left, **left})
        again = passes.Lift(options)(model, plan)
        assert isinstance(again, passes.LiftResult), "what Lift.apply returns"
        return _carried_on(model, plan, options, again) if again.carried else again
    records = tuple(_told(record, done.get(record.id)) for record in lifted.sites)
    return replace(result, sites=records, before=lifted)


def _told(record: SiteRecord, inserted: SiteRecord | None) -> SiteRecord:
    """Return the record of a lifted weight with what its insertion tells."""
    if inserted is None:
        return record
    return replace(record, matrix=inserted.matrix, notes=(*record.notes, *inserted.notes))


def strip(source: Source) -> PassResult:
    """Take out what `insert` wrote: the model before it, equal as a proto.

    Raises:
        ModelError: The model holds no insertion, or another tool changed it since.

    >>> inserted = insert("models/keras_dcgan_discriminator.onnx").to_proto()
    >>> strip(inserted).to_proto() == onnx.load("models/keras_dcgan_discriminator.onnx")
    True
    """
    return passes.Strip()(Model.open(source))


def certify(
    source: Source,
    *,
    input: str | Sequence[str] | None = None,
    output: str | None = None,
    level: LevelChoice = "auto",
    budget: float = 60.0,
    at_most: float | None = None,
    dims: Mapping[str, int] | None = None,
    progress: Progress = silent,
) -> "Certificate":
    """Enclose the Lipschitz constant of a whole network, in the Euclidean norms of its input and output.

    Args:
        source: A path, a ModelProto or a Model.
        input: The input whose changes count, or several, jointly; None for the only float input.
        output: The output; None for the only one.
        level: "product", "fused", "lmi", or "auto" for the least of all that fits the budget.
        budget: Seconds; level 1 is always finished.
        at_most: What the constant should be, for `Certificate.ok`.
        dims: Sizes of dynamic dimensions by name, `input[axis]` for one without; of a batch none is needed.
        progress: Told how far it is.

    Returns:
        The certificate: `attained` ≤ the constant ≤ `proven`, or the node that makes it `unbounded`.

    Raises:
        ModelError: The model can't be used, the question is open, or a size must be known that is not.
        UsageError: An argument is not valid.
        EnvironmentUnavailable: The model's file was changed meanwhile.

    Source: Fazlyab et al., 2019, https://arxiv.org/abs/1906.04893, and docs/certify.md.

    >>> certificate = certify("models/keras_dcgan_discriminator.onnx", level="product", budget=2.0)
    >>> certificate.level, certificate.attained <= certificate.proven
    ('product', True)
    """
    from sn_graph.certify import Level  # with convolutions, which cost a third of the start of every command
    from sn_graph.certify import certify as certify_network

    try:
        wanted = Level(level)
    except ValueError:
        raise UsageError(f"no level '{level}'", do=f"choose one of {', '.join(Level)}") from None
    if not budget > 0.0:
        raise UsageError(f"a budget of {budget:g} seconds is none", do="give more than 0")
    if at_most is not None and not at_most >= 0.0:
        raise UsageError(f"no constant is at most {at_most:g}", do="give a number that is not negative")
    names = [input] if isinstance(input, str) else list(input or ())
    model = Model.open(source)
    with watched(model):
        found, network, candidates = certify_network(
            model, inputs=names, output=output, level=wanted, budget=budget, dims=dims, progress=progress
        )
        if network is not None and candidates:
            found = _confirmed(model, network, found, candidates, budget)
    return replace(found, at_most=at_most)


def _confirmed(
    model: Model, network: "Network", found: "Certificate", candidates: "Sequence[Witness]", budget: float
) -> "Certificate":
    """Return a certificate whose attained end is that of two runs of the model."""
    from sn_graph.certify import CLOSE, confirm
    from sn_graph.runtime import Side, run_named

    proven = found.proven or 0.0
    try:
        session = Side(model, model.name).open()

        def run(feeds: Mapping[str, Any]) -> "NDArray[Any]":
            return run_named(session, feeds, label=model.name)[found.output]

        witness, off = confirm(network, candidates, run, proven, 0.1 * budget)
    except (ModelError, EnvironmentUnavailable) as error:
        note = f"onnxruntime does not run the model, so that the attained end is that of float64: {error}"
        return replace(found, notes=(*found.notes, note))
    notes = found.notes
    if off > CLOSE:
        notes = (*notes, f"at the witness, onnxruntime's rounding makes a difference of {off:.1%}")
    return replace(found, attained=min(witness.quotient, proven), witness=witness, notes=notes)


def normalize_export(
    exported: "Exported", form: FormChoice, *, sigma: SigmaChoice = "power", progress: Progress = silent
) -> PassResult:
    """Give the weights of an export the form asked for, from the u of the framework's own layers.

    Args:
        exported: A model with its plan and state; it stays as it is.
        form: What becomes of the normalization.
        sigma: The estimate that `fold` divides by; "power" is one step of each layer, as Keras's normalize_weights().
        progress: Told the elements measured.

    Raises:
        ModelError: A layer's own u is zero or not finite, or a weight has no norm.
    """
    model, plan, state = exported.model, exported.plan, exported.state
    if form == "plain":
        sites = tuple(map(record_of, plan.sites))
        return PassResult(model, plan, sites, source=model, name="plain")
    _require_vectors(plan, state)
    if form == "insert":
        return passes.Insert(passes.InsertOptions(state=state))(model, plan, progress)
    # normalize_weights() is one step, however often the layer is called.
    once = replace(plan, sites=tuple(replace(site, per_use=False) for site in plan.sites))
    return passes.Fold(passes.FoldOptions(norms.SigmaMethod(sigma), state=state))(model, once, progress)


def _require_vectors(plan: Plan, state: State) -> None:
    """Raise ModelError where a step of normalization can't start from a layer's own u."""
    for target in plan.targets():
        vector = state.u[target.id]
        if not (np.isfinite(vector).all() and vector.any()):
            raise ModelError(
                f"the u of '{target.id}' is zero or not finite",
                "and no iteration can start from it, in Keras neither",
                "assign its layer another vector_u, or export --as plain",
            )


def apply(
    name: str,
    source: Source,
    settings: Mapping[str, Any] | None = None,
    *,
    progress: Progress = silent,
    **options: Unpack[PlanOptions],
) -> PassResult:
    """Apply a registered pass to a model: one of sn-graph's, or of a package that registers its own.

    Args:
        name: What the pass is registered under in the entry point group `sn_graph.passes`.
        source: A path, a ModelProto, a Model or a PassResult; none of them is changed.
        settings: The pass's own options, by name.
        progress: Told how far it is.
        **options: The plan's: see `PlanOptions`.

    Raises:
        UsageError: No such pass is installed, or an option is not valid.
        ModelError: The model can't be used.

    >>> result = apply("fold", "models/keras_dcgan_discriminator.onnx", {"sigma": "power"})
    >>> result.name, result.sites[0].status
    ('fold', 'folded')
    """
    _require_known("apply", options)
    chosen, model = make_pass(name, settings or {}), Model.open(source)
    if isinstance(chosen, passes.Strip):
        given = [key for key, value in options.items() if value not in (None, (), [])]
        if given:
            raise UsageError(f"pass '{name}' follows no plan", do=f"leave {', '.join(given)} out")
        return chosen(model)
    plan = build_plan(model, **options)
    return chosen(model, plan if name == "lift" else require_whole(plan, model, options), progress)
