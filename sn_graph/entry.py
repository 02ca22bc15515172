"""One weight on its way into the graph, and the state that all of them share: its inputs, outputs and metadata."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.decisions import PlannedSite
from sn_graph.emit import Emitter
from sn_graph.inserted import InsertedSite, InsertedState
from sn_graph.model.graph import Graph
from sn_graph.sites import Site, WeightUse
from sn_graph.views import MatrixView

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution


class StateLayout(StrEnum):
    """How the vectors u go in and out."""

    PACKED = "packed"
    PER_WEIGHT = "per-weight"


class StateMode(StrEnum):
    """Whether a client must feed them."""

    DEFAULT = "default"
    REQUIRED = "required"


@dataclass
class Entry:
    """A weight to insert.

    Attributes:
        planned: What was decided of it.
        site, uses: Where it is now, in the main graph, and the weight inputs to normalize.
        u: Its first state [n].
        floor: What ‖x‖ is at least, as a divisor.
        largest: The largest |element| of the weight.
        weight_scaled: Whether the weight itself is divided.
        through: The convolution that the iteration goes through; None where it is the matrix.
        factor: What the matrix is multiplied by in the norm that counts: Gemm's |alpha|, or 1.
        sigmas: Once emitted: σ [1, 1] for each use, or one for all.
        last: Once emitted: the new u [n, 1], float32.
    """

    planned: PlannedSite
    site: Site
    u: NDArray[np.floating]
    uses: tuple[WeightUse, ...]
    floor: float
    largest: float
    weight_scaled: bool
    through: "Convolution | None" = None
    factor: float = 1.0
    sigmas: list[str] = field(default_factory=list)
    last: str = ""

    @property
    def at(self) -> str:
        """What the names of its nodes begin with."""
        return f"sn/{self.planned.id}"

    @property
    def view(self) -> MatrixView:
        """How the weight becomes M."""
        assert self.planned.view is not None
        return self.planned.view

    @property
    def highest(self) -> float:
        """What σ is at most, by Frobenius' norm."""
        return self.largest * math.sqrt(self.view.rows * self.view.cols)

    @property
    def stored_type(self) -> int:
        """The element type of the weight, dequantized where it is quantized."""
        quantization, tensor = self.site.quantization, self.site.tensor
        assert tensor is not None
        if quantization is None:
            return int(tensor.data_type)
        return int(quantization.node.attribute("output_dtype", 0) or quantization.scale.data_type)

    @property
    def double(self) -> bool:
        """Whether the iteration runs in float64."""
        return self.stored_type == TensorProto.DOUBLE


class StateTensors:
    """The state's way into the graph and out of it."""

    def __init__(self, graph: Graph, layout: StateLayout, mode: StateMode, entries: list[Entry]) -> None:
        self._graph, self._layout, self._mode, self._entries = graph, layout, mode, entries
        self._packed = layout is StateLayout.PACKED
        stems = [""] if self._packed else [f"{entry.planned.id}." for entry in entries]
        self._inputs = [graph.fresh_name(f"{stem}sn_u") for stem in stems]
        self._outputs = [graph.fresh_name(f"{stem}sn_u.next") for stem in stems]
        self._sigmas = [graph.fresh_name(f"{stem}sn_sigma") for stem in stems]

    def read(self, emitter: Emitter) -> list[str]:
        """Add the inputs; emit and return each site's u [n, 1]."""
        proto = self._graph.main.proto
        assert isinstance(proto, onnx.GraphProto)
        columns = [entry.u.astype(np.float32).reshape(-1, 1) for entry in self._entries]
        starts = [np.concatenate(columns)] if self._packed else columns
        for name, start in zip(self._inputs, starts, strict=True):
            proto.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, start.shape))
            if self._mode is StateMode.DEFAULT:
                proto.initializer.append(numpy_helper.from_array(start, name))
        if not self._packed:
            return self._inputs
        lengths = [entry.u.size for entry in self._entries]
        return emitter.split_column(self._inputs[0], lengths, [f"{entry.at}/u" for entry in self._entries])

    def write(self, emitter: Emitter) -> None:
        """Add and emit the outputs."""
        proto = self._graph.main.proto
        nexts = [entry.last for entry in self._entries]
        sigmas = [
            emitter.cast(entry.sigmas[-1], TensorProto.FLOAT, f"{entry.at}/sigma_float32")
            if entry.double
            else entry.sigmas[-1]
            for entry in self._entries
        ]
        if self._packed:
            emitter.concat(nexts, self._outputs[0], "sn/u_next")
            # Joined before they are made flat: a node for each would cost a microsecond for each.
            joined = emitter.op("Concat", sigmas, "sn/sigma_column", axis=0)
            emitter.reshape_to(joined, (len(sigmas),), self._sigmas[0])
            lengths = [sum(entry.u.size for entry in self._entries)]
            counts = [len(self._entries)]
        else:
            for ours, theirs in zip(nexts, self._outputs, strict=True):
                emitter.rename(ours, theirs)
            for sigma, output in zip(sigmas, self._sigmas, strict=True):
                emitter.reshape_to(sigma, (1,), output)
            lengths, counts = [entry.u.size for entry in self._entries], [1] * len(self._entries)
        for names, shapes in ((self._outputs, [(n, 1) for n in lengths]), (self._sigmas, [(n,) for n in counts])):
            for name, shape in zip(names, shapes, strict=True):
                proto.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))  # type: ignore[arg-type]

    def names(self) -> InsertedState:
        """Return the metadata of the state as a whole."""
        packed = (self._inputs[0], self._outputs[0], self._sigmas[0]) if self._packed else (None, None, None)
        return InsertedState(str(self._layout), str(self._mode), *packed)

    def sites(self) -> Iterator[InsertedSite]:
        """Yield the metadata of each site."""
        offset = 0
        for number, entry in enumerate(self._entries):
            planned, view, size = entry.planned, entry.view, entry.u.size
            yield InsertedSite(
                id=planned.id,
                weight=planned.site.weight,
                u=(offset, size) if self._packed else (self._inputs[number], self._outputs[number]),
                sigma=number if self._packed else self._sigmas[number],
                length=size,
                op_types=tuple(dict.fromkeys(use.node.op_type for use in planned.uses)),
                split=view.split,
                perm=view.perm,
                rows=view.rows,
                cols=view.cols,
                side=view.side,
                power_iterations=planned.power_iterations,
                per_use=planned.per_use,
            )
            offset += size
