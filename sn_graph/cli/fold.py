"""`sn-graph fold`: W·c/σ(W) written into the model."""

from typing import Annotated

from sn_graph.choices import SigmaChoice
from sn_graph.cli import options as o
from sn_graph.cli.app import command_of
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Option
from sn_graph.cli.files import Files
from sn_graph.errors import UsageError


@command_of(Files((".onnx", ".safetensors")))
def fold(
    model: o.ModelArgument,
    output: o.Output,
    sigma: Annotated[
        SigmaChoice,
        Option(
            "exact: within 1e-6; power: estimated from u, as the frameworks do; upper: a proven bound, so that "
            "the weights as stored are within --bound for certain."
        ),
    ] = "exact",
    lipschitz: Annotated[
        float | None,
        Option("Choose the bound, one for all weights, so that this Lipschitz constant of the network is proven.", "C"),
    ] = None,
    input: Annotated[
        tuple[str, ...],
        Option("With --lipschitz: an input whose changes count, repeatable. [default: all float inputs]", "NAME"),
    ] = (),
    dim: o.Dim = (),
    inputs: o.InputsFile = None,
    *,
    estimate: o.Estimate,
    normalization: o.Normalization,
    writing: o.Writing,
    tolerances: o.Tolerances,
    force: o.Force = False,
    html: o.Html = None,
    settings: Settings,
) -> None:
    """Write MODEL with each weight W replaced by bound·W/σ(W).

    W is read as a matrix (see --convention), σ is its largest singular value, and bound is 1 unless --bound says
    otherwise: the folded weight has norm 1. Nothing else in the file changes.

    The file is verified before it takes its place: onnxruntime must give the outputs of MODEL with its weights
    replaced in memory. A model that can't be run is verified by its structure. Nothing is written where that fails.

    Of a checkpoint (.safetensors) the 2-D weights are folded that --include and --exclude choose; all else of the file,
    its header above all, stays byte for byte.

    \b
    sn-graph fold disc.onnx -o folded.onnx
    sn-graph fold disc.onnx -o folded.onnx --sigma power --state disc.u.safetensors
    sn-graph fold disc.onnx -o folded.onnx --clip --bound 2 --exclude '^head'
    sn-graph fold disc.onnx -o folded.onnx --norm operator --sigma upper   each layer is 1-Lipschitz, proven
    sn-graph fold disc.onnx -o folded.onnx --norm operator --lipschitz 1   the whole network is, proven
    sn-graph fold adapter.safetensors -o folded.safetensors --include 'q_proj|k_proj' --clip --bound 2
    sn-graph fold models/ -o folded/ --jobs 4 --jsonl folded.jsonl
    """
    from sn_graph import api, proofs
    from sn_graph.cli.conclusion import conclude, require_all, require_work
    from sn_graph.cli.paging import Paging
    from sn_graph.cli.saving import save
    from sn_graph.model import require_writable
    from sn_graph.model.checkpoint import is_checkpoint

    settings.tell(model=str(model))
    o.require_apart(output, data_of=model, plan=normalization.plan, state=estimate.state)
    require_writable(output)
    paging = Paging.to(html, output, model=model, plan=normalization.plan, state=estimate.state)
    with settings.progress() as progress:
        options, sizes = normalization.plan_options(estimate), o.dimensions(dim)
        if is_checkpoint(model):
            if lipschitz is not None:
                raise UsageError("--lipschitz is of a graph", "and a checkpoint has none", "leave --lipschitz out")
            if html is not None:
                raise UsageError("--html is of a graph", "and a checkpoint has none", "leave --html out")
            folded = api.fold_checkpoint(model, sigma=sigma, seed=estimate.seed, progress=progress, **options)
            require_work(model, folded, force)
            require_all(folded, writing.strict)
            proof = proofs.save_checkpoint(
                folded,
                output,
                verify=not writing.no_verify,
                force=force,
                sync=writing.sync,
                progress=progress,
            )
            conclude(settings, folded, proof, output)
            return
        result = api.fold(
            model,
            sigma=sigma,
            seed=estimate.seed,
            lipschitz=lipschitz,
            input=input,
            dims=sizes,
            force=force,
            progress=progress,
            **options,
        )
        require_work(model, result, force)
        require_all(result, writing.strict)
        proof = save(
            result,
            output,
            writing,
            force=force,
            progress=progress,
            tolerances=tolerances,
            dims={name: size for name, size in sizes.items() if "[" not in name},
            inputs=inputs,
            paging=paging,
        )
    if result.lipschitz is not None and result.plan is not None:
        _tell_constant(settings, result.plan.bound, result.lipschitz)
    if sigma != "power" and result.options.state is None:  # nor of a model that was inserted
        for flag, value in (("--power-iterations", estimate.power_iterations), ("--state", estimate.state)):
            if value is not None:
                settings.say(f"{flag} changed nothing, for σ is {sigma}; give --sigma power to estimate it")
    conclude(settings, result, proof, output, paging=paging)


def _tell_constant(settings: Settings, bound: float, proven: float) -> None:
    """Say what is proven of a model that was folded to a Lipschitz constant."""
    from sn_graph.certify import upwards

    settings.tell(bound=bound, lipschitz=proven)
    settings.say(
        f"with the bound {bound:.6g} of every weight the network has the Lipschitz constant {upwards(proven)} at most, "
        "by the product over the graph; certify may prove less"
    )
