"""Bringing weights into the main graph, where state can reach them.

Local functions that hold or are handed a weight are inlined (only those); a weight that a subgraph or an inlined
function holds becomes one initializer of the main graph, under its site's id.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import inliner

from sn_graph.constants import constants
from sn_graph.decisions import PlannedSite
from sn_graph.model import Model
from sn_graph.model.graph import Graph, Scope

Key = tuple[str, str]  # a scope's id and the name of a constant in it


@dataclass(frozen=True)
class Hoisted:
    """Where constants went.

    Attributes:
        weights: For each site's id, the name of its weight in the main graph.
        moved: For constants that changed their place, the old key and the new.
    """

    weights: dict[str, str]
    moved: dict[Key, Key]


def hoist_weights(model: Model, planned: Iterable[PlannedSite]) -> Hoisted:
    """Change `model` so that the main graph holds every planned weight and no weight passes a local function."""
    planned = tuple(planned)
    graph = Graph(model.proto)
    entered = [graph.function(call) for site in planned for use in site.uses for call in use.calls]
    holding = [root for site in planned if (root := _root(graph, site.site.scope)).is_function]
    functions = {scope.id: scope for scope in [*entered, *holding] if scope is not None}
    tags = _inline(model, graph, list(functions.values())) if functions else {}
    weights, moved = {}, {}
    for site in planned:
        key = (site.site.scope.id, site.site.weight)
        name = site.site.weight
        if key in tags:
            name = _unify(model, site.id, tags.pop(key))
        elif key[0]:
            name = _lift(model, key, site.id)
        weights[site.id] = name
        if (new := ("", name)) != key:
            moved[key] = new
    moved |= {key: _place(model, tag) for key, tag in tags.items()}
    _untag(model)
    return Hoisted(weights, moved)


def _root(graph: Graph, scope: Scope) -> Scope:
    """Return the main graph or function that a scope of this id stands in."""
    found = next(own for own in graph.scopes if own.id == scope.id)
    while found.parent is not None:
        found = found.parent
    return found


_TAG = "sn_graph.tag."


def _inline(model: Model, graph: Graph, functions: list[Scope]) -> dict[Key, str]:
    """Inline functions; return a tag for each of their constants, which its copies carry as the tensor's name."""
    tags: dict[Key, str] = {}
    chosen = {id(function) for function in functions}
    for scope, name, tensor, _ in constants(graph):
        if id(_root(graph, scope)) in chosen:
            tags[scope.id, name] = f"{_TAG}{len(tags)}.{tensor.name}"
            tensor.name = tags[scope.id, name]
    names = [(function.proto.domain, function.proto.name) for function in functions]  # type: ignore[union-attr]
    model.proto.CopyFrom(inliner.inline_selected_functions(model.proto, names))
    return tags


def _unify(model: Model, wanted: str, tag: str) -> str:
    """Make one initializer of all constants with a tag."""
    graph = Graph(model.proto)
    copies = [(scope, name, tensor) for scope, name, tensor, _ in constants(graph) if tensor.name == tag]
    fresh = graph.fresh_name(wanted)
    _add_initializer(model, copies[0][2], fresh)
    for scope, name, _ in copies:
        _read_instead(graph, scope, name, fresh)
        _remove_holder(scope, name)
    return fresh


def _lift(model: Model, key: Key, wanted: str) -> str:
    """Move a subgraph's constant to the main graph."""
    graph = Graph(model.proto)
    scope, name, tensor = next((s, n, t) for s, n, t, _ in constants(graph) if (s.id, n) == key)
    fresh = graph.fresh_name(wanted)
    _add_initializer(model, tensor, fresh)
    _read_instead(graph, scope, name, fresh)
    _remove_holder(scope, name)
    return fresh


def _add_initializer(model: Model, tensor: onnx.TensorProto, name: str) -> None:
    copy = model.proto.graph.initializer.add()
    copy.CopyFrom(tensor)
    copy.name = name


def _read_instead(graph: Graph, scope: Scope, name: str, fresh: str) -> None:
    for use in graph.uses(scope, name):
        if use.node is not None:
            use.node.proto.input[use.index] = fresh


def _remove_holder(scope: Scope, name: str) -> None:
    if name in scope.outputs:
        return  # a branch that gives its weight out keeps it
    if name in scope.producers:
        scope.proto.node.remove(scope.producers[name].proto)
    elif isinstance(scope.proto, onnx.GraphProto):
        scope.proto.initializer.remove(scope.initializers[name])
        for value in [value for value in scope.proto.input if value.name == name]:
            scope.proto.input.remove(value)


def _place(model: Model, tag: str) -> Key:
    return next((s.id, n) for s, n, tensor, _ in constants(Graph(model.proto)) if tensor.name == tag)


def _untag(model: Model) -> None:
    for _, _, tensor, _ in constants(Graph(model.proto)):
        if tensor.name.startswith(_TAG):
            tensor.name = tensor.name[len(_TAG) :].split(".", 1)[1]
