"""Pages: what a command found or did, put together as an HTML report.

What a page shows beyond the command's own object (norms before and after, singular values, estimates, graphs) is
measured here, because only who asks for a page pays for it.
"""

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata, util
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from sn_graph.errors import EnvironmentUnavailable, ModelError, printable
from sn_graph.model import Model, write_file
from sn_graph.norms import draw, exact_sigma
from sn_graph.norms import inspect as measure_norms
from sn_graph.passes import InsertResult, PassResult
from sn_graph.plan import Plan, Target, build_plan
from sn_graph.progress import Progress, silent
from sn_graph.report import Certificate, Drawn, Page, Report, SiteRecord, render
from sn_graph.sites import WeightUse, find_sites
from sn_graph.state import State
from sn_graph.version import __version__

if TYPE_CHECKING:
    from sn_graph.runtime import ParityResult

_STATUSES = ("folded", "inserted", "lifted", "eligible", "unchanged", "skipped")
_PACKAGES = ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy")
_CHECKED = {"run": "verified by running it", "structure": "verified by its structure", "no": "not verified"}


def require_report() -> None:
    """Raise EnvironmentUnavailable where no page can be written: before work is done that would be lost."""
    if util.find_spec("jinja2") is None:
        raise EnvironmentUnavailable(
            "the HTML report needs jinja2", "which is not installed", "pip install 'sn-graph[report]'"
        )


def write_page(page: Page, path: str | os.PathLike[str]) -> None:
    """Write a page as one HTML file, atomically.

    Raises:
        EnvironmentUnavailable: jinja2 is not installed, or the folder can't be written.
    """
    require_report()
    write_file(Path(path), render(page, printable).encode())


def inspected(
    report: Report,
    model: Model,
    plan: Plan,
    *,
    invocation: str,
    state: State | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Page:
    """Return the page of an inspection.

    Args:
        report: What it found.
        model, plan: What was inspected.
        invocation: The command line, as it was typed.
        state, seed: Where the estimates start from, as in `norms.inspect`.
        progress: Told the weights drawn.
    """
    drawn = draw(report.sites, model, plan, state=state, seed=seed, progress=progress)
    counts = _counts(report.sites)
    eligible = counts["eligible"]
    weights = "weight" if len(report.sites) == 1 else "weights"
    summary = f"{eligible} of {len(report.sites)} {weights} can be normalized."
    return Page(
        "inspect",
        report.model,
        summary,
        None,
        "",
        invocation,
        _versions(),
        _facts(report),
        report,
        drawn,
    )


def changed(
    result: PassResult,
    report: Report,
    *,
    invocation: str,
    failure: str | None = None,
    note: str | None = None,
    parity: "ParityResult | None" = None,
    progress: Progress = silent,
) -> Page:
    """Return the page of a model that a pass changed.

    Args:
        result: What the pass made.
        report: What the command prints, with `output` and `verified`.
        invocation: The command line, as it was typed.
        failure: Why its proof failed, where it did.
        note: What the proof says besides.
        parity: The outputs that were compared, where they were.
        progress: Told the weights drawn.
    """
    source, plan = result.source or result.model, result.plan
    drawn: Mapping[str, Drawn] = {}
    if plan is not None:
        state = _state(result)
        report = replace(report, sites=tuple(_measured(report.sites, source, plan, state)))
        after = _after(result, plan, report)
        drawn = draw(report.sites, source, plan, changed=result.model, after=after, state=state, progress=progress)
    counts = _counts(report.sites)
    done = ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status]) or "nothing to do"
    checked = _CHECKED[report.verified or "no"]
    summary = f"{done}; {failure}." if failure else f"{done}; {report.output or 'the result'} is {checked}."
    if note and not failure:
        summary += f" {note[:1].upper()}{note[1:]}."
    ok = False if failure else None if report.verified in (None, "no") else True
    bound = plan.bound if plan is not None and result.name in ("fold", "insert") else None
    return Page(
        result.name,
        report.model,
        summary,
        ok,
        "verified" if ok else "failed",
        invocation,
        _versions(),
        _facts(report),
        report,
        drawn,
        bound,
        parity.comparisons if parity is not None else (),
        parity.notes if parity is not None else (),
    )


def compared(parity: "ParityResult", title: str, *, invocation: str) -> Page:
    """Return the page of a comparison; `title` says what was compared."""
    failed = sum(not row.ok for row in parity.comparisons)
    total = len(parity.comparisons)
    outputs = "output agrees" if total == 1 else "outputs agree"
    summary = f"{failed} of {total} outputs differ." if failed else f"{total} {outputs} within what is allowed."
    return Page(
        "verify",
        title,
        summary,
        parity.ok,
        "agree" if parity.ok else "differ",
        invocation,
        _versions(),
        {"when": _now()},
        parity=parity.comparisons,
        parity_notes=parity.notes,
    )


