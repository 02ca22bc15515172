"""Reports: what a run found and did, as data, as tables, and as a page to look at."""

from typing import TYPE_CHECKING

from sn_graph.report.log import log_report
from sn_graph.report.records import Reading, Report, SiteRecord, Status, Verified
from sn_graph.report.table import Reported, Shown, Table, columns, number, one_line, sizes

if TYPE_CHECKING:
    from sn_graph.report.html import render
    from sn_graph.report.page import Box, Certificate, CertifiedNode, Compared, Drawn, Estimates, Kind, Page, Picture

# Imported when first used, because few runs write a page.
_HOMES = {
    "Box": "sn_graph.report.page",
    "Certificate": "sn_graph.report.page",
    "CertifiedNode": "sn_graph.report.page",
    "Compared": "sn_graph.report.page",
    "Drawn": "sn_graph.report.page",
    "Estimates": "sn_graph.report.page",
    "Kind": "sn_graph.report.page",
    "Page": "sn_graph.report.page",
    "Picture": "sn_graph.report.page",
    "render": "sn_graph.report.html",
}

__all__ = [
    "Box",
    "Certificate",
    "CertifiedNode",
    "Compared",
    "Drawn",
    "Estimates",
    "Kind",
    "Page",
    "Picture",
    "Reading",
    "Report",
    "Reported",
    "Shown",
    "SiteRecord",
    "Status",
    "Table",
    "Verified",
    "columns",
    "log_report",
    "number",
    "one_line",
    "render",
    "sizes",
]

if not TYPE_CHECKING:  # to a type checker an unknown name is an error

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
