"""Writing power iterations into a graph: one for each weight, its u cut out of the state, every consumer rescaled."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.decisions import PlannedSite
from sn_graph.emit import Emitter
from sn_graph.inserted import Inserted, InsertedSite, InsertedState
from sn_graph.model import Model
from sn_graph.model.graph import Graph, Node
from sn_graph.plan import Plan
from sn_graph.rewire import redirect
from sn_graph.sites import Site, WeightUse, find_sites
from sn_graph.slots import is_dequantize

# Consumers whose output is not linear in any one input next to the weight: the weight itself is scaled.
_NOT_LINEAR = frozenset({"Attention", "EmbedLayerNormalization", "LSTM", "GRU", "RNN"})


class StateLayout(StrEnum):
    """How the vectors u go in and out."""

    PACKED = "packed"
    PER_WEIGHT = "per-weight"


class StateMode(StrEnum):
    """Whether a client must feed them."""

    DEFAULT = "default"
    REQUIRED = "required"


class Insertion:
    """The insertion into one model; `add` each weight, then `finish`."""

    def __init__(self, model: Model, plan: Plan, layout: StateLayout, mode: StateMode, weights: bool) -> None:
        self._model = model
        self._plan = plan
        self._layout = layout
        self._mode = mode
        self._weights = weights
        self._sites = {site.weight: site for site in find_sites(model) if not site.scope.id}
        self._entries: list[_Entry] = []

    def add(self, planned: PlannedSite, weight: str, u: NDArray[np.floating]) -> None:
        """Take a site whose weight the main graph holds as `weight`, and its first u."""
        site = self._sites[weight]
        kinds = {use.node.op_type for use in planned.uses}
        uses = tuple(use for use in site.uses if use.node.op_type in kinds)
        scaled = site.quantization is None and (self._weights or bool(kinds & _NOT_LINEAR))
        self._entries.append(_Entry(planned, site, u, uses, scaled))

    def finish(self) -> Inserted:
        """Write everything into the model; return its metadata but for the original."""
        _prepare_inputs(self._model.proto)
        graph = Graph(self._model.proto)
        emitter = Emitter(graph)
        edits = _Edits()
        state = _State(self._model.proto, graph, self._layout, self._mode, self._entries)
        pieces = state.read(emitter)
        edits.put(graph.main.proto, 0, emitter.take())
        for entry, piece in zip(self._entries, pieces, strict=True):
            place = self._place(graph, entry)
            self._iterate(emitter, entry, piece)
            divisors = _Divisors(self._plan, emitter, entry)
            if entry.weight_scaled:
                self._scale_weight(graph, emitter, entry, divisors)
                edits.put(graph.main.proto, place, emitter.take())
            else:
                scalings = [
                    self._scale_use(graph, use, divisors.of(use, turn), entry) for turn, use in enumerate(entry.uses)
                ]
                edits.put(graph.main.proto, place, emitter.take())
                for proto, position, node in scalings:
                    edits.put(proto, position, [node])
        state.write(emitter)
        edits.put(graph.main.proto, len(graph.main.nodes), emitter.take())
        edits.apply(graph)
        return Inserted(
            convention=str(self._plan.convention),
            power_iterations=self._plan.power_iterations,
            bound=self._plan.bound,
            clip=self._plan.clip,
            state=state.names(),
            sites=tuple(state.sites()),
            model="",
            result="",
            original="",
        )

    def _place(self, graph: Graph, entry: "_Entry") -> int:
        """Return the position in the main graph behind everything that the weight is made of."""
        names = [entry.site.weight]
        if entry.site.quantization is not None:
            names += entry.site.quantization.node.proto.input[1:]
        holders = [graph.main.producers[name] for name in names if name in graph.main.producers]
        return 1 + max((holder.position for holder in holders), default=-1)

    def _iterate(self, emitter: Emitter, entry: "_Entry", piece: str) -> None:
        """Emit the iterations of one site; fill its `sigmas` and `last`."""
        planned, view, at = entry.planned, entry.planned.view, f"sn/{entry.planned.id}"
        assert view is not None
        double = entry.double
        matrix = self._matrix(emitter, entry, at)
        u = emitter.cast(piece, TensorProto.DOUBLE, f"{at}/u_float64") if double else piece
        real = np.float64 if double else np.float32
        floor = emitter.constant("sn/eps", np.full((1, 1), self._plan.eps, real))
        first, second = view.side == "rows", view.side != "rows"  # which product takes M transposed
        turns = len(entry.uses) if planned.per_use else 1
        for _ in range(turns):
            for _ in range(planned.power_iterations or self._plan.power_iterations):
                across = emitter.gemv(matrix, u, f"{at}/across", transposed=first, double=double)
                length = emitter.op("Max", [emitter.norm(across, f"{at}/length"), floor], f"{at}/length_floored")
                v = emitter.op("Div", [across, length], f"{at}/v")
                t = emitter.gemv(matrix, v, f"{at}/t", transposed=second, double=double)
                sigma = emitter.norm(t, f"{at}/sigma")
                u = emitter.op("Div", [t, emitter.op("Max", [sigma, floor], f"{at}/sigma_floored")], f"{at}/u_next")
            entry.sigmas.append(sigma)
        entry.last = emitter.cast(u, TensorProto.FLOAT, f"{at}/u_next_float32") if double else u

    def _matrix(self, emitter: Emitter, entry: "_Entry", at: str) -> str:
        """Emit M, [rows, cols], from the weight; nothing where the weight is M already."""
        value, site, view = entry.site.weight, entry.site, entry.planned.view
        assert view is not None
        assert site.shape is not None
        if site.quantization is not None:
            node = site.quantization.node.proto
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            names = [value, *node.input[1:]]
            value = emitter.op(node.op_type, names, f"{at}/dequantized", domain=node.domain or None, **attributes)
        if entry.stored_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            value = emitter.cast(value, TensorProto.FLOAT, f"{at}/float32")
        shape = site.shape
        if view.split is not None:
            value, shape = emitter.reshape(value, view.split, f"{at}/split"), view.split
        if view.perm is not None:
            value = emitter.op("Transpose", [value], f"{at}/moved", perm=list(view.perm))
            shape = tuple(shape[axis] for axis in view.perm)
        if shape != (view.rows, view.cols):
            value = emitter.reshape(value, (view.rows, view.cols), f"{at}/matrix")
        return value

    def _scale_weight(self, graph: Graph, emitter: Emitter, entry: "_Entry", divisors: "_Divisors") -> None:
        assert entry.site.shape is not None
        groups = [(use,) for use in entry.uses] if entry.planned.per_use else [entry.uses]
        for turn, group in enumerate(groups):
            divisor = divisors.shaped(turn, len(entry.site.shape), entry.stored_type)
            name = emitter.op("Div", [entry.site.weight, divisor], f"sn/{entry.planned.id}/weight")
            redirect(graph, group, name)

    def _scale_use(
        self, graph: Graph, use: WeightUse, divisor: str, entry: "_Entry"
    ) -> tuple[onnx.GraphProto | onnx.FunctionProto, int, onnx.NodeProto]:
        """Rescale what a node reads (what Gather gives); return the scope, position and node to put there."""
        node, at = use.node, f"sn/{entry.planned.id}"
        if node.op_type == "Gather":
            rows = graph.fresh_name(f"{at}/rows")
            output = node.proto.output[0]
            node.proto.output[0] = rows
            scaled = helper.make_node("Div", [rows, divisor], [output], name=graph.fresh_name(f"{at}/scaled"))
            return node.scope.proto, node.position + 1, scaled
        index = 1 - use.index if _is_product(node) else 0
        name = graph.fresh_name(f"{at}/scaled")
        scaled = helper.make_node("Div", [node.proto.input[index], divisor], [name], name=name)
        node.proto.input[index] = name
        return node.scope.proto, node.position, scaled


def _is_product(node: Node) -> bool:
    return node.op_type in ("Gemm", "MatMul", "FusedGemm", "FusedMatMul")


@dataclass
class _Entry:
    """A site on its way into the graph. `sigmas` holds a σ [1, 1] for each use, or one for all."""

    planned: PlannedSite
    site: Site
    u: NDArray[np.floating]
    uses: tuple[WeightUse, ...]
    weight_scaled: bool
    sigmas: list[str] = field(default_factory=list)
    last: str = ""

    @property
    def stored_type(self) -> int:
        """The element type of the weight as the graph computes with it."""
        quantization, tensor = self.site.quantization, self.site.tensor
        assert tensor is not None
        return int(tensor.data_type if quantization is None else quantization.scale.data_type)

    @property
    def double(self) -> bool:
        """Whether the iteration runs in float64."""
        return self.stored_type == TensorProto.DOUBLE


class _Divisors:
    """What the consumers of one site divide by: σ/bound, clipped, in the rank and type that each needs."""

    def __init__(self, plan: Plan, emitter: Emitter, entry: _Entry) -> None:
        self._emitter = emitter
        self._entry = entry
        self._made: dict[tuple[str, int, int], str] = {}
        at, real = f"sn/{entry.planned.id}", np.float64 if entry.double else np.float32
        self._plain = entry.sigmas
        if plan.bound != 1.0:
            bound = emitter.constant("sn/bound", np.full((1, 1), plan.bound, real))
            self._plain = [emitter.op("Div", [sigma, bound], f"{at}/sigma_bounded") for sigma in self._plain]
        if plan.clip:
            one = emitter.constant("sn/one", np.ones((1, 1), real))
            self._plain = [emitter.op("Max", [sigma, one], f"{at}/sigma_clipped") for sigma in self._plain]

    def of(self, use: WeightUse, turn: int) -> str:
        """Return the divisor of what a node reads, or of the rows that Gather gives."""
        rank = 1  # fits any rank above it
        if "Conv" in use.node.op_type:
            # With the tensor's own rank: against [n, c, 1, 1] a scalar is 45x slower in onnxruntime.
            rank = len(use.steps[-1].layout.dims) if use.steps else len(self._entry.site.shape or ())
        elif "Gemm" in use.node.op_type:
            rank = 2
        data_type = self._entry.stored_type
        for step in use.steps:
            if step.node.op_type == "Cast":
                data_type = step.node.attribute("to", data_type)
            elif is_dequantize(step.node):
                data_type = step.node.attribute("output_dtype", 0) or self._entry.stored_type
        return self.shaped(turn, rank, data_type)

    def shaped(self, turn: int, rank: int, data_type: int) -> str:
        """Return the divisor of one turn as [1] * rank, in an element type."""
        plain, at = self._plain[min(turn, len(self._plain) - 1)], f"sn/{self._entry.planned.id}"
        key = (plain, rank, data_type)
        if key not in self._made:
            value = plain if rank == 2 else self._emitter.reshape(plain, (1,) * rank, f"{at}/divisor")
            own = TensorProto.DOUBLE if self._entry.double else TensorProto.FLOAT
            self._made[key] = value if data_type == own else self._emitter.cast(value, data_type, f"{at}/divisor_cast")
        return self._made[key]


class _State:
    """The state's way into the graph and out of it."""

    def __init__(
        self, proto: onnx.ModelProto, graph: Graph, layout: StateLayout, mode: StateMode, entries: list[_Entry]
    ) -> None:
        self._proto, self._graph, self._mode, self._entries = proto, graph, mode, entries
        self._packed = layout is StateLayout.PACKED
        self._layout = layout
        stems = [""] if self._packed else [f"{entry.planned.id}." for entry in entries]
        self._inputs = [graph.fresh_name(f"{stem}sn_u") for stem in stems]
        self._outputs = [graph.fresh_name(f"{stem}sn_u.next") for stem in stems]
        self._sigmas = [graph.fresh_name(f"{stem}sn_sigma") for stem in stems]

    def read(self, emitter: Emitter) -> list[str]:
        """Add the inputs; emit and return each site's u [n, 1]."""
        columns = [entry.u.astype(np.float32).reshape(-1, 1) for entry in self._entries]
        starts = [np.concatenate(columns)] if self._packed else columns
        for name, start in zip(self._inputs, starts, strict=True):
            value = helper.make_tensor_value_info(name, TensorProto.FLOAT, start.shape)
            self._proto.graph.input.append(value)
            if self._mode is StateMode.DEFAULT:
                self._proto.graph.initializer.append(numpy_helper.from_array(start, name))
        if not self._packed:
            return self._inputs
        lengths = [entry.u.size for entry in self._entries]
        return emitter.split_column(self._inputs[0], lengths, [f"sn/{entry.planned.id}/u" for entry in self._entries])

    def write(self, emitter: Emitter) -> None:
        """Emit the outputs."""
        nexts = [entry.last for entry in self._entries]
        flat = []
        for entry in self._entries:
            at, sigma = f"sn/{entry.planned.id}", entry.sigmas[-1]
            if entry.double:
                sigma = emitter.cast(sigma, TensorProto.FLOAT, f"{at}/sigma_float32")
            flat.append(emitter.reshape(sigma, (1,), f"{at}/sigma_flat"))
        if self._packed:
            emitter.concat(nexts, self._outputs[0], "sn/u_next")
            emitter.concat(flat, self._sigmas[0], "sn/sigma")
            lengths = [sum(entry.u.size for entry in self._entries)]
            counts = [len(self._entries)]
        else:
            for ours, theirs in zip([*nexts, *flat], [*self._outputs, *self._sigmas], strict=True):
                emitter.rename(ours, theirs)
            lengths, counts = [entry.u.size for entry in self._entries], [1] * len(self._entries)
        for names, shapes in ((self._outputs, [(n, 1) for n in lengths]), (self._sigmas, [(n,) for n in counts])):
            for name, shape in zip(names, shapes, strict=True):
                self._proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def names(self) -> InsertedState:
        """Return the metadata of the state as a whole."""
        packed = (self._inputs[0], self._outputs[0], self._sigmas[0]) if self._packed else (None, None, None)
        return InsertedState(str(self._layout), str(self._mode), *packed)

    def sites(self) -> Iterator[InsertedSite]:
        """Yield the metadata of each site."""
        offset = 0
        for number, entry in enumerate(self._entries):
            planned, view, size = entry.planned, entry.planned.view, entry.u.size
            assert view is not None
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


