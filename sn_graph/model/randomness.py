"""Randomness: may two runs of a model on the same inputs differ?

A run can't tell: operators with a seed draw the same numbers in each new session, and others from call to call.
"""

from collections.abc import Iterator

import onnx

from sn_graph.model.graph import Graph, Node, Scope, subgraphs
from sn_graph.model.storage import Model

RANDOM_OPS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Sampling"}
)
"""The operators that draw whatever their inputs are: ONNX's, and onnxruntime's Sampling."""

_SUSPECTS = RANDOM_OPS | {"Dropout"}
_TRAINING_MODE = 2  # the input of Dropout, from opset 12 on; below, no runtime draws


def random_ops(model: Model) -> list[str]:
    """Return the operators that draw random numbers, in alphabetical order; none where two runs can't differ.

    Subgraphs and local functions count. So does Dropout, unless its training mode is left out or a constant that says
    no, which the callers of a function may pass.
    """
    bodies: list[onnx.GraphProto | onnx.FunctionProto] = [model.proto.graph, *model.proto.functions]
    if not any(node.op_type in _SUSPECTS for body in bodies for node in _nodes(body)):
        return []  # most models, which need no index then
    return sorted({node.op_type for scope in model.graph.scopes for node in scope.nodes if _draws(model, node)})


def _nodes(body: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    for node in body.node:
        yield node
        for _, inner in subgraphs(node):
            yield from _nodes(inner)


def _draws(model: Model, node: Node) -> bool:
    if model.graph.function(node) is not None:
        return False  # its body tells
    if node.op_type != "Dropout":
        return node.op_type in RANDOM_OPS
    name = node.proto.input[_TRAINING_MODE] if len(node.proto.input) > _TRAINING_MODE else ""
    return name != "" and _may_be_true(model, node.scope, name, ())


def _may_be_true(model: Model, scope: Scope, name: str, inside: tuple[Scope, ...]) -> bool:
    graph = model.graph
    tensor = graph.constant(scope, name)
    if tensor is not None:
        return model.payload(tensor) is None or bool(model.array(tensor).any())
    owner = graph.owner(scope, name)
    if owner is None or not owner.is_function or name not in owner.inputs or owner in inside:
        return True
    index = owner.inputs.index(name)
    return any(
        index < len(call.proto.input)
        and call.proto.input[index] != ""
        and _may_be_true(model, call.scope, call.proto.input[index], (*inside, owner))
        for call in _calls(graph, owner)
    )


def _calls(graph: Graph, function: Scope) -> Iterator[Node]:
    for scope in graph.scopes:
        yield from (node for node in scope.nodes if graph.function(node) is function)
