"""`sn-graph fold`: W·c/σ(W) written into the model."""

from dataclasses import replace
from typing import Annotated

import typer

from sn_graph import api
from sn_graph.cli import options as o
from sn_graph.cli.app import Debug, Quiet, Verbose, app, command
from sn_graph.cli.console import Settings, print_json
from sn_graph.cli.render import print_report
from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.model.files import require_writable
from sn_graph.passes.fold import SigmaMethod


@app.command()
@command
def fold(
    context: typer.Context,
    model: o.ModelArgument,
    output: o.Output,
    sigma: Annotated[SigmaMethod, typer.Option(help="Exact, or estimated as the frameworks do.")] = SigmaMethod.EXACT,
    power_iterations: o.PowerIterations = None,
    seed: o.Seed = 0,
    state: o.StateFile = None,
    bound: o.Bound = None,
    clip: o.Clip = None,
    convention: o.Convention = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    op_type: o.OpType = None,
    plan: o.PlanFile = None,
    save_as_external_data: o.SaveExternal = None,
    no_verify: o.NoVerify = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write OUT even where nothing is to do or the verification fails.")
    ] = False,
    json: o.Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Settings,
) -> None:
    """Write MODEL with each weight W replaced by bound·W/σ(W).

    The file that is written is verified before it takes its place: onnxruntime must give the outputs of MODEL with
    its weights replaced in memory.
    """
    from sn_graph.runtime.proof import save_verified

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
            convention=convention,
            include=include or (),
            exclude=exclude or (),
            op_types=op_type or (),
            plan=plan,
            progress=progress,
        )
        if not result.plan.eligible() and not force:
            raise ModelError(
                f"{model}: nothing to do, for none of its {len(result.sites)} weights can be normalized; "
                "inspect says why, --force copies the model"
            )
        proof = save_verified(
            source,
            result,
            output,
            o.storage_of(save_as_external_data),
            verify=not no_verify,
            force=force,
            progress=progress,
        )
    report = replace(result.report, output=str(output), verified=proof.verified)
    if proof.note:
        settings.say(f"not verified by running it: {proof.note}")
    if json:
        print_json(report.to_json())
        return
    print_report(report)
    folded = sum(site.status == "folded" for site in report.sites)
    checked = {"run": "verified by running it", "structure": "verified by structure", "no": "not verified"}
    settings.say(f"folded {folded} of {len(report.sites)} weights into {output}, {checked[proof.verified]}")
