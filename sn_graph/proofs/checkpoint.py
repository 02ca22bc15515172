"""Proof of a folded checkpoint: the written file is the source but for W·factor, and each norm is what was promised.

W'[i, j] = W[i, j] · factor, rounded once to the type        exact: |σ(W') − c| ≤ 2e-6·c and the type's rounding
                                                             upper: σ(W') ≤ c, proven; power: nothing
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import VerificationFailed
from sn_graph.model.checkpoint import Checkpoint, StoredTensor, stage_scaled
from sn_graph.model.remote import placed
from sn_graph.norms import SigmaMethod
from sn_graph.passes import CheckpointResult
from sn_graph.progress import Progress, silent
from sn_graph.proofs.proof import Proof
from sn_graph.spectral.matrix import is_within, leading_singular_triplet, spectral_norm, upper_bound

_EXACT = 2e-6
_STEP = 1 << 20  # elements, or bytes, compared at a time


def save_checkpoint(
    result: CheckpointResult,
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    force: bool = False,
    sync: bool = True,
    progress: Progress = silent,
) -> Proof:
    """Write a folded checkpoint beside `path`, prove it, and put it in place.

    Args:
        result: What `fold_checkpoint` returned.
        path: The file to write; it may be the checkpoint's own.
        verify: Whether to prove it at all.
        force: Put it in place even where the proof fails.
        sync: Whether the disk has it before it takes its place.
        progress: Told the bytes written, then those proved.

    Raises:
        VerificationFailed: The written file is not what it should be; nothing is put in place.
        UsageError: The checkpoint is not one safetensors file.
        EnvironmentUnavailable: The folder can't be written, or the source was changed.
    """
    with (
        placed(path, progress) as place,
        stage_scaled(result.checkpoint, result.factors, place, progress, sync=sync) as staged,
    ):
        proof = Proof("no")
        try:
            if verify:
                proof = prove_checkpoint(result, staged.model, progress)
        except VerificationFailed as error:
            result.checkpoint.require_unchanged()
            if not force:
                raise
            proof = Proof("no", str(error), failed=True)
        result.checkpoint.require_unchanged()
        staged.commit(tidy=False)
    return proof


def prove_checkpoint(result: CheckpointResult, written: Path, progress: Progress = silent) -> Proof:
    """Prove that a written file holds the source's tensors, scaled as they should be.

    Raises:
        VerificationFailed: It does not.
    """
    source, copy = result.checkpoint, Checkpoint.open_safetensors(written)
    begin = min((tensor.payload.start for tensor in source.tensors), default=len(source.sources[0].buffer))
    if not _same_bytes(source.sources[0].buffer[:begin], copy.sources[0].buffer[:begin]):
        raise VerificationFailed("the header of the written file is not the source's")
    total, done = len(source.sources[0].buffer), begin
    for before, after in zip(source.tensors, copy.tensors, strict=True):
        progress("proving", done, total)
        factor = result.factors.get(before.name)
        if factor is None:
            if not _same_bytes(before.payload.data, after.payload.data):
                raise VerificationFailed(f"tensor '{before.name}' of the written file is not the source's")
        else:
            _check_scaled(before, after, factor)
            _check_norm(result, after)
        done += before.payload.size
    return Proof("structure", "there is no graph to run: the file's bytes and the weights' norms were checked")


def _same_bytes(one: memoryview, other: memoryview) -> bool:
    return len(one) == len(other) and all(
        one[start : start + _STEP] == other[start : start + _STEP] for start in range(0, len(one), _STEP)
    )


def _check_scaled(before: StoredTensor, after: StoredTensor, factor: float) -> None:
    """Raise VerificationFailed where an element is farther from W · factor than one rounding, of it and the factor."""
    limits = ml_dtypes.finfo(after.payload.elements(after.shape).dtype)  # type: ignore[no-untyped-call]
    unit, least = 2.0 * float(limits.eps), float(limits.smallest_subnormal)
    old, new = (tensor.payload.elements(tensor.shape).reshape(-1) for tensor in (before, after))
    for start in range(0, old.size, _STEP):
        part = slice(start, start + _STEP)
        wanted = _wide(old[part]) * factor
        if not (np.abs(_wide(new[part]) - wanted) <= unit * np.abs(wanted) + least).all():
            raise VerificationFailed(f"the folded weight '{before.name}' is not the source's times {factor:.9g}")


def _wide(values: NDArray[Any]) -> NDArray[np.float64]:
    return values.astype(np.float32).astype(np.float64) if values.dtype.itemsize < 4 else values.astype(np.float64)


def _check_norm(result: CheckpointResult, after: StoredTensor) -> None:
    """Raise VerificationFailed where the norm of a written weight is not what was promised."""
    bound, matrix = result.options.bound, after.matrix()
    judge: Callable[[], str | None] = {
        SigmaMethod.EXACT: lambda: _not_exact(matrix, bound, result.vectors.get(after.name), after),
        SigmaMethod.UPPER: lambda: _not_within(matrix, bound),
        SigmaMethod.POWER: lambda: None,
    }[result.options.sigma]
    wrong = judge()
    if wrong is not None:
        raise VerificationFailed(f"the folded weight '{after.name}' has {wrong}")


def _not_exact(
    matrix: NDArray[Any], bound: float, right: NDArray[np.float64] | None, stored: StoredTensor
) -> str | None:
    sigma = spectral_norm(matrix) if right is None else leading_singular_triplet(matrix, right).sigma
    dtype = stored.payload.elements(stored.shape).dtype
    eps = float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    if abs(sigma - bound) <= bound * (_EXACT + eps):
        return None
    return f"norm {sigma:.9g} where {bound:g} was promised"


def _not_within(matrix: NDArray[Any], bound: float) -> str | None:
    if is_within(matrix, bound) or upper_bound(matrix) <= bound:
        return None
    return f"a norm that is not proven to be at most {bound:g}"
