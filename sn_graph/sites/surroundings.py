"""Surroundings: the graph around a weight as a picture: what its consumers read beside it, and who reads them.

    input ──▶ [scaled] ──▶ consumer ──▶ reader
                 ▲            ▲
             iteration ◀── weight ──▶ chain operators

A consumer is looked for by the name that a record has for it, so that the picture of a changed model shows what a pass
wrote around the nodes that were there before.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sn_graph.model import Graph, Node, Scope
from sn_graph.report import Box, Kind, Picture, SiteRecord

_USES = 3  # of a weight, drawn
_OURS = "sn/"  # what the nodes that insert writes are named by


class Surroundings:
    """Draws what is around the weights of one model.

    Args:
        graph: The index of the model, as it is now.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes = {node.path: node for node in _nodes(graph)}

    def picture(self, site: SiteRecord) -> Picture | None:
        """Return the picture of a weight; None where none of its consumers is in the model under its name."""
        named = (self._nodes.get(consumer) for consumer in site.consumers)
        consumers = [node for node in named if node is not None and node.op_type in site.op_types]
        if not consumers:
            return None
        drawing = _Drawing()
        entries = [self._entry(node, site) for node in consumers[:_USES]]
        scaled = any(entry.scaled is not None for entry in entries)
        column = 2 if scaled else 1
        weight = self._weight(drawing, site, column)
        iteration = drawing.box("power iteration", "u, σ", "added", 1, 0) if scaled else None
        if iteration is not None:
            drawing.arrow(weight.first, iteration)
        for row, (node, entry) in enumerate(zip(consumers, entries, strict=False), weight.row + 1):
            consumer = drawing.box(node.op_type, node.proto.name, "node", column, row)
            drawing.arrow(weight.last if row == weight.row + 1 else weight.first, consumer)
            before = drawing.box(*entry.source, 0, row)
            if entry.scaled is not None and iteration is not None:
                divided = drawing.box(entry.scaled.op_type, entry.scaled.proto.name, "added", 1, row)
                drawing.arrow(before, divided)
                drawing.arrow(iteration, divided)
                before = divided
            drawing.arrow(before, consumer)
            behind = self._behind(node)
            if behind is not None:
                drawing.arrow(consumer, drawing.box(*behind, column + 1, row))
        return Picture(tuple(drawing.boxes), tuple(drawing.arrows), len(site.consumers) - len(entries))

    def _weight(self, drawing: "_Drawing", site: SiteRecord, column: int) -> "_Weight":
        """Draw the weight, and under it the operators that it goes through."""
        if site.original is not None or site.shape is None:
            title = site.form or "computed"
            first = drawing.box(title, site.original or site.weight, "arithmetic", column, 0)
            return _Weight(first, first, 0)
        sizes = "×".join(map(str, site.shape))
        first = last = drawing.box(f"weight {sizes}", site.weight, "weight", column, 0)
        steps = [step for step in site.via if step != "Constant"]
        if not steps:
            return _Weight(first, last, 0)
        last = drawing.box(" → ".join(steps), "", "node", column, 1)
        drawing.arrow(first, last)
        return _Weight(first, last, 1)

    def _entry(self, consumer: Node, site: SiteRecord) -> "_Entry":
        """Return what a consumer reads beside its weight: the first input that is not a constant."""
        scope = consumer.scope
        names = [name for name in consumer.proto.input if name and name != site.weight]
        name = next((name for name in names if self._graph.constant(scope, name) is None), "")
        maker = self._graph.producer(scope, name) if name else None
        if maker is None or not maker.label.startswith(_OURS):
            return _Entry(self._source(scope, name, maker))
        read = next((name for name in maker.proto.input if name and not self._is_ours(maker.scope, name)), "")
        return _Entry(self._source(maker.scope, read, self._graph.producer(maker.scope, read)), maker)

    def _is_ours(self, scope: Scope, name: str) -> bool:
        maker = self._graph.producer(scope, name)
        return maker is not None and maker.label.startswith(_OURS)

    def _source(self, scope: Scope, name: str, maker: Node | None) -> tuple[str, str, Kind]:
        if maker is not None:
            return maker.op_type, maker.proto.name, "node"
        return ("input", name, "input") if name in scope.inputs or not name else ("from outside", name, "input")

    def _behind(self, node: Node) -> tuple[str, str, Kind] | None:
        """Return who reads the consumer's first output: the first of them, and how many there are."""
        name = next(filter(None, node.proto.output), "")
        uses = self._graph.uses(node.scope, name) if name else []
        if not uses:
            return None
        first, more = uses[0], f" + {len(uses) - 1}" if len(uses) > 1 else ""
        if first.node is None:
            return f"output{more}", name, "output"
        return f"{first.node.op_type}{more}", first.node.proto.name, "node"


@dataclass(frozen=True)
class _Weight:
    """Where the weight stands: the boxes that its arrows leave from, and its lowest row."""

    first: int
    last: int
    row: int


@dataclass(frozen=True)
class _Entry:
    """What a consumer reads: what makes it, and the node of ours between, where there is one."""

    source: tuple[str, str, Kind]
    scaled: Node | None = None


@dataclass
class _Drawing:
    boxes: list[Box] = field(default_factory=list)
    arrows: list[tuple[int, int]] = field(default_factory=list)

    def box(self, title: str, name: str, kind: Kind, column: int, row: int) -> int:
        """Add a box, and return its place."""
        self.boxes.append(Box(title, name, kind, column, row))
        return len(self.boxes) - 1

    def arrow(self, start: int, end: int) -> None:
        """Join two boxes."""
        self.arrows.append((start, end))


def _nodes(graph: Graph) -> Iterator[Node]:
    for scope in graph.scopes:
        yield from scope.nodes
