"""Weights one by one: the inspection of a large checkpoint, divided among processes or machines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sn_graph import api
from sn_graph.fleet.task import Ending, error_of
from sn_graph.model.checkpoint import Checkpoint, is_checkpoint
from sn_graph.norms import totals
from sn_graph.progress import Progress

LARGE = 2_000_000_000  # bytes of weights from which a checkpoint is divided


@dataclass(frozen=True)
class WeightWork:
    """The inspection of some weights of a checkpoint.

    Attributes:
        arguments: Those of `sn_graph.inspect`, but for the source.
        weight: The one that is measured; None for all.
        large: Bytes of weights from which a checkpoint is divided.
    """

    arguments: dict[str, Any]
    weight: str | None = None
    command: str = "inspect"
    large: int = LARGE

    @property
    def options(self) -> dict[str, Any]:
        """All that the results depend on."""
        return self.arguments

    def __call__(self, path: Path, output: Path | None, progress: Progress) -> Ending:
        """Measure them."""
        assert output is None, "nothing is written"
        try:
            only = None if self.weight is None else (self.weight,)
            return Ending(api.inspect(path, weights=only, progress=progress, **self.arguments).to_json())
        except Exception as error:
            return Ending({}, error_of(error))

    def parts(self, path: Path) -> Sequence[tuple[str, int]]:
        """Return the weights of a large checkpoint and their bytes."""
        if not is_checkpoint(path):
            return ()
        weights = Checkpoint.open(path).weights
        parts = [(tensor.name, tensor.payload.size) for tensor in weights]
        return parts if sum(size for _, size in parts) >= self.large else ()

    def of_part(self, name: str) -> "WeightWork":
        """Return the inspection of one weight."""
        return replace(self, weight=name)

    def joined(self, path: Path, endings: Sequence[Ending]) -> Ending:  # noqa: ARG002
        """Return the report of all weights."""
        sites = [site for ending in endings for site in ending.answer["sites"]]
        return Ending({**endings[0].answer, "totals": totals(sites), "sites": sites})
