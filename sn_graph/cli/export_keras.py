"""`sn-graph export-keras`: a Keras model with SpectralNormalization to ONNX, with its plan and its own u."""

import os
from pathlib import Path
from typing import Annotated

from sn_graph.choices import FormChoice, SigmaChoice
from sn_graph.cli import options as o
from sn_graph.cli.app import command
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import Argument, Option
from sn_graph.errors import ModelError, UsageError


@command
def export_keras(
    file: Annotated[
        Path,
        Argument("FILE", "A .keras file, a .h5 file or a SavedModel folder, of Keras 3 or tf.keras 2.x."),
    ],
    output: Annotated[
        Path,
        Option(
            "The file to write; out.onnx gets out.plan.json and out.u.safetensors beside it.",
            "OUT",
            ("--output", "-o"),
        ),
    ],
    form: Annotated[
        FormChoice,
        Option(
            "plain: the weights as stored. fold: normalized once, for deployment. "
            "insert: normalized at each run, as in training.",
            flags=("--as",),
        ),
    ] = "plain",
    opset: Annotated[int | None, Option("The ONNX operator set. [default: 17]", "N")] = None,
    sigma: Annotated[
        SigmaChoice | None,
        Option(
            "Of --as fold. power: a step from the layer's own u, as normalize_weights() takes it; "
            "exact: within 1e-6; upper: a proven bound. [default: power]",
        ),
    ] = None,
    power_iterations: Annotated[
        int | None,
        Option("Iterations a step. [default: each layer's own]", "K", minimum=1),
    ] = None,
    bound: o.Bound = None,
    clip: o.Clip = None,
    include: o.Include = (),
    exclude: o.Exclude = (),
    *,
    writing: o.Writing,
    tolerances: o.Tolerances,
    force: o.Force = False,
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
    if sigma is not None and form != "fold":
        raise UsageError(
            f"--sigma is of --as fold, and --as {form} estimates no norm before it runs", do="leave it out"
        )
    from sn_graph import api
    from sn_graph.cli.conclusion import conclude, require_all, require_work
    from sn_graph.cli.native import quiet_libraries
    from sn_graph.frontends.keras import sidecars
    from sn_graph.model import require_writable
    from sn_graph.plan import patterns

    settings.tell(model=str(file))
    patterns((*include, *exclude))  # a wrong one is told before the model is loaded
    for path in (output, *sidecars(output)):
        o.require_apart(path, Keras_model=file)
        if os.path.isdir(file) and path.exists() and path.resolve().is_relative_to(file.resolve()):
            raise UsageError(f"{path} would overwrite a part of the Keras model that is read", do="give another file")
    require_writable(output)
    with quiet_libraries(settings), settings.progress() as progress:
        from sn_graph import proofs
        from sn_graph.frontends import keras as frontend
        from sn_graph.proofs.keras import save_export

        model = frontend.load(file)
        bare = not frontend.wrappers(model)
        if bare and form != "plain" and not force:
            raise ModelError(
                f"{file}: nothing to do",
                "because the Keras model has no SpectralNormalization layer",
                f"export it without --as {form}, which works, and let sn-graph {form} normalize all its weights",
            )
        exported = frontend.export(model, opset=opset, progress=progress).planned(
            include=include,
            exclude=exclude,
            power_iterations=power_iterations,
            bound=bound,
            clip=clip,
        )
        result = api.normalize_export(exported, form, sigma=sigma or "power", progress=progress)
        if form != "plain" and not exported.plan.eligible():
            require_work(file, result, force)
            require_all(result, writing.strict)
        terms = proofs.Terms(tolerances.rtol, tolerances.atol, progress=progress)
        verify = not writing.no_verify
        proof = save_export(
            model, exported, result, output, writing.storage, terms, verify=verify, force=force, sync=writing.sync
        )
    for note in exported.notes:
        settings.say(note)
    done = "exported as it is, without a SpectralNormalization layer to plan for" if bare else None
    conclude(settings, result, proof, output, source=file, done=done)
