"""Try sn-graph on CUDA: parity, placement, state, CUDA graphs and cost, in one call of under eight minutes.

    python -m tools.cuda_check                                  # writes docs/parity-cuda.md and docs/runtime-cuda.md
    python -m tools.cuda_check --provider cpu --output T   # the same without a GPU, to try this tool

What is worth most comes first, and each result is written as it comes (`cuda-check.jsonl` beside the pages): after a
cut the same call goes on where it stopped. Ends with 0; with 1 where something differs, ran elsewhere or is left to do;
with 2 for a wrong call; with 4 where the provider is missing or onnxruntime put another in its place.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from sn_graph.choices import ProviderChoice
from sn_graph.errors import EnvironmentUnavailable, ModelError, SnGraphError
from sn_graph.model import Model
from sn_graph.runtime import open_session
from sn_graph.runtime.engine import PROVIDERS, one_line, require_provider
from tools.bench.networks import NETWORKS
from tools.cuda_check import pages
from tools.cuda_check.cases import Case, cases
from tools.cuda_check.parity import measure
from tools.cuda_check.record import NAME, ROOT, Record, gpu_name, sources, versions
from tools.cuda_check.stateful import captured, loaded, state
from tools.cuda_check.timing import times, timings
from tools.op_models import op_models


@dataclass(frozen=True)
class Step:
    """Something to find out; `run` returns what goes into the record, of which "ok" tells whether all is well."""

    key: str
    run: Callable[[], dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left to do and write the pages; return the exit code."""
    options = parse(arguments)
    command = shlex.join(["python", "-m", "tools.cuda_check", *(sys.argv[1:] if arguments is None else arguments)])
    begin = time.monotonic()
    try:
        require_provider(options.provider)
        steps = list(planned(options))
        active = steps[0].run()
    except SnGraphError as error:
        print(f"cuda_check: {error}", file=sys.stderr)
        return error.exit_code
    options.output.mkdir(parents=True, exist_ok=True)
    record = Record(options.output / NAME, header(options, command))
    record.add(steps[0].key, active)
    if record.resumed:
        print(f"going on: {record.resumed} of {len(steps)} steps were done", file=sys.stderr)
    todo = [step.key for step in steps]
    pages.write(options.output, record, todo)
    for step in steps:
        if step.key in record.results:
            continue
        if options.seconds and time.monotonic() - begin > options.seconds:
            break
        record.add(step.key, outcome(step))
        pages.write(options.output, record, todo)
        print(f"{time.monotonic() - begin:6.1f} s  {step.key}: {summary(record.results[step.key])}", flush=True)
    return conclude(record, todo, options.output)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="cuda_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--provider", choices=PROVIDERS, default="cuda", help="the provider under test")
    parser.add_argument("--output", type=Path, help="folder of the pages and of the record (docs/, for CUDA)")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of .onnx files")
    parser.add_argument(
        "--seconds", type=float, help="begin no step after this time; 0: do all (CUDA: 450; the CPU: 0)"
    )
    parser.add_argument("--turns", type=float, default=1.5, help="seconds of turns for each timing, at least")
    parser.add_argument("--quick", action="store_true", help="a few models only, to try the tool")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    options = parser.parse_args(arguments)
    if options.output is None:
        if options.provider != "cuda":
            parser.error("--output is needed: pages of the CPU do not belong in docs/")
        options.output = ROOT / "docs"
    if options.seconds is None:
        options.seconds = 450.0 if options.provider == "cuda" else 0.0
    return options


