"""Computed weights: what the graph makes a weight of, in words that say what to do about it.

What an exporter left of a spectral norm is told by `sn_graph.recognise`; the rest is folded by a tool that evaluates
constants.
"""

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from sn_graph.model import Graph, Node, Scope
from sn_graph.sites.operators import QONNX

_LAYOUT_OPS = frozenset(
    {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Concat", "Expand"}
)
_PIECES = frozenset({"Slice", "Split", "Gather", "Concat", "Expand", "Tile", "Pad"})
_QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_LISTED = 5  # operators that a reason names
_SIMPLIFY = "simplify the model first (onnxsim or onnxslim folds constants)"


def computed_reason(graph: Graph, scope: Scope, name: str) -> str:
    """Return why a weight that the graph computes from constants can't be normalized, and what to do."""
    made = list(_makers(graph, scope, name))
    filled = next((node for node in made if node.op_type == "ConstantOfShape"), None)
    if filled is not None and all(node is filled or _is_layout(node) for node in made if _feeds(graph, node)):
        return (
            f"computed in the graph: ConstantOfShape (node '{filled.path}') fills it with {_fill(filled)}, so it holds "
            f"no trained values; export the model with its weights, or {_SIMPLIFY}"
        )
    kinds = list(dict.fromkeys(node.op_type for node in made))
    what = ", ".join(kinds[:_LISTED]) + (" and others" if len(kinds) > _LISTED else "")
    first = f"computed in the graph by {what} (first node '{made[-1].path}', last '{made[0].path}')"
    if len(made) == 1:
        first = f"computed in the graph by {what} (node '{made[0].path}')"
    if any(node.op_type in _QUANTIZERS or node.domain in QONNX for node in made):
        return f"{first}, which quantizes it there; fold before quantizing, or store the weight as integers first"
    if _PIECES & set(kinds) and all(map(_is_layout, made)):
        return f"{first}, so it is a part of stored tensors or put together of them; {_SIMPLIFY}"
    return f"{first}; {_SIMPLIFY}"


def behind_layout(graph: Graph, scope: Scope, name: str) -> tuple[Scope, str]:
    """Return the value that `name` is a rearrangement of."""
    node, seen = graph.producer(scope, name), set[int]()
    while node is not None and node.op_type in _LAYOUT_OPS and node.proto.input and id(node) not in seen:
        seen.add(id(node))
        scope, name = node.scope, node.proto.input[0]
        node = graph.producer(scope, name)
    return scope, name


def _makers(graph: Graph, scope: Scope, name: str) -> Iterator[Node]:
    """Yield the nodes that a value is computed by, the last first; Constant nodes are none."""
    waiting, seen = [(scope, name)], set[int]()
    for at, value in waiting:  # grows as it goes
        node = graph.producer(at, value)
        if node is None or id(node) in seen or (node.is_standard and node.op_type == "Constant"):
            continue
        seen.add(id(node))
        yield node
        waiting += [(node.scope, given) for given in node.proto.input if given]


def _feeds(graph: Graph, node: Node) -> bool:
    """Say whether a node's result is data of the weight, and no shape or index that an operator is given."""
    uses = [use for name in node.proto.output for use in graph.uses(node.scope, name)]
    return any(use.node is None or use.index == 0 or use.node.op_type not in _SHAPED for use in uses)


_SHAPED = _LAYOUT_OPS - {"Concat"} | {"ConstantOfShape"}


def _is_layout(node: Node) -> bool:
    return node.is_standard and (node.op_type in _LAYOUT_OPS or node.op_type in _PIECES)


def _fill(node: Node) -> str:
    tensor = node.attribute("value", onnx.AttributeProto.TENSOR)
    if not isinstance(tensor, onnx.TensorProto):
        return "0"
    try:
        return f"{float(numpy_helper.to_array(tensor).reshape(-1)[0]):g}"
    except (ValueError, TypeError, IndexError):  # its data stand elsewhere, or it has none
        return "one value"
