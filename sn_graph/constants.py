"""Which values of a graph are constants, or computed from nothing else."""

from collections.abc import Iterator

import onnx

from sn_graph.model.graph import Graph, Node, Scope, constant_tensor

_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_LAYOUT_OPS = frozenset(
    {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Concat", "Expand"}
)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})


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
        """Say whether a computed value is a stored tensor divided or multiplied by what comes of a matrix product.

        Weight norm and equalised learning rates, for comparison, take no product; low-rank updates add theirs.
        """
        scope, name = self._behind_layout(scope, name)
        node = self._graph.producer(scope, name)
        if node is None or node.op_type not in ("Div", "Mul") or len(node.proto.input) != 2:
            return False
        first, second = node.proto.input
        pairs = [(first, second)] if node.op_type == "Div" else [(first, second), (second, first)]
        return any(
            self._is_stored_matrix(node.scope, weight) and self._has_product(node.scope, sigma)
            for weight, sigma in pairs
        )

    def _behind_layout(self, scope: Scope, name: str) -> tuple[Scope, str]:
        """Return the value that `name` is a rearrangement of."""
        node, seen = self._graph.producer(scope, name), set[int]()
        while node is not None and node.op_type in _LAYOUT_OPS and node.proto.input and id(node) not in seen:
            seen.add(id(node))
            scope, name = node.scope, node.proto.input[0]
            node = self._graph.producer(scope, name)
        return scope, name

    def _is_stored_matrix(self, scope: Scope, name: str) -> bool:
        tensor = self._graph.constant(*self._behind_layout(scope, name))
        return tensor is not None and len(tensor.dims) > 1

    def _has_product(self, scope: Scope, name: str) -> bool:
        waiting, seen = [(scope, name)], set()
        while waiting:
            scope, name = waiting.pop()
            node = self._graph.producer(scope, name)
            if node is None or id(node) in seen:
                continue
            if node.op_type in _PRODUCTS:
                return True
            seen.add(id(node))
            waiting += [(node.scope, name) for name in node.proto.input if name]
        return False


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
