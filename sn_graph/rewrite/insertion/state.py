"""The state's inputs and outputs: how u and σ go in and out of the graph, and what the metadata say of it."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sn_graph.model import Graph
from sn_graph.rewrite import Emitter
from sn_graph.rewrite.insertion.entry import Entry, Iterated
from sn_graph.state import InsertedSite, InsertedState


class StateLayout(StrEnum):
    """How the vectors u go in and out."""

    PACKED = "packed"
    PER_WEIGHT = "per-weight"


class StateMode(StrEnum):
    """Whether a client must feed them."""

    DEFAULT = "default"
    REQUIRED = "required"


class StateTensors:
    """The state's way into the graph and out of it."""

    def __init__(self, graph: Graph, layout: StateLayout, mode: StateMode, entries: Sequence[Entry]) -> None:
        self._graph, self._layout, self._mode, self._entries = graph, layout, mode, entries
        self._packed = layout is StateLayout.PACKED
        stems = [""] if self._packed else [f"{entry.id}." for entry in entries]
        self._inputs = [graph.fresh_name(f"{stem}sn_u") for stem in stems]
        self._outputs = [graph.fresh_name(f"{stem}sn_u.next") for stem in stems]
        self._sigmas = [graph.fresh_name(f"{stem}sn_sigma") for stem in stems]

    def read(self, emitter: Emitter) -> list[str]:
        """Add the inputs; emit and return each site's u [n, 1]."""
        proto = self._graph.main.proto
        assert isinstance(proto, onnx.GraphProto)
        columns = [entry.start.u.astype(np.float32).reshape(-1, 1) for entry in self._entries]
        starts = [np.concatenate(columns)] if self._packed else columns
        for name, start in zip(self._inputs, starts, strict=True):
            proto.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, start.shape))
            if self._mode is StateMode.DEFAULT:
                proto.initializer.append(numpy_helper.from_array(start, name))
        if not self._packed:
            return self._inputs
        lengths = [entry.length for entry in self._entries]
        return emitter.split_column(self._inputs[0], lengths, [f"{entry.at}/u" for entry in self._entries])

    def write(self, emitter: Emitter, iterated: Sequence[Iterated]) -> None:
        """Add and emit the outputs, from what the iteration of each entry made."""
        proto = self._graph.main.proto
        nexts = [made.u_next for made in iterated]
        sigmas = [
            emitter.cast(made.sigmas[-1], TensorProto.FLOAT, f"{entry.at}/sigma_float32")
            if entry.double
            else made.sigmas[-1]
            for entry, made in zip(self._entries, iterated, strict=True)
        ]
        if self._packed:
            emitter.join_to(nexts, self._outputs[0], "sn/u_next")
            # Joined before they are made flat: a node for each would cost a microsecond for each.
            joined = emitter.join(sigmas, "sn/sigma_column")
            emitter.reshape_to(joined, (len(sigmas),), self._sigmas[0])
            lengths = [sum(entry.length for entry in self._entries)]
            counts = [len(self._entries)]
        else:
            for ours, theirs, entry in zip(nexts, self._outputs, self._entries, strict=True):
                # Not Identity, which onnxruntime's CUDA provider lacked from opset 21 on (1.24).
                emitter.reshape_to(ours, (entry.length, 1), theirs)
            for sigma, output in zip(sigmas, self._sigmas, strict=True):
                emitter.reshape_to(sigma, (1,), output)
            lengths, counts = [entry.length for entry in self._entries], [1] * len(self._entries)
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
            target, view, size = entry.start.target, entry.view, entry.length
            yield InsertedSite(
                id=target.id,
                weight=target.site.weight,
                u=(offset, size) if self._packed else (self._inputs[number], self._outputs[number]),
                sigma=number if self._packed else self._sigmas[number],
                length=size,
                op_types=tuple(dict.fromkeys(use.node.op_type for use in target.uses)),
                split=view.split,
                perm=view.perm,
                rows=view.rows,
                cols=view.cols,
                side=view.side,
                power_iterations=target.power_iterations,
                per_use=target.per_use,
                bound=target.bound,
                clip=target.clip,
            )
            offset += size
