"""Rewiring: some readers of a constant get a copy of their own, with copies of the operators on the way to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from sn_graph.model import Graph, Node, Scope
from sn_graph.sites import WeightUse


@dataclass(frozen=True)
class Copy:
    """An initializer or node that was added beside the one it is a copy of.

    Attributes:
        name: The value that the copy holds or makes.
        original: The value that it stands for.
    """

    name: str
    original: str


class Rewiring:
    """The rewiring of one model.

    Attributes:
        copies: What was added, in order.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.copies: list[Copy] = []

    def copy_constant(self, scope: Scope, name: str) -> tuple[str, onnx.TensorProto]:
        """Add a copy of a constant to the scope that holds it, in the same form; return its name and tensor."""
        holder = scope.producers.get(name)
        if holder is not None:
            clone = self._copy_node(holder, self._fresh(name))
            return clone.output[0], next(attribute.t for attribute in clone.attribute if attribute.name == "value")
        assert isinstance(scope.proto, onnx.GraphProto), "a function has no initializers"
        fresh = self._fresh(name)
        self.copies.append(Copy(fresh, name))
        copy = scope.proto.initializer.add()
        copy.CopyFrom(scope.initializers[name])
        copy.name = fresh
        listed = next((value for value in scope.proto.input if value.name == name), None)
        if listed is not None and self._graph.model.ir_version < 4:  # IR 3 wants every initializer among the inputs
            value = scope.proto.input.add()
            value.CopyFrom(listed)
            value.name = fresh
        return fresh, copy

    def redirect(self, uses: Sequence[WeightUse], name: str) -> dict[int, onnx.NodeProto]:
        """Make `uses` read the value `name`, through copies of the operators on the way to them.

        Returns:
            The copies, by the `id` of the Node that they copy.
        """
        copies: dict[int, onnx.NodeProto] = {}
        for use in uses:
            read = name
            for step in use.steps:
                key = id(step.node)
                if key not in copies:
                    copies[key] = self.copy_reading(step.node, read)
                read = copies[key].output[0]
            use.node.proto.input[use.index] = read
        return copies

    def copy_reading(self, node: Node, name: str) -> onnx.NodeProto:
        """Add a copy of a node that reads the value `name` at its first input; its output gets a fresh name."""
        copy = self._copy_node(node, self._fresh(node.proto.output[0]))
        copy.input[0] = name
        return copy

    def _fresh(self, name: str) -> str:
        return self._graph.fresh_name(f"{name}_normalized")

    def _copy_node(self, node: Node, output: str) -> onnx.NodeProto:
        self.copies.append(Copy(output, node.proto.output[0]))
        clone = onnx.NodeProto()
        clone.CopyFrom(node.proto)
        clone.output[0] = output
        if clone.name:
            clone.name = self._graph.fresh_name(clone.name)
        return self._graph.insert_after(node, clone)
