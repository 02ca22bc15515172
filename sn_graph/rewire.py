"""Giving some readers of a constant a copy of their own, with copies of the operators on the way to them."""

from collections.abc import Sequence

import onnx

from sn_graph.model.graph import Graph, Node, Scope
from sn_graph.sites import WeightUse


def copy_constant(graph: Graph, scope: Scope, name: str) -> tuple[str, onnx.TensorProto]:
    """Add a copy of a constant to the scope that holds it, in the same form; return its name and tensor."""
    fresh = graph.fresh_name(f"{name}_normalized")
    holder = scope.producers.get(name)
    if holder is not None:
        clone = _insert_copy(graph, holder, fresh)
        return fresh, next(attribute.t for attribute in clone.attribute if attribute.name == "value")
    assert isinstance(scope.proto, onnx.GraphProto)
    copy = scope.proto.initializer.add()
    copy.CopyFrom(scope.initializers[name])
    copy.name = fresh
    listed = next((value for value in scope.proto.input if value.name == name), None)
    if listed is not None and graph.model.ir_version < 4:  # IR 3 wants every initializer among the inputs
        value = scope.proto.input.add()
        value.CopyFrom(listed)
        value.name = fresh
    return fresh, copy


def redirect(graph: Graph, uses: Sequence[WeightUse], name: str) -> dict[int, onnx.NodeProto]:
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
                copies[key] = copy_reading(graph, step.node, read)
            read = copies[key].output[0]
        use.node.proto.input[use.index] = read
    return copies


def copy_reading(graph: Graph, node: Node, name: str) -> onnx.NodeProto:
    """Add a copy of a node that reads the value `name` at its first input; its output gets a fresh name."""
    copy = _insert_copy(graph, node, graph.fresh_name(f"{node.proto.output[0]}_normalized"))
    copy.input[0] = name
    return copy


def _insert_copy(graph: Graph, node: Node, output: str) -> onnx.NodeProto:
    clone = onnx.NodeProto()
    clone.CopyFrom(node.proto)
    clone.output[0] = output
    if clone.name:
        clone.name = graph.fresh_name(clone.name)
    return graph.insert_after(node, clone)
