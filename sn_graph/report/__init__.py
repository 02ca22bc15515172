"""Reports: what a run found and did, as data."""

from sn_graph.report.records import Reading, Report, SiteRecord, Status, Verified

__all__ = [
    "Reading",
    "Report",
    "SiteRecord",
    "Status",
    "Verified",
]
