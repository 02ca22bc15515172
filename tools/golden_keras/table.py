"""The table in docs/parity-keras.md: layer × generation × calls, of two recorded generations and of Keras 3 live."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

from tools.golden_keras.cases import CASES, GENERATIONS, LIVE, POWER_ITERATIONS, STEPS, cases_of
from tools.golden_keras.replay import load, replay_all

WHAT = ("output", "kernel", "u")
BEGIN, END = "<!-- measured: python -m tools.golden_keras --table -->", "<!-- end -->"
NAMES = {"2.15": "Keras 2.15 (tf.keras)", "2.21": "tf_keras 2.21", LIVE: "Keras 3"}

# (case, call, "output" | "kernel" | "u") -> the largest of all power iterations
Differences = Mapping[tuple[str, int, str], float]


def write_table(page: Path) -> None:
    """Measure, and put the tables between the page's two marks. Raises ValueError where they are missing."""
    _around(page)  # measuring takes minutes
    lines = list(measured())
    before, after = _around(page)  # as it is now
    page.write_text("\n".join([before, *lines, after]), encoding="utf-8")


def _around(page: Path) -> tuple[str, str]:
    """Return what stands before and behind the table, with the marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} does not hold {BEGIN} and {END}")
    return before + begin, end + after


def measured() -> Iterator[str]:
    """Yield the lines between the marks."""
    yield ""
    yield f"Measured on {date.today():%Y-%m-%d}, {platform.machine()}, CPython {platform.python_version()}."
    for generation in GENERATIONS:
        golden = load(generation)
        made = ", ".join(golden.versions)
        yield from section(NAMES[generation], f"Recorded with {made}; {_ours()}.", generation, recorded(generation))
    found = live()
    used = ", ".join(f"{name} {version(name)}" for name in ("keras", "tensorflow-cpu", "tf2onnx", "numpy"))
    yield from section(NAMES[LIVE], f"Live, by `sn_graph.frontends.keras.parity`: {used}; {_ours()}.", LIVE, found)
    yield ""


def recorded(generation: str) -> Differences:
    """Return the differences of a recorded generation."""
    found: defaultdict[tuple[str, int, str], float] = defaultdict(float)
    for step in replay_all(load(generation)):
        for what in WHAT:
            key = (step.case, step.step, what)
            found[key] = max(found[key], step.max_abs[what] if what == "u" else step.max_rel[what])
    return found


def live() -> Differences:
    """Return the differences of the Keras that runs here."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from sn_graph.frontends.keras import parity
    from tools.golden_keras.live import case_of, joint_inputs, joint_model

    found: defaultdict[tuple[str, int, str], float] = defaultdict(float)
    for iterations in POWER_ITERATIONS:
        for one in parity(joint_model(iterations), STEPS, joint_inputs()).comparisons:
            case, what = case_of(one.output)
            key = (case, one.step + 1, what)
            found[key] = max(found[key], one.max_abs if what == "u" else one.max_rel_norm)
    return found


def section(title: str, told: str, generation: str, found: Differences) -> Iterator[str]:
    """Yield a generation's heading, what was measured, and its table."""
    names = [case.name for case in (CASES if generation == LIVE else cases_of(generation))]
    yield from ("", f"### {title}", "", told, "")
    yield f"| layer | {' | '.join(f'{what}, {calls:,}' for calls in STEPS for what in WHAT)} |"
    yield f"|---|{'---|' * len(STEPS) * len(WHAT)}"
    for name in names:
        yield f"| {name} | {_cells(found[name, calls, what] for calls in STEPS for what in WHAT)} |"
    worst = (max(found[name, calls, what] for name in names) for calls in STEPS for what in WHAT)
    yield f"| **largest** | {_cells(worst)} |"


def _cells(values: Iterable[float]) -> str:
    return " | ".join(f"{value:.0e}" if value else "0" for value in values)


def _ours() -> str:
    return f"onnxruntime {version('onnxruntime')}, onnx {version('onnx')}"
