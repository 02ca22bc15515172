"""Logs: what was found and done, told to Python's logging under `sn_graph`, which is silent until somebody listens.

logging.basicConfig(level=logging.INFO)      # each weight that was left alone, and why
logging.getLogger("sn_graph").setLevel(logging.DEBUG)      # every weight
"""

import logging

from sn_graph.errors import printable
from sn_graph.report.records import Report

_LOGGER = logging.getLogger("sn_graph")
_LOGGER.addHandler(logging.NullHandler())


def log_report(what: str, report: Report) -> None:
    """Log what was done to a model: its convention and skipped weights as INFO, the others as DEBUG."""
    logger = _LOGGER.getChild(what)
    if not logger.isEnabledFor(logging.INFO):
        return
    logger.info(
        "%s: convention %s: %s", printable(report.model), report.convention, printable(report.convention_reason)
    )
    for site in report.sites:
        level = logging.INFO if site.status == "skipped" else logging.DEBUG
        remarks = "; ".join([*([site.reason] if site.reason else []), *site.notes])
        logger.log(level, "%s: %s%s", printable(site.id), site.status, f" ({printable(remarks)})" if remarks else "")
