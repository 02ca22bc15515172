"""Tables: results as people see them, in a few lines, as text, and as HTML; and as rows for pandas.

Names come from files: they are made printable, and shortened where a line would be longer than anybody reads.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sn_graph.errors import EnvironmentUnavailable, printable

if TYPE_CHECKING:
    import pandas

BRIEFLY = 10
"""Rows that a `repr` has at most."""
_LONGEST = 40  # characters of a name in a `repr`


@dataclass(frozen=True)
class Table:
    """What a result shows.

    Attributes:
        title: One line about all of it.
        headings: Of the columns; the first column has names.
        rows: Cells as text, as many as headings.
    """

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def brief(self) -> str:
        """Return the title and the first rows, in less than 2 kB whatever the names."""
        lines = [f"<{_short(self.title, 160)}>"]
        for row in self.rows[:BRIEFLY]:
            name, *cells = (_short(cell, _LONGEST) for cell in row)
            lines.append(_short("  ".join(["", name, *filter(None, cells)]), 120))
        if len(self.rows) > BRIEFLY:
            lines.append(f"  … and {len(self.rows) - BRIEFLY} more")
        return "\n".join(lines)

    def text(self) -> str:
        """Return the title and every row, in columns."""
        rows = [self.headings, *(tuple(map(printable, row)) for row in self.rows)]
        kept = [column for column in range(len(self.headings)) if any(row[column] for row in rows[1:])]
        lines = columns([[row[column] for column in kept] for row in rows]) if self.rows else []
        return "\n".join([printable(self.title), *lines])

    def html(self) -> str:
        """Return an HTML table; nothing in a name acts."""
        head = "".join(f'<th scope="col">{_escaped(heading)}</th>' for heading in self.headings)
        body = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        caption = f"<caption>{_escaped(self.title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Shown:
    """A result that shows itself: `repr` in a few lines, `str` as a table, `_repr_html_` for notebooks.

    A subclass has `table` and `to_dict`, the latter with one list of objects, its rows.
    """

    @property
    def table(self) -> Table:
        """What is shown."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready data: the object that `--json` prints."""
        raise NotImplementedError

    def _records(self) -> Iterable[Mapping[str, Any]]:
        raise NotImplementedError

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the rows as a DataFrame, with the columns of `--json`.

        Raises:
            EnvironmentUnavailable: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise EnvironmentUnavailable("pandas is not installed", do="pip install pandas") from None
        return pandas.DataFrame.from_records(list(self._records()))

    def __repr__(self) -> str:
        return self.table.brief()

    def __str__(self) -> str:
        return self.table.text()

    def _repr_html_(self) -> str:
        return self.table.html()


class Reported(Shown):
    """A result that shows its report."""

    @property
    def report(self) -> Shown:
        """What was done."""
        raise NotImplementedError

    @property
    def table(self) -> Table:
        """The report's."""
        return self.report.table

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data: the object that `--json` prints."""
        return self.report.to_dict()

    def _records(self) -> Iterable[Mapping[str, Any]]:
        return self.report._records()


def columns(rows: Sequence[Sequence[str]], to_the_right: Sequence[int] = ()) -> list[str]:
    """Return rows of printable texts as lines, in columns with two blanks between them, as wide as they need be.

    Args:
        rows: The cells of each row, as many in one as in another.
        to_the_right: The places of the columns that are set to the right.
    """
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        blanks = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = (
            blank + cell if place in to_the_right else cell + blank
            for place, (cell, blank) in enumerate(zip(row, blanks, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return lines


def number(value: float | None) -> str:
    """Return a number as tables show it; nothing for one that is not known."""
    return "" if value is None else f"{value:.6g}"


def sizes(shape: Sequence[int] | None) -> str:
    """Return a shape as tables show it."""
    return "" if shape is None else "×".join(map(str, shape))


def one_line(*cells: str) -> str:
    """Return what a `repr` says of one thing: a line of at most 200 characters."""
    return f"<{_short(' '.join(_short(cell, 80) for cell in cells if cell), 198)}>"


def _short(text: str, longest: int) -> str:
    """Return a text in one line that is not too long, with its middle left out."""
    shown = printable(text[:1000] + "…" + text[-1000:] if len(text) > 2001 else text)
    half = (longest - 1) // 2
    return shown if len(shown) <= longest else f"{shown[:half]}…{shown[-half:]}"


def _escaped(text: str) -> str:
    import html  # a millisecond, and only notebooks ask for it

    return html.escape(printable(text))


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)
