"""SARIF: what failed as results of static analysis, which code hosts show beside a change.

OASIS, Static Analysis Results Interchange Format 2.1.0, https://docs.oasis-open.org/sarif/sarif/v2.1.0/.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sn_graph.errors import SnGraphError, printable
from sn_graph.model.remote import is_url
from sn_graph.version import __version__

Row = Mapping[str, Any]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_RULES = {
    "assert": "A weight breaks the condition that --assert states.",
    "verification": "A verification failed.",
    "error": "A model can't be used, or can't be worked on here.",
}


def sarif(lines: Sequence[Row]) -> dict[str, Any]:
    """Return what failed in lines as one SARIF log, JSON-ready."""
    rules = [{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()]
    driver = {"name": "sn-graph", "version": __version__, "rules": rules}
    results = [result for line in lines for result in _results(line)]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _results(line: Row) -> Iterator[dict[str, Any]]:
    for row in line.get("broken", ()):
        yield _result(line, "assert", f"weight '{row['id']}': {row['found']}, against {line['assert']}", row["id"])
    error = line.get("error")
    if error is not None and not line.get("broken"):
        rule = "verification" if error["exit_code"] == 1 else "error"
        yield _result(line, rule, str(SnGraphError(error["what"], error["why"], error["do"])), None)


def _result(line: Row, rule: str, text: str, weight: str | None) -> dict[str, Any]:
    place: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(line["input"])}}}
    if weight is not None:
        place["logicalLocations"] = [{"fullyQualifiedName": printable(weight), "kind": "member"}]
    index = list(_RULES).index(rule)
    message = {"text": printable(text)}
    return {"ruleId": rule, "ruleIndex": index, "level": "error", "message": message, "locations": [place]}


def _uri(location: str) -> str:
    """Return a location as a URI: relative where it lies below the folder of this process, as code hosts want it."""
    if is_url(location):
        return location
    path = Path(os.path.abspath(location))
    if path.is_relative_to(Path.cwd()):
        return quote(path.relative_to(Path.cwd()).as_posix())
    return path.as_uri()
