"""`sn-graph insert`: the power iteration in the graph, with persistent u."""

from typing import Annotated

from sn_graph.choices import ScaleChoice, SigmaChoice, StateLayoutChoice, StateModeChoice
from sn_graph.cli import options as o
from sn_graph.cli.app import command_of
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Option
from sn_graph.cli.files import Files
from sn_graph.errors import UsageError


@command_of(Files((".onnx",)))
def insert(
    model: o.ModelArgument,
    output: o.Output,
    sigma: Annotated[
        SigmaChoice,
        Option("Start from random u, or exactly: from the leading singular vectors; upper: and report proven bounds."),
    ] = "power",
    *,
    estimate: o.Estimate,
    state_layout: Annotated[StateLayoutChoice, Option("One state tensor, sn_u, or one for each weight.")] = "packed",
    state_mode: Annotated[
        StateModeChoice,
        Option("Give the state input a default, or require it (some tools freeze a default)."),
    ] = "default",
    scale: Annotated[ScaleChoice, Option("Divide what the nodes read by σ, or the weights.")] = "input",
    normalization: o.Normalization,
    writing: o.Writing,
    runs: o.Runs,
    force: o.Force = False,
    html: o.Html = None,
    settings: Settings,
) -> None:
    """Write MODEL with the power iteration of its weights in the graph, so that each run normalizes them.

    The state goes in as sn_u and out as sn_u.next, with sn_sigma, behind the model's own inputs and outputs; strip
    takes it all out again, and fold bakes it in. Feed sn_u.next back as sn_u; a client that does not gets the first
    step at each run. OUT is proved before it takes its place: strip gives MODEL back, and the first step's outputs
    are those of MODEL folded by the same estimate.

    \b
    sn-graph insert disc.onnx -o disc.sn.onnx
    sn-graph insert disc.onnx -o disc.sn.onnx --state disc.u.safetensors
    sn-graph insert disc.onnx -o disc.sn.onnx --state-mode required --state-layout per-weight
    sn-graph insert disc.onnx -o disc.sn.onnx --sigma exact --bound 2 --clip
    sn-graph insert disc.onnx -o disc.sn.onnx --norm operator   the iteration runs through the nodes themselves
    """
    from sn_graph import api
    from sn_graph.cli.conclusion import conclude, require_all, require_work
    from sn_graph.cli.paging import Paging
    from sn_graph.cli.saving import save
    from sn_graph.model import require_writable

    settings.tell(model=str(model))
    if sigma != "power" and estimate.state is not None:
        raise UsageError(
            f"--sigma {sigma} starts from the leading singular vectors, --state from its own", do="give one"
        )
    o.require_apart(output, data_of=model, plan=normalization.plan, state=estimate.state)
    require_writable(output)
    paging = Paging.to(html, output, model=model, plan=normalization.plan, state=estimate.state)
    with settings.progress() as progress:
        result = api.insert(
            model,
            sigma=sigma,
            seed=estimate.seed,
            state_layout=state_layout,
            state_mode=state_mode,
            scale=scale,
            force=force,
            progress=progress,
            **normalization.plan_options(estimate),
        )
        require_work(model, result, force)
        require_all(result, writing.strict)
        proof = save(
            result,
            output,
            writing,
            force=force,
            progress=progress,
            dims=o.dimensions(runs.dim),
            inputs=runs.inputs,
            paging=paging,
        )
    conclude(settings, result, proof, output, paging=paging)
    if state_mode == "required" and result.plan is not None:
        begins = "the leading singular vectors" if sigma != "power" else result.plan.state
        if begins is not None:
            settings.say(f"{output} has no default state, so it does not hold {begins}: what is fed first counts")
