"""`sn-graph export-keras`: a Keras model with SpectralNormalization to ONNX, with its plan and its own u."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np
import typer

from sn_graph import api
from sn_graph.cli import options as o
from sn_graph.cli.app import Debug, Quiet, Verbose, app, command
from sn_graph.cli.conclusion import conclude, nothing_to_do
from sn_graph.cli.console import Settings
from sn_graph.cli.native import quiet_libraries
from sn_graph.errors import ModelError, UsageError, VerificationFailed
from sn_graph.model.files import require_writable
from sn_graph.passes.base import PassResult
from sn_graph.passes.fold import Fold, FoldOptions, SigmaMethod
from sn_graph.passes.insert import Insert, InsertOptions
from sn_graph.progress import Progress
from sn_graph.report import record_of

if TYPE_CHECKING:
    from sn_graph.frontends.keras import KerasExport
    from sn_graph.runtime.proof import Proof


class As(StrEnum):
    """The values of --as: what becomes of the normalization."""

    PLAIN = "plain"
    FOLD = "fold"
    INSERT = "insert"


class Prover(Protocol):
    """Proves a written file against the export, with these sizes of dynamic dimensions."""

    def __call__(self, written: Path, /, *, dims: Mapping[str, int]) -> "Proof": ...


@app.command(name="export-keras")
@command
def export_keras(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A .keras file, a .h5 file or a SavedModel folder, of Keras 3 or tf.keras 2.x.",
            show_default=False,
            readable=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The file to write; out.onnx gets out.plan.json and out.u.safetensors beside it.",
            show_default=False,
            readable=False,
        ),
    ],
    form: Annotated[
        As,
        typer.Option(
            "--as",
            help="plain: the weights as stored. fold: normalized once, for deployment. "
            "insert: normalized at each run, as in training.",
        ),
    ] = As.PLAIN,
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="The ONNX operator set. [default: 17]", show_default=False)
    ] = None,
    sigma: Annotated[
        SigmaMethod | None,
        typer.Option(
            help="Of --as fold. power: a step from the layer's own u, as normalize_weights() takes it; "
            "exact: within 1e-6; upper: a proven bound. [default: power]",
            show_default=False,
        ),
    ] = None,
    power_iterations: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Iterations a step. [default: each layer's own]", show_default=False),
    ] = None,
    bound: o.Bound = None,
    clip: o.Clip = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
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
    """Write a Keras model with SpectralNormalization layers as ONNX.

    A weight that Keras normalizes is named <layer>/kernel (or <layer>/embeddings) in OUT. The plan says for each its
    matrix, its power_iterations and whether its layer is called several times; the .u.safetensors file holds every
    layer's own u, as FILE has it. Both fit `fold --plan` and `insert --plan`. In every form BatchNormalization and
    Dropout work as in inference; under --as insert only the normalization trains.

    OUT is verified before it takes its place: onnxruntime must give the outputs of the Keras model, and what fold or
    insert made of it is proved as those commands do. FILE needs tensorflow, keras and tf2onnx to be installed, and
    tf_keras where tf.keras 2.x wrote it.

    \b
    sn-graph export-keras disc.keras -o disc.onnx
    sn-graph export-keras disc.keras -o disc.folded.onnx --as fold
    sn-graph export-keras disc.h5 -o disc.sn.onnx --as insert --opset 18
    """
    if sigma is not None and form is not As.FOLD:
        raise UsageError(f"--sigma is of --as fold, and --as {form} estimates no norm before it runs; leave it out")
    if file.exists() and output.exists() and output.samefile(file):
        raise UsageError(f"{output} would overwrite the Keras model that is read; give another file")
    require_writable(output)
    with quiet_libraries(settings), settings.progress() as progress:
        from sn_graph.frontends import keras as frontend
        from sn_graph.runtime.proof import Proof, save_proven

        model = frontend.load(file)
        exported = frontend.export(model, opset=opset, progress=progress)
        plan = api.build_plan(
            exported.model,
            plan=exported.plan,
            include=include or (),
            exclude=exclude or (),
            power_iterations=power_iterations,
            bound=bound,
            clip=clip,
        )
        exported = replace(exported, plan=plan)
        if form is not As.PLAIN:
            _require_vectors(exported)
        result, prove = _FORMS[form](exported, sigma or SigmaMethod.POWER, rtol, atol, progress)
        if form is not As.PLAIN and not plan.eligible() and not force:
            raise ModelError(nothing_to_do(file, result))

        def prover(written: Path) -> Proof:
            try:
                proof = Proof("no") if no_verify else _proof(model, exported, prove, written, rtol, atol)
            except VerificationFailed:
                if force:
                    exported.save_beside(output)
                raise
            exported.save_beside(output)  # the model takes its place behind them
            return proof

        storage = o.storage_of(save_as_external_data)
        proof = save_proven(result, output, storage, prover, force, progress)
    for note in exported.notes:
        settings.say(note)
    conclude(settings, result, proof, output, json, source=file)


def _require_vectors(exported: "KerasExport") -> None:
    """Raise ModelError where a step of normalization can't start from a layer's own u."""
    for site in exported.plan.eligible():
        vector = exported.state.u[site.id]
        if not (np.isfinite(vector).all() and vector.any()):
            raise ModelError(
                f"the u of '{site.id}' is zero or not finite, and no iteration can start from it, in Keras neither; "
                "assign its layer another vector_u, or export --as plain"
            )


def _proof(
    model: object, exported: "KerasExport", prove: Prover, written: Path, rtol: float | None, atol: float | None
) -> "Proof":
    """Prove the export against Keras, then what was made of it against the export."""
    from sn_graph.frontends.keras_proof import prove_export

    proof, dims = prove_export(model, exported.model, rtol=rtol, atol=atol)
    return prove(written, dims=dims) if proof.verified == "run" else proof


def _plain(
    exported: "KerasExport",
    sigma: SigmaMethod,
    rtol: float | None,
    atol: float | None,
    progress: Progress,
) -> tuple[PassResult, Prover]:
    from sn_graph.runtime.proof import prove

    result = PassResult(exported.model, exported.plan, tuple(map(record_of, exported.plan.sites)))
    return result, partial(prove, exported.model, (), rtol=rtol, atol=atol, progress=progress)


def _fold(
    exported: "KerasExport",
    sigma: SigmaMethod,
    rtol: float | None,
    atol: float | None,
    progress: Progress,
) -> tuple[PassResult, Prover]:
    from sn_graph.plan import rebind
    from sn_graph.runtime.proof import prove

    model = exported.model.copy()
    # normalize_weights() is one step, however often the layer is called.
    once = replace(exported.plan, sites=tuple(replace(site, per_use=False) for site in exported.plan.sites))
    result = Fold(FoldOptions(sigma, state=exported.state)).apply(model, rebind(once, model), progress)
    return result, partial(prove, exported.model, result.rescaled, rtol=rtol, atol=atol, progress=progress)


def _insert(
    exported: "KerasExport",
    sigma: SigmaMethod,
    rtol: float | None,
    atol: float | None,
    progress: Progress,
) -> tuple[PassResult, Prover]:
    from sn_graph.plan import rebind
    from sn_graph.runtime.insertion_proof import prove_insertion

    model, options = exported.model.copy(), InsertOptions(state=exported.state)
    result = Insert(options).apply(model, rebind(exported.plan, model), progress)
    return result, partial(prove_insertion, exported.model, result, options)


_FORMS = {As.PLAIN: _plain, As.FOLD: _fold, As.INSERT: _insert}
