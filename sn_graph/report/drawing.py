"""Drawings of pictures: boxes and arrows with their places, for a template to write down."""

from dataclasses import dataclass

from sn_graph.report.page import Box, Picture

BOX, TALL, GAP_X, GAP_Y, EDGE = 132, 40, 34, 26, 4
_LETTERS = 20  # of a name that a box has room for


@dataclass(frozen=True)
class PlacedBox:
    """A box and its upper left corner; `short` is its name as far as there is room."""

    box: Box
    x: float
    y: float
    short: str


@dataclass(frozen=True)
class Drawing:
    """A picture's boxes and the paths of its arrows, within `width` × `height`."""

    boxes: tuple[PlacedBox, ...]
    paths: tuple[str, ...]
    width: float
    height: float


def place(picture: Picture) -> Drawing:
    """Give every box of a picture its place, and every arrow its path."""
    placed = tuple(PlacedBox(box, *_corner(box), middle_out(box.name, _LETTERS)) for box in picture.boxes)
    paths = tuple(_path(picture.boxes[start], picture.boxes[end]) for start, end in picture.arrows)
    columns = 1 + max((box.column for box in picture.boxes), default=0)
    rows = 1 + max((box.row for box in picture.boxes), default=0)
    width = columns * (BOX + GAP_X) - GAP_X + 2 * EDGE
    return Drawing(placed, paths, width, rows * (TALL + GAP_Y) - GAP_Y + 2 * EDGE)


def middle_out(name: str, letters: int) -> str:
    """Return a name with its middle left out where it is longer than `letters`: its end tells more than its middle.

    >>> middle_out("discriminator_1/conv_32_1/convolution", 20)
    'discrim…/convolution'
    """
    if len(name) <= letters:
        return name
    end = (letters - 1) * 3 // 5 + 1
    return f"{name[: letters - 1 - end]}…{name[-end:]}"


def _corner(box: Box) -> tuple[float, float]:
    return EDGE + box.column * (BOX + GAP_X), EDGE + box.row * (TALL + GAP_Y)


def _path(start: Box, end: Box) -> str:
    """Return the path of an arrow: straight along a row or a column, else around the box between."""
    (x, y), (to_x, to_y) = _corner(start), _corner(end)
    if start.row == end.row:
        if start.column < end.column:
            return f"M{x + BOX},{y + TALL / 2:g}H{to_x - 3}"
        return f"M{x},{y + TALL / 2:g}H{to_x + BOX + 3}"
    if start.column == end.column and abs(end.row - start.row) == 1:
        down = start.row < end.row
        return f"M{x + BOX / 2:g},{y + TALL if down else y}V{to_y - 3 if down else to_y + TALL + 3}"
    if start.column == end.column:  # along the gap on the left
        return f"M{x},{y + TALL / 2:g}H{x - GAP_X / 3:g}V{to_y + TALL / 4:g}H{to_x - 3}"
    return f"M{x + BOX},{y + TALL / 2:g}H{to_x - GAP_X / 2:g}V{to_y + TALL / 2:g}H{to_x - 3}"
