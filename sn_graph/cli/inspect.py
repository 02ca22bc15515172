"""`sn-graph inspect`: the weights of a model and their spectral norms."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sn_graph import api
from sn_graph.api import build_plan, original
from sn_graph.cli import options as o
from sn_graph.cli.app import Debug, Quiet, Verbose, app, command
from sn_graph.cli.console import Settings, print_json
from sn_graph.cli.render import explain_sites, print_report, write_html
from sn_graph.model import Model
from sn_graph.model.files import require_writable
from sn_graph.plan import save_plan


class Measure(StrEnum):
    """The values of --sigma."""

    EXACT = "exact"
    UPPER = "upper"


@app.command()
@command
def inspect(
    context: typer.Context,
    model: o.ModelArgument,
    json: o.Json = False,
    sigma: Annotated[
        Measure, typer.Option(help="exact: within 1e-6; upper: with a proven upper bound besides.")
    ] = Measure.EXACT,
    norm: o.Norm = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='A safetensors file with the u of each weight that "1 step" starts from. [default: random u]',
            show_default=False,
            readable=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help='Of the random u that "1 step" starts from.')] = 0,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a plan that fold and insert obey, to edit.", show_default=False, readable=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the table as a web page.", show_default=False, readable=False),
    ] = None,
    convention: o.Convention = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    op_type: o.OpType = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
    *,
    settings: Settings,
) -> None:
    """Show each weight of MODEL with its exact spectral norm σ.

    The column "1 step" says how far the estimate is off that the frameworks divide by after one power iteration, from
    --state, from the u of an inserted model, or from random u.

    A weight is a constant that reaches a Conv, ConvTranspose, Gemm, MatMul, Gather or relative. One that can't be
    normalized is listed with the reason; one that conventions read differently, with each reading.

    \b
    sn-graph inspect disc.onnx
    sn-graph inspect disc.onnx --sigma upper --norm operator
    sn-graph inspect disc.onnx --plan plan.json   then edit it, then: fold --plan plan.json
    """
    for path in (plan, html):
        if path is not None:
            o.require_apart(path, model=model)
            require_writable(path)
    opened = Model.open(model)
    made = build_plan(
        original(opened),
        convention=convention,
        include=include or (),
        exclude=exclude or (),
        op_types=op_type or (),
        norm=norm,
        state=state,
    )
    with settings.progress() as progress:
        report = api.inspect(opened, sigma=sigma, seed=seed, plan=made, progress=progress)
    if plan is not None:
        save_plan(made, plan)
    if html is not None:
        write_html(report, html)
    explain_sites(settings, report)
    if json:
        print_json(report.to_json())
        return
    print_report(report)
    settings.say(f"{len(made.eligible())} of {len(made.sites)} weights can be normalized")
    if not settings.verbose:  # which has said it
        settings.say(f"convention {report.convention}: {report.convention_reason}")
