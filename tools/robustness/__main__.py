"""Run every command over a folder of models, and judge each by independent means.

    python -m tools.robustness ../shared/corpus                             # 90 s on two cores
    python -m tools.robustness ../shared/corpus --seconds 50                # the smallest models first; what CI does
    python -m tools.robustness FOLDER --jobs 8 --jsonl verdicts.jsonl       # resumable: what is there is not done again
    python -m tools.robustness FOLDER --limit 20 --timeout 30

Verdicts, one for each model and command:

    right       done, and an independent judge agrees (judges.py: onnx's reader, float64 SVD, onnxruntime's outputs)
    unjudged    done, but no judge can tell, and why
    refused     exit code 2, 3 or 4 with a reason in one line
    distrusted  exit code 1: sn-graph's own proof refuses what it made
    wrong       done, and the judge disagrees; or a refusal without a line, or with files left behind
    crash       another exit code, a traceback, or the process died
    hang        longer than --timeout, or more memory than --memory

Ends with 1 where any verdict is one of the last four. Models of the folder are all files that end in .onnx.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sn_graph.version import __version__
from tools.robustness.worker import serve

BAD = ("distrusted", "wrong", "crash", "hang")
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit code."""
    parser = argparse.ArgumentParser(prog="robustness", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--jsonl", type=Path, help="one object a model; models that are there already are left out")
    parser.add_argument("--limit", type=int, help="only so many of the smallest models")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no model after so many seconds")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one command")
    parser.add_argument("--memory", type=float, default=16.0, help="GB of address space of a process")
    options = parser.parse_args(arguments)
    models = sorted(options.folder.rglob("*.onnx"), key=lambda path: (path.stat().st_size, path))[: options.limit]
    if not models:
        print(f"{options.folder} holds no file that ends in .onnx", file=sys.stderr)
        return 2
    multiprocessing.set_forkserver_preload(["tools.robustness.worker"])  # its imports take longer than most models
    rows = dict(_known(options.jsonl))
    waiting = [path for path in models if _digest(path) not in rows]
    end = time.monotonic() + options.seconds

    def tried(path: Path) -> Row | None:
        return _tried(path, options.timeout, options.memory) if time.monotonic() < end else None

    with ThreadPoolExecutor(options.jobs) as pool, _appending(options.jsonl) as log:
        for row in filter(None, pool.map(tried, waiting)):
            rows[row["sha256"]] = row
            print(json.dumps(row), file=log, flush=True)
    done = [rows[digest] for digest in map(_digest, models) if digest in rows]
    print(f"{len(done)} of {len(models)} models")
    return _tell(done)


def _tell(rows: Sequence[Row]) -> int:
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for command, (verdict, reason) in row["verdicts"].items():
            counts[command, verdict] += 1
            if verdict in (*BAD, "unjudged"):
                print(f"{verdict:<10} {command:<18} {row['path']}: {reason}")
    for command in dict.fromkeys(command for command, _ in counts):
        told = ", ".join(f"{count} {verdict}" for (of, verdict), count in sorted(counts.items()) if of == command)
        print(f"{command:<18} {told}")
    return int(any(verdict in BAD for _, verdict in counts))


def _known(path: Path | None) -> Iterator[tuple[str, Row]]:
    if path is not None and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a run that was killed
                row = json.loads(line)
                if row["version"] == __version__:
                    yield row["sha256"], row


def _appending(path: Path | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext(io.StringIO()) if path is None else path.open("a", encoding="utf-8")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# One model in a process of its own, which may hang or die


def _tried(path: Path, timeout: float, memory: float) -> Row:
    """Return the verdicts on a model: a process runs its commands, and what ends it is one."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    started = time.monotonic()
    verdicts: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="robustness.") as folder:
        process = context.Process(target=serve, args=(path, Path(folder), memory, theirs))
        process.start()
        theirs.close()
        command = "start"
        try:
            while True:
                if not ours.poll(timeout):
                    verdicts[command] = ("hang", f"more than {timeout:g} s")
                    break
                command, verdict = ours.recv()
                if verdict is not None:
                    verdicts[command] = verdict
        except EOFError:
            process.join()
            if process.exitcode:
                verdicts[command] = ("crash", f"the process ended with {process.exitcode}")
        process.kill()
        process.join()
    seconds = round(time.monotonic() - started, 2)
    return {
        "path": str(path),
        "sha256": _digest(path),
        "version": __version__,
        "seconds": seconds,
        "verdicts": verdicts,
    }


if __name__ == "__main__":
    sys.exit(main())
