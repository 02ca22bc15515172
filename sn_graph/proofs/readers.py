"""Readers: does every node that was to get a normalized weight read it, and does nobody else?

The structure of a folded model is the original's but for copies, so each reader of a split weight reads either the
original or a copy. Which of the two it must be is what the plan says.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sn_graph.errors import VerificationFailed
from sn_graph.model import Graph, Node, Scope
from sn_graph.passes import PassResult
from sn_graph.plan import Plan, Target
from sn_graph.rewrite import Rescaled
from sn_graph.sites import Quantization, WeightUse

Reads = Mapping[tuple[str, int], frozenset[str]]
"""The scaled tensors that a use may read, by the site's id and the use's place among the target's uses."""


def check_readers(result: PassResult, plan: Plan, folded: Graph, originals: Mapping[str, str]) -> Reads:
    """Check who reads what in a folded model.

    Args:
        result, plan: What fold made, and the plan that it followed.
        folded: The index of the written model.
        originals: For the value of each copy, the value that it stands for.

    Returns:
        What each use of a folded weight reads: the one tensor that it reads in the graph, or inside a function all that
        were made for it.

    Raises:
        VerificationFailed: A planned use reads a weight that was not scaled for it, or another node reads a copy.
    """
    nodes = {(scope.id, _key(node)): node for scope in folded.scopes for node in scope.nodes}
    scaled: dict[str, list[Rescaled]] = defaultdict(list)
    for entry in result.rescaled:
        scaled[entry.site].append(entry)
    done = {record.id for record in result.sites if record.status == "folded"}
    planned: set[tuple[int, int]] = set()
    reads: dict[tuple[str, int], frozenset[str]] = {}
    identities: dict[Node, Node] = {}
    for target in plan.targets():
        for turn, use in enumerate(target.uses):
            node = nodes.get((use.node.scope.id, _key(use.node)))
            if node is None:
                raise VerificationFailed(f"node '{use.node.path}' got lost")
            planned.add((id(node), use.index))
            quantization, reader = use.quantization, None
            if isinstance(quantization, Quantization) and not (quantization.is_dequantizer and target.splits):
                reader = nodes.get((quantization.node.scope.id, _key(quantization.node)))
                planned.add((id(reader), quantization.scale_input))
            if target.id not in done:
                continue
            wanted = _scaled_for(target, turn, scaled[target.id])
            unique = not (use.calls or use.handed)  # else a body or function reads what it is given
            read = wanted if not unique else frozenset({_reached(folded, node, use, reader, identities)})
            if not read <= wanted:
                raise VerificationFailed(f"node '{use.node.path}' does not read the normalized weight '{target.id}'")
            reads[target.id, turn] = read
            if unique and isinstance(quantization, Quantization) and quantization.rounds:
                begun = _reached(folded, node, replace(use, quantization=None), None, identities)
                if begun not in _scaled_for(target, turn, scaled[target.id], weight=True):
                    raise VerificationFailed(f"node '{use.node.path}' does not read the scaled weight '{target.id}'")
    in_place = {
        (entry.scope, entry.name)
        for target in plan.targets()
        if target.site.quantization is not None
        for entry in scaled[target.id]
        if entry.name == entry.original and entry.by is None
    }
    for node in nodes.values():
        copied = not originals.keys().isdisjoint(node.proto.output)
        for index, name in enumerate(node.proto.input):
            if name in originals and not copied and (id(node), index) not in planned:
                raise VerificationFailed(f"node '{node.path}' reads '{name}', which was not made for it")
            holder = folded.holder(node.scope, name) if in_place else None
            if holder is not None and (holder[0].id, holder[1]) in in_place and (id(node), index) not in planned:
                raise VerificationFailed(f"node '{node.path}' reads the scale '{name}', which was divided for others")
    return reads


def _key(node: Node) -> str:
    """Return what tells a node from the others of its scope, in copies of the model too: its first output."""
    return next((name for name in node.proto.output if name), node.path)


def _scaled_for(target: Target, turn: int, rescaled: Sequence[Rescaled], *, weight: bool = False) -> frozenset[str]:
    """Return the tensors that one use of a weight may read: the weight's own, or the scales that it is read by.

    `rescaled` is what was multiplied for this target; with `weight` the weight's own counts, though it has scales too.
    """
    place, quantization = (target.site.scope.id, target.site.weight), target.uses[turn].quantization
    if isinstance(quantization, Quantization) and not weight:
        place = (quantization.scale_owner.id, quantization.scale_name)
    own = [entry.name for entry in rescaled if (entry.scope, entry.original) == place]
    apart = target.per_use and len(own) == len(target.uses) > 1  # each use has a factor of its own
    return frozenset({own[turn]} if apart else own)


def _reached(folded: Graph, node: Node, use: WeightUse, reader: Node | None, identities: dict[Node, Node]) -> str:
    """Return the tensor that a use reads: the one that its chain begins with, or the scale that it is dequantized by.

    `reader` is what reads the scale in the folded model, where that is known; `identities` are those that were found.
    """
    read = use.quantization
    if isinstance(read, Quantization) and not read.is_dequantizer:
        return "" if reader is None else _behind_identities(folded, reader.scope, reader.proto.input[read.scale_input])
    scope, name = node.scope, node.proto.input[use.index]
    for step in reversed(use.steps):
        maker = folded.producer(scope, name)
        if maker is None or maker.op_type != step.node.op_type:
            return name
        if step.node.op_type == "Identity":
            maker = _first_identity(folded, maker, identities)
        if isinstance(read, Quantization) and step.node is read.node:
            return _behind_identities(folded, maker.scope, maker.proto.input[read.scale_input])
        scope, name = maker.scope, maker.proto.input[step.entry]
    return name


def _first_identity(folded: Graph, node: Node, known: dict[Node, Node]) -> Node:
    """Return the first of the Identity nodes that lead to one: one step of a chain stands for all of them.

    `known` holds what was found before, and gains what is found now, so that a long chain is walked once.
    """
    walked = {node: None}
    while node not in known and (before := folded.producer(node.scope, node.proto.input[0])) is not None:
        if before.op_type != "Identity" or not before.proto.input or before in walked:
            break
        node = before
        walked[node] = None
    first = known.get(node, node)
    known.update(dict.fromkeys(walked, first))
    return first


def _behind_identities(folded: Graph, scope: Scope, name: str) -> str:
    holder = folded.holder(scope, name)
    return name if holder is None else holder[1]
