"""Fold of a checkpoint: each 2-D weight W of a safetensors file replaced by bound · W / σ(W), as `fold` does it.

It is no `Pass`, because there is no graph and no plan: the weights are chosen by their names, and the file is written
again with other numbers in the same places.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError, UsageError
from sn_graph.model.checkpoint import Checkpoint, StoredTensor, stage_scaled
from sn_graph.model.remote import placed
from sn_graph.norms import (
    CHECKPOINT_CONVENTION,
    CHECKPOINT_REASON,
    SigmaMethod,
    checkpoint_records,
    require_finite_values,
)
from sn_graph.progress import Progress, silent
from sn_graph.report import Report, Reported, SiteRecord
from sn_graph.spectral.matrix import (
    ROUNDING,
    bracket,
    certified_divisor,
    frobenius_norm,
    norm_and_vector,
    power_iteration,
    seeded_state,
)

_RANK = "fold scales a checkpoint's 2-D weights; what this one does to its input no name tells"


@dataclass(frozen=True)
class CheckpointOptions:
    """How the weights of a checkpoint are folded, and which.

    Attributes:
        sigma: The estimator.
        bound: The norm that a weight gets.
        clip: Whether to leave weights alone whose norm is at most the bound.
        include, exclude: Regular expressions, searched in the names.
        power_iterations, seed: Of the estimator "power".
    """

    sigma: SigmaMethod = SigmaMethod.EXACT
    bound: float = 1.0
    clip: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    power_iterations: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that are none."""
        if not 0 < self.bound < math.inf:
            raise UsageError(f"a bound of {self.bound:g} is not a norm", do="give a number above zero")
        if self.power_iterations < 1:
            raise UsageError(f"{self.power_iterations} power iterations are none", do="give at least 1")
        if self.seed < 0:
            raise UsageError(f"{self.seed} is not a seed", do="give 0 or more")


@dataclass(frozen=True, eq=False, repr=False)
class CheckpointResult(Reported):
    """A folded checkpoint, of which nothing is written yet.

    Attributes:
        checkpoint: What it was made of.
        sites: One record a weight.
        factors: What the weights are multiplied by, by name.
        options: How it was made.
        vectors: Right singular vectors [columns] of the weights by name, where they were found on the way.
    """

    checkpoint: Checkpoint
    sites: tuple[SiteRecord, ...]
    factors: Mapping[str, float]
    options: CheckpointOptions
    vectors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def report(self) -> Report:
        """What was done."""
        return Report.of(self.checkpoint.name, {}, CHECKPOINT_CONVENTION, CHECKPOINT_REASON, self.sites)

    @property
    def idle(self) -> bool:
        """Whether no weight was worked on."""
        return all(site.status == "skipped" for site in self.sites)

    def save(self, path: str | os.PathLike[str], progress: Progress = silent) -> None:
        """Write the file, atomically, without proving it; `sn_graph.proofs.save_checkpoint` proves it first."""
        with placed(path, progress) as place, stage_scaled(self.checkpoint, self.factors, place, progress) as staged:
            staged.commit(tidy=False)


def fold_checkpoint(
    checkpoint: Checkpoint, options: CheckpointOptions, progress: Progress = silent
) -> CheckpointResult:
    """Measure the 2-D weights of a checkpoint that are chosen, and say what each is to be multiplied by.

    Args:
        checkpoint: A safetensors file; it stays as it is.
        options: Which weights, and how.
        progress: Told the bytes measured.

    Raises:
        ModelError: A weight holds NaN or infinite values, or no divisor keeps it within the bound in its type.
        UsageError: An expression is not valid.

    Source: Miyato et al., 2018, https://arxiv.org/abs/1802.05957, eq. 6-7.
    """
    planned = [_narrowed(*each) for each in checkpoint_records(checkpoint, options.include, options.exclude)]
    total = sum(tensor.payload.size for tensor, record in planned if record.status == "eligible")
    done, records = 0, []
    factors: dict[str, float] = {}
    vectors: dict[str, NDArray[np.float64]] = {}
    for tensor, record in planned:
        progress("measuring", done, total)
        if record.status == "eligible":
            done += tensor.payload.size
            record, right = _measured(tensor, record, options)
            if record.sigma_used is not None:
                factors[tensor.name] = options.bound / record.sigma_used
                if right is not None:
                    vectors[tensor.name] = right
        records.append(record)
    checkpoint.require_unchanged()
    return CheckpointResult(checkpoint, tuple(records), factors, options, vectors)


def _narrowed(tensor: StoredTensor, record: SiteRecord) -> tuple[StoredTensor, SiteRecord]:
    """Return a weight and its record, skipped where fold can't write it."""
    if record.status == "skipped":
        return tensor, record
    reason = _RANK if len(tensor.shape) != 2 else None
    if reason is None and not tensor.is_stored_as_read:
        reason = f"values of {tensor.dtype} can't be scaled where they stand"
    return tensor, record if reason is None else replace(record, status="skipped", reason=reason)


def _measured(
    tensor: StoredTensor, record: SiteRecord, options: CheckpointOptions
) -> tuple[SiteRecord, NDArray[np.float64] | None]:
    """Return the record of a weight, with what it is divided by, and its right vector where that is known."""
    matrix = tensor.matrix()
    require_finite_values(record.id, record.weight, matrix)
    right = sigma = upper = None
    if options.sigma is SigmaMethod.POWER:
        u = seeded_state(options.seed, record.id, len(matrix))
        used = power_iteration(matrix, u, options.power_iterations, "rows").sigma
    elif options.sigma is SigmaMethod.EXACT:
        used, right = norm_and_vector(matrix)
        sigma = used
    else:
        found = bracket(matrix)
        sigma, upper = found.lower, found.upper
        rounded = None if matrix.dtype in ROUNDING and tensor.dtype in ("float32", "float64") else _store(tensor)
        used = certified_divisor(matrix, options.bound, found, rounded)
    if not math.isfinite(used):
        raise ModelError(
            f"no divisor takes weight '{record.id}' to {options.bound:g} in {tensor.dtype}",
            "because its norm or its numbers pass the range of the type",
            "give another --bound, or leave it out with --exclude",
        )
    reason = None
    if used == 0.0:
        if np.any(matrix):
            raise ModelError(
                f"the u of weight '{record.id}' is orthogonal to it",
                "so its estimate of the norm is 0",
                "start from another --seed, or use --sigma exact",
            )
        reason = "all zeros: no spectral norm to divide by"
    elif options.clip and used <= options.bound:
        reason = f"its norm is at most {options.bound:g}, and --clip was asked for"
    done = replace(
        record,
        status="folded" if reason is None else "unchanged",
        reason=reason,
        sigma=sigma,
        sigma_upper=upper,
        sigma_used=used if reason is None else None,
        frobenius=None if sigma is None else frobenius_norm(matrix),
    )
    return done, right


def _store(tensor: StoredTensor) -> Any:
    """Return what gives the matrix as it is stored after a factor."""
    return lambda factor: tensor.payload.scaled(factor).elements(tensor.shape)
