"""Settling: weights that the graph computes from constants become stored ones, and the arithmetic goes.

What is left of a chain is one initializer, under the name that the framework gives the weight. Nodes, vectors and
copies that only the arithmetic read go with it; whatever else reads them keeps them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sn_graph.errors import ModelError, leave_out
from sn_graph.model import Graph, Model, Node, Scope
from sn_graph.recognise import Explanation, Value


@dataclass(frozen=True)
class Settled:
    """A weight that was computed and is stored now.

    Attributes:
        scope, value: The value that its readers read: the id of the scope that made it, and its name there.
        holder, name: Where it is stored: the id of the scope, and the name.
    """

    scope: str
    value: str
    holder: str
    name: str


@dataclass(eq=False)
class _Waiting:
    """A new tensor whose name is chosen when the arithmetic is gone."""

    tensor: onnx.TensorProto
    holder: Scope
    wanted: str
    values: list[Value]
    readers: list[tuple[onnx.NodeProto, int]]


class Settling:
    """Settles the weights of one model, in place; `finish` takes out what has no reader left."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._graph: Graph = model.graph
        self._scopes = {scope.id: scope for scope in self._graph.scopes}
        self._waiting: list[_Waiting] = []
        self._gone: Counter[tuple[str, str]] = Counter()  # readings that are no more
        self._shared: dict[tuple[object, ...], _Waiting] = {}
        self._dead: list[Node] = []

    def scale(self, found: Explanation, tensor: Value, factor: float, wanted: str) -> None:
        """Store a multiple of the stored `tensor`, in the shape that the weight input reads."""
        holder = self._scopes[tensor.scope.id]
        shape = found.shape or ()
        key = (holder.id, tensor.name, factor, shape)
        if key not in self._shared:
            source = self._graph.constant(holder, tensor.name)
            if source is None:  # of more axes than can be read
                raise ModelError(f"weight '{wanted}' can't be lifted", "its tensor can't be read", leave_out(wanted))
            copy = onnx.TensorProto(name=wanted, dims=shape)
            self._model.share(source, copy)
            self._shared[key] = self._store(copy, holder, wanted, tensor.name)
            self._model.scale(self._shared[key].tensor, factor)
        self._redirect(found, self._shared[key])

    def put(self, found: Explanation, array: NDArray[np.generic], wanted: str) -> None:
        """Store the array that the weight input reads."""
        value = found.original or found.slot
        holder = self._scopes[value.scope.id]
        digest = hash(array.tobytes())
        key = (holder.id, value.name, digest, array.shape)
        if key not in self._shared:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), wanted)
            self._shared[key] = self._store(tensor, holder, wanted, value.name)
        self._redirect(found, self._shared[key])

    def _store(self, tensor: onnx.TensorProto, holder: Scope, wanted: str, beside: str) -> _Waiting:
        """Add a tensor to a scope, under a name that no other has."""
        name = self._graph.fresh_name(f"{wanted}.lifted")
        if isinstance(holder.proto, onnx.FunctionProto):  # which has no initializers
            node = helper.make_node("Constant", [], [name], value=tensor)
            place = min((node.position for node in holder.nodes if beside in node.proto.output), default=0)
            holder.proto.node.insert(place, node)
            self._moved(holder)
            made = holder.proto.node[place]
            waiting = _Waiting(made.attribute[0].t, holder, wanted, [], [])
            waiting.readers.append((made, -1))
            waiting.tensor.name = name
        else:
            tensor.name = name
            holder.proto.initializer.append(tensor)
            waiting = _Waiting(holder.proto.initializer[-1], holder, wanted, [], [])
            listed = next((value for value in holder.proto.input if value.name == beside), None)
            if listed is not None:  # then so is each weight of its kind, in old files above all
                value = helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
                holder.proto.input.append(value)
        self._waiting.append(waiting)
        return waiting

    def _moved(self, scope: Scope) -> None:
        """Tell the index where the nodes of a scope stand now."""
        places = {id(proto): place for place, proto in enumerate(scope.proto.node)}
        for node in scope.nodes:
            node.position = places.get(id(node.proto), node.position)

    def _redirect(self, found: Explanation, waiting: _Waiting) -> None:
        slot = Value(self._scopes[found.slot.scope.id], found.slot.name)
        uses = self._graph.uses(slot.scope, slot.name)
        for use in uses:
            if use.node is not None:
                use.node.proto.input[use.index] = waiting.tensor.name
                waiting.readers.append((use.node.proto, use.index))
                self._gone[slot.place] += 1
        waiting.values.append(slot)
        maker = slot.scope.producers.get(slot.name)
        if maker is not None:
            if any(use.node is None for use in uses):
                self._hand_on(maker, slot.name, waiting)
            self._dead.append(maker)

    def _hand_on(self, maker: Node, name: str, waiting: _Waiting) -> None:
        """Let an output of the graph that the maker gave come of the stored weight, by Identity."""
        place = list(maker.proto.output).index(name)
        maker.proto.output[place] = self._graph.fresh_name(f"{name}_computed")
        node = self._graph.insert_after(maker, helper.make_node("Identity", [waiting.tensor.name], [name]))
        self._moved(maker.scope)
        waiting.readers.append((node, 0))
        self._gone[maker.scope.id, name] += sum(use.node is None for use in self._graph.uses(maker.scope, name))

    def finish(self) -> tuple[Settled, ...]:
        """Take out what has no reader any more, and give each weight its name; return them."""
        nodes, constants = self._unread()
        for scope in self._graph.scopes:
            for node in sorted((one for one in nodes if one.scope is scope), key=lambda one: -one.position):
                del scope.proto.node[node.position]
            self._take_out(scope, {name for owner, name in constants if owner == scope.id})
            made = {name for node in nodes if node.scope is scope for name in node.proto.output}
            _forget(scope, made | {value.name for one in self._waiting for value in one.values})
        self._model.edited()
        return tuple(self._named())

    def _unread(self) -> tuple[list[Node], set[tuple[str, str]]]:
        """Return the nodes and the initializers of the settled chains that nothing reads any more."""
        waiting, dead, constants = list(self._dead), dict[int, Node](), set[tuple[str, str]]()
        while waiting:
            node = waiting.pop()
            if id(node) in dead or node.subgraphs or any(map(self._count, _outputs(node))):
                continue
            dead[id(node)] = node
            for name in filter(None, node.proto.input):
                owner = self._graph.owner(node.scope, name)
                if owner is None:
                    continue
                self._gone[owner.id, name] += 1
                maker = owner.producers.get(name)
                if maker is not None:
                    waiting.append(maker)
                elif name in owner.initializers and not self._count((owner, name)):
                    constants.add((owner.id, name))
        return list(dead.values()), constants

    def _count(self, value: tuple[Scope, str]) -> int:
        scope, name = value
        return len(self._graph.uses(scope, name)) - self._gone[scope.id, name]

    def _take_out(self, scope: Scope, names: set[str]) -> None:
        if not names or isinstance(scope.proto, onnx.FunctionProto):
            return
        for field in (scope.proto.initializer, scope.proto.input):
            for place in range(len(field) - 1, -1, -1):
                if field[place].name in names:
                    del field[place]

    def _named(self) -> Iterator[Settled]:
        for one in self._waiting:
            old, name = one.tensor.name, self._model.graph.fresh_name(one.wanted)
            one.tensor.name = name
            for proto, index in one.readers:
                if index < 0:
                    proto.output[0] = name
                else:
                    proto.input[index] = name
            if isinstance(one.holder.proto, onnx.GraphProto):
                for listed in one.holder.proto.input:
                    listed.name = name if listed.name == old else listed.name
            for value in one.values:
                yield Settled(value.scope.id, value.name, one.holder.id, name)
        self._model.edited()


def _outputs(node: Node) -> list[tuple[Scope, str]]:
    return [(node.scope, name) for name in node.proto.output if name]


def _forget(scope: Scope, names: set[str]) -> None:
    """Drop the shapes that a scope declares for values that it has no more."""
    infos = scope.proto.value_info
    for place in range(len(infos) - 1, -1, -1):
        if infos[place].name in names:
            del infos[place]
