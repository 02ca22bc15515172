"""Handed weights: constants that reach a weight input through the bodies of If, Loop and Scan.

A captured constant is the body's own to read. One that a branch gives out, or that is handed in as a carried value, is
another value with each branch or turn, so no one tensor stands for the weight.
"""

from sn_graph.model import ConstantValues, Graph, Node, Reached, Scope, origin
from sn_graph.sites.computed import behind_layout


def handed_reason(graph: Graph, constants: ConstantValues, scope: Scope, name: str) -> str | None:
    """Return why a weight can't be normalized that bodies hand on from a constant; None where it is not such a one."""
    scope, name = behind_layout(graph, scope, name)
    owner = graph.owner(scope, name)
    if owner is None:
        return None
    node = owner.producers.get(name)
    if node is not None and node.subgraphs and _comes_of_constant(graph, constants, owner, name):
        what = "chosen by" if node.op_type == "If" else "left by"
        return (
            f"{what} {node.op_type} (node '{node.path}'), so it is no single stored tensor; "
            "evaluate that node's choice first (onnxsim or onnxslim), or let the body itself read its weight"
        )
    if node is None and owner.owner is not None and _comes_of_constant(graph, constants, owner, name):
        return _carried(owner.owner, owner, name)
    return None


def _carried(node: Node, body: Scope, name: str) -> str:
    states = len(body.inputs) - node.integer("num_scan_inputs", 0)
    if node.op_type == "Scan" and body.inputs.index(name) >= states:
        return (
            f"another slice of a stored tensor in each turn of Scan (node '{node.path}'); unroll it to normalize them"
        )
    return (
        f"handed to the body of {node.op_type} (node '{node.path}') as a value that each turn may replace; "
        "let the body read the stored tensor itself, without carrying it"
    )


def _comes_of_constant(graph: Graph, constants: ConstantValues, scope: Scope, name: str) -> bool:
    """Say whether a value is a constant in one of the branches, or before one of the turns, that make it."""
    waiting, seen = [(scope, name)], set[tuple[int, str]]()
    while waiting:
        scope, name = behind_layout(graph, *waiting.pop())
        owner = graph.owner(scope, name)
        if owner is None or (id(owner), name) in seen:
            continue
        seen.add((id(owner), name))
        if constants.holds(owner, name):
            return True
        node = owner.producers.get(name)
        if node is not None:
            place = list(node.proto.output).index(name) - len(node.proto.output)  # from the end: Loop's condition leads
            bodies = (body for body in node.subgraphs if len(body.outputs) + place >= 0)
            waiting += [(body, body.outputs[place]) for body in bodies]
            continue
        before = origin(graph, Reached(owner, name, None)) if owner.owner is not None else None
        if before is not None:
            waiting.append((before.scope, before.name))
    return False
