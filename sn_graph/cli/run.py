"""`sn-graph run`: a registered pass, of sn-graph or of another package, by its name."""

import json as jsons
from typing import Annotated, Any

from sn_graph.cli import options as o
from sn_graph.cli.app import command
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Argument, Option
from sn_graph.errors import UsageError


@command
def run(
    name: Annotated[str, Argument("NAME", "What the pass is registered under.")],
    model: o.ModelArgument,
    output: o.Output,
    option: Annotated[
        tuple[str, ...],
        Option(
            "An option of the pass itself, its value as JSON or a plain word; repeatable. [default: the pass's]",
            "OPTION=VALUE",
            ("--set",),
        ),
    ] = (),
    *,
    power_iterations: o.PowerIterations = None,
    state: o.StateFile = None,
    normalization: o.Normalization,
    writing: o.Writing,
    runs: o.Runs,
    tolerances: o.Tolerances,
    force: o.Force = False,
    settings: Settings,
) -> None:
    """Write MODEL as the pass NAME changes it.

    A pass is what an installed package registers under the entry point group sn_graph.passes; sn-graph itself registers
    fold, insert, lift and strip. OUT is verified before it takes its place: what sn-graph's own passes make as their
    commands do it, what another package's makes by its structure alone.

    \b
    sn-graph run fold disc.onnx -o folded.onnx --set sigma=power --set seed=3
    sn-graph run insert disc.onnx -o disc.sn.onnx --bound 2
    """
    from sn_graph import api
    from sn_graph.cli.conclusion import conclude, require_all, require_work
    from sn_graph.cli.saving import save
    from sn_graph.model import require_writable

    settings.tell(model=str(model))
    o.require_apart(output, data_of=model, plan=normalization.plan, state=state)
    require_writable(output)
    with settings.progress() as progress:
        options = normalization.plan_options(o.Estimate(power_iterations, state=state))
        result = api.apply(name, model, dict(map(_setting, option)), progress=progress, **options)
        if result.plan is not None:
            require_work(model, result, force)
            require_all(result, writing.strict)
        proof = save(
            result,
            output,
            writing,
            force=force,
            progress=progress,
            tolerances=tolerances,
            dims=o.dimensions(runs.dim),
            inputs=runs.inputs,
        )
    conclude(settings, result, proof, output)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--set {text} is not OPTION=VALUE")
    try:
        return name, jsons.loads(value)
    except ValueError:
        return name, value
