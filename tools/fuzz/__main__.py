"""Fuzz sn-graph for a while: `python -m tools.fuzz --seconds 60 --seed 0`, or for so many cases: `--cases 1000`.

Each case is a seed, changed by `mutate`, and put to: opening and saving again, which must give the same bytes;
inspect, fold, insert, strip, lift, and now and then verify and certify, plain or with options, with and without their
proofs, and to plans that are changed too. A case fails where a command ends with an exit code that is not promised
(70, a crash), leaves files behind and fails, says its error in more than one line, answers `--json` with anything but
an object, takes more than 10 s of processor time (certify: 4 s more than its budget), or more than 1 GB, or where
certify proves what is no number, or less than it attained. What happens only where onnxruntime runs the file is counted
apart, because sn-graph promises nothing of that (docs/security.md). Ends with exit code 1 where a case failed; the
files are kept.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from tools.fuzz.judging import judge
from tools.fuzz.mutate import mutate
from tools.fuzz.seeds import seeds

_PATIENCE = 60.0  # seconds by the clock before a case is ended; what counts is the processor's time


def main() -> int:
    """Run cases until the time is over or all are done, print what failed, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="When to end at the latest. [default: 60]")
    parser.add_argument(
        "--cases", type=int, default=sys.maxsize, help="How many cases to run at most: the same on any machine."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="The folder for files that fail. [default: a new temporary one]")
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="sn-graph-fuzz."))
    keep.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    end = begin + options.seconds
    verdicts: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        number = 0
        while number < options.cases and time.monotonic() < end:
            parent, child = multiprocessing.Pipe()
            arguments = (child, Path(folder), options.seed, range(number, options.cases), end)
            worker = multiprocessing.get_context("fork").Process(target=_work, args=arguments, daemon=True)
            worker.start()
            child.close()
            ended = False
            while not ended:
                number, verdict = _next(parent, number)
                ended = verdict != "ok"
                if verdict == "over":
                    break
                where = "" if verdict == "ok" else _blame(verdict, Path(folder))
                verdicts[where or "ok"] += 1
                if where:
                    failed += where == "failed"
                    kept = keep / f"{options.seed}.{number}.onnx"
                    kept.write_bytes((Path(folder) / "case.onnx").read_bytes())
                    print(f"{where}: case {number} of seed {options.seed}: {verdict}; {kept}", flush=True)
                number += 1
            worker.kill()
            worker.join()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "none"
    print(f"fuzz: {sum(verdicts.values())} cases in {time.monotonic() - begin:.0f} s: {counts}")
    return 1 if failed else 0


def _next(parent: Connection, number: int) -> tuple[int, str]:
    """Return the next case's number and verdict; where the worker died or hangs, that of the case it was at."""
    try:
        if parent.poll(_PATIENCE):
            place, verdict = parent.recv()
            return int(place), str(verdict)
    except EOFError:
        return number, "the process died"
    return number, f"no end after {_PATIENCE:g} s"


def _blame(verdict: str, folder: Path) -> str:
    """Return "failed", or "in onnxruntime" where the command that failed does not without its proof."""
    return "in onnxruntime" if (folder / "proving").exists() and "exit" not in verdict else "failed"


def _work(results: Connection, folder: Path, seed: int, numbers: range, end: float) -> None:
    """Send the verdict of case after case; stop behind one that failed, because what it took stays taken."""
    corpus = seeds()
    for number in numbers:
        if time.monotonic() >= end:
            break
        draw = random.Random(f"{seed}:{number}")
        data = mutate(draw.choice(corpus), draw, corpus)
        (folder / "case.onnx").write_bytes(data)
        verdict = judge(folder, draw, prove=draw.random() < 0.3)
        results.send((number, verdict))
        if verdict != "ok":
            return
    results.send((numbers.stop, "over"))


if __name__ == "__main__":
    sys.exit(main())
