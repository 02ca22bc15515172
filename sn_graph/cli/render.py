"""A report as a table, for terminals, pipes and web pages."""

from pathlib import Path
from typing import TYPE_CHECKING

from sn_graph.cli.console import new_table, number, stdout
from sn_graph.model.files import write_file
from sn_graph.report import Report, SiteRecord

if TYPE_CHECKING:
    from rich.table import Table


def print_report(report: Report) -> None:
    """Print a report's table to stdout."""
    stdout().print(report_table(report))


def report_table(report: Report) -> "Table":
    """Return the table of a report: a row a weight, and a row for each other convention's reading of it."""
    from rich.text import Text

    table = new_table("weight", "op", "type", "shape", "matrix", "σ", "σ used", "status", "remarks")
    for site in report.sites:
        cells = (
            site.id,
            "+".join(site.op_types),
            site.dtype or "",
            "×".join(map(str, site.shape)) if site.shape is not None else "",
            "×".join(map(str, site.matrix)) if site.matrix else "",
            number(site.sigma),
            number(site.sigma_used),
            site.status,
            _remarks(site),
        )
        table.add_row(*map(Text, cells))  # as Text: brackets in names are no markup
    return table


def _remarks(site: SiteRecord) -> str:
    parts = [site.reason] if site.reason else []
    if site.via:
        parts.append(f"through {', '.join(site.via)}")
    parts += [
        f"{reading.convention} reads {reading.matrix[0]}×{reading.matrix[1]}"
        + (f" with σ {number(reading.sigma)}" if reading.sigma is not None else "")
        for reading in site.readings
    ]
    return "; ".join([*parts, *site.notes])


def write_html(report: Report, path: Path) -> None:
    """Write a report as a web page, atomically."""
    import io

    from rich import box
    from rich.console import Console

    table = report_table(report)
    table.box = box.SIMPLE_HEAD
    table.title = f"{report.model} ({report.convention}: {report.convention_reason})"
    console = Console(record=True, file=io.StringIO(), width=220)
    console.print(table)
    write_file(path, console.export_html(inline_styles=True).encode())
