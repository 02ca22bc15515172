"""Tables on stdout: with lines, and wrapped where it is narrow, on a terminal; plain columns where they are piped.

Rich draws the former. It takes a tenth of the time of a small model's run to import, which a pipe need not wait for.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from sn_graph.cli.console import on_terminal, print_text
from sn_graph.errors import printable

if TYPE_CHECKING:
    from rich.console import RenderableType


class Table:
    """Rows of texts under headings; names from files may stand in them. Columns of σ are set to the right.

    Attributes:
        headings: Of the columns.
        rows: The cells of each row, as many as headings.
        dimmed: The places of rows that a terminal shows dimmed.
        least: How wide the first column is at least on a narrow terminal, where it alone is wrapped; None where every
            column may be.
    """

    def __init__(self, *headings: str, least: int | None = None) -> None:
        self.headings = headings
        self.rows: list[tuple[str, ...]] = []
        self.dimmed: set[int] = set()
        self.least = least

    def add(self, cells: Iterable[str], *, dim: bool = False) -> None:
        """Add a row."""
        if dim:
            self.dimmed.add(len(self.rows))
        self.rows.append(tuple(map(printable, cells)))

    @property
    def to_the_right(self) -> list[int]:
        """The places of the columns that are set to the right."""
        return [place for place, heading in enumerate(self.headings) if heading.startswith("σ")]


def print_tables(*parts: Table | str) -> None:
    """Print tables and lines of text: as wide as the terminal, or unlimited where they are piped."""
    from sn_graph.report import columns

    if on_terminal():
        print_text(_drawn(parts))
        return
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines.append(printable(part))
        else:
            lines += columns([part.headings, *part.rows], part.to_the_right)
    print_text("\n".join(lines))


def _drawn(parts: Iterable[Table | str]) -> str:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    with console.capture() as capture:
        console.print(*_renderables(parts), sep="\n")
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _renderables(parts: Iterable[Table | str]) -> "Iterator[RenderableType]":
    """Yield what rich prints: texts of which it takes nothing for markup."""
    from rich import box, table
    from rich.text import Text

    for part in parts:
        if isinstance(part, str):
            yield Text(printable(part))
            continue
        drawn = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for place, heading in enumerate(part.headings):
            right = place in part.to_the_right
            drawn.add_column(heading, justify="right" if right else "left", overflow="fold")
            if part.least is not None:
                drawn.columns[-1].no_wrap = place > 0
        if part.least is not None:
            drawn.columns[0].min_width = part.least
        for place, row in enumerate(part.rows):
            style = "dim" if place in part.dimmed else ""
            drawn.add_row(*(Text(cell, style=style) for cell in row))
        yield drawn
