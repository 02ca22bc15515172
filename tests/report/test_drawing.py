"""Drawings of graphs: boxes beside each other, arrows from edge to edge."""

from __future__ import annotations

import re
from itertools import combinations

from sn_graph.report import Box, Picture
from sn_graph.report.drawing import BOX, TALL, middle_out, place

PICTURE = Picture(
    (
        Box("weight 4×6", "w", "weight", 2, 0),
        Box("power iteration", "u, σ", "added", 1, 0),
        Box("MatMul", "/head/MatMul", "node", 2, 1),
        Box("input", "x", "input", 0, 1),
        Box("Div", "sn/w/scaled", "added", 1, 1),
        Box("MatMul", "", "node", 2, 2),
    ),
    ((0, 1), (0, 2), (3, 4), (1, 4), (4, 2), (0, 5), (3, 5)),
)


def test_boxes_do_not_meet_and_arrows_stay_inside() -> None:
    drawing = place(PICTURE)
    for one, other in combinations(drawing.boxes, 2):
        assert abs(one.x - other.x) >= BOX or abs(one.y - other.y) >= TALL
    assert all(box.x + BOX <= drawing.width and box.y + TALL <= drawing.height for box in drawing.boxes)
    assert len(drawing.paths) == len(PICTURE.arrows)
    for path in drawing.paths:
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
        assert all(0.0 <= number <= max(drawing.width, drawing.height) for number in numbers), path


def test_an_arrow_along_a_row_begins_and_ends_at_the_boxes() -> None:
    drawing = place(PICTURE)
    source, target = drawing.boxes[3], drawing.boxes[4]
    assert drawing.paths[2] == f"M{source.x + BOX},{source.y + TALL / 2:g}H{target.x - 3}"


def test_long_names_keep_both_ends() -> None:
    name = "discriminator/" + "block/" * 40 + "kernel"
    assert middle_out(name, 20).startswith("discrim")
    assert middle_out(name, 20).endswith("/kernel")
    assert len(middle_out(name, 20)) == 20
