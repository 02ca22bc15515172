"""Edits: nodes that wait to be put into the scopes of a model."""

from collections import defaultdict
from collections.abc import Sequence

import onnx

from sn_graph.model import Graph, Node


class Edits:
    """Nodes waiting to be put before, or behind, nodes of any scope; or at the main graph's beginning or end."""

    def __init__(self) -> None:
        self.first: list[onnx.NodeProto] = []
        self.last: list[onnx.NodeProto] = []
        self._before: dict[int, list[onnx.NodeProto]] = defaultdict(list)
        self._behind: dict[int, list[onnx.NodeProto]] = defaultdict(list)

    def before(self, node: Node, nodes: Sequence[onnx.NodeProto]) -> None:
        """Put nodes before one."""
        self._before[id(node.proto)] += nodes

    def behind(self, node: Node | None, nodes: Sequence[onnx.NodeProto]) -> None:
        """Put nodes behind one, or with None at the main graph's beginning."""
        waiting = self.first if node is None else self._behind[id(node.proto)]
        waiting += nodes

    def apply(self, graph: Graph) -> None:
        """Write them into the model, inner scopes first: a scope's nodes are copied when it is rebuilt."""
        for scope in reversed(graph.scopes):
            main = scope is graph.main
            nodes = [*self.first] if main else []
            for proto in scope.proto.node:
                nodes += [*self._before.get(id(proto), ()), proto, *self._behind.get(id(proto), ())]
            nodes += self.last if main else []
            if len(nodes) > len(scope.proto.node):
                rebuilt = onnx.GraphProto(node=nodes)
                del scope.proto.node[:]
                scope.proto.node.extend(rebuilt.node)
