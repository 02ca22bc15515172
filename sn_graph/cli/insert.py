"""`sn-graph insert`: the power iteration in the graph, with persistent u."""

from enum import StrEnum
from typing import Annotated

import typer

from sn_graph import api
from sn_graph.cli import options as o
from sn_graph.cli.app import Debug, Quiet, Verbose, app, command
from sn_graph.cli.conclusion import conclude, nothing_to_do
from sn_graph.cli.console import Settings
from sn_graph.errors import ModelError, UsageError
from sn_graph.insertion import StateLayout, StateMode
from sn_graph.model import Model
from sn_graph.model.files import require_writable
from sn_graph.passes.insert import Scale


class Start(StrEnum):
    """The values of --sigma: what u starts from."""

    POWER = "power"
    EXACT = "exact"
    UPPER = "upper"


@app.command()
@command
def insert(
    context: typer.Context,
    model: o.ModelArgument,
    output: o.Output,
    sigma: Annotated[
        Start,
        typer.Option(
            help="Start from random u, or exactly: from the leading singular vectors; upper: and report proven bounds."
        ),
    ] = Start.POWER,
    power_iterations: o.PowerIterations = None,
    seed: o.Seed = 0,
    state: o.StateFile = None,
    state_layout: Annotated[
        StateLayout, typer.Option(help="One state tensor, sn_u, or one for each weight.")
    ] = StateLayout.PACKED,
    state_mode: Annotated[
        StateMode,
        typer.Option(help="Give the state input a default, or require it (some tools freeze a default)."),
    ] = StateMode.DEFAULT,
    scale: Annotated[Scale, typer.Option(help="Divide what the nodes read by σ, or the weights.")] = Scale.INPUT,
    bound: o.Bound = None,
    clip: o.Clip = None,
    norm: o.Norm = None,
    convention: o.Convention = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    op_type: o.OpType = None,
    plan: o.PlanFile = None,
    save_as_external_data: o.SaveExternal = None,
    no_verify: o.NoVerify = False,
    force: o.Force = False,
    json: o.Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
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
    from sn_graph.runtime.insertion_proof import save_inserted

    if sigma is not Start.POWER and state is not None:
        raise UsageError(f"--sigma {sigma} starts from the leading singular vectors, --state from its own; give one")
    o.require_apart(output, plan=plan, state=state)
    require_writable(output)
    source = Model.open(model)
    with settings.progress() as progress:
        result = api.insert(
            source,
            sigma=sigma,
            power_iterations=power_iterations,
            seed=seed,
            state=state,
            state_layout=state_layout,
            state_mode=state_mode,
            scale=scale,
            bound=bound,
            clip=clip,
            norm=norm,
            convention=convention,
            include=include or (),
            exclude=exclude or (),
            op_types=op_type or (),
            plan=plan,
            progress=progress,
        )
        if not any(site.status in ("inserted", "unchanged") for site in result.sites) and not force:
            raise ModelError(nothing_to_do(model, result))
        options = api.insert_options(sigma=sigma, seed=seed, layout=state_layout, mode=state_mode, scale=scale)
        proof = save_inserted(
            source,
            result,
            options,
            output,
            o.storage_of(save_as_external_data),
            verify=not no_verify,
            force=force,
            progress=progress,
        )
    conclude(settings, result, proof, output, json)
    if state_mode is StateMode.REQUIRED:
        begins = "the leading singular vectors" if sigma is not Start.POWER else result.plan.state
        if begins is not None:
            settings.say(f"{output} has no default state, so it does not hold {begins}: what is fed first counts")
