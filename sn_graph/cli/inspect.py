"""`sn-graph inspect`: the weights of a model and their spectral norms."""

from pathlib import Path
from typing import Annotated

from sn_graph.choices import MeasureChoice
from sn_graph.cli import options as o
from sn_graph.cli.app import command
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Option
from sn_graph.errors import UsageError


@command
def inspect(
    model: o.ModelArgument,
    sigma: Annotated[MeasureChoice, Option("exact: within 1e-6; upper: with a proven upper bound besides.")] = "exact",
    norm: o.Norm = None,
    state: Annotated[
        Path | None,
        Option('A safetensors file with the u of each weight that "1 step" starts from. [default: random u]', "FILE"),
    ] = None,
    seed: Annotated[int, Option('Of the random u that "1 step" starts from.', "S", minimum=0)] = 0,
    plan: Annotated[
        Path | None,
        Option("Write a plan that fold and insert obey, to edit.", "FILE"),
    ] = None,
    html: o.Html = None,
    *,
    selection: o.Selection,
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
    sn-graph inspect disc.onnx --html disc.html
    sn-graph inspect disc.onnx --plan plan.json   then edit it, then: fold --plan plan.json
    """
    from sn_graph import api
    from sn_graph.cli.paging import Paging
    from sn_graph.cli.render import explain_sites, print_report
    from sn_graph.model import require_writable
    from sn_graph.plan import build_plan, save_plan

    settings.tell(model=str(model))
    if plan is not None and html is not None and plan.resolve() == html.resolve():
        raise UsageError("--plan and --html are one file", do="give two")
    if plan is not None:
        o.require_apart(plan, data_of=model, model=model, state=state)
        require_writable(plan)
    paging = Paging.to(html, model=model, state=state)
    opened = api.Opened.of(model)
    made = build_plan(opened.model, **selection.plan_options(norm, state))
    with settings.progress() as progress:
        report = api.examine(opened, made, sigma=sigma, seed=seed, progress=progress)
        page = paging.inspected(report, opened, made, seed, progress) if paging else None
    opened.model.require_unchanged()
    if plan is not None:
        save_plan(made, plan)
    if paging and page:
        paging.write(page)
    explain_sites(settings, report)
    settings.tell(**report.to_json())
    if settings.json:
        return
    print_report(report)
    settings.say(f"{len(made.eligible())} of {len(made.sites)} weights can be normalized")
    if not settings.verbose:  # which has said it
        settings.say(f"convention {report.convention}: {report.convention_reason}")
