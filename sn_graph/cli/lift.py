"""`sn-graph lift`: the spectral norm that exporters left in the graph, taken out."""

from typing import Annotated

from sn_graph.choices import LiftedSigmaChoice, LiftedToChoice
from sn_graph.cli import options as o
from sn_graph.cli.app import command_of
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Option
from sn_graph.cli.files import Files


@command_of(Files((".onnx",)))
def lift(
    model: o.ModelArgument,
    output: o.Output,
    to: Annotated[
        LiftedToChoice,
        Option("fold: store what the arithmetic gives; insert: iterate on, from the u beside it."),
    ] = "fold",
    sigma: Annotated[
        LiftedSigmaChoice,
        Option("graph: what the export divides by, so that its outputs stay; exact: the norm itself."),
    ] = "graph",
    power_iterations: Annotated[
        int, Option("Of --to insert, where the file tells of no number of iterations.", "K", minimum=1)
    ] = 1,
    include: o.Include = (),
    exclude: o.Exclude = (),
    *,
    writing: o.Writing,
    runs: o.Runs,
    tolerances: o.Tolerances,
    force: o.Force = False,
    html: o.Html = None,
    settings: Settings,
) -> None:
    """Write MODEL with each weight stored, or iterated anew, that the exporter left normalized in it.

    PyTorch exports a normalized layer as arithmetic: W / (u·(W v)) in front of Conv, with the weight, u and v stored.
    lift recognises it by structure and by number (hook and parametrization, eval and train mode, caps, gains, the
    classes of public projects; weight normalization too), stores the weight that comes of it under the framework's
    name, and takes the arithmetic out. What is normalized by something else than the norm of its matrix stays as it
    was, with the reason, and so does every plain layer. A model with nothing to lift is written as it was.

    With --to insert the iteration goes on in the graph as the module's does in train mode, from the u (or v) that was
    stored beside each weight, by the export's own matrix, number of iterations, gain and cap.

    OUT is verified before it takes its place: onnxruntime computes the same weights of MODEL's arithmetic, and the same
    outputs, but of a model of more than 128 MiB, where all else is shown to be MODEL's; what --to insert writes is
    proved as insert's is.

    \b
    sn-graph inspect disc.onnx                                what each weight is, its σ in the graph and exact
    sn-graph lift disc.onnx -o disc.plain.onnx                the same outputs, from stored weights
    sn-graph lift disc.onnx -o disc.exact.onnx --sigma exact  each weight over its exact norm
    sn-graph lift disc.onnx -o disc.sn.onnx --to insert       for StatefulSession, from the module's own u
    """
    from sn_graph import api
    from sn_graph.cli.conclusion import conclude, require_all
    from sn_graph.cli.paging import Paging
    from sn_graph.cli.saving import save
    from sn_graph.model import require_writable

    settings.tell(model=str(model))
    o.require_apart(output, data_of=model)
    require_writable(output)
    paging = Paging.to(html, output, model=model)
    with settings.progress() as progress:
        result = api.lift(
            model,
            to=to,
            sigma=sigma,
            power_iterations=power_iterations,
            include=include,
            exclude=exclude,
            progress=progress,
        )
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
            paging=paging,
        )
    conclude(settings, result, proof, output, paging=paging)
