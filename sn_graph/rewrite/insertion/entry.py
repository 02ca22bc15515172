"""Entries: one weight on its way into the graph, and what its iteration made there."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from onnx import TensorProto

from sn_graph.norms import Start
from sn_graph.sites import MatrixView, Site, WeightUse


@dataclass(frozen=True, eq=False)
class Entry:
    """A weight to insert.

    Attributes:
        start: How its iteration begins; its target is the weight as it was planned.
        site: The weight where it is now, in the main graph.
        uses: The weight inputs to normalize, as they are now.
        weight_scaled: Whether the weight itself is divided.
    """

    start: Start
    site: Site
    uses: tuple[WeightUse, ...]
    weight_scaled: bool

    @property
    def id(self) -> str:
        """The id of the site as it was planned."""
        return self.start.target.id

    @property
    def at(self) -> str:
        """What the names of its nodes begin with."""
        return f"sn/{self.id}"

    @property
    def view(self) -> MatrixView:
        """How the weight becomes M."""
        return self.start.target.view

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape as it is stored."""
        return self.start.target.shape

    @property
    def length(self) -> int:
        """How many elements u has."""
        return self.start.u.size

    @property
    def highest(self) -> float:
        """What σ is at most, by Frobenius' norm."""
        return self.start.largest * math.sqrt(self.view.rows * self.view.cols)

    @property
    def stored_type(self) -> int:
        """The element type of the weight, dequantized where it is quantized."""
        quantization = self.site.quantization
        if quantization is None:
            return int(self.start.target.tensor.data_type)
        return quantization.output_type

    @property
    def double(self) -> bool:
        """Whether the iteration runs in float64."""
        return self.stored_type == TensorProto.DOUBLE


class Iterated(NamedTuple):
    """What the iteration of an entry made.

    Attributes:
        sigmas: σ [1, 1] for each use, or one for all; in the type of the iteration.
        u_next: The new u [n, 1], float32.
    """

    sigmas: tuple[str, ...]
    u_next: str
