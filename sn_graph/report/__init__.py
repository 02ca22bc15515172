"""Reports: what a run found and did, as data, as tables, and as a page to look at."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.report.html import render
    from sn_graph.report.log import log_report
    from sn_graph.report.page import Box, Certificate, CertifiedNode, Compared, Drawn, Estimates, Kind, Page, Picture
    from sn_graph.report.records import Reading, Report, SiteRecord, Status, Verified
    from sn_graph.report.table import Reported, Shown, Table, columns, number, one_line, sizes

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
