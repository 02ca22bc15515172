"""Run models on the CPU and on CUDA, and write down how far they agree and which node ran where.

    python -m tools.cuda_parity                              # from the checkout; writes docs/parity-cuda.md
    python -m tools.cuda_parity --right cpu --output t.md    # the same without a GPU, to try this tool

Every model of models/ and a generated one per kind of weight-bearing op, as it is and inserted (outputs, u and σ over
10 steps): TF32 off (compared by the tolerances of `sn-graph verify`) and on (reported: TF32 keeps 10 bits), and the
providers that onnxruntime's own profile names. On CUDA, inserted models run through CUDA graphs too. Ends with 0, with
1 where outputs differ or a generated op ran elsewhere, with 4 without the provider.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import sn_graph
from sn_graph.errors import ModelError, SnGraphError
from sn_graph.model import Model
from sn_graph.runtime import ParityResult, Side, compare_sides, make_feeds, run_named
from sn_graph.runtime.engine import PROVIDERS, require_provider
from tools.op_models import op_models

ROOT = Path(__file__).resolve().parents[1]
INSERTED_STEPS = 10  # of the state: σ and u are compared at each
SHORT = {full: short for short, full in PROVIDERS.items()}


@dataclass(frozen=True)
class Case:
    """A model to run `steps` times; `op` must run on the right provider where it is given."""

    name: str
    model: Model
    op: str | None = None
    steps: int = 1


@dataclass(frozen=True)
class Row:
    """What came of a case: TF32 off and on, and how many nodes of which op ran on which provider."""

    case: Case
    off: ParityResult
    on: ParityResult
    placement: Counter[tuple[str, str]]
    placed: bool

    @property
    def ok(self) -> bool:
        """Whether outputs agree with TF32 off, and the op ran where it should."""
        return self.off.ok and self.placed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the record; return the exit code."""
    options = parse(arguments)
    try:
        for provider in (options.left, options.right):
            require_provider(provider)
        todo = list(cases(options.models))
        rows, failures = measure(todo, options.left, options.right, options.seed)
        graphs = [captured(case, options.right, options.seed) for case in todo if may_capture(case, options.right)]
    except SnGraphError as error:
        print(f"cuda_parity: {error}", file=sys.stderr)
        return error.exit_code
    command = shlex.join(["python", "-m", "tools.cuda_parity", *(sys.argv[1:] if arguments is None else arguments)])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(
        render(rows, failures, options.left, options.right, command) + render_graphs(graphs), encoding="utf-8"
    )
    bad = [row.case.name for row in rows if not row.ok] + [name for name, _ in failures]
    bad += [graph.name for graph in graphs if not graph.ok]
    print(f"{len(rows) + len(failures) - len(bad)} of {len(rows) + len(failures)} models agree; wrote {options.output}")
    return 1 if bad else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="cuda_parity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--left", choices=PROVIDERS, default="cpu", help="the provider to compare with")
    parser.add_argument("--right", choices=PROVIDERS, default="cuda", help="the provider under test")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of .onnx files")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "parity-cuda.md")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    return parser.parse_args(arguments)


def cases(models: Path) -> Iterator[Case]:
    """Yield all there is to run: each model as it is, and with the iteration inserted over 10 steps."""
    plain = [Case(f"models/{path.name}", Model.open(path)) for path in sorted(models.glob("*.onnx"))]
    for case in [*plain, *op_cases()]:
        yield case
        result = sn_graph.insert(case.model)
        if any(site.status == "inserted" for site in result.sites):
            inserted = Model.open(result.to_proto())
            yield replace(case, name=f"{case.name}, inserted", model=inserted, steps=INSERTED_STEPS)


def measure(todo: Sequence[Case], left: str, right: str, seed: int) -> tuple[list[Row], list[tuple[str, str]]]:
    """Return a row for each case, and name and reason of those that would not run."""
    rows, failures = [], []
    for case in todo:
        try:
            rows.append(measure_one(case, left, right, seed))
        except ModelError as error:
            failures.append((case.name, str(error)))
    return rows, failures


