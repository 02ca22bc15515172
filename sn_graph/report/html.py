"""HTML reports: a page as one file that loads nothing, works without scripts, and runs no word of a model.

Everything is escaped by the templates, control characters by the caller's `shown`. The page's own policy allows the one
script and the one style sheet that are in it, by their hashes, and nothing else: what slipped through would not run.
"""

import base64
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sn_graph.report.chart import Axis, Chart, bar_axis, estimates_chart, spectrum_chart
from sn_graph.report.drawing import Drawing, middle_out, place
from sn_graph.report.page import Compared, Drawn, Page
from sn_graph.report.records import SiteRecord

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_BAR = 1000.0  # a bar's width in its own units
_LONGEST = 400  # characters of a name; a file's may have millions
_ROUNDING = 1e-13  # of a relative difference: what float64 leaves of none
_BRACKET = 4.0  # what a bracket is drawn as at least


@dataclass(frozen=True)
class Bar:
    """What a bar of the table shows, in units of its width: values that are not known are None."""

    sigma: float | None
    after: float | None
    operator: tuple[float, float] | None  # start and width
    bound: float | None


@dataclass(frozen=True)
class Row:
    """A weight of the table, and what is drawn of it."""

    number: int
    site: SiteRecord
    drawn: Drawn
    bar: Bar
    spectrum: Chart | None
    estimates: Chart | None
    picture: Drawing | None

    @property
    def sigma(self) -> float | None:
        """The norm before anything was done."""
        return self.site.sigma if self.site.sigma is not None else self.drawn.sigma

    @property
    def one_step(self) -> float | None:
        """How far the estimate of one step is off, relative to σ."""
        estimate = self.site.sigma_power
        if estimate is None and self.drawn.estimates is not None:
            estimate = self.drawn.estimates.runs[0][0]
        return estimate / self.sigma - 1.0 if estimate is not None and self.sigma else None

    @property
    def proven(self) -> float | None:
        """How far the proven bound is above σ, relative to it."""
        upper = self.site.sigma_upper
        return upper / self.sigma - 1.0 if upper is not None and self.sigma else None


def render(page: Page, shown: Callable[[str], str]) -> str:
    """Return a page as HTML.

    Args:
        page: What it shows.
        shown: Returns a text that may hold names from a file without anything that acts: `errors.printable`.

    Raises:
        ImportError: jinja2 is not installed.
    """
    environment = _environment(shown)
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    sites = () if page.report is None else page.report.sites
    scale = bar_axis(_norms(page))
    rows = [_row(number, site, page, scale) for number, site in enumerate(sites, 1)]
    bounds = [node.bound for node in page.certificate.nodes] if page.certificate is not None else []
    return environment.get_template("page.html").render(
        page=page,
        rows=rows,
        scale=scale,
        columns=_columns(rows),
        parity=[(row, _parity_share(row)) for row in page.parity],
        certified=bar_axis(bounds),
        script=script,
        style=style,
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'",
    )


def _environment(shown: Callable[[str], str]) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "above": _above,
        "short": lambda value: f"{value:.3g}",
        "percent": _percent,
        "sizes": _sizes,
        "name": lambda text: middle_out(text, _LONGEST),
        "own": Markup,  # text of this package, not of a file
        "share": lambda value, axis: round(100.0 * axis.place(value), 2),
        "breakable": lambda text: list(_parts(text)),
    }
    return environment


def _norms(page: Page) -> Iterator[float | None]:
    """Yield everything that the bars show."""
    yield page.bound
    for site in () if page.report is None else page.report.sites:
        drawn = page.drawn.get(site.id, Drawn())
        yield from (site.sigma, site.sigma_operator, site.sigma_operator_upper, drawn.sigma, drawn.after)


def _row(number: int, site: SiteRecord, page: Page, scale: Axis) -> Row:
    drawn = page.drawn.get(site.id, Drawn())
    estimates, sigma = drawn.estimates, site.sigma if site.sigma is not None else drawn.sigma
    return Row(
        number,
        site,
        drawn,
        _bar(site, drawn, page.bound, scale),
        spectrum_chart(drawn.values) if len(drawn.values) > 1 else None,
        estimates_chart(estimates.calls, estimates.runs, sigma) if estimates is not None and sigma else None,
        place(drawn.picture) if drawn.picture is not None else None,
    )


def _bar(site: SiteRecord, drawn: Drawn, bound: float | None, scale: Axis) -> Bar:
    def at(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else round(_BAR * scale.place(value), 1)

    lower, upper = at(site.sigma_operator), at(site.sigma_operator_upper)
    bracket = None
    if lower is not None:
        end = lower if upper is None else max(upper, lower)
        start = min(lower, _BAR - _BRACKET)
        bracket = start, max(end - start, _BRACKET)
    return Bar(at(site.sigma if site.sigma is not None else drawn.sigma), at(drawn.after), bracket, at(bound))


def _columns(rows: list[Row]) -> set[str]:
    """Return the columns of which something is known."""
    known = {
        "sigma": any(row.sigma is not None for row in rows),
        "graph": any(row.site.sigma_graph is not None for row in rows),
        "proven": any(row.proven is not None for row in rows),
        "operator": any(row.site.sigma_operator is not None for row in rows),
        "one_step": any(row.one_step is not None for row in rows),
        "used": any(row.site.sigma_used not in (None, row.site.sigma) for row in rows),
        "after": any(row.drawn.after is not None for row in rows),
    }
    return {name for name, there in known.items() if there}


_RELATIVE = Axis(1e-10, 1.0, True)


def _parity_share(row: Compared) -> tuple[float | None, float | None]:
    """Return how far along a bar from 1e-10 to 1 the relative difference and its limit stand, in percent."""
    found = row.max_rel_norm
    return (
        None if not math.isfinite(found) else round(100.0 * _RELATIVE.place(found), 1),
        round(100.0 * _RELATIVE.place(row.rtol), 1) if row.rtol > 0.0 else None,
    )


def _hash(text: str) -> str:
    """Return what a content security policy calls an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _above(value: float | None) -> str:
    """Write a proven bound with 7 digits, rounded upwards: rounded to nearest it would be proven no more.

    >>> _above(1.00000001), _above(2.0), _above(3733808.62)
    ('1.000001', '2', '3733809')
    """
    if value is None or not math.isfinite(value):
        return _number(value)
    with localcontext(prec=7, rounding=ROUND_CEILING):
        return f"{float(+Decimal(value)):.7g}"


def _percent(value: float | None) -> str:
    """Write a relative difference: in percent, or as a power of ten where that would be 0.0."""
    if value is None:
        return ""
    if abs(value) < _ROUNDING:
        return "0"
    return f"{100.0 * value:+.1f} %" if abs(value) >= 5e-4 else f"{value:+.0e}"


def _sizes(sizes: tuple[int, ...] | None) -> str:
    return "×".join(map(str, sizes)) if sizes is not None else ""


def _parts(text: str) -> Iterator[str]:
    """Yield a name's parts, each with the separator behind it: where a line may end."""
    part = ""
    for letter in middle_out(text, _LONGEST):
        part += letter
        if letter in "/._:":
            yield part
            part = ""
    if part:
        yield part
