"""Saving: how the commands that change a model write OUT, as their options ask, and show what turns out to be wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sn_graph.cli import options as o
from sn_graph.cli.paging import Paging, telling_failure
from sn_graph.passes import PassResult
from sn_graph.progress import Progress

if TYPE_CHECKING:
    from sn_graph.proofs import Proof


def save(
    result: PassResult,
    output: Path,
    writing: o.Writing,
    *,
    force: bool,
    progress: Progress,
    tolerances: o.Tolerances | None = None,
    dims: Mapping[str, int] | None = None,
    inputs: Path | None = None,
    paging: Paging | None = None,
) -> "Proof":
    """Write OUT, proved before it takes its place; where the proof fails, the page that was asked for says so.

    Args:
        result: What a pass made.
        output: OUT.
        writing, tolerances: The options of the command; None for no tolerances of its own.
        force: Put OUT in place even where the proof fails.
        progress: Told the bytes written, then the steps of the proof.
        dims, inputs: What the models are run on.
        paging: The page that was asked for.

    Raises:
        SnGraphError: As `proofs.save` does.
    """
    from sn_graph import proofs

    asked = tolerances or o.Tolerances()
    with telling_failure(paging, result):
        return proofs.save(
            result,
            output,
            writing.storage,
            verify=not writing.no_verify,
            force=force,
            sync=writing.sync,
            rtol=asked.rtol,
            atol=asked.atol,
            dims=dims,
            inputs=inputs,
            progress=progress,
        )
