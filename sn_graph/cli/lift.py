"""`sn-graph lift`: the spectral norm that exporters left in the graph, taken out."""

from typing import Annotated

import typer

from sn_graph import api
from sn_graph.cli import options as o
from sn_graph.cli.app import app, command
from sn_graph.cli.conclusion import conclude
from sn_graph.cli.console import Settings
from sn_graph.model import require_writable
from sn_graph.passes import LiftedSigma


@app.command()
@command
def lift(
    model: o.ModelArgument,
    output: o.Output,
    sigma: Annotated[
        LiftedSigma,
        typer.Option(help="graph: what the export divides by, so that its outputs stay; exact: the norm itself."),
    ] = LiftedSigma.GRAPH,
    include: o.Include = None,
    exclude: o.Exclude = None,
    *,
    writing: o.Writing,
    tolerances: o.Tolerances,
    force: o.Force = False,
    json: o.Json = False,
    settings: Settings,
) -> None:
    """Write MODEL with each weight stored that its exporter left normalized in the graph.

    PyTorch exports a normalized layer as arithmetic: W / (u·(W v)) in front of Conv, with the weight, u and v stored.
    lift recognises it by structure and by number (hook and parametrization, eval and train mode, caps, gains, the
    classes of public projects; weight normalization too), stores the weight that comes of it under the framework's
    name, and takes the arithmetic out. What is normalized by something else than the norm of its matrix stays as it
    was, with the reason, and so does every plain layer. A model with nothing to lift is written as it was.

    OUT is verified before it takes its place: onnxruntime computes the same weights of MODEL's arithmetic, and the same
    outputs.

    \b
    sn-graph inspect disc.onnx                                what each weight is, its σ in the graph and exact
    sn-graph lift disc.onnx -o disc.plain.onnx                the same outputs, from stored weights
    sn-graph lift disc.onnx -o disc.exact.onnx --sigma exact  each weight over its exact norm
    """
    from sn_graph import proofs

    require_writable(output)
    with settings.progress() as progress:
        result = api.lift(model, sigma=sigma, include=include or (), exclude=exclude or (), progress=progress)
        proof = proofs.save(
            result,
            output,
            writing.storage,
            verify=not writing.no_verify,
            force=force,
            rtol=tolerances.rtol,
            atol=tolerances.atol,
            progress=progress,
        )
    conclude(settings, result, proof, output, json)
