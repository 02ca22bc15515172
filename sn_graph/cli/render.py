"""Rendering: a report as a table, for terminals and pipes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sn_graph.cli.console import Settings, number, on_terminal
from sn_graph.cli.table import Table, print_tables
from sn_graph.recognise import ANONYMOUS
from sn_graph.report import Reading, Report, SiteRecord

_NAMED = 3  # weights that share a remark, named before "and so many more"


def print_report(report: Report) -> None:
    """Print a report to stdout: to a person what is narrow enough to read, to a pipe one line a weight."""
    if not report.sites:
        return
    if on_terminal():
        print_tables(_narrow_table(report.sites), *_remark_lines(report.sites))
    else:
        print_tables(_wide_table(report.sites))


def explain_sites(settings: Settings, report: Report) -> None:
    """Under --verbose, say to stderr whose convention holds, and what happened to each weight and why."""
    settings.explain(f"convention {report.convention}: {report.convention_reason}")
    for site in report.sites:
        settings.explain(f"{site.id}: {'; '.join([site.status, *_remarks(site)])}")


def what_it_is(report: Report, inserted: bool) -> list[str]:
    """Return what kind of a file a report is of, as far as spectral norm goes: a sentence each."""
    found = []
    if inserted:
        found.append(f"{report.model} is inserted: each run normalizes its weights, which are measured as before that")
    normalized = [site for site in report.sites if (site.form or "").startswith("spectral-norm")]
    if normalized:
        many = f"{len(normalized)} weights are" if len(normalized) > 1 else "1 weight is"
        found.append(f"{many} normalized in the graph, as exporters leave it; sn-graph lift takes that out")
    norms = [site.sigma for site in report.sites if site.status == "eligible" and site.sigma is not None]
    alike = bool(norms) and max(norms) > 0.0 and max(norms) - min(norms) <= _EQUAL * max(norms)
    if alike and not inserted and (len(norms) > 1 or abs(norms[0] - 1.0) <= _EQUAL):
        found.append(f"every weight has the norm {norms[0]:.4g}, as after fold")
    return found


_EQUAL = 4e-6  # relative: what fold promises of each of two weights


def _wide_table(sites: Iterable[SiteRecord]) -> Table:
    """Return the table that has every column, with `-` where nothing is known: a row a weight."""
    sites = tuple(sites)
    norms = [norm for norm in _NORMS if norm.always or norm.known(sites)]
    titles = ("weight", "op", "type", "shape", "matrix", *(norm.title for norm in norms), "status", "remarks")
    table = Table(*titles, wrapped=("weight", "remarks"))
    for site in sites:
        readings = [
            f"{reading.convention} reads {_sizes(reading.matrix)}"
            + (f" with σ {number(reading.sigma)}" if reading.sigma is not None else "")
            for reading in site.readings
        ]
        cells = (
            _name(site),
            _purpose(site),
            site.dtype or "",
            _sizes(site.shape),
            _sizes(site.matrix),
            *(norm.text(site) for norm in norms),
            site.status,
            "; ".join([*_remarks(site), *readings]),
        )
        table.add(cell or "-" for cell in cells)
    return table


def _name(site: SiteRecord) -> str:
    """Return a weight's name, and where an exporter made it up, that of a node which reads it."""
    named = ANONYMOUS.match(site.id.removesuffix("_quantized")) is None or site.id.startswith("/")
    return site.id if named or not site.consumers else f"{site.id} ← {site.consumers[0]}"


def _narrow_table(sites: tuple[SiteRecord, ...]) -> Table:
    """Return the table without columns that say nothing, with a row for each other reading of a weight."""
    norms = [norm for norm in _NORMS if norm.known(sites) and not (norm.title == "σ used" and _says_nothing_new(sites))]
    titles = ["weight", "op", "type", "shape", "matrix", *(norm.title for norm in norms), "status"]
    rows = []
    for site in sites:
        about = [_purpose(site), site.dtype or "", _sizes(site.shape), _sizes(site.matrix)]
        rows.append([_name(site), *about, *(norm.text(site) for norm in norms), site.status])
        for reading in _others(site):
            sigmas = [number(reading.sigma) if norm.title == "σ" else "" for norm in norms]
            rows.append([f"  as {reading.convention}", "", "", "", _sizes(reading.matrix), *sigmas, ""])
    several = len({site.dtype for site in sites if site.dtype}) > 1
    shown = [column for column, title in enumerate(titles) if several or title != "type"]
    table = Table(*(titles[column] for column in shown), wrapped=("weight",), least_wanted=_LEAST_WANTED)
    for row in rows:
        table.add((row[column] for column in shown), dim=not row[-1])  # another reading
    return table


# In this order, and never the status.
_LEAST_WANTED = (
    "‖W‖F",
    "σ·√(in/out)",
    "stable rank",
    "1 step",
    "shape",
    "proven",
    "type",
    "operator",
    "σ in graph",
    "σ used",
    "op",
    "matrix",
)


