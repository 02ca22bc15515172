"""`sn-graph inspect`: the weights of a model and their spectral norms."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sn_graph.choices import MeasureChoice
from sn_graph.cli import options as o
from sn_graph.cli.app import command_of
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Option
from sn_graph.cli.files import CommandWork, Files, Fleet, Gates
from sn_graph.errors import UsageError

if TYPE_CHECKING:
    from sn_graph.fleet import Ending, WeightWork
    from sn_graph.report import Report


_SUFFIXES = (".onnx", ".safetensors", ".safetensors.index.json", ".gguf")


class InspectWork(CommandWork):
    """The inspection of files, of which a large checkpoint is divided among those who do it."""

    def parts(self, path: Path) -> Sequence[tuple[str, int]]:
        """Return the weights of a large checkpoint and their bytes."""
        return self._weights().parts(path)

    def of_part(self, name: str) -> "WeightWork":
        """Return the inspection of one weight."""
        return self._weights().of_part(name)

    def joined(self, path: Path, endings: "Sequence[Ending]") -> "Ending":
        """Return the report of all weights."""
        return self._weights().joined(path, endings)

    def _weights(self) -> "WeightWork":
        from sn_graph.fleet import WeightWork

        names = {"sigma", "against", "per_head", "norm", "state", "convention", "include", "exclude"}
        arguments = {name: value for name, value in self.values.items() if name in names}
        return WeightWork({**arguments, "op_types": self.values["op_type"]})


@command_of(Files(_SUFFIXES, groups=(Fleet, Gates), work=InspectWork))
def inspect(
    model: o.ModelArgument,
    sigma: Annotated[MeasureChoice, Option("exact: within 1e-6; upper: with a proven upper bound besides.")] = "exact",
    norm: o.Norm = None,
    state: Annotated[
        Path | None,
        Option('A safetensors file with the u of each weight that "1 step" starts from. [default: random u]', "FILE"),
    ] = None,
    seed: Annotated[int, Option('Of the random u that "1 step" starts from.', "S", minimum=0)] = 0,
    against: Annotated[
        Path | None,
        Option("A model or checkpoint whose weights of the same names are measured too, and the differences.", "BASE"),
    ] = None,
    per_head: Annotated[
        bool, Option("Measure each attention head of a checkpoint's query and key projections besides.")
    ] = False,
    plan: Annotated[
        Path | None,
        Option("Write a plan that fold and insert obey, to edit.", "FILE", writes=True),
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

    A checkpoint (.safetensors, its .index.json, .gguf) has no graph: its weights of rank 2 and more are measured as
    they are stored, (O, everything else), with the role that the name tells.

    \b
    sn-graph inspect disc.onnx
    sn-graph inspect disc.onnx --sigma upper --norm operator
    sn-graph inspect disc.onnx --html disc.html
    sn-graph inspect disc.onnx --plan plan.json   then edit it, then: fold --plan plan.json
    sn-graph inspect model.safetensors.index.json --per-head --against base/model.safetensors.index.json
    sn-graph inspect models/ 's3://bucket/*.onnx' --jobs 4 --assert 'sigma <= 1.001' --junit results.xml
    """
    from sn_graph import api
    from sn_graph.cli.paging import Paging
    from sn_graph.model import require_writable
    from sn_graph.model.checkpoint import is_checkpoint
    from sn_graph.plan import build_plan, save_plan

    settings.tell(model=str(model))
    if plan is not None and html is not None and plan.resolve() == html.resolve():
        raise UsageError("--plan and --html are one file", do="give two")
    if plan is not None:
        o.require_apart(plan, data_of=model, model=model, state=state)
        require_writable(plan)
    options = selection.plan_options(norm, state)
    if is_checkpoint(model):
        for flag, given in (("--plan", plan), ("--html", html)):
            if given is not None:
                raise UsageError(f"{flag} is of a graph", "and a checkpoint has none", f"leave {flag} out")
        with settings.progress() as progress:
            report = api.inspect(model, sigma=sigma, against=against, per_head=per_head, progress=progress, **options)
        _conclude(settings, report)
        return
    if per_head:
        raise UsageError("an ONNX graph does not tell which rows of a weight are a head", do="give its checkpoint")
    paging = Paging.to(html, model=model, state=state)
    opened = api.Opened.of(model)
    made = build_plan(opened.model, **options)
    base = None if against is None else api.base_of(against, options)
    with settings.progress() as progress:
        report = api.examine(opened, made, sigma=sigma, seed=seed, progress=progress, base=base)
        page = paging.inspected(report, opened, made, seed, progress) if paging else None
    opened.model.require_unchanged()
    if plan is not None:
        save_plan(made, plan)
    if paging and page:
        paging.write(page)
    _conclude(settings, report, inserted=opened.inserted is not None)


def _conclude(settings: Settings, report: "Report", inserted: bool = False) -> None:
    from sn_graph.cli.render import explain_sites, print_report, what_it_is

    explain_sites(settings, report)
    settings.tell(**report.to_json())
    if settings.json:
        return
    print_report(report)
    for sentence in what_it_is(report, inserted):
        settings.say(sentence)
    eligible = sum(site.status == "eligible" for site in report.sites)
    settings.say(f"{eligible} of {len(report.sites)} weights can be normalized")
    if not settings.verbose:  # which has said it
        settings.say(f"convention {report.convention}: {report.convention_reason}")
