"""Insertion: power iterations written into a graph, one for each weight, and every consumer rescaled."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from sn_graph.model import Graph, Model, Node
from sn_graph.norms import Start
from sn_graph.plan import Plan
from sn_graph.rewrite import Edits, Emitter, Rewiring
from sn_graph.rewrite.insertion.entry import Entry, Iterated
from sn_graph.rewrite.insertion.iteration import Iteration, choose_gram
from sn_graph.rewrite.insertion.state import StateLayout, StateMode, StateTensors
from sn_graph.sites import Action, Layout, Site, WeightUse, matrix_of
from sn_graph.state import LONGEST, SHORTEST, Inserted, InsertedSite, InsertedState


class Insertion:
    """The insertion into one model; `add` each weight, then `finish`."""

    def __init__(self, model: Model, plan: Plan, layout: StateLayout, mode: StateMode, *, weights: bool) -> None:
        self._model = model
        self._plan = plan
        self._layout = layout
        self._mode = mode
        self._weights = weights
        self._entries: list[Entry] = []

    def add(self, start: Start, site: Site) -> None:
        """Take a weight that the main graph holds as `site`, and how its iteration starts."""
        operators = {use.operator for use in start.target.uses}
        uses = tuple(use for use in site.uses if use.operator in operators)
        linear = all(operator.linear for operator in operators)
        whole = site.quantization is None and not any(use.is_joined for use in start.target.uses)
        scaled = whole and (self._weights or not linear)
        self._entries.append(Entry(start, site, uses, weight_scaled=scaled))

    def finish(self) -> Inserted:
        """Write everything into the model; return its metadata but for the original."""
        _prepare_inputs(self._model.proto)
        graph = self._model.graph
        emitter = Emitter(graph)
        edits = Edits()
        state = StateTensors(graph, self._layout, self._mode, self._entries)
        pieces = state.read(emitter)
        by_gram = choose_gram(self._entries, emitter.opset)
        edits.behind(None, emitter.take())
        made = []
        for entry, piece in zip(self._entries, pieces, strict=True):
            iterated = self._iterate(emitter, entry, piece, entry.id in by_gram)
            self._divide(edits, emitter, entry, iterated)
            edits.behind(_last_maker(graph, entry), emitter.take())
            made.append(iterated)
        state.write(emitter, made)
        edits.last += emitter.take()
        edits.apply(graph)
        return self._metadata(state.names(), tuple(state.sites()))

    def nothing(self) -> Inserted:
        """Return the metadata where every weight stays as it is (all zeros), so that strip knows the model."""
        return self._metadata(InsertedState(str(self._layout), str(self._mode), None, None, None), ())

    def _metadata(self, state: InsertedState, sites: tuple[InsertedSite, ...]) -> Inserted:
        return Inserted(
            convention=str(self._plan.convention),
            power_iterations=self._plan.power_iterations,
            bound=self._plan.bound,
            clip=self._plan.clip,
            norm=self._plan.norm,
            state=state,
            sites=sites,
            model="",
            result="",
            original="",
        )

    def _iterate(self, emitter: Emitter, entry: Entry, piece: str, by_gram: bool) -> Iterated:
        """Emit the iterations of one weight, from its u [n, 1] of float32."""
        start, at, double = entry.start, entry.at, entry.double
        iteration = Iteration(emitter, entry, _matrix(emitter, entry))
        piece = _revived(emitter, entry, piece)
        u = emitter.cast(piece, TensorProto.DOUBLE, f"{at}/u_float64") if double else piece
        if start.through is not None:
            advance = iteration.by_convolution(start.through)
        else:
            advance = iteration.by_gram() if by_gram else iteration.by_passes()
        sigmas = []
        for _ in entry.uses if start.target.per_use else entry.uses[:1]:
            u, sigma = advance(u, self._plan.iterations(start.target))
            if start.factor != 1.0:
                real = np.float64 if double else np.float32
                factor = emitter.constant("sn/factor", np.full((1, 1), start.factor, real))
                sigma = emitter.op("Mul", [sigma, factor], f"{at}/sigma_of_node")
            sigmas.append(sigma)
        u_next = emitter.cast(u, TensorProto.FLOAT, f"{at}/u_next_float32") if double else u
        return Iterated(tuple(sigmas), u_next)

    def _divide(self, edits: Edits, emitter: Emitter, entry: Entry, iterated: Iterated) -> None:
        """Divide by σ what the consumers read beside the weight, or the weight itself."""
        graph, divisors = self._model.graph, _Divisors(self._plan, emitter, entry, iterated.sigmas)
        if entry.weight_scaled:
            _scale_weight(graph, emitter, entry, divisors)
            return
        for turn, use in enumerate(entry.uses):
            _scale_use(graph, edits, use, divisors.of(use, turn), entry.at)


def _prepare_inputs(proto: onnx.ModelProto) -> None:
    """Raise the IR to 4, and take initializers out of the inputs: only the state is to be fed or left."""
    proto.ir_version = max(proto.ir_version, 4)
    # onnxruntime folds nothing, and blocks no convolution's layout, for initializers that could be fed.
    names = {tensor.name for tensor in proto.graph.initializer}
    for value in [value for value in proto.graph.input if value.name in names]:
        proto.graph.input.remove(value)


def _last_maker(graph: Graph, entry: Entry) -> Node | None:
    """Return the last node of the main graph that makes what the matrix is made of; None where none does."""
    names = [entry.site.weight, *_dequantizer_inputs(entry)]
    read = entry.site.quantization
    if read is not None and read.quantizer is not None:
        names += read.quantizer.reading.node.proto.input[1:]
    makers = [graph.main.producers[name] for name in names if name in graph.main.producers]
    return max(makers, key=lambda node: node.position, default=None)


def _dequantizer_inputs(entry: Entry) -> Sequence[str]:
    """Return scale and zero point of a weight's DequantizeLinear where the main graph has that."""
    quantization = entry.site.quantization
    if quantization is None or quantization.node.scope.id:
        return ()
    return quantization.node.proto.input[1:]


