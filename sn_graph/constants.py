"""Which values of a graph are constants, or computed from nothing else."""

import onnx

from sn_graph.model.graph import Graph, Node, Scope, constant_tensor

_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_LAYOUT_OPS = frozenset(
    {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Concat", "Expand"}
)
_NORM_OPS = frozenset({"MatMul", "Gemm", "Einsum", "ReduceL2", "ReduceSumSquare", "ReduceSum", "LpNormalization"})


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
        if not named or node.subgraphs or node.op_type in _RANDOM:
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

    def looks_like_spectral_norm(self, scope: Scope, name: str) -> bool:
        """Say whether a computed value ends in a division or product by something that took a norm."""
        node = self._graph.producer(scope, name)
        while node is not None and node.op_type in _LAYOUT_OPS:
            node = self._graph.producer(node.scope, node.proto.input[0])
        if node is None or node.op_type not in ("Div", "Mul"):
            return False
        return any(self._has_norm(node.scope, name) for name in node.proto.input)

    def _has_norm(self, scope: Scope, name: str) -> bool:
        waiting, seen = [(scope, name)], set()
        while waiting:
            scope, name = waiting.pop()
            node = self._graph.producer(scope, name)
            if node is None or id(node) in seen:
                continue
            if node.op_type in _NORM_OPS:
                return True
            seen.add(id(node))
            waiting += [(node.scope, name) for name in node.proto.input if name]
        return False


def constants(graph: Graph) -> "list[tuple[Scope, str, onnx.TensorProto, bool]]":
    """Return (scope, value name, tensor, whether a Constant node holds it) of every dense constant, in graph order."""
    found = []
    for scope in graph.scopes:
        found += [(scope, name, tensor, False) for name, tensor in scope.initializers.items()]
        for node in scope.nodes:
            if node.is_standard and node.op_type == "Constant":
                tensor = constant_tensor(node)
                if tensor is not None:
                    found.append((scope, node.proto.output[0], tensor, True))
    return found