def certified(certificate: Certificate, title: str, *, invocation: str, ok: bool | None = None) -> Page:
    """Return the page of a certificate; `ok` is whether it is within the bound that was asked for, if any."""
    verdict = "holds" if ok else "fails"
    facts = {"when": _now()}
    return Page(
        "certify", title, certificate.verdict, ok, verdict, invocation, _versions(), facts, certificate=certificate
    )


def _state(result: PassResult) -> State | None:
    """Return the u that an insertion starts from."""
    if not isinstance(result, InsertResult):
        return None
    return State({start.target.id: start.u for start in result.starts}, {})


def _measured(sites: Sequence[SiteRecord], source: Model, plan: Plan, state: State | None) -> Iterator[SiteRecord]:
    """Yield records with σ, and with what one step from the state estimates, where a command did without them.

    Records and the plan's sites are in one order, though lift gives weights other names.
    """
    wanted = [
        site.status != "skipped" and (site.sigma is None or (state is not None and site.status == "inserted"))
        for site in sites
    ]
    narrow = replace(plan, sites=tuple(compress(plan.sites, wanted)), norm="matrix")
    found = iter(measure_norms(source, narrow, state=state).sites if any(wanted) else ())
    for site, asked in zip(sites, wanted, strict=True):
        if not asked:
            yield site
            continue
        known = next(found)
        sigma = site.sigma if site.sigma is not None else known.sigma
        yield replace(site, sigma=sigma, sigma_power=site.sigma_power if state is None else known.sigma_power)


def _after(result: PassResult, plan: Plan, report: Report) -> dict[str, float]:
    """Return the norm that each changed weight has now, by id.

    It is measured, but for an insertion, which divides when it runs: there it is what the first run leaves.
    """
    done = {site.id: site for site in report.sites if site.status in ("folded", "inserted", "lifted")}
    if isinstance(result, InsertResult):
        targets = {target.id: target for target in plan.targets()} if plan.norm == "matrix" else {}
        return {
            site.id: site.sigma / _divisor(site.sigma_power, plan.bound_of(target), plan.clips(target))
            for site in done.values()
            if (target := targets.get(site.id)) is not None and site.sigma and site.sigma_power
        }
    try:
        now = _lifted(result.model) if result.name == "lift" else _changed(plan, result.model)
        return {target.id: exact_sigma(target, target.matrix(result.model)) for target in now if target.id in done}
    except ModelError:  # an overflow in a 16-bit type, say: the command has said so
        return {}


def _lifted(model: Model) -> Iterator[Target]:
    return (target for target in build_plan(model).targets() if not target.splits)


def _changed(plan: Plan, model: Model) -> Iterator[Target]:
    """Yield the targets of a plan as a changed model holds them, with the matrices that the plan takes.

    They are found by what their readers make: those may read copies now, which have other names. A weight that became
    several is left out.
    """
    held = {_reading(use): site for site in find_sites(model) for use in site.uses}
    for target in plan.targets():
        found = {site.id: site for use in target.uses if (site := held.get(_reading(use))) is not None}
        if len(found) == 1:
            (site,) = found.values()
            if site.tensor is not None and site.shape == target.shape:
                yield replace(target, site=replace(site, id=target.id), tensor=site.tensor)


def _reading(use: WeightUse) -> tuple[object, ...]:
    return use.node.scope.id, *use.node.proto.output, use.index


def _divisor(sigma: float, bound: float, clip: bool) -> float:
    divisor = sigma / bound
    return max(divisor, 1.0) if clip else divisor


def _counts(sites: Iterable[SiteRecord]) -> Counter[str]:
    return Counter(site.status for site in sites)


def _facts(report: Report) -> dict[str, str]:
    opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in report.opset.items())
    sigmas = [site.sigma for site in report.sites if site.sigma is not None and math.isfinite(site.sigma)]
    spread = {"smallest and largest σ": f"{min(sigmas):.6g}, {max(sigmas):.6g}"} if sigmas else {}
    return {
        "model": report.model,
        **({"written to": report.output} if report.output else {}),
        **({"verified": report.verified} if report.verified else {}),
        **spread,
        "opset": opset,
        "when": _now(),
    }


def _versions() -> dict[str, str]:
    """Return the versions of everything that takes part."""
    found = {"sn-graph": __version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    """Return the time, in UTC; SOURCE_DATE_EPOCH fixes it (https://reproducible-builds.org/specs/source-date-epoch)."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(given) if given.isdecimal() else time.time()
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