def _matrix(emitter: Emitter, entry: Entry) -> str:
    """Emit M, [rows, cols] or a convolution's kernel, from the weight; nothing where the weight is that already."""
    value, site, view, at = entry.site.weight, entry.site, entry.view, entry.at
    target: tuple[int, ...] = (view.rows, view.cols)
    through = entry.start.through
    if through is not None:
        target, view = through.kernel.shape, matrix_of(entry.uses[0].layout(entry.shape), 1, "rows", entry.shape).view
    quantization = site.quantization
    if quantization is not None:
        names = _dequantizer_inputs(entry)
        if not names:  # it stands in a subgraph, and so may its constants
            tensors = {"scale": quantization.scale, "zero_point": quantization.zero_point}
            names = [emitter.copy(f"{at}/{name}", tensor) for name, tensor in tensors.items() if tensor is not None]
        node = quantization.node.proto
        layout = quantization.layout
        moved = not quantization.per_tensor and layout != Layout.stored(entry.shape)
        value = _as_read(emitter, value, layout, f"{at}/read") if moved else value
        if quantization.quantizer is not None and quantization.quantizer.reading.node is not quantization.node:
            first = quantization.quantizer.reading.node.proto
            value = emitter.again(first, [value, *first.input[1:]], f"{at}/quantized")
        value = emitter.again(node, [value, *names], f"{at}/dequantized")
        value = _as_stored(emitter, value, layout, entry.shape, f"{at}/stored") if moved else value
    if entry.stored_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        value = emitter.cast(value, TensorProto.FLOAT, f"{at}/float32")
    shape = entry.shape
    if view.split is not None:
        value, shape = emitter.reshape(value, view.split, f"{at}/split"), view.split
    if view.perm is not None:
        value = emitter.op("Transpose", [value], f"{at}/moved", perm=list(view.perm))
        shape = tuple(shape[axis] for axis in view.perm)
    if shape != target:
        value = emitter.reshape(value, target, f"{at}/matrix")
    return value


def _as_read(emitter: Emitter, stored: str, layout: Layout, at: str) -> str:
    """Emit what a chain makes of a stored tensor."""
    sizes, order = layout.split()
    value = emitter.reshape(stored, [sizes[place] for place in order], f"{at}/split")
    value = emitter.op("Transpose", [value], f"{at}/moved", perm=[order.index(place) for place in range(len(order))])
    return emitter.reshape(value, layout.shape, f"{at}/shape")


def _as_stored(emitter: Emitter, read: str, layout: Layout, shape: Sequence[int], at: str) -> str:
    """Emit the stored form, of `shape`, of what a chain made of it."""
    sizes, order = layout.split()
    value = emitter.reshape(read, sizes, f"{at}/split")
    value = emitter.op("Transpose", [value], f"{at}/moved", perm=order)
    return emitter.reshape(value, shape, f"{at}/shape")


