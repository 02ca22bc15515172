"""Computed weights: does the arithmetic in front of a weight input look like an exported spectral norm?"""

from sn_graph.model import Graph, Scope

_LAYOUT_OPS = frozenset(
    {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Concat", "Expand"}
)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})


def looks_like_spectral_norm(graph: Graph, scope: Scope, name: str) -> bool:
    """Say whether a computed value is a stored tensor divided or multiplied by what comes of a matrix product.

    Weight norm and equalised learning rates, for comparison, take no product; low-rank updates add theirs.
    """
    scope, name = _behind_layout(graph, scope, name)
    node = graph.producer(scope, name)
    if node is None or node.op_type not in ("Div", "Mul") or len(node.proto.input) != 2:
        return False
    first, second = node.proto.input
    pairs = [(first, second)] if node.op_type == "Div" else [(first, second), (second, first)]
    return any(
        _is_stored_matrix(graph, node.scope, weight) and _has_product(graph, node.scope, sigma)
        for weight, sigma in pairs
    )


def _behind_layout(graph: Graph, scope: Scope, name: str) -> tuple[Scope, str]:
    """Return the value that `name` is a rearrangement of."""
    node, seen = graph.producer(scope, name), set[int]()
    while node is not None and node.op_type in _LAYOUT_OPS and node.proto.input and id(node) not in seen:
        seen.add(id(node))
        scope, name = node.scope, node.proto.input[0]
        node = graph.producer(scope, name)
    return scope, name


def _is_stored_matrix(graph: Graph, scope: Scope, name: str) -> bool:
    tensor = graph.constant(*_behind_layout(graph, scope, name))
    return tensor is not None and len(tensor.dims) > 1


def _has_product(graph: Graph, scope: Scope, name: str) -> bool:
    waiting, seen = [(scope, name)], set()
    while waiting:
        scope, name = waiting.pop()
        node = graph.producer(scope, name)
        if node is None or id(node) in seen:
            continue
        if node.op_type in _PRODUCTS:
            return True
        seen.add(id(node))
        waiting += [(node.scope, name) for name in node.proto.input if name]
    return False
