"""Graphs: an index over a ModelProto: scopes, who makes a value, who reads it (captured values too), and free names.

Passes edit the proto through it; it is an index of the model as it was when it was made.
A scope is the main graph, a subgraph of a node's attribute, or a local function.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
from onnx import AttributeProto

from sn_graph.errors import ModelError
from sn_graph.model.payload import MAX_RANK

ONNX_DOMAINS = frozenset({"", "ai.onnx"})
_MAKING = frozenset({"", "com.microsoft"})
"""The domains of whose operators each makes a value."""
_FEW_CALLS, _MOST_CALLS, _CALLS_PER_NODE = 4096, 20_000, 16


@dataclass(eq=False)
class Scope:
    """A graph or function and what it defines.

    Attributes:
        id: "" for the main graph; `If_3/then_branch` for a subgraph; `domain::name` for a function.
        proto: The GraphProto or FunctionProto.
        parent: The scope whose values this one may capture; None for the main graph and functions.
        owner: The node that holds a subgraph, in `parent`.
    """

    id: str
    proto: onnx.GraphProto | onnx.FunctionProto
    parent: "Scope | None" = None
    owner: "Node | None" = None
    nodes: "list[Node]" = field(default_factory=list)

    @property
    def is_function(self) -> bool:
        """Whether it is a local function."""
        return isinstance(self.proto, onnx.FunctionProto)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs."""
        if isinstance(self.proto, onnx.FunctionProto):
            return tuple(self.proto.input)
        return tuple(value.name for value in self.proto.input)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs."""
        if isinstance(self.proto, onnx.FunctionProto):
            return tuple(self.proto.output)
        return tuple(value.name for value in self.proto.output)

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """Its dense initializers, by name."""
        return {} if isinstance(self.proto, onnx.FunctionProto) else {t.name: t for t in self.proto.initializer}

    @cached_property
    def sparse_initializers(self) -> dict[str, onnx.SparseTensorProto]:
        """Its sparse initializers, by name."""
        if isinstance(self.proto, onnx.FunctionProto):
            return {}
        return {sparse.values.name: sparse for sparse in self.proto.sparse_initializer}

    @cached_property
    def producers(self) -> "dict[str, Node]":
        """The node that makes each value."""
        return {name: node for node in self.nodes for name in node.proto.output if name}

    @cached_property
    def readers(self) -> "dict[str, list[Node]]":
        """The nodes of this scope that read each value, once each; those of scopes inside it are not among them."""
        found: dict[str, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.proto.input):
                found[name].append(node)
        return dict(found)

    @cached_property
    def _input_names(self) -> frozenset[str]:
        return frozenset(self.inputs)

    def defines(self, name: str) -> bool:
        """Say whether a value is made in this scope: by a node, as an initializer or as an input."""
        return (
            name in self.producers
            or name in self.initializers
            or name in self._input_names
            or name in self.sparse_initializers
        )

    def qualified(self, name: str) -> str:
        """Return `name` as reports write it: as it is in the main graph, else behind the scope."""
        return f"{self.id}::{name}" if self.id else name


@dataclass(eq=False)
class Node:
    """A node in its scope.

    Attributes:
        position: Its place among the scope's nodes, from 0.
        order: Its place among all nodes of the model, subgraphs where they stand.
    """

    proto: onnx.NodeProto
    scope: Scope
    position: int
    order: int
    subgraphs: list[Scope] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The node's own name, or `OpType#position`."""
        return self.proto.name or f"{self.proto.op_type}#{self.position}"

    @property
    def path(self) -> str:
        """The label behind its scope's path."""
        return f"{self.scope.id}/{self.label}" if self.scope.id else self.label

    @property
    def op_type(self) -> str:
        """The operator's name, without its domain."""
        return self.proto.op_type

    @property
    def domain(self) -> str:
        """The operator's domain; "" for ONNX's own, whatever the file calls it."""
        return "" if self.proto.domain in ONNX_DOMAINS else self.proto.domain

    @property
    def is_standard(self) -> bool:
        """Whether the operator is one of ONNX's own."""
        return self.domain == ""

    def attribute(self, name: str, *kinds: int) -> Any:
        """Return an attribute's value; None where the node lacks it (or a function's caller gives it).

        Args:
            name: The attribute's name.
            kinds: The types that its operator allows, as `AttributeProto.INT`.

        Raises:
            ModelError: The attribute is of another type.
        """
        for attribute in self.proto.attribute:
            if attribute.name == name and not attribute.ref_attr_name:
                if attribute.type not in kinds:
                    found, *wanted = (AttributeProto.AttributeType.Name(kind) for kind in (attribute.type, *kinds))
                    raise ModelError(
                        f"attribute '{name}' of node '{self.path}' is of type {found}",
                        f"where {self.op_type} takes {' or '.join(wanted)}",
                        "export or download the model again",
                    )
                return onnx.helper.get_attribute_value(attribute)
        return None

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number, or `default`. Raises ModelError where it is something else."""
        value = self.attribute(name, AttributeProto.INT)
        return default if value is None else int(value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return an attribute that is a list of whole numbers, or None. Raises ModelError where it is another thing."""
        value = self.attribute(name, AttributeProto.INTS)
        return None if value is None else tuple(value)

    def number(self, name: str, default: float) -> float:
        """Return an attribute that is a number, or `default`. Raises ModelError where it is something else."""
        value = self.attribute(name, AttributeProto.FLOAT)
        return default if value is None else float(value)

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is text, or `default`. Raises ModelError where it is something else."""
        value = self.attribute(name, AttributeProto.STRING)
        return default if value is None else bytes(value).decode(errors="replace")


@dataclass(frozen=True, eq=False)
class Use:
    """One reading of a value.

    Attributes:
        scope: The scope that reads it.
        node: The node there that reads it; None where it is an output of the scope.
        index: Which input of the node, or which output.
    """

    scope: Scope
    node: Node | None
    index: int


class Graph:
    """The index of a model as it is now.

    Raises:
        ModelError: A name in the model is not text; a value is made twice; a node that has to makes none; a function
            is defined twice, calls itself, or is called more often than any runtime could run it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.main = Scope("", model.graph)
        self.scopes: list[Scope] = []
        self._ids: set[str] = set()
        self.functions: dict[tuple[str, str, str], Scope] = {}
        self._uses: dict[tuple[int, str], list[Use]] = defaultdict(list)
        self._names: set[str] | None = None
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._calls: dict[int, list[Node]] | None = None
        self._count = 0
        self._put: Counter[Scope] = Counter()
        _check_names(tuple(entry.domain for entry in model.opset_import))
        for function in model.functions:
            _check_names((function.domain, function.name, function.overload))
            label = f"{function.domain}::{function.name}" + (f":{function.overload}" if function.overload else "")
            key = (_domain(function.domain), function.name, function.overload)
            if key in self.functions:
                raise ModelError("the file is corrupt", f"it defines function '{label}' twice", "export it again")
            if len(set(function.input)) < len(function.input):
                raise ModelError(
                    "the file is corrupt", f"two inputs of function '{label}' have one name", "export it again"
                )
            self.functions[key] = Scope(label, function)
        self._add(self.main)
        for scope in self.functions.values():
            self._add(scope)
        _bound_calls([self.main, *self.functions.values()], self.function)
        for scope in (self.main, *self.functions.values()):
            self._link(scope)

    def _add(self, scope: Scope) -> None:
        self.scopes.append(scope)
        self._ids.add(scope.id)
        _check_names((*scope.inputs, *scope.outputs, *scope.initializers, *scope.sparse_initializers))
        for position, proto in enumerate(scope.proto.node):
            _check_names((proto.name, proto.op_type, proto.domain, proto.overload, *proto.input, *proto.output))
            _check_names(tuple(attribute.name for attribute in proto.attribute))
            node = Node(proto, scope, position, self._count)
            if not proto.output and _has_to_make(node):
                raise ModelError(
                    "the file is corrupt",
                    f"node '{node.path}' ({node.op_type}) makes nothing",
                    "export or download it again",
                )
            self._count += 1
            scope.nodes.append(node)
            for name, graph in subgraphs(proto):
                path = f"{node.path}/{name}"
                if path in self._ids:  # a second node of that name
                    path = f"{node.path}#{position}/{name}"
                node.subgraphs.append(Scope(path, graph, scope, node))
                self._add(node.subgraphs[-1])
        _check_made_once(scope)

    def _link(self, scope: Scope) -> None:
        for node in scope.nodes:
            for index, name in enumerate(node.proto.input):
                self._use(scope, name, Use(scope, node, index))
            for subgraph in node.subgraphs:
                self._link(subgraph)
        for index, name in enumerate(scope.outputs):
            self._use(scope, name, Use(scope, None, index))

    def _use(self, scope: Scope, name: str, use: Use) -> None:
        owner = self.owner(scope, name) if name else None
        if owner is not None:
            self._uses[id(owner), name].append(use)

    # Looking

    def owner(self, scope: Scope, name: str) -> Scope | None:
        """Return the scope, this one or one around it, that defines the value `name` seen in `scope`."""
        at: Scope | None = scope
        while at is not None and not at.defines(name):
            at = at.parent
        return at

    def uses(self, owner: Scope, name: str) -> list[Use]:
        """Return who reads the value `name` that `owner` defines, in graph order, subgraphs included."""
        return self._uses[id(owner), name]

    def producer(self, scope: Scope, name: str) -> Node | None:
        """Return the node that makes the value `name` seen in `scope`, or None for inputs and initializers."""
        owner = self.owner(scope, name)
        return owner.producers.get(name) if owner else None

    def constant(self, scope: Scope, name: str) -> onnx.TensorProto | None:
        """Return the tensor behind a value: an initializer, or the `value` of a Constant node; through Identity.

        None for any other value, and for a tensor of more axes than can be read.
        """
        holder = self.holder(scope, name)
        if holder is None:
            return None
        owner, name = holder
        found = owner.initializers.get(name) or constant_tensor(owner.producers[name])
        return None if found is None or len(found.dims) > MAX_RANK else found

    def holder(self, scope: Scope, name: str) -> tuple[Scope, str] | None:
        """Return where the constant behind a value is held, and under what name; None for what is not a constant."""
        owner, seen = self.owner(scope, name), set[int]()
        while owner is not None:
            node = owner.producers.get(name)
            if name in owner.initializers:
                return owner, name
            if node is None or not node.is_standard or id(node) in seen:
                return None  # the last: a cycle, which only a corrupt model has
            seen.add(id(node))
            if node.op_type == "Constant":
                return (owner, name) if constant_tensor(node) is not None else None
            if node.op_type != "Identity" or not node.proto.input:
                return None
            name = node.proto.input[0]
            owner = self.owner(owner, name)
        return None

    def function(self, node: Node) -> Scope | None:
        """Return the local function that a node calls, or None."""
        return self.functions.get((node.domain, node.op_type, node.proto.overload))

    def calls(self, function: Scope) -> list[Node]:
        """Return the nodes that call a local function, in graph order."""
        if self._calls is None:
            self._calls = defaultdict(list)
            for scope in self.scopes if self.functions else ():
                for node in scope.nodes:
                    called = self.function(node)
                    if called is not None:
                        self._calls[id(called)].append(node)
        return self._calls[id(function)]

    def opset(self, domain: str = "") -> int | None:
        """Return the main graph's version of an operator set; of several imports the last, as onnxruntime does."""
        imports = self.model.opset_import
        return next((o.version for o in reversed(imports) if _domain(o.domain) == domain), None)

    # Editing

    def fresh_name(self, wanted: str) -> str:
        """Return `wanted`, or with `_1`, `_2` … where the model has a value or node of that name, and reserve it."""
        if self._names is None:
            self._names = set(self._all_names())
        name, number = wanted, self._numbers[wanted]
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        self._numbers[wanted] = number  # else a thousandth asks for all before it
        return name

    def _all_names(self) -> Iterator[str]:
        for scope in self.scopes:
            yield from scope.inputs
            yield from scope.outputs
            yield from scope.initializers
            yield from scope.sparse_initializers
            for node in scope.nodes:
                yield node.proto.name
                yield from node.proto.input
                yield from node.proto.output

    def insert_after(self, node: Node, proto: onnx.NodeProto) -> onnx.NodeProto:
        """Put a copy of `proto` behind `node` in its scope and return it. The index does not know of it."""
        nodes = node.scope.proto.node
        # In graph order, a thousand times, it stands as many places further on as there were nodes put in.
        likely = min(node.position + self._put[node.scope], len(nodes) - 1)
        place = 1 + next(i for i in (*range(likely, -1, -1), *range(likely + 1, len(nodes))) if nodes[i] is node.proto)
        nodes.insert(place, proto)
        self._put[node.scope] += 1
        put: onnx.NodeProto = nodes[place]
        return put


