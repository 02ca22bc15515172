"""Hoisting: weights brought into the main graph, where state can reach them.

Local functions that hold or are handed a weight are inlined (those and the functions that call them); a weight that a
subgraph or an inlined function holds becomes one initializer of the main graph, under its site's id.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import inliner

from sn_graph.errors import ModelError
from sn_graph.model import ONNX_DOMAINS, Graph, Key, Model, Node, Scope, constants
from sn_graph.plan import Target

_OPEN_BODIES = frozenset({"If", "Loop", "Scan"})  # whose bodies may capture whatever is around them


@dataclass(frozen=True)
class Hoisted:
    """Where constants went.

    Attributes:
        weights: For each site's id, the name of its weight in the main graph.
        moved: For constants that changed their place, the old key and the new.
        changed: Whether the model was changed at all.
    """

    weights: dict[str, str]
    moved: dict[Key, Key]
    changed: bool


class Hoist:
    """Hoists the weights of one model; asked before it changes anything which ones it can't."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._graph = model.graph
        self._callers: dict[str, list[Node]] = defaultdict(list)
        for scope in self._graph.scopes:
            for node in scope.nodes:
                function = self._graph.function(node)
                if function is not None:
                    self._callers[function.id].append(node)

    def refusal(self, target: Target) -> str | None:
        """Return why the state can't reach a weight or its uses, or None."""
        scopes = [target.site.scope, *(use.node.scope for use in target.uses)]
        scopes += [call.scope for use in target.uses for call in use.calls]
        root = self._root(target.site.scope)
        if root.is_function:
            if not self._is_called(root):
                return "held by a local function that the graph never calls"
            callers = [node for function in self._with_callers([root]) for node in self._callers[function.id]]
            scopes += [node.scope for node in callers]
        closed = next((op for scope in scopes for op in _owners(scope) if op not in _OPEN_BODIES), None)
        if closed is not None:
            return f"inside a {closed}, whose body can't read the state"
        other = next((scope.id for scope, proto in self._to_inline(target) if not self._same_opset(proto)), None)
        if other is not None:
            return f"{other} has another opset than the model, so it can't be inlined; convert the model first"
        return None

    def apply(self, targets: Sequence[Target]) -> Hoisted:
        """Change the model so that the main graph holds every weight and none passes a local function."""
        functions = {scope.id: function for target in targets for scope, function in self._to_inline(target)}
        if not functions and not any(target.site.scope.id for target in targets):
            return Hoisted({target.id: target.site.weight for target in targets}, {}, changed=False)
        tags = _Tags(self._model)
        if functions:
            inline(self._model.proto, {(function.domain, function.name) for function in functions.values()})
        self._model.edited()
        graph = self._model.graph
        held = tags.held(graph)
        weights = {}
        for target in targets:
            scope, name = target.site.scope.id, target.site.weight
            weights[target.id] = name if not scope else _lift(graph, held[scope, name], target.id)
        self._model.edited()
        return Hoisted(weights, tags.remove(self._model.graph), changed=True)

    def _root(self, scope: Scope) -> Scope:
        """Return the main graph or function that a scope of this id stands in."""
        found = next(own for own in self._graph.scopes if own.id == scope.id)
        while found.parent is not None:
            found = found.parent
        return found

    def _is_called(self, function: Scope) -> bool:
        roots = [self._root(node.scope) for each in self._with_callers([function]) for node in self._callers[each.id]]
        return any(not root.is_function for root in roots)

    def _with_callers(self, functions: Iterable[Scope]) -> list[Scope]:
        """Return functions, and those whose bodies call them, and so on."""
        found, waiting = {}, list(functions)
        while waiting:
            function = waiting.pop()
            if function.id not in found:
                found[function.id] = function
                waiting += [r for node in self._callers[function.id] if (r := self._root(node.scope)).is_function]
        return list(found.values())

    def _to_inline(self, target: Target) -> list[tuple[Scope, onnx.FunctionProto]]:
        """Return the functions that hold or are handed a weight, and those that call them."""
        root = self._root(target.site.scope)
        entered = [self._graph.function(call) for use in target.uses for call in use.calls]
        scopes = self._with_callers([f for f in (root if root.is_function else None, *entered) if f is not None])
        return [(scope, scope.proto) for scope in scopes if isinstance(scope.proto, onnx.FunctionProto)]

    def _same_opset(self, function: onnx.FunctionProto) -> bool:
        ours = {_domain(entry.domain): entry.version for entry in self._model.proto.opset_import}
        theirs = {_domain(entry.domain): entry.version for entry in function.opset_import}
        return all(ours.get(domain, version) == version for domain, version in theirs.items())


