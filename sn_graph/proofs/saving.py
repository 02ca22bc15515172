"""Saving a result: written, proved by the proof of the pass that made it, and put in place."""

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from sn_graph.model import Storage
from sn_graph.passes import PassResult
from sn_graph.progress import Progress, silent
from sn_graph.proofs.proof import Proof, Prover, Terms, save_proven

if TYPE_CHECKING:
    from sn_graph.runtime.parity import Inputs


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
    inputs: "Inputs | None" = None,
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
    prover: Prover | None = None
    if verify:
        from sn_graph.proofs.proving import prove, require_fitting  # 30 modules, onnxruntime's rooms among them

        require_fitting(result, dims, inputs)
        prover = partial(prove, result, terms=Terms(rtol, atol, dims, inputs, progress))
    return save_proven(result.model, path, storage, prover, force=force, sync=sync, progress=progress)