def _has_to_make(node: Node) -> bool:
    """Say whether a node without outputs is a mistake: bodies may be run for naught, and others' operators too."""
    return node.domain in _MAKING and not any(subgraphs(node.proto))


def constant_tensor(node: Node) -> onnx.TensorProto | None:
    """Return the `value` attribute of a Constant node, in place, or None where it has another form."""
    for attribute in node.proto.attribute:
        if attribute.name == "value" and attribute.HasField("t") and not attribute.ref_attr_name:
            return attribute.t
    return None


def _check_names(names: tuple[str, ...]) -> None:
    # protobuf gives bytes for what is not UTF-8; a zero ends a name where C reads it
    if not all(isinstance(name, str) and "\0" not in name for name in names):
        raise ModelError("the file is corrupt", "a name in it is not text (UTF-8)", "export or download it again")


def _check_made_once(scope: Scope) -> None:
    """Raise ModelError where two nodes make a value of one name, or a node one that is stored too."""
    taken = {*scope.initializers, *scope.sparse_initializers}
    for node in scope.nodes:
        for name in filter(None, node.proto.output):
            if name in taken:
                raise ModelError("the file is corrupt", f"it makes value '{name}' twice", "export or download it again")
            taken.add(name)


def _bound_calls(roots: Sequence[Scope], function: Callable[[Node], Scope | None]) -> None:
    """Refuse a model whose functions call themselves, or call each other so often that nothing could run it."""
    called = {root: [called for node in _nodes(root) if (called := function(node)) is not None] for root in roots}
    counts: dict[Scope, int] = {}
    for root in roots:
        waiting, open_ = [root], dict[Scope, None]()
        while waiting:
            scope = waiting[-1]
            if scope in counts:
                waiting.pop()
                continue
            missing = [inner for inner in called[scope] if inner not in counts]
            if not missing:
                counts[scope] = sum(1 + counts[inner] for inner in called[scope])
                open_.pop(scope, None)
                continue
            if scope in open_:
                raise ModelError(
                    "the file is corrupt", f"its function '{scope.id}' calls itself", "export or download it again"
                )
            open_[scope] = None
            waiting += dict.fromkeys(missing)
    # Each is followed, and runtimes inline each. No exporter makes more, nor more in proportion to the file's nodes.
    most = min(_MOST_CALLS, max(_FEW_CALLS, _CALLS_PER_NODE * sum(1 for root in roots for _ in _nodes(root))))
    if counts[roots[0]] > most:
        raise ModelError(
            f"the model's functions are called {min(counts[roots[0]], 10**15):.3g} times or more",
            f"which is above the {most:,} that sn-graph follows",
            "inline them where it is exported",
        )


def _nodes(scope: Scope) -> Iterator[Node]:
    """Yield the nodes of a scope and of the subgraphs in it."""
    waiting = [scope]
    while waiting:
        for node in waiting.pop().nodes:
            yield node
            waiting += node.subgraphs


def _domain(domain: str) -> str:
    return "" if domain in ONNX_DOMAINS else domain


def subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the graphs that a node's attributes hold, each with its attribute's name (and place in a list)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for index, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}#{index}", graph
