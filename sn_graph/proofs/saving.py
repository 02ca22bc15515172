"""Saving a result: written, proved by the proof of the pass that made it, and put in place."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import onnx

from sn_graph.errors import UsageError, VerificationFailed
from sn_graph.model import Model, Storage
from sn_graph.passes import InsertResult, LiftResult, PassResult
from sn_graph.progress import Progress, silent
from sn_graph.proofs.fold import prove_fold
from sn_graph.proofs.insert import prove_insertion
from sn_graph.proofs.lift import prove_carried, prove_lift
from sn_graph.proofs.proof import Proof, Terms, save_proven
from sn_graph.proofs.sameness import first_difference
from sn_graph.proofs.strip import prove_strip
from sn_graph.runtime.parity import Inputs, make_feeds, make_inputs


def save(
    result: PassResult,
    path: str | os.PathLike[str],
    storage: Storage = Storage.KEEP,
    *,
    verify: bool = True,
    force: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    dims: Mapping[str, int] | None = None,
    inputs: Inputs | None = None,
    sync: bool = True,
    progress: Progress = silent,
) -> Proof:
    """Write what a pass made beside `path`, prove it against the model it came from, and put it in place.

    Args:
        result: What calling a pass returned.
        path, storage: As for `Model.save`.
        verify: Whether to prove it at all.
        force: Put it in place even where the proof fails.
        rtol, atol: What outputs may differ by; by default they follow from the type.
        dims, inputs: Sizes of dynamic dimensions, and what both models are run on: as for `compare`.
        sync: Whether the files are on the disk before the model takes its place, for a power cut.
        progress: Told the bytes written, then the steps of the proof.

    Raises:
        VerificationFailed: The written file is not what it should be; nothing is put in place.
        EnvironmentUnavailable: The folder can't be written, or onnxruntime is missing.
        UsageError: The result does not know the model that it came from, or no input has a dimension of that name.
        ModelError: The inputs given don't fit the model.

    >>> import tempfile, sn_graph as sn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(sn.fold("models/keras_dcgan_discriminator.onnx"), f"{folder}/folded.onnx").verified
    'run'
    """
    if verify and result.source is not None:
        # What does not fit is an error, and not a model that can't be run.
        if inputs is not None:
            make_feeds(result.source, inputs=inputs)
        if dims:
            make_inputs(result.source, dims=dims)
    terms = Terms(rtol, atol, dims, inputs, progress)
    prover = partial(prove, result, terms=terms) if verify else None
    return save_proven(result.model, path, storage, prover, force=force, sync=sync, progress=progress)


def prove(result: PassResult, written: Path, terms: Terms) -> Proof:
    """Prove that a written file is what a pass made of its source.

    Raises:
        VerificationFailed: It is not.
        UsageError: The result does not know the model that it came from.
    """
    source = result.source
    if source is None:
        raise UsageError(
            f"the result of pass '{result.name}' can't be proved",
            "because apply changed the model in place",
            "call the pass itself, which keeps the source",
        )
    if isinstance(result.before, LiftResult):
        prove_carried(result.before)
    if isinstance(result, LiftResult):
        return prove_lift(result, source, written, terms)
    if isinstance(result, InsertResult):
        return prove_insertion(result, source, written, terms)
    if result.name == "strip":
        return prove_strip(result, source, written)
    if result.name in ("fold", "plain"):
        return prove_fold(result, source, written, terms)
    return _prove_written(result.model, written)


def _prove_written(model: Model, written: Path) -> Proof:
    """Prove no more than that the file holds the model: what a third party's pass means to do is not known here."""
    difference = first_difference(model, onnx.load(written, load_external_data=False), Model.open(written))
    if difference is not None:
        raise VerificationFailed("the written model is not the one that the pass made", difference)
    return Proof("structure", "sn-graph does not know what this pass promises, only that the file holds its model")
