"""Proofs: a model is written beside its place, proved there, and put in place where the proof holds."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sn_graph.errors import SnGraphError, VerificationFailed
from sn_graph.model import Model, Storage
from sn_graph.model.remote import placed
from sn_graph.progress import Progress, silent
from sn_graph.report import Verified

if TYPE_CHECKING:
    from sn_graph.runtime.parity import Inputs, ParityResult


@dataclass(frozen=True)
class Proof:
    """How a written model was verified.

    Attributes:
        verified: "run", "structure" or "no".
        note: Why no more than that, or why a run proves little.
        failed: Whether it was found wrong, and put in place all the same.
        parity: The outputs that were compared, where they were.
    """

    verified: Verified
    note: str | None = None
    failed: bool = False
    parity: "ParityResult | None" = field(default=None, compare=False)

    def with_note(self, note: str | None) -> "Proof":
        """Return the proof with one more thing to tell of it, if there is one."""
        told = "; ".join(filter(None, (self.note, note)))
        return replace(self, note=told or None)


@dataclass(frozen=True)
class Terms:
    """On what terms a proof runs the models.

    Attributes:
        rtol, atol: What outputs may differ by; None for what follows from the type.
        dims: Sizes of dynamic dimensions by name.
        inputs: Arrays by name, or an .npz file of them; None for ones that are drawn.
        progress: Told the steps of the proof.
    """

    rtol: float | None = None
    atol: float | None = None
    dims: Mapping[str, int] | None = None
    inputs: "Inputs | None" = None
    progress: Progress = silent


Prover = Callable[[Path], Proof]
"""Proves a written file. Raises VerificationFailed where it is not what it should be."""


def save_proven(
    model: Model,
    path: str | os.PathLike[str],
    storage: Storage,
    prover: Prover | None,
    *,
    force: bool = False,
    sync: bool = True,
    progress: Progress = silent,
) -> Proof:
    """Write a model beside `path`, let `prover` look at the file, and put it in place.

    Args:
        model: The model to write.
        path, storage: As for `Model.save`.
        prover: Returns how the file was verified; None verifies nothing.
        force: Put the model in place even where the proof fails.
        sync: Whether the files are on the disk before the model takes its place.
        progress: Told the bytes written.

    Raises:
        VerificationFailed: The prover raised it, and `force` is not given; nothing is put in place.
        EnvironmentUnavailable: The folder can't be written, or what the model is read from was changed meanwhile.
    """
    with placed(path, progress) as place, model.stage(place, storage, progress, sync=sync) as staged:
        proof = Proof("no")
        try:
            if prover is not None:
                proof = prover(staged.model)
        except VerificationFailed as error:
            model.require_unchanged()
            if not force:
                raise
            proof = Proof("no", str(error), failed=True)
        except SnGraphError:
            model.require_unchanged()  # which says more than what came of it
            raise
        model.require_unchanged()  # a runtime opens the original by its path again
        staged.commit()
    return proof
