"""Constants: the tensors that a model holds, and the values that depend on nothing else."""

from collections.abc import Iterator

import onnx

from sn_graph.model.graph import Graph, Node, Scope, constant_tensor
from sn_graph.model.randomness import RANDOM_OPS

Key = tuple[str, str]
"""Where a constant stands: the id of its scope, and its name there."""


class ConstantValues:
    """The values that depend on initializers and Constant nodes only, in every scope."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._computed: set[tuple[int, str]] = set()
        for scope in graph.scopes:
            for node in scope.nodes:
                if self._is_computed(node):
                    self._computed.update((id(scope), name) for name in node.proto.output if name)

    def _is_computed(self, node: Node) -> bool:
        if node.is_standard and node.op_type == "Constant":
            return True
        named = [name for name in node.proto.input if name]
        if not named or node.subgraphs or node.op_type in RANDOM_OPS:
            return False
        return all(self.holds(node.scope, name) for name in named)

    def holds(self, scope: Scope, name: str) -> bool:
        """Say whether the value `name`, seen in `scope`, is constant."""
        owner = self._graph.owner(scope, name)
        if owner is None:
            return False
        return name in owner.initializers or name in owner.sparse_initializers or (id(owner), name) in self._computed

    def all_inputs(self, node: Node) -> bool:
        """Say whether a node reads constants only, so that it is itself part of a computed constant."""
        return all(self.holds(node.scope, name) for name in node.proto.input if name)


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
                held = node.attribute("sparse_value")
                if held is not None:
                    yield scope, node.proto.output[0], held


def constants_by_key(graph: Graph) -> dict[Key, onnx.TensorProto]:
    """Return every dense constant of a model by its scope's id and its name there."""
    return {(scope.id, name): tensor for scope, name, tensor, _ in constants(graph)}
