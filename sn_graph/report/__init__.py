"""Reports: what a run found and did, as data, and as a page to look at."""

from sn_graph.report.html import render
from sn_graph.report.page import Box, Certificate, CertifiedNode, Compared, Drawn, Estimates, Kind, Page, Picture
from sn_graph.report.records import Reading, Report, SiteRecord, Status, Verified

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
    "SiteRecord",
    "Status",
    "Verified",
    "render",
]
