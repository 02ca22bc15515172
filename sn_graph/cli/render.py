"""A report as a table, for terminals, pipes and web pages."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sn_graph.cli.console import Settings, new_table, number, on_terminal, print_rich
from sn_graph.model.files import write_file
from sn_graph.report import Reading, Report, SiteRecord

if TYPE_CHECKING:
    from rich.table import Table

_NAMED = 3  # weights that share a remark, named before "and so many more"


def print_report(report: Report) -> None:
    """Print a report to stdout: to a person what is narrow enough to read, to a pipe one line a weight."""
    if not report.sites:
        return
    if on_terminal():
        print_rich(_narrow_table(report.sites), *_remark_lines(report.sites))
    else:
        print_rich(_wide_table(report.sites))


def explain_sites(settings: Settings, report: Report) -> None:
    """Under --verbose, say to stderr whose convention holds, and what happened to each weight and why."""
    settings.explain(f"convention {report.convention}: {report.convention_reason}")
    for site in report.sites:
        settings.explain(f"{site.id}: {'; '.join([site.status, *_remarks(site)])}")


def _wide_table(sites: Iterable[SiteRecord]) -> "Table":
    """Return the table that has every column, with `-` where nothing is known: a row a weight."""
    from rich.text import Text

    table = new_table("weight", "op", "type", "shape", "matrix", "σ", "σ used", "status", "remarks")
    for site in sites:
        readings = [
            f"{reading.convention} reads {_sizes(reading.matrix)}"
            + (f" with σ {number(reading.sigma)}" if reading.sigma is not None else "")
            for reading in site.readings
        ]
        cells = (
            site.id,
            "+".join(site.op_types),
            site.dtype or "",
            _sizes(site.shape),
            _sizes(site.matrix),
            number(site.sigma),
            number(site.sigma_used),
            site.status,
            "; ".join([*_remarks(site), *readings]),
        )
        table.add_row(*(Text(cell or "-") for cell in cells))  # as Text: brackets in names are no markup
    return table


def _narrow_table(sites: tuple[SiteRecord, ...]) -> "Table":
    """Return the table without columns that say nothing, with a row for each other reading of a weight."""
    from rich.text import Text

    types = len({site.dtype for site in sites if site.dtype}) > 1
    exact = any(site.sigma is not None for site in sites)
    used = any(site.sigma_used not in (None, site.sigma) for site in sites)

    def row(name: str, op: str, dtype: str, shape: str, matrix: str, sigmas: tuple[str, str], status: str) -> list[str]:
        columns = ((name, True), (op, True), (dtype, types), (shape, True), (matrix, True))
        return [cell for cell, shown in (*columns, (sigmas[0], exact), (sigmas[1], used), (status, True)) if shown]

    table = new_table(*row("weight", "op", "type", "shape", "matrix", ("σ", "σ used"), "status"))
    table.columns[0].min_width = 20
    for column in table.columns[1:]:
        column.no_wrap = True
    for site in sites:
        sigmas = number(site.sigma), number(site.sigma_used)
        op = "+".join(site.op_types)
        cells = row(site.id, op, site.dtype or "", _sizes(site.shape), _sizes(site.matrix), sigmas, site.status)
        table.add_row(*map(Text, cells))
        for reading in _others(site):
            as_read = row(
                f"  as {reading.convention}", "", "", "", _sizes(reading.matrix), (number(reading.sigma), ""), ""
            )
            table.add_row(*(Text(cell, style="dim") for cell in as_read))
    return table


def _others(site: SiteRecord) -> Iterator[Reading]:
    """Yield the readings by other matrices than the one in force, each matrix once."""
    seen = {site.matrix}
    for reading in site.readings:
        if reading.matrix not in seen:
            seen.add(reading.matrix)
            yield reading


def _remark_lines(sites: Iterable[SiteRecord]) -> Iterator[str]:
    """Yield each remark once, behind the weights that it is about."""
    from rich.markup import escape

    about: dict[str, list[str]] = defaultdict(list)
    for site in sites:
        for remark in _remarks(site):
            about[remark].append(site.id)
    for remark, weights in about.items():
        named = ", ".join(weights[:_NAMED])
        more = f" and {len(weights) - _NAMED} more" if len(weights) > _NAMED else ""
        yield escape(f"{named}{more}: {remark}")


def _remarks(site: SiteRecord) -> list[str]:
    reason = [site.reason] if site.reason else []
    via = [f"read through {', '.join(site.via)}"] if site.via else []
    return [*reason, *via, *site.notes]


def _sizes(sizes: tuple[int, ...] | None) -> str:
    return "×".join(map(str, sizes)) if sizes is not None else ""


def write_html(report: Report, path: Path) -> None:
    """Write a report as a web page, atomically."""
    import io

    from rich import box
    from rich.console import Console

    table = _wide_table(report.sites)
    table.box = box.SIMPLE_HEAD
    table.title = f"{report.model} ({report.convention}: {report.convention_reason})"
    console = Console(record=True, file=io.StringIO(), width=220)
    console.print(table)
    write_file(path, console.export_html(inline_styles=True).encode())