def header(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Return what the results are got with; a record of another header is begun anew."""
    return {
        "provider": options.provider,
        "quick": options.quick,
        "seed": options.seed,
        "models": str(options.models.resolve()),
        "gpu": gpu_name() if options.provider == "cuda" else "none used",
        "versions": versions(),
        "sources": sources(),
        "date": date.today().isoformat(),
        "command": command,
    }


def planned(options: argparse.Namespace) -> list[Step]:
    """Return every step, what is worth most first."""
    provider, seed = options.provider, options.seed
    todo = list(cases(options.models, quick=options.quick))
    mine = [case for case in todo if case.form == "inserted" and case.name.startswith("models/")]
    mine = mine or [case for case in todo if case.form == "inserted"][:1]
    plain = [case for case in todo if case.form in ("as it is", "inserted")]
    timed = list(timings(provider, quick=options.quick))

    def parity(case: Case) -> Step:
        return Step(f"parity: {case.key}", lambda: measure(case, provider, seed))

    def costs(wanted: Callable[[int], bool]) -> list[Step]:
        return [
            Step(f"time: {one.key}", lambda one=one: times(one, provider, options.turns))  # type: ignore[misc]
            for one in timed
            if wanted(one.batch)
        ]

    first = [case for case in plain if case.name.startswith("models/")]
    return [
        Step("providers", lambda: providers_in_force(provider)),
        *map(parity, first),
        *(Step(f"state: {case.name}", lambda case=case: state(case.model(), provider, seed)) for case in mine),  # type: ignore[misc]
        *(Step(f"graph: {case.name}", lambda case=case: captured(case.model(), provider, seed)) for case in mine),  # type: ignore[misc]
        *map(parity, (case for case in plain if case not in first)),
        *costs(lambda batch: batch == 16),
        *(Step(f"load: {name}", lambda make=make: loaded(make(), provider)) for name, make in loads(options, mine)),  # type: ignore[misc]
        *costs(lambda batch: batch != 16),
        *map(parity, (case for case in todo if case not in plain)),
    ]


def loads(options: argparse.Namespace, mine: Sequence[Case]) -> list[tuple[str, Callable[[], Model]]]:
    """Return the models whose loading is looked at: as they are and inserted."""
    found: list[tuple[str, Callable[[], Model]]] = []
    for case in mine:
        found.append((f"{case.name}, as it is", functools.partial(_opened, case.load)))
        found.append((f"{case.name}, inserted", case.model))
    if not options.quick:
        for name in ("dcgan", "resnet50", "matmul"):
            case = Case(name, "inserted", NETWORKS[name].make)
            found.append((f"{name}, as it is", functools.partial(_opened, NETWORKS[name].make)))
            found.append((f"{name}, inserted", case.model))
    return found


def _opened(load: Callable[[], Any]) -> Model:
    return Model.open(load())


def providers_in_force(provider: ProviderChoice) -> dict[str, Any]:
    """Open a session on the provider; return what onnxruntime says is in force.

    Raises:
        EnvironmentUnavailable: The provider does not start, or onnxruntime put another in its place.
    """
    _, _, proto = next(op_models())
    active = open_session(proto.SerializeToString(), provider).get_providers()
    if active[0] != PROVIDERS[provider]:
        raise EnvironmentUnavailable(f"{provider!r} is not in force", f"but {', '.join(active)}", "see sn-graph doctor")
    return {"ok": True, "active": active}


# Why a source has no such form: nothing is wrong then.
NOT_THERE = ("it holds no weight to normalize", "no weight of it is float32")


def outcome(step: Step) -> dict[str, Any]:
    """Run a step; what fails goes into the record too, so that the steps behind it are not lost."""
    try:
        return step.run()
    except ModelError as error:
        return {"none": error.what} if error.what in NOT_THERE else {"ok": False, "error": str(error)}
    except (
        Exception
    ) as error:  # of onnxruntime, whose exceptions have no base of their own; a GPU is lent by the minute
        return {"ok": False, "error": f"{type(error).__name__}: {one_line(error)}"}


def summary(result: dict[str, Any]) -> str:
    """Return a result in a word or two."""
    for word in ("error", "none", "verdict"):
        if word in result:
            return str(result[word])
    return "ok" if result["ok"] else "no"


def conclude(record: Record, todo: Sequence[str], output: Path) -> int:
    """Say what was found and where it is written; return the exit code."""
    bad = [key for key, result in record.results.items() if not result.get("ok", "none" in result)]
    left = [key for key in todo if key not in record.results]
    print(f"{len(record.results) - len(bad)} of {len(todo)} steps are well, {len(bad)} are not, {len(left)} are left")
    print(f"wrote {output / pages.PARITY} and {output / pages.RUNTIME}")
    for key in bad:
        print(f"cuda_check: {key}: {summary(record.results[key])}", file=sys.stderr)
    if left:
        print(f"cuda_check: {len(left)} steps are left; the same command goes on with them", file=sys.stderr)
    return 1 if bad or left else 0


if __name__ == "__main__":
    sys.exit(main())
