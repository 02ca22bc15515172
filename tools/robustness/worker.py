"""The commands on one model, in a process that may hang or die: how each ended, and what its judge says."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", COLUMNS="120")  # before numpy is imported

from sn_graph.cli.app import COMMANDS, app
from tools.robustness.judges import Unjudged, judge_certificate, judge_fold, judge_insertion, judge_lift, judge_strip

for commands in COMMANDS.values():
    for name in commands:
        importlib.import_module(f"sn_graph.cli.{name.replace('-', '_')}")


def serve(path: Path, folder: Path, memory: float, answers: Connection) -> None:
    """Run all commands on one model in this process; send each before it runs, with None, and then with its verdict.

    Args:
        path, folder: The model, and an empty folder.
        memory: GB of address space, beyond which allocations fail.
        answers: Where verdicts go.
    """
    limit = int(memory * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with (folder / "log").open("wb") as log:  # what libraries print below Python
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for command, verdict in _verdicts(path, folder):
        answers.send((command, verdict))


def _verdicts(path: Path, folder: Path) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Yield each command before it runs, with None, and then with its verdict."""
    plan, folded, upper, lifted = (folder / f"{name}" for name in ("p.json", "f", "u", "lifted"))
    inserted, stripped = folder / "i", folder / "s"

    def sites(said: str) -> list[Any]:
        found: list[Any] = json.loads(said)["sites"]
        return found

    trials: list[tuple[str, list[object], Path | None, Any]] = [
        ("inspect", ["inspect", path, "--json", "--plan", plan], None, None),
        ("fold", ["fold", path, "-o", folded, "--json"], folded,
         lambda said: judge_fold(path, folded, sites(said), json.loads(plan.read_text(encoding="utf-8")))),
        ("fold --sigma upper", ["fold", path, "-o", upper, "--json", "--sigma", "upper"], upper, None),
        ("insert", ["insert", path, "-o", inserted, "--json"], inserted,
         lambda said: judge_insertion(path, inserted, sites(said))),
        ("lift", ["lift", path, "-o", lifted, "--json"], lifted, lambda said: judge_lift(path, lifted, sites(said))),
        ("certify", ["certify", path, "--budget", "2", "--json"], None,
         lambda said: judge_certificate(path, json.loads(said))),
        ("strip", ["strip", inserted, "-o", stripped], stripped, lambda _: judge_strip(path, stripped)),
        ("verify", ["verify", path, stripped, "--json"], None, None),
    ]  # fmt: skip
    for name, arguments, output, judge in trials:
        if not {"strip": inserted, "verify": stripped}.get(name, path).exists():
            continue
        yield name, None
        yield name, _judged(_call(app, arguments), output, judge)


def _call(app: Any, arguments: Sequence[object]) -> tuple[int | str, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code: int | str = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app([str(argument) for argument in arguments], prog_name="sn-graph")
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    return code, out.getvalue(), err.getvalue()


def _judged(ended: tuple[int | str, str, str], output: Path | None, judge: Any) -> tuple[str, str]:
    code, out, err = ended
    lines = [line for line in err.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if code not in (0, 1, 2, 3, 4) or "Traceback" in err:
        return "crash", f"exit {code}: {last}"
    if code:
        if not lines:
            return "wrong", f"exit {code}, and not a word why"
        if output is not None and any(output.parent.glob(f"*{output.name}*")):
            return "wrong", f"exit {code}, and a file was left"
        return ("distrusted" if code == 1 else "refused"), last
    if judge is None:
        return "right", ""
    try:
        wrong = judge(out)
    except Unjudged as reason:
        return "unjudged", str(reason)
    return ("right", "") if wrong is None else ("wrong", wrong)