def _says_nothing_new(sites: tuple[SiteRecord, ...]) -> bool:
    return all(site.sigma_used in (None, site.sigma) for site in sites)


@dataclass(frozen=True)
class _Norm:
    """A column of figures; `always` where the wide table has it even when it is empty."""

    title: str
    value: Callable[[SiteRecord], float | None]
    write: Callable[[float | None, SiteRecord], str]
    always: bool = False

    def known(self, sites: tuple[SiteRecord, ...]) -> bool:
        return any(self.value(site) is not None for site in sites)

    def text(self, site: SiteRecord) -> str:
        return self.write(self.value(site), site)


def _plain(value: float | None, _site: SiteRecord) -> str:
    return number(value)


def _above(value: float | None, site: SiteRecord) -> str:
    """A proven bound, as how far it is above the norm: its digits say nothing else."""
    return "" if value is None or not site.sigma else f"+{value / site.sigma - 1.0:.0e}"


def _short(value: float | None, _site: SiteRecord) -> str:
    return "" if value is None else f"{value:.3g}"


def _heads(value: float | None, site: SiteRecord) -> str:
    """The smallest and the largest of the heads' norms; `--json` has each."""
    return "" if value is None else f"{number(min(site.sigma_heads))} … {number(value)}"


def _measured(name: str) -> Callable[[SiteRecord], float | None]:
    """Return what gives a figure that only an inspection shows; `--json` of fold and insert has it too."""
    return lambda site: getattr(site, name) if site.status == "eligible" else None


def _bracket(value: float | None, site: SiteRecord) -> str:
    upper = site.sigma_operator_upper
    return f"{number(value)} … {number(upper)}" if value is not None and upper is not None else number(value)


def _off(value: float | None, site: SiteRecord) -> str:
    return "" if value is None or not site.sigma else f"{100.0 * (value / site.sigma - 1.0):+.1f} %"


_NORMS = (
    _Norm("σ", lambda site: site.sigma, _plain, always=True),
    _Norm("σ in graph", lambda site: site.sigma_graph, _plain),
    _Norm("proven", lambda site: site.sigma_upper, _above),
    _Norm("operator", lambda site: site.sigma_operator, _bracket),
    _Norm("1 step", lambda site: site.sigma_power, _off),
    _Norm("σ of base", lambda site: site.sigma_base, _plain),
    _Norm("σ of difference", lambda site: site.sigma_delta, _plain),
    _Norm("‖W‖F", _measured("frobenius"), _plain),
    _Norm("stable rank", _measured("stable_rank"), _short),
    _Norm("σ·√(in/out)", _measured("sigma_scaled"), _plain),
    _Norm("σ of heads", lambda site: max(site.sigma_heads, default=None), _heads),
    _Norm("σ used", lambda site: site.sigma_used, _plain, always=True),
)


def _others(site: SiteRecord) -> Iterator[Reading]:
    """Yield the readings by other matrices than the one in force, each matrix once."""
    seen = {site.matrix}
    for reading in site.readings:
        if reading.matrix not in seen:
            seen.add(reading.matrix)
            yield reading


def _remark_lines(sites: Iterable[SiteRecord]) -> Iterator[str]:
    """Yield each remark once, behind the weights that it is about."""
    about: dict[str, list[str]] = defaultdict(list)
    for site in sites:
        for remark in _remarks(site):
            about[remark].append(site.id)
    for remark, weights in about.items():
        named = ", ".join(weights[:_NAMED])
        more = f" and {len(weights) - _NAMED} more" if len(weights) > _NAMED else ""
        yield f"{named}{more}: {remark}"


def _remarks(site: SiteRecord) -> list[str]:
    reason = [site.reason] if site.reason else []
    reason += [f"form {_form(site)}"] if site.form else []
    via = [f"read through {', '.join(site.via)}"] if site.via else []
    return [*reason, *via, *(_HINTS[hint] for hint in site.hints), *site.notes]


def _form(site: SiteRecord) -> str:
    """Return what a computed weight is, with its cap and gain where it has any."""
    gain = [f"gain {number(site.gain)}"] if site.gain not in (None, 1.0) else []
    cap = [f"cap {number(site.cap)}"] if site.cap is not None else []
    return ", ".join([str(site.form), *gain, *cap])


_HINTS = {
    "zero": "all zeros",
    "rank 1": "of rank 1: a power iteration is exact after one step",
    "clustered": "its two largest singular values are within 1 %: a power iteration takes hundreds of steps",
}


def _purpose(site: SiteRecord) -> str:
    """Return the operators that read a weight; of a checkpoint's, its role."""
    return "+".join(site.op_types) or site.role or ""


def _sizes(sizes: tuple[int, ...] | None) -> str:
    return "×".join(map(str, sizes)) if sizes is not None else ""
