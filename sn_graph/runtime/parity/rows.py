"""The comparisons of one step: outputs, kernels and u of both sides as rows of a ParityResult."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.runtime.parity.compare import Comparison
from sn_graph.runtime.parity.difference import difference, tolerances
from sn_graph.runtime.parity.evidence import doubts

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """What the rows of a step have in common; the fields are those of Comparison.

    Attributes:
        left, right, provider, step: As in Comparison.
        rtol, atol: Of all floats; None is by type.
        compute: The coarsest type that Keras computes in, where it is no wider than 16 bits: its tolerance holds for
            what is stored in a wider one too.
    """

    left: str
    right: str
    rtol: float | None
    atol: float | None
    provider: str = "cpu"
    step: int = 0
    compute: np.dtype[Any] | None = None

    def called(self, left: str = "", right: str = "") -> Rows:
        """Return the same rows with remarks behind the sides' names, in brackets."""
        return replace(self, left=_remark(self.left, left), right=_remark(self.right, right))

    def at(self, step: int) -> Rows:
        """Return the same rows of another step."""
        return replace(self, step=step)

    def compare(self, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> Iterator[Comparison]:
        """Compare outputs by name; all of `theirs` are there in `ours`."""
        for name, array in theirs.items():
            yield self.row(name, ours[name], array)

    def row(self, name: str, ours: Array | None, theirs: Array) -> Comparison:
        """Compare two arrays; what is missing on our side differs."""
        rtol, atol = tolerances(theirs.dtype, self.rtol, self.atol)
        if self.compute is not None and rtol > 0.0:  # integers must be equal all the same
            rtol, atol = max((rtol, atol), tolerances(self.compute, self.rtol, self.atol))
        found = (math.nan, math.nan, False) if ours is None else difference(ours, theirs, rtol, atol)
        max_abs, max_rel_norm, ok = found
        notes = doubts(ours, theirs, rtol, atol) if ok and ours is not None else ()
        return Comparison(
            self.left, self.right, self.provider, self.step, name, max_abs, max_rel_norm, rtol, atol, ok, notes
        )


def distance(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """Return how far outputs lie apart: the largest max|a-b|/max|b| of them; infinite where no number can tell."""
    found = (difference(ours[name], array, 0.0, 0.0).max_rel_norm for name, array in theirs.items())
    return max((math.inf if math.isnan(one) else one for one in found), default=0.0)


def _remark(name: str, remark: str) -> str:
    return f"{name} ({remark})" if remark else name