def measure_one(case: Case, left: str, right: str, seed: int) -> Row:
    """Run a case on both providers."""
    feeds = make_feeds(case.model, seed=seed, steps=case.steps)
    reference = Side(case.model, f"{case.name} ({left})", left)
    tested = Side(case.model, f"{case.name} ({right})", right)
    with tempfile.TemporaryDirectory() as folder:
        session = tested.open(profile_prefix=Path(folder) / "profile")
        for feed in feeds:
            run_named(session, feed)
        placement = count_nodes(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
    return Row(
        case,
        off=compare_sides(reference, tested, feeds),
        on=compare_sides(reference, replace(tested, tf32=True), feeds),
        placement=placement,
        placed=case.op is None or {p for p, op in placement if op == case.op} == {right},
    )


def count_nodes(profile: Sequence[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Count the (provider, op) of each node in an onnxruntime profile, once however often it ran."""
    seen = {
        (event["name"], args.get("node_index"), SHORT.get(args["provider"], args["provider"]), args["op_name"])
        for event in profile
        if event.get("cat") == "Node" and (args := event.get("args", {})).get("provider")
    }
    return Counter((provider, op) for _, _, provider, op in seen)


# CUDA graphs


@dataclass(frozen=True)
class Captured:
    """An inserted model run through a CUDA graph and without one: the largest difference of outputs, u and σ."""

    name: str
    ok: bool
    difference: float


def may_capture(case: Case, provider: str) -> bool:
    """Say whether a case is an inserted model of models/, without control flow, on a provider that captures."""
    return provider == "cuda" and case.name.startswith("models/") and case.steps > 1


def captured(case: Case, provider: str, seed: int, options: Mapping[str, str] | None = None) -> Captured:
    """Run a case's steps with the provider's graph capture (or other `options`) and without, and compare."""
    capture = {"enable_cuda_graph": "1"} if options is None else dict(options)
    sessions = [
        sn_graph.StatefulSession(case.model, providers=[(PROVIDERS[provider], extra)]) for extra in (capture, {})
    ]
    (feed,) = make_feeds(case.model, seed=seed)
    difference, largest_value = 0.0, 0.0
    for _ in range(case.steps):
        ours, theirs = (session.run(None, feed) for session in sessions)
        u, v = (session.state() for session in sessions)
        for a, b in [*zip(ours, theirs, strict=True), *((u[site], v[site]) for site in v)]:
            difference = max(difference, float(np.max(np.abs(a - b), initial=0.0)))
            largest_value = max(largest_value, float(np.max(np.abs(b), initial=0.0)))
    return Captured(case.name, difference <= 1e-6 + 1e-4 * largest_value, difference)


def render_graphs(graphs: Sequence[Captured]) -> str:
    """Return the table of CUDA graphs, nothing where none was run."""
    if not graphs:
        return ""
    rows = [f"| {graph.name} | {'yes' if graph.ok else 'no'} | {graph.difference:.1e} |" for graph in graphs]
    head = [
        "",
        "CUDA graphs against none, outputs, u and σ over 10 steps:",
        "",
        "| model | ok | max abs |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def op_cases() -> Iterator[Case]:
    """Yield a case for each kind of op."""
    for name, op, model in op_models():
        yield Case(name, Model.open(model), op)


# The record


def render(rows: Sequence[Row], failures: Sequence[tuple[str, str]], left: str, right: str, command: str) -> str:
    """Return the record: what it was measured with, and a row for each case."""
    agreeing = f"{sum(row.ok for row in rows)} of {len(rows) + len(failures)}"
    lines = [
        f"# {left.upper()} against {right.upper()}",
        "",
        f"Written by `{command}` on {date.today().isoformat()}; `tools/cuda_parity.py` says how.",
        "",
        f"- GPU: {gpu_name() if 'cuda' in (left, right) else 'none used'}",
        f"- {versions()}",
        f"- {agreeing} models agree within the tolerances of `sn-graph verify`, TF32 off",
        f"- worst max|a−b| / max|b|: {worst(rows, 'off')} with TF32 off, {worst(rows, 'on')} with TF32 on",
        "",
        f"| model | steps | ok | max abs | rel | max abs, TF32 | rel, TF32 | nodes on {right} | nodes elsewhere |",
        "|---|---|---|---|---|---|---|---|---|",
        *(render_row(row, right) for row in rows),
    ]
    if failures:
        lines += ["", "Not run:", "", *(f"- {name}: {reason}" for name, reason in failures)]
    return "\n".join(lines) + "\n"


def render_row(row: Row, right: str) -> str:
    """Return a case's row."""
    verdict = "yes" if row.ok else "no: outputs" if row.placed else f"no: {row.case.op} ran elsewhere"
    here = [(op, count) for (provider, op), count in sorted(row.placement.items()) if provider == right]
    there = [(f"{op} ({p})", count) for (p, op), count in sorted(row.placement.items()) if p != right]
    figures = [figure for result in (row.off, row.on) for figure in (largest(result, "max_abs"), largest(result))]
    cells = [row.case.name, str(row.case.steps), verdict, *(f"{figure:.1e}" for figure in figures)]
    return "| " + " | ".join([*cells, listing(here), listing(there)]) + " |"


def listing(counts: Sequence[tuple[str, int]]) -> str:
    """Return counted names in words."""
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts) or "–"


def largest(result: ParityResult, field: str = "max_rel_norm") -> float:
    """Return the largest figure of all outputs and steps; NaN, where no number can tell, beats any."""
    return float(np.max([getattr(one, field) for one in result.comparisons], initial=0.0))


def worst(rows: Sequence[Row], field: str) -> str:
    """Return the largest relative figure of all cases, and whose it is."""
    if not rows:
        return "–"
    row = max(rows, key=lambda row: np.nan_to_num(largest(getattr(row, field)), nan=np.inf))
    return f"{largest(getattr(row, field)):.1e} ({row.case.name})"


def gpu_name() -> str:
    """Return the GPU and its driver, by nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown (nvidia-smi gives no answer)"
    return ", driver ".join(part.strip() for part in answer.splitlines()[0].split(","))


def versions() -> str:
    """Return the versions of what was run."""
    wanted = ("onnxruntime-gpu", "onnxruntime", "onnx", "numpy")
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions() if dist.name}
    packages = [f"{name} {installed[name]}" for name in wanted if name in installed]
    return ", ".join([*packages, f"Python {platform.python_version()}", platform.system()])


if __name__ == "__main__":
    sys.exit(main())
