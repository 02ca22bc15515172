"""Following: where a value of a graph is read, behind the nodes that hand it on.

A value is followed forwards into the local functions that are called with it, and, where whoever follows says so, into
the bodies of If, Loop and Scan and out of bodies and functions again. A body's inputs and outputs are its node's,
counted from the end, because a Loop's condition and counter lead; inputs of one name are one value too, because
onnxruntime's BeamSearch has such. What one turn of a loop leaves to the next is not followed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sn_graph.model.graph import Graph, Node, Scope, Use

State = TypeVar("State")


@dataclass(frozen=True, eq=False)
class Reached(Generic[State]):
    """A value that the followed one has become.

    Attributes:
        scope: The scope that defines the value.
        name: Its name there.
        state: What the caller knows of it.
        calls: The calls of local functions that lead into the scope, the outermost first.
    """

    scope: Scope
    name: str
    state: State
    calls: tuple[Node, ...] = ()

    @property
    def place(self) -> tuple[Scope, str, tuple[Node, ...]]:
        """What tells the value from all others: its scope, its name and the calls that lead there."""
        return self.scope, self.name, self.calls


@dataclass(frozen=True, eq=False)
class Reading(Generic[State]):
    """A use where following ends.

    Attributes:
        value: What is read.
        use: The node's input, or the output of a scope.
    """

    value: Reached[State]
    use: Use


Onward = Callable[[Reached[State], Node, int], State | None]
Through = Callable[[Reading[State]], State | None]


def follow(
    graph: Graph, start: Reached[State], onward: Onward[State], through: Through[State] | None = None
) -> Iterator[Reading[State]]:
    """Yield where a value is read, behind the nodes that hand it on: depth first, the uses of a value in graph order.

    Every value is followed once for each way of calls that leads to it, so that a cycle, which only a corrupt model
    has, ends.

    Args:
        graph: The index of the model.
        start: The value, in the scope that defines it.
        onward: Returns the state of a node's outputs, which are then followed, for a value, the node that reads it and
            the input; or None where following ends, and the use is yielded. Not asked about calls of local functions.
        through: Returns the state of a value inside the bodies of a node that it enters, or behind the node or call
            whose body or function it leaves; or None where such a use is one like any other, as all are without it.
    """
    seen = {start.place}
    stack = [_readings(graph, start)]
    while stack:
        reading = next(stack[-1], None)
        if reading is None:
            stack.pop()
            continue
        behind = _behind(graph, reading, onward, through)
        if behind is None:
            yield reading
            continue
        fresh = [value for value in behind if value.place not in seen]
        seen.update(value.place for value in fresh)
        stack.extend(_readings(graph, value) for value in reversed(fresh))


def origin(graph: Graph, value: Reached[State]) -> Reached[State] | None:
    """Return what a value is in the scope that it comes from; None where its own scope makes it.

    A captured value comes from the scope around, a function's input from its call, a body's from its node, and what a
    call returns from the function. The value may be given as any scope sees it.
    """
    scope, name, calls = value.place
    node = scope.producers.get(name)
    function = None if node is None else graph.function(node)
    outer = scope.parent
    names: Sequence[str] = [name]
    if node is not None and function is not None and node not in calls:
        index = list(node.proto.output).index(name)
        outer, names, calls = function, function.outputs[index : index + 1], (*calls, node)
    elif node is None and name in scope.inputs:
        index = scope.inputs.index(name)
        if scope.owner is not None:
            names = _same_input(index, scope.inputs, scope.owner.proto.input)
        elif calls:
            outer, names, calls = calls[-1].scope, calls[-1].proto.input[index : index + 1], calls[:-1]
    elif scope.defines(name):
        return None
    return Reached(outer, names[0], value.state, calls) if outer is not None and names else None


def _behind(
    graph: Graph, reading: Reading[State], onward: Onward[State], through: Through[State] | None
) -> list[Reached[State]] | None:
    """Return what the value becomes behind a use: nothing where no output has a name, None where following ends."""
    value, node, index = reading.value, reading.use.node, reading.use.index
    if node is None:
        left = None if through is None else through(reading)
        return None if left is None else _left(reading, left)
    function = graph.function(node)
    if function is not None:
        if node in value.calls or index >= len(function.inputs):  # it calls itself, as no valid model does
            return None
        return [Reached(function, function.inputs[index], value.state, (*value.calls, node))]
    entered = through(reading) if through is not None and node.subgraphs else None
    found: list[Reached[State]] = []
    if entered is not None:
        for body in node.subgraphs:
            inside = _same_input(index, node.proto.input, body.inputs)
            found += [Reached(body, name, entered, value.calls) for name in inside]
    state = onward(value, node, index)
    if state is not None:
        found += [Reached(node.scope, name, state, value.calls) for name in filter(None, node.proto.output)]
    return None if state is None and not found else found


def _left(reading: Reading[State], state: State) -> list[Reached[State]] | None:
    """Return what an output of a body or function is behind its node or call; None where that has no such output."""
    value, scope, index = reading.value, reading.use.scope, reading.use.index
    if scope.owner is not None:
        place = index - len(scope.outputs) + len(scope.owner.proto.output)
        outer, names, calls = scope.owner.scope, scope.owner.proto.output[place:][:1], value.calls
    elif scope.is_function and value.calls:
        place, call = index, value.calls[-1]
        outer, names, calls = call.scope, call.proto.output[index:][:1], value.calls[:-1]
    else:
        return None
    return None if place < 0 else [Reached(outer, name, state, calls) for name in filter(None, names)]


def _same_input(index: int, names: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    own = [names[index]] if names[index] in others else []
    return list(dict.fromkeys([*own, *_counterpart(index, names, others)]))


def _counterpart(index: int, names: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    """Return the one of `others` that stands as far from their end as `index` does from that of `names`, if any."""
    place = index - len(names) + len(others)
    return list(filter(None, others[place : place + 1])) if place >= 0 else []


def _readings(graph: Graph, value: Reached[State]) -> Iterator[Reading[State]]:
    return (Reading(value, use) for use in graph.uses(value.scope, value.name))
