"""`sn-graph fold`: W·c/σ(W) written into the model."""

from typing import Annotated

import typer

from sn_graph import api
from sn_graph.cli import options as o
from sn_graph.cli.app import Debug, Quiet, Verbose, app, command
from sn_graph.cli.conclusion import conclude, nothing_to_do
from sn_graph.cli.console import Settings
from sn_graph.errors import ModelError
from sn_graph.inserted import read_inserted
from sn_graph.model import Model
from sn_graph.model.files import require_writable
from sn_graph.passes.fold import SigmaMethod


@app.command()
@command
def fold(
    context: typer.Context,
    model: o.ModelArgument,
    output: o.Output,
    sigma: Annotated[
        SigmaMethod,
        typer.Option(
            help="exact: within 1e-6; power: estimated from u, as the frameworks do; upper: a proven bound, so that "
            "the weights as stored are within --bound for certain."
        ),
    ] = SigmaMethod.EXACT,
    power_iterations: o.PowerIterations = None,
    seed: o.Seed = 0,
    state: o.StateFile = None,
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
    rtol: o.Rtol = None,
    atol: o.Atol = None,
    force: o.Force = False,
    json: o.Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Settings,
) -> None:
    """Write MODEL with each weight W replaced by bound·W/σ(W).

    W is read as a matrix (see --convention), σ is its largest singular value, and bound is 1 unless --bound says
    otherwise: the folded weight has norm 1. Nothing else in the file changes.

    The file is verified before it takes its place: onnxruntime must give the outputs of MODEL with its weights
    replaced in memory. A model that can't be run is verified by its structure. Nothing is written where that fails.

    \b
    sn-graph fold disc.onnx -o folded.onnx
    sn-graph fold disc.onnx -o folded.onnx --sigma power --state disc.u.safetensors
    sn-graph fold disc.onnx -o folded.onnx --clip --bound 2 --exclude '^head'
    sn-graph fold disc.onnx -o folded.onnx --norm operator --sigma upper   each layer is 1-Lipschitz, proven
    """
    from sn_graph.runtime.proof import save_verified

    o.require_apart(output, plan=plan, state=state)
    require_writable(output)
    source = Model.open(model)
    with settings.progress() as progress:
        result = api.fold(
            source,
            sigma=sigma,
            power_iterations=power_iterations,
            seed=seed,
            state=state,
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
        if not result.plan.eligible() and not force:
            raise ModelError(nothing_to_do(model, result))
        proof = save_verified(
            api.original(source),
            result,
            output,
            o.storage_of(save_as_external_data),
            verify=not no_verify,
            force=force,
            rtol=rtol,
            atol=atol,
            progress=progress,
        )
    if sigma is not SigmaMethod.POWER and read_inserted(source) is None:
        for flag, value in (("--power-iterations", power_iterations), ("--state", state)):
            if value is not None:
                settings.say(f"{flag} changed nothing, for σ is {sigma}; give --sigma power to estimate it")
    conclude(settings, result, proof, output, json)
