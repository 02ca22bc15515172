"""Inspection of checkpoints: the norms of the weights that a file holds without a graph, one in memory at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from sn_graph.errors import ModelError, leave_out
from sn_graph.model.checkpoint import Checkpoint, StoredTensor, role_of
from sn_graph.norms.against import Base, compared_with
from sn_graph.norms.inspect import totals
from sn_graph.norms.matrix import require_finite_values
from sn_graph.plan import left_out_by, patterns
from sn_graph.progress import Progress, silent
from sn_graph.report import Report, SiteRecord
from sn_graph.spectral.matrix import frobenius_norm, spectral_norm, upper_bound

CHECKPOINT_CONVENTION = "torch"
CHECKPOINT_REASON = "a checkpoint's matrices are taken as they are stored, (O, everything else)"


def base_of_checkpoint(checkpoint: Checkpoint) -> Base:
    """Return the weights of a checkpoint."""
    tensors = {tensor.name: tensor for tensor in checkpoint.weights if tensor.refusal is None and tensor.elements}

    def matrix(identity: str) -> NDArray[Any] | None:
        tensor = tensors.get(identity)
        return None if tensor is None else tensor.matrix()

    return matrix


def checkpoint_records(
    checkpoint: Checkpoint,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    weights: Sequence[str] | None = None,
) -> Iterator[tuple[StoredTensor, SiteRecord]]:
    """Yield each weight of a checkpoint with its record before anything is measured, "eligible" or "skipped".

    Args:
        checkpoint: Whose weights.
        include, exclude: Regular expressions, searched in the names.
        weights: The names of those that are yielded; None for all.

    Raises:
        UsageError: An expression is not valid, or takes too long.
    """
    wanted, unwanted = patterns(include), patterns(exclude)
    for tensor in checkpoint.weights:
        if weights is not None and tensor.name not in weights:
            continue
        reason = tensor.refusal or (None if tensor.elements else "it is empty")
        reason = reason or left_out_by(tensor.name, wanted, unwanted)
        yield tensor, _record(tensor, reason)


def _record(tensor: StoredTensor, reason: str | None) -> SiteRecord:
    return SiteRecord(
        id=tensor.name,
        weight=tensor.name,
        scope="",
        op_types=(),
        consumers=(),
        dtype=tensor.dtype,
        shape=tensor.shape,
        matrix=tensor.matrix_shape,
        groups=1,
        via=(),
        status="skipped" if reason else "eligible",
        reason=reason,
        role=role_of(tensor.name),
    )


def inspect_checkpoint(
    checkpoint: Checkpoint,
    progress: Progress = silent,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    weights: Sequence[str] | None = None,
    upper: bool = False,
    per_head: bool = False,
    base: Base | None = None,
) -> Report:
    """Measure every weight of a checkpoint that is chosen.

    Args:
        checkpoint: What is measured.
        progress: Told the bytes of the weights measured.
        include, exclude: Regular expressions, searched in the names.
        weights: The names of those that are looked at; None for all.
        upper: Whether to prove an upper bound of each σ.
        per_head: Whether to measure each attention head of query and key projections by itself.
        base: The weights to compare with.

    Raises:
        ModelError: A weight holds NaN or infinite values.
        UsageError: An expression is not valid.
        EnvironmentUnavailable: A file was changed meanwhile, or quantized weights need the package gguf.
    """
    planned = list(checkpoint_records(checkpoint, include, exclude, weights))
    total = sum(tensor.payload.size for tensor, record in planned if record.status == "eligible")
    done, records = 0, []
    for tensor, record in planned:
        progress("measuring", done, total)
        if record.status != "eligible":
            records.append(record)
            continue
        matrix = tensor.matrix()
        records.append(_measured(record, matrix, checkpoint, upper=upper, per_head=per_head, base=base))
        done += tensor.payload.size
    progress("measuring", done, total)
    checkpoint.require_unchanged()
    report = Report.of(checkpoint.name, {}, CHECKPOINT_CONVENTION, CHECKPOINT_REASON, records)
    return replace(report, totals=totals([record.to_json() for record in records]))


def _measured(
    record: SiteRecord, matrix: NDArray[Any], checkpoint: Checkpoint, *, upper: bool, per_head: bool, base: Base | None
) -> SiteRecord:
    sigma = finite_norm(record, matrix)
    heads = checkpoint.heads.of(record.weight, len(matrix)) if per_head else None
    if per_head and heads is None and record.role in ("q_proj", "k_proj"):
        record = replace(record, notes=(*record.notes, _NO_HEADS))
    return replace(
        record,
        sigma=sigma,
        sigma_upper=upper_bound(matrix, sigma) if upper else None,
        frobenius=frobenius_norm(matrix),
        sigma_heads=() if heads is None else head_norms(matrix, heads),
        **compared_with(base, record, matrix),
    )


_NO_HEADS = "measured as a whole: no config.json beside the file tells how many heads share its rows"


def finite_norm(record: SiteRecord, matrix: NDArray[Any]) -> float:
    """Return the exact σ of a weight's matrix. Raises ModelError where it has none."""
    require_finite_values(record.id, record.weight, matrix)
    sigma = spectral_norm(matrix)
    if sigma == sigma and sigma < float("inf"):
        return sigma
    raise ModelError(
        f"weight '{record.id}' is so large that its norm passes float64's range",
        "so nothing can be divided by it",
        f"repair the file or {leave_out(record.weight)}",
    )


def head_norms(matrix: NDArray[Any], heads: int) -> tuple[float, ...]:
    """Return σ of the rows of each head: [rows / heads, columns] of a matrix [rows, columns]."""
    size = len(matrix) // heads
    return tuple(spectral_norm(matrix[start : start + size]) for start in range(0, len(matrix), size))