def _revived(emitter: Emitter, entry: Entry, piece: str) -> str:
    """Emit the u that an iteration starts from: the one that is fed, or the first one where that is dead.

    From a u of 0, NaN or infinity, or one so large that its square is infinite, no iteration would come back.
    """
    at = entry.at
    length = emitter.norm(piece, entry.length, f"{at}/u_length")
    shortest, longest = (emitter.constant(f"sn/{name}", np.full((1, 1), value, np.float32)) for name, value in _ALIVE)
    above = emitter.op("Greater", [length, shortest], f"{at}/u_is_not_0")
    below = emitter.op("Less", [length, longest], f"{at}/u_is_finite")
    alive = emitter.op("And", [above, below], f"{at}/u_is_alive")
    first = emitter.constant(f"{at}/u_first", entry.start.u.astype(np.float32).reshape(-1, 1))
    return emitter.select(alive, piece, first, f"{at}/u")


_ALIVE = (("shortest", SHORTEST), ("longest", LONGEST))


def _scale_weight(graph: Graph, emitter: Emitter, entry: Entry, divisors: "_Divisors") -> None:
    """Divide the weight, for all uses or for each."""
    groups = [(use,) for use in entry.uses] if entry.start.target.per_use else [entry.uses]
    rewiring = Rewiring(graph)
    for turn, group in enumerate(groups):
        divisor = divisors.shaped(turn, len(entry.shape), entry.stored_type)
        rewiring.redirect(group, emitter.op("Div", [entry.site.weight, divisor], f"{entry.at}/weight"))


def _scale_use(graph: Graph, edits: Edits, use: WeightUse, divisor: str, at: str) -> None:
    """Divide what a node reads beside the weight, or the rows that Gather gives."""
    node = use.node
    if use.operator.action is Action.LOOKUP:
        rows, output = graph.fresh_name(f"{at}/rows"), node.proto.output[0]
        node.proto.output[0] = rows
        edits.behind(node, [helper.make_node("Div", [rows, divisor], [output], name=graph.fresh_name(f"{at}/scaled"))])
        return
    index = 0 if use.index else 1
    name = graph.fresh_name(f"{at}/scaled")
    edits.before(node, [helper.make_node("Div", [node.proto.input[index], divisor], [name], name=name)])
    node.proto.input[index] = name


class _Divisors:
    """What the consumers of one site divide by: σ/bound, clipped, in the rank and type that each needs."""

    def __init__(self, plan: Plan, emitter: Emitter, entry: Entry, sigmas: Sequence[str]) -> None:
        self._emitter = emitter
        self._entry = entry
        self._made: dict[tuple[str, int, int], str] = {}
        at, real = entry.at, np.float64 if entry.double else np.float32
        self._plain = list(sigmas)
        if plan.bound_of(entry.start.target) != 1.0:
            bound = emitter.constant("sn/bound", np.full((1, 1), plan.bound_of(entry.start.target), real))
            self._plain = [emitter.op("Div", [sigma, bound], f"{at}/sigma_bounded") for sigma in self._plain]
        if plan.clips(entry.start.target):
            one = emitter.constant("sn/one", np.ones((1, 1), real))
            clipped, double = f"{at}/sigma_clipped", entry.double
            self._plain = [emitter.maximum(sigma, one, clipped, double=double) for sigma in self._plain]

    def of(self, use: WeightUse, turn: int) -> str:
        """Return the divisor of what a node reads, or of the rows that Gather gives."""
        rank = 1  # fits any rank above it
        if use.operator.is_convolution:
            # With the tensor's own rank: against [n, c, 1, 1] a scalar is 45x slower in onnxruntime.
            rank = len(use.layout(self._entry.shape).dims)
        elif use.operator.is_matrix_product:
            rank = 2  # as σ has it already
        data_type = self._entry.stored_type
        for step in use.steps:
            data_type = data_type if step.element_type is None else step.element_type
        return self.shaped(turn, rank, data_type)

    def shaped(self, turn: int, rank: int, data_type: int) -> str:
        """Return the divisor of one turn as [1] * rank, in an element type."""
        plain, at = self._plain[min(turn, len(self._plain) - 1)], self._entry.at
        key = (plain, rank, data_type)
        if key not in self._made:
            value = plain if rank == 2 else self._emitter.reshape(plain, (1,) * rank, f"{at}/divisor")
            own = TensorProto.DOUBLE if self._entry.double else TensorProto.FLOAT
            self._made[key] = value if data_type == own else self._emitter.cast(value, data_type, f"{at}/divisor_cast")
        return self._made[key]
