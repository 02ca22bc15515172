"""Drawings of what stands before a weight input in a graph, a panel for each file, such as docs/torch-lift.svg.

    python -m tools.draw_weight OUT.svg NODE FILE [FILE …]

NODE is the name of the node that reads the weight, or a regular expression that finds it. Every box is a node or a
stored tensor of the file, every line an input; what stands before the node's other inputs is left out. The drawing of
docs/torch.md is made by

    sn-graph lift models/torch_sngan_spectral_norm_torchscript.onnx -o lifted.onnx
    python -m tools.draw_weight docs/torch-lift.svg /blocks/blocks.0/conv1/Conv \
        models/torch_sngan_spectral_norm_torchscript.onnx lifted.onnx
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import onnx

COLUMN, ROW, HEIGHT, MARGIN = 128, 44, 34, 14
BLUE, RED, GRAY, INK = "#dbe8f6", "#f9e3df", "#eeeeee", "#222222"


@dataclass(eq=False)
class Box:
    """A node, a stored tensor or an input of the graph.

    Attributes:
        title, text: What is written in it.
        color: Its ground.
        sources: The boxes whose values it reads.
        column, row: Where it stands: columns count from the right.
    """

    title: str
    text: str
    color: str
    sources: list[Box] = field(default_factory=list)
    column: int = 0
    row: float = 0.0


class Chain:
    """What stands before the weight of a node: its first two inputs, where one of them is the data."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self._makers = {output: node for node in graph.node for output in node.output}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {value.name for value in graph.input}
        self._made: dict[str, Box] = {}
        node = next((node for node in graph.node if re.fullmatch(name, node.name)), None)
        if node is None:
            sys.exit(f"no node is called {name}")
        self.last = Box(node.op_type, node.name.split("/")[-2] if "/" in node.name else "", GRAY)
        self.last.sources.append(Box("", "data", "none"))
        self.last.sources.append(self._box(node.input[1]))
        self.boxes = self._placed()

    def _box(self, value: str) -> Box:
        node = self._makers.get(value)
        key = value if node is None else node.output[0]
        if key in self._made:
            return self._made[key]
        if node is None:
            shape = "×".join(map(str, self._stored[value].dims)) if value in self._stored else "input"
            short = re.sub(r"^.*?((\w+\.)?\w+)$", r"\1", value)
            box = Box(short[-18:], shape or "scalar", BLUE if shape != "input" else RED)
        elif node.op_type == "Constant":
            (tensor,) = (attribute.t for attribute in node.attribute if attribute.name == "value")
            numbers = onnx.numpy_helper.to_array(tensor).reshape(-1)[:4]
            box = Box("Constant", ", ".join(f"{number:g}" for number in numbers), BLUE)
        else:
            box = Box(node.op_type, "", RED)
        self._made[key] = box
        if node is not None:
            box.sources = [self._box(name) for name in node.input if name]
        return box

    def _placed(self) -> list[Box]:
        order: list[Box] = []
        self._order(self.last, order)
        for box in reversed(order):  # readers before what they read
            for source in box.sources:
                source.column = max(source.column, box.column + 1)
        columns: dict[int, list[Box]] = {}
        for box in reversed(order):
            columns.setdefault(box.column, []).append(box)
        readers: dict[Box, list[Box]] = {}
        for box in order:
            for source in box.sources:
                readers.setdefault(source, []).append(box)
        for column in sorted(columns):
            boxes = columns[column]
            wish = {
                box: sum(one.row for one in readers.get(box, [])) / max(1, len(readers.get(box, []))) for box in boxes
            }
            boxes.sort(key=lambda box: wish[box])
            middle = sum(wish.values()) / len(boxes)
            for place, box in enumerate(boxes):
                box.row = middle + place - (len(boxes) - 1) / 2
        return order

    def _order(self, box: Box, found: list[Box]) -> None:
        if box not in found:
            for source in box.sources:
                self._order(source, found)
            found.append(box)


def _middle(boxes: Sequence[Box]) -> float:
    return sum(box.row for box in boxes) / len(boxes) if boxes else 0.0


def draw(chain: Chain, title: str, top: float) -> tuple[list[str], float, float]:
    """Return the parts of a panel, its width, and its lower edge."""
    least = min(box.row for box in chain.boxes)
    columns = max(box.column for box in chain.boxes)

    def place(box: Box) -> tuple[float, float]:
        return MARGIN + (columns - box.column) * COLUMN, top + 30 + (box.row - least) * ROW

    parts = [f'<text x="{MARGIN}" y="{top + 14}" font-weight="bold">{escape(title)}</text>']
    width = COLUMN - 22
    for box in chain.boxes:
        right, middle = place(box)
        for source in box.sources:
            left, other = place(source)
            start, end = (left + width, other + HEIGHT / 2), (right, middle + HEIGHT / 2)
            bend = min(20.0, (end[0] - start[0]) / 2)
            parts.append(
                f'<path d="M{start[0]:.0f},{start[1]:.0f} C{start[0] + bend:.0f},{start[1]:.0f} '
                f'{end[0] - bend:.0f},{end[1]:.0f} {end[0]:.0f},{end[1]:.0f}" fill="none" stroke="#888"/>'
            )
    for box in chain.boxes:
        left, over = place(box)
        parts.append(
            f'<rect x="{left:.0f}" y="{over:.0f}" width="{width}" height="{HEIGHT}" rx="4" fill="{box.color}" '
            f'stroke="{"none" if box.color == "none" else "#999"}"/>'
        )
        lines = [line for line in (box.title, box.text) if line]
        for place_of, line in enumerate(lines):
            down = over + HEIGHT / 2 + 4 + (place_of - (len(lines) - 1) / 2) * 13
            parts.append(f'<text x="{left + width / 2:.0f}" y="{down:.0f}" text-anchor="middle">{escape(line)}</text>')
    lower = max(place(box)[1] for box in chain.boxes) + HEIGHT
    return parts, MARGIN * 2 + columns * COLUMN + width, lower + 18


def main(arguments: Sequence[str]) -> None:
    """Write the drawing."""
    output, name, *files = arguments
    parts: list[str] = []
    top, widest = float(MARGIN), 0.0
    for file in files:
        chain = Chain(onnx.load(file).graph, name)
        panel, width, top = draw(chain, Path(file).name, top)
        parts += panel
        widest = max(widest, width)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {widest:.0f} {top:.0f}" width="{widest:.0f}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">'
    )
    ground = f'<rect width="{widest:.0f}" height="{top:.0f}" fill="white"/>'
    Path(output).write_text("\n".join([head, ground, *parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
