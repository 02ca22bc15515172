"""Tables on stdout: with lines, and as wide as it is, on a terminal; plain columns where they are piped.

Of a narrow terminal the columns that are wanted least are left out, which is said below; names and sentences are
wrapped, and figures are not. Rich draws that. It takes a tenth of the time of a small model's run to import, which a
pipe need not wait for.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from sn_graph.cli.console import on_terminal, print_text
from sn_graph.cli.wrapping import Wrapped, longest_word
from sn_graph.errors import printable

if TYPE_CHECKING:
    from rich.console import RenderableType


class Table:
    """Rows of texts under headings; names from files may stand in them. Columns of σ are set to the right.

    Attributes:
        headings: Of the columns.
        rows: The cells of each row, as many as headings.
        dimmed: The places of rows that a terminal shows dimmed.
        wrapped: The headings of the columns of names and sentences; no other is ever wrapped.
        least_wanted: The headings of the columns that a narrow terminal leaves out, in this order.
    """

    def __init__(self, *headings: str, wrapped: Sequence[str], least_wanted: Sequence[str] = ()) -> None:
        self.headings = headings
        self.rows: list[tuple[str, ...]] = []
        self.dimmed: set[int] = set()
        self.wrapped = wrapped
        self.least_wanted = least_wanted

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
    for part in parts:
        if isinstance(part, str):
            yield Wrapped(printable(part))
            continue
        widths = _widths(part)
        shown = _columns_that_fit(part, widths)
        yield _table(part, widths, shown)
        dropped = [heading for place, heading in enumerate(part.headings) if place not in shown]
        if dropped:
            yield Wrapped(f"left out for want of width: {', '.join(dropped)}; --json has them")


def _table(part: Table, widths: Sequence[int], shown: Sequence[int]) -> "RenderableType":
    """Return the columns at some places as rich draws them, where those of names give way once no other can."""
    from rich import box, table
    from rich.text import Text

    names = [place for place in shown if part.headings[place] in part.wrapped]
    over = max(0, sum(widths[place] for place in shown) - _terminal())
    drawn = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place in shown:
        right = place in part.to_the_right
        drawn.add_column(part.headings[place], justify="right" if right else "left", no_wrap=place not in names)
        if place in names:
            wanted = widths[place] - _GAP
            drawn.columns[-1].min_width = max(min(wanted, _LETTERS), wanted - -(-over // len(names)))
    for number, row in enumerate(part.rows):
        style = "dim" if number in part.dimmed else ""
        drawn.add_row(*((Wrapped if place in names else Text)(row[place], style) for place in shown))
    return drawn


_NAME = 20  # cells that a column of names has at least, where they are as long
_WORD = 32  # and at most for the sake of one long word
_LETTERS = 8  # and where the figures take all others
_GAP = 2  # cells between columns


def _columns_that_fit(part: Table, widths: Sequence[int]) -> list[int]:
    shown = list(range(len(part.headings)))
    for heading in part.least_wanted:
        if sum(widths[place] for place in shown) > _terminal():
            shown = [place for place in shown if part.headings[place] != heading]
    return shown


def _widths(part: Table) -> list[int]:
    """Return the cells that each column takes, the gap behind it too; of one of names, what it can't do without."""
    from rich.cells import cell_len

    found = []
    for place, heading in enumerate(part.headings):
        cells = [row[place] for row in part.rows]
        width = max(map(cell_len, cells), default=0)
        if heading in part.wrapped:
            width = min(width, max(_NAME, min(max(map(longest_word, cells), default=0), _WORD)))
        found.append(max(cell_len(heading), width) + _GAP)
    return found


def _terminal() -> int:
    return shutil.get_terminal_size().columns
