"""Pieces: operators that cut a weight into parts, or join it with others, and the values that bodies only hand on.

    Slice, Split     Y = X W[a:b]: W as a whole is the weight, as PyTorch's `in_proj_weight` is, and c·W gives c·Y
    Concat           Y = X [W₁ W₂]: each of those joined is a weight by itself
    If               Y = X W₁ or X W₂, by the branch that runs: each is a weight by itself
    Loop, Scan       a carried value that each turn leaves as it was is the stored tensor

Each is linear in the stored tensor, so scaling that scales what the consumer reads. What the consumer reads is not the
tensor, though: its layout is told as if the whole stood there.
"""

from collections.abc import Iterator

from sn_graph.model import ConstantValues, Graph, Model, Node, Scope, Use
from sn_graph.sites.chain import CHAIN_OPERATORS
from sn_graph.sites.layout import Layout
from sn_graph.sites.same import given_integers
from sn_graph.sites.site import WeightUse

KEEPS_PIECES = frozenset({"Identity", "Cast", "Transpose", "DequantizeLinear", "Slice", "Split"})
"""The operators that mean the same of a part as of the whole."""


_LONGEST = 256  # Identity nodes between the input of a body and its output


def is_cut(model: Model, graph: Graph, node: Node, index: int, layout: Layout) -> bool:
    """Say whether a node only cuts parts out of a tensor of this layout, at places that are stored."""
    if index != 0 or not node.is_standard or node.op_type not in ("Slice", "Split"):
        return False
    if node.op_type == "Split":
        return -len(layout.dims) <= node.integer("axis", 0) < len(layout.dims)
    given = [given_integers(model, graph, node, what, at) for at, what in ((1, "starts"), (2, "ends"))]
    others = [given_integers(model, graph, node, what, at) for at, what in ((3, "axes"), (4, "steps"))]
    named = [len(node.proto.input) > at and node.proto.input[at] != "" for at in (3, 4)]
    return None not in given and all(read is not None or not there for read, there in zip(others, named, strict=True))


def is_joint(graph: Graph, node: Node) -> bool:
    """Say whether a node joins several stored tensors, none of them twice."""
    if not node.is_standard or node.op_type != "Concat" or len(node.proto.input) < 2:
        return False
    stored = {_stored(graph, node.scope, name) for name in node.proto.input}
    return None not in stored and len(stored) == len(node.proto.input)


def hands_on(constants: ConstantValues, use: Use) -> bool:
    """Say whether the body that a use enters or leaves only hands a constant on.

    Args:
        constants: What is constant in the model.
        use: An input of a node with bodies, or the output of a body.
    """
    if use.node is not None:
        place = use.index - len(use.node.proto.input)
        return all(_is_carried(body, use.node, place + len(body.inputs)) for body in use.node.subgraphs)
    owner = use.scope.owner
    if owner is None:
        return False
    place = use.index - len(use.scope.outputs)
    if owner.op_type == "If" and owner.is_standard:
        branches = [body for body in owner.subgraphs if len(body.outputs) + place >= 0]
        return len(branches) == 2 and all(constants.holds(body, body.outputs[place]) for body in branches)
    return _is_carried(use.scope, owner, use.index + 1 if owner.op_type == "Loop" else use.index)


def piece_notes(use: WeightUse) -> Iterator[str]:
    """Yield what a report says of a use that reads a part of the weight, or one of several."""
    for step in use.steps:
        if step.piece == "cut":
            yield f"cut into parts by {step.node.path}; its norm is that of the whole stored tensor"
        elif step.piece == "joint":
            yield f"joined with other weights by {step.node.path}; each of them is normalized by itself"
    for node in use.handed:
        yield f"handed on by the body of {node.op_type} (node '{node.path}'); each weight is normalized by itself"


def _stored(graph: Graph, scope: Scope, name: str) -> tuple[Scope, str] | None:
    """Return the stored tensor that operators which rearrange, retype or cut make a value of, if there is one."""
    seen = set[int]()
    while (maker := graph.producer(scope, name)) is not None and id(maker) not in seen:
        seen.add(id(maker))
        if maker.op_type not in CHAIN_OPERATORS or not maker.proto.input:
            break
        scope, name = maker.scope, maker.proto.input[0]
    return graph.holder(scope, name)


def _is_carried(body: Scope, node: Node, index: int) -> bool:
    """Say whether each turn of a loop leaves the value at an input of its body as it was."""
    if not node.is_standard or node.op_type not in ("Loop", "Scan"):
        return False
    states = len(body.inputs) - (node.integer("num_scan_inputs", 0) if node.op_type == "Scan" else 0)
    place = _counterpart(node, index)
    if not (2 if node.op_type == "Loop" else 0) <= index < states or place >= len(body.outputs):
        return False
    name = body.outputs[place]
    for _ in range(_LONGEST):
        maker = body.producers.get(name)
        if maker is None:
            return name == body.inputs[index]
        if not maker.is_standard or maker.op_type != "Identity" or not maker.proto.input:
            return False
        name = maker.proto.input[0]
    return False


def _counterpart(node: Node, index: int) -> int:
    """Return which output of a body leaves to the next turn what its input `index` is in this one."""
    return index - 1 if node.op_type == "Loop" else index
