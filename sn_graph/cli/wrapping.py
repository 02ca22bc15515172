"""Wrapping: texts in lines that fit, broken where names have joints.

That is behind / . : and blanks first, then behind _ and - and between aB, and within a word only where the word alone
is wider than its line.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement


class Wrapped:
    """A text for rich, for a cell or a line of its own; nothing in it is taken for markup."""

    def __init__(self, text: str, style: str = "") -> None:
        self._text = text
        self._style = style

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["RenderableType"]:
        """Yield the lines that fit the width."""
        from rich.text import Text

        for line in lay_out(self._text, options.max_width):
            yield Text(line, style=self._style)

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        """Return the width of the longest word, and that of the whole."""
        from rich.cells import cell_len
        from rich.measure import Measurement

        return Measurement(min(longest_word(self._text), options.max_width), cell_len(self._text))


def lay_out(text: str, width: int) -> list[str]:
    """Return the lines of a text, each of at most so many cells.

    >>> lay_out("blocks.12.self_attn.q_proj.weight", 20)
    ['blocks.12.self_attn.', 'q_proj.weight']
    >>> lay_out("layers/ReadVariableOp", 8)
    ['layers/', 'Read', 'Variable', 'Op']
    """
    from rich.cells import cell_len

    lines, line = [], ""
    for piece in _pieces(text, max(width, 2)):  # the letters of some languages take two
        if line.strip() and cell_len(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()]


_JOINTS = (
    re.compile(r"\S+\s*|\s+"),
    re.compile(r"[^/.:]*[/.:]+\s*|[^/.:]+"),
    re.compile(r"[^_-]*[_-]+\s*|[^_-]+"),
    re.compile(r".+?(?:(?<=[a-z0-9])(?=[A-Z])|$)", re.DOTALL),
)


def _pieces(text: str, width: int, level: int = 0) -> Iterator[str]:
    """Yield a text in parts that no line is broken within, each of at most so many cells."""
    from rich.cells import cell_len, chop_cells

    if level == len(_JOINTS):
        yield from chop_cells(text, width)
        return
    for piece in _JOINTS[level].findall(text):
        if cell_len(piece.rstrip()) <= width:
            yield piece
        else:
            yield from _pieces(piece, width, level + 1)


def longest_word(text: str) -> int:
    """Return the cells of the longest part between two joints."""
    from rich.cells import cell_len

    words = [text]
    for joints in _JOINTS[:3]:
        words = [part for word in words for part in joints.findall(word)]
    return max((cell_len(word.rstrip()) for word in words), default=0)
