"""JUnit: lines as the XML that CI servers show, a suite a file and a case a weight or comparison.

https://github.com/testmoapp/junitxml: testsuites > testsuite > testcase > failure | error | skipped.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from sn_graph.errors import SnGraphError, printable

Row = Mapping[str, Any]


def junit(lines: Sequence[Row], command: str) -> bytes:
    """Return lines as JUnit XML, in UTF-8."""
    root = ElementTree.Element("testsuites", name=f"sn-graph {command}")
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    seconds = 0.0
    for line in lines:
        cases = list(_cases(line, command))
        counts = {
            "tests": len(cases),
            **{f"{kind}s": sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error")},
            "skipped": sum(case.find("skipped") is not None for case in cases),
        }
        spent = float(line.get("seconds") or 0.0)
        about = {"name": printable(line["input"]), **{name: str(count) for name, count in counts.items()}}
        suite = ElementTree.SubElement(root, "testsuite", about, time=f"{spent:.3f}")
        suite.extend(cases)
        seconds += spent
        totals = {name: count + counts[name] for name, count in totals.items()}
    root.attrib |= {**{name: str(count) for name, count in totals.items()}, "time": f"{seconds:.3f}"}
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _cases(line: Row, command: str) -> Iterator[ElementTree.Element]:
    broken = {each["id"]: each["found"] for each in line.get("broken", ())}
    for site in line.get("sites", ()):
        case = _case(line, site["id"])
        if site["id"] in broken:
            _end(case, "failure", f"{broken[site['id']]}, against {line['assert']}")
        elif site["status"] == "skipped":
            _end(case, "skipped", site["reason"] or "")
        yield case
    for row in line.get("comparisons", ()):
        case = _case(line, f"{row['output']} on {row['provider']}, step {row['step']}")
        if not row["ok"]:
            _end(
                case, "failure", f"max |a-b| is {row['max_abs']}, where {row['atol']} + {row['rtol']}·max|b| is allowed"
            )
        yield case
    error = line.get("error")
    case = _case(line, command)
    if error is not None:
        told = str(SnGraphError(error["what"], error["why"], error["do"]))
        _end(case, "failure" if error["exit_code"] == 1 else "error", told)
    yield case


def _case(line: Row, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", name=printable(name), classname=printable(line["input"]))


def _end(case: ElementTree.Element, kind: str, message: str) -> None:
    ElementTree.SubElement(case, kind, message=printable(message))