def _owners(scope: Scope | None) -> Iterator[str]:
    """Yield the op types of the nodes whose bodies a scope stands in."""
    while scope is not None:
        if scope.owner is not None:
            yield scope.owner.op_type
        scope = scope.parent


def _domain(domain: str) -> str:
    return "" if domain in ONNX_DOMAINS else domain


class _Tags:
    """Every constant of a model under a tag, in its doc_string, which inlining and renumbering leave alone."""

    def __init__(self, model: Model) -> None:
        self._keys: dict[str, Key] = {}
        self._docs: dict[str, str | None] = {}
        for scope, name, tensor, _ in constants(model.graph):
            tag = f"sn_graph.tag.{len(self._keys)}"
            self._keys[tag] = (scope.id, name)
            self._docs[tag] = tensor.doc_string if tensor.HasField("doc_string") else None
            tensor.doc_string = tag

    def held(self, graph: Graph) -> dict[Key, list[tuple[Scope, str, onnx.TensorProto]]]:
        """Return where each constant is now (in several places once inlined), by its old key."""
        found = defaultdict(list)
        for scope, name, tensor, _ in constants(graph):
            found[self._keys[tensor.doc_string]].append((scope, name, tensor))
        return found

    def remove(self, graph: Graph) -> dict[Key, Key]:
        """Take the tags off; return the new key of each constant that has one."""
        moved: dict[Key, Key] = {}
        for scope, name, tensor, _ in constants(graph):
            tag = tensor.doc_string
            moved.setdefault(self._keys[tag], (scope.id, name))
            documentation = self._docs[tag]
            tensor.ClearField("doc_string")
            if documentation is not None:
                tensor.doc_string = documentation
        return {old: new for old, new in moved.items() if old != new}


def inline(proto: onnx.ModelProto, names: set[tuple[str, str]]) -> None:
    """Inline these functions, by domain and name, in place.

    The inliner refuses a model with any function of another opset: it gets only ours.
    """
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    chosen = [function for function in proto.functions if (function.domain, function.name) in names]
    others = [function for function in proto.functions if (function.domain, function.name) not in names]
    del part.functions[:]
    part.functions.extend(chosen)
    try:
        inlined = inliner.inline_selected_functions(part, sorted(names))
    except (ValueError, RuntimeError, onnx.checker.ValidationError) as error:  # onnx's own have no base of their own
        raise ModelError(
            "the local functions that weights pass can't be inlined",
            " ".join(str(error).split()),
            "inline them where it is exported",
        ) from None
    inlined.functions.extend(others)
    imported = {_domain(entry.domain) for entry in inlined.opset_import}
    for entry in (entry for function in chosen for entry in function.opset_import):
        if _domain(entry.domain) not in imported:
            imported.add(_domain(entry.domain))
            inlined.opset_import.append(entry)
    proto.CopyFrom(inlined)


def _lift(graph: Graph, copies: list[tuple[Scope, str, onnx.TensorProto]], wanted: str) -> str:
    """Make one initializer of the main graph of all copies of a constant; return its name."""
    name = graph.fresh_name(wanted)
    lifted = graph.model.graph.initializer.add()
    lifted.CopyFrom(copies[0][2])
    lifted.name = name
    for scope, old, _ in copies:
        for use in graph.uses(scope, old):
            if use.node is not None:
                use.node.proto.input[use.index] = name
        _remove_holder(scope, old)
    return name


def _remove_holder(scope: Scope, name: str) -> None:
    if name in scope.outputs:
        return  # a branch that gives its weight out keeps it
    if name in scope.producers:
        scope.proto.node.remove(scope.producers[name].proto)
    elif isinstance(scope.proto, onnx.GraphProto):
        scope.proto.initializer.remove(scope.initializers[name])
        for value in [value for value in scope.proto.input if value.name == name]:
            scope.proto.input.remove(value)
