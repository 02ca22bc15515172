"""Constants: the tensors that a model holds, and the values that depend on nothing else."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import onnx

from sn_graph.model.graph import Graph, Node, Scope, constant_tensor
from sn_graph.model.randomness import RANDOM_OPS

Key = tuple[str, str]
"""Where a constant stands: the id of its scope, and its name there."""


_PURE_CONTRIB_OPS = frozenset(
    {
        "BiasGelu", "DequantizeBFP", "DequantizeLinear", "ExpandDims", "FastGelu", "FusedConv", "FusedGemm",
        "FusedMatMul", "GatherBlockQuantized", "GatherND", "Gelu", "Inverse", "MatMulBnb4", "MatMulFpQ4",
        "MatMulIntegerToFloat", "MatMulNBits", "MulInteger", "Pad", "QLinearAdd", "QLinearConcat", "QLinearConv",
        "QLinearMul", "QuantizeBFP", "QuantizeLinear", "QuickGelu", "TransposeMatMul", "Trilu", "Unique",
    }
)  # fmt: skip
"""The operators of com.microsoft whose outputs depend on their inputs alone; Recv, for one, is not among them."""


class ConstantValues:
    """The values that depend on initializers and Constant nodes only, in every scope.

    What an operator of an unknown domain makes is none of them, even where all its inputs are, because it may read a
    file, a socket or a clock. What a local function makes is as constant as what its body makes. An input of a local
    function is one of them where every call gives it such a value.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._computed: set[tuple[int, str]] = set()
        self._impure = _impure_functions(graph)
        inside: dict[int, list[Scope]] = defaultdict(list)
        for scope in graph.scopes:
            inside[id(_root(scope))].append(scope)
        self._add(inside[id(graph.main)])
        for function in _callers_first(graph):
            given = (name for place, name in enumerate(function.inputs) if self._is_given(function, place))
            self._computed.update((id(function), name) for name in given)
            self._add(inside[id(function)])

    def _add(self, scopes: Iterable[Scope]) -> None:
        """Take what the nodes of some scopes compute from constants, the outer scopes first."""
        for scope in scopes:
            for node in scope.nodes:
                if self._is_computed(node):
                    self._computed.update((id(scope), name) for name in node.proto.output if name)

    def _is_given(self, function: Scope, place: int) -> bool:
        """Say whether every call of a function gives an input a constant."""
        calls = self._graph.calls(function)
        given = [call.proto.input[place] if place < len(call.proto.input) else "" for call in calls]
        return bool(calls) and all(
            name and self.holds(call.scope, name) for call, name in zip(calls, given, strict=True)
        )

    def _is_computed(self, node: Node) -> bool:
        if node.is_standard and node.op_type == "Constant":
            return True
        named = [name for name in node.proto.input if name]
        if not (named or self._graph.function(node)) or node.subgraphs or not self._is_pure(node):
            return False
        return all(self.holds(node.scope, name) for name in named)

    def _is_pure(self, node: Node) -> bool:
        """Say whether a node's outputs are known to depend on its inputs alone."""
        function = self._graph.function(node)
        return _is_pure_operator(node) if function is None else id(function) not in self._impure

    def holds(self, scope: Scope, name: str) -> bool:
        """Say whether the value `name`, seen in `scope`, is constant."""
        owner = self._graph.owner(scope, name)
        if owner is None:
            return False
        return name in owner.initializers or name in owner.sparse_initializers or (id(owner), name) in self._computed

    def all_inputs(self, node: Node) -> bool:
        """Say whether a node reads constants only, so that it is itself part of a computed constant."""
        return all(self.holds(node.scope, name) for name in node.proto.input if name)


def _root(scope: Scope) -> Scope:
    while scope.parent is not None:
        scope = scope.parent
    return scope


def _callers_first(graph: Graph) -> Iterator[Scope]:
    """Yield the local functions, each behind all that call it; no function calls itself."""
    functions = {id(function): function for function in graph.functions.values()}
    callers = {
        key: {caller for call in graph.calls(function) if (caller := id(_root(call.scope))) in functions}
        for key, function in functions.items()
    }
    called: dict[int, list[int]] = defaultdict(list)
    for key, found in callers.items():
        for caller in found:
            called[caller].append(key)
    ready = [key for key, found in callers.items() if not found]
    for key in ready:  # grows as it goes
        yield functions[key]
        for other in called[key]:
            callers[other].discard(key)
            if not callers[other]:
                ready.append(other)


def _is_pure_operator(node: Node) -> bool:
    known = node.is_standard or node.domain.startswith("ai.onnx.")
    contrib = node.domain == "com.microsoft" and node.op_type in _PURE_CONTRIB_OPS
    return (known or contrib) and node.op_type not in RANDOM_OPS


def _impure_functions(graph: Graph) -> set[int]:
    """Return the `id` of each local function whose body, or that of one which it calls, holds an operator not pure."""
    callers: dict[int, set[int]] = defaultdict(set)
    found = set[int]()
    for scope in graph.scopes:
        root = scope
        while root.parent is not None:
            root = root.parent
        for node in scope.nodes if root.is_function else ():
            called = graph.function(node)
            if called is not None:
                callers[id(called)].add(id(root))
            elif not _is_pure_operator(node):
                found.add(id(root))
    waiting = list(found)
    while waiting:
        fresh = callers[waiting.pop()] - found
        found |= fresh
        waiting += fresh
    return found


def constants(graph: Graph) -> Iterator[tuple[Scope, str, onnx.TensorProto, bool]]:
    """Yield (scope, value name, tensor, whether a Constant node holds it) of every dense constant, scope by scope."""
    for scope in graph.scopes:
        for name, tensor in scope.initializers.items():
            yield scope, name, tensor, False
        for node in scope.nodes:
            if node.is_standard and node.op_type == "Constant":
                held = constant_tensor(node)
                if held is not None:
                    yield scope, node.proto.output[0], held, True


def sparse_constants(graph: Graph) -> Iterator[tuple[Scope, str, onnx.SparseTensorProto]]:
    """Yield (scope, value name, tensor) of every sparse initializer and Constant node, scope by scope."""
    for scope in graph.scopes:
        for name, sparse in scope.sparse_initializers.items():
            yield scope, name, sparse
        for node in scope.nodes:
            if node.is_standard and node.op_type == "Constant":
                held = node.attribute("sparse_value", onnx.AttributeProto.SPARSE_TENSOR)
                if held is not None:
                    yield scope, node.proto.output[0], held


def constants_by_key(graph: Graph) -> dict[Key, onnx.TensorProto]:
    """Return every dense constant of a model by its scope's id and its name there."""
    return {(scope.id, name): tensor for scope, name, tensor, _ in constants(graph)}
