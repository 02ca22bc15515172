"""Parity and placement: a case on the CPU and on the provider under test, and which node ran where."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.choices import ProviderChoice
from sn_graph.runtime import ParityResult, Side, compare_sides, make_feeds, run_named
from sn_graph.runtime.engine import PROVIDERS
from tools.cuda_check.cases import Case

SHORT = {full: short for short, full in PROVIDERS.items()}
OURS = "sn/"  # what the names of inserted nodes begin with
Placement = Counter[tuple[str, str, bool]]


def measure(case: Case, provider: ProviderChoice, seed: int) -> dict[str, Any]:
    """Run a case with TF32 off and on, and with onnxruntime's profile; return the figures.

    Raises:
        ModelError: There is no such form of the model, or it can't be run.
    """
    model = case.model()
    feeds = make_feeds(model, seed=seed, steps=case.steps)
    # The CPU itself is compared with the CPU without optimizations, so that there is something to compare.
    reference = Side(model, f"{case.key} (cpu)", "cpu", optimize=provider != "cpu")
    tested = Side(model, f"{case.key} ({provider})", provider)
    placement = placed(tested, feeds[0])
    off = compare_sides(reference, tested, feeds)
    on = compare_sides(reference, replace(tested, tf32=True), feeds)
    elsewhere = sorted({op for where, op, ours in placement if ours and where != provider})
    astray = case.op is not None and {where for where, op, _ in placement if op == case.op} != {provider}
    return {
        "ok": off.ok and not elsewhere and not astray,
        "steps": case.steps,
        "verdict": verdict(off.ok, elsewhere, case.op if astray else None),
        "max_abs": largest(off, "max_abs"),
        "rel": largest(off),
        "max_abs_tf32": largest(on, "max_abs"),
        "rel_tf32": largest(on),
        "here": listing(counted(placement, provider, here=True)),
        "elsewhere": listing(counted(placement, provider, here=False)),
        "copies": sum(count for (_, op, _), count in placement.items() if op.startswith("Memcpy")),
    }


def verdict(agree: bool, elsewhere: Sequence[str], astray: str | None) -> str:
    """Return in words what is wrong, or "yes"."""
    wrong = [] if agree else ["outputs"]
    wrong += [f"our {op} ran elsewhere" for op in elsewhere]
    wrong += [] if astray is None else [f"{astray} ran elsewhere"]
    return f"no: {', '.join(wrong)}" if wrong else "yes"


def placed(side: Side, feed: Mapping[str, NDArray[Any]]) -> Placement:
    """Run a side once under onnxruntime's profile; return how many nodes of which op ran where, ours told apart."""
    with tempfile.TemporaryDirectory() as folder:
        session = side.open(profile_prefix=Path(folder) / "profile")
        try:
            run_named(session, {**_first_state(side), **feed}, label=side.label)
        finally:
            profile = Path(session.end_profiling())
        return count_nodes(json.loads(profile.read_text(encoding="utf-8")))


def _first_state(side: Side) -> Mapping[str, NDArray[Any]]:
    from sn_graph.state import initial_state

    return {} if side.inserted is None else initial_state(side.model, side.inserted)


def count_nodes(profile: Iterable[dict[str, Any]]) -> Placement:
    """Count the (provider, op, whether it is ours) of each node in a profile, once however often it ran."""
    seen = {
        (event["name"], args.get("node_index"), SHORT.get(args["provider"], args["provider"]), args["op_name"])
        for event in profile
        if event.get("cat") == "Node" and (args := event.get("args", {})).get("provider")
    }
    return Counter((provider, op, name.startswith(OURS)) for name, _, provider, op in seen)


def counted(placement: Placement, provider: str, *, here: bool) -> Iterator[tuple[str, int]]:
    """Yield each op that ran on the provider, or elsewhere, with its number."""
    totals: Counter[str] = Counter()
    for (where, op, _), count in placement.items():
        if (where == provider) is here:
            totals[op if here else f"{op} ({where})"] += count
    yield from sorted(totals.items())


def listing(counts: Iterable[tuple[str, int]]) -> str:
    """Return counted names in words."""
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts) or "–"


def largest(result: ParityResult, field: str = "max_rel_norm") -> float:
    """Return the largest figure of all outputs and steps; NaN, where no number can tell, beats any."""
    return float(np.max([getattr(one, field) for one in result.comparisons], initial=0.0))