class _Edits:
    """Nodes to put into scopes, at positions that the index knows."""

    def __init__(self) -> None:
        self._waiting: dict[int, dict[int, list[onnx.NodeProto]]] = defaultdict(lambda: defaultdict(list))

    def put(self, scope: onnx.GraphProto | onnx.FunctionProto, position: int, nodes: list[onnx.NodeProto]) -> None:
        """Put nodes in front of the node that stood at `position`."""
        self._waiting[id(scope)][position] += nodes

    def apply(self, graph: Graph) -> None:
        """Write them into the model, inner scopes first."""
        for scope in reversed(graph.scopes):
            waiting = self._waiting.get(id(scope.proto))
            if not waiting:
                continue
            nodes: list[onnx.NodeProto] = []
            for position, node in enumerate([*scope.nodes, None]):
                nodes += waiting.get(position, [])
                if node is not None:
                    nodes.append(node.proto)
            rebuilt = onnx.GraphProto(node=nodes)
            del scope.proto.node[:]
            scope.proto.node.extend(rebuilt.node)


def _prepare_inputs(proto: onnx.ModelProto) -> None:
    """Raise the IR to 4, and take initializers out of the inputs: only the state is to be fed or left."""
    proto.ir_version = max(proto.ir_version, 4)
    # onnxruntime folds nothing, and blocks no convolution's layout, for initializers that could be fed.
    names = {tensor.name for tensor in proto.graph.initializer}
    for value in [value for value in proto.graph.input if value.name in names]:
        proto.graph.input.remove(value)
