"""Fuzz sn-graph for a while: `python -m tools.fuzz --seconds 60 --seed 0`, or for so many cases: `--cases 1000`.

Each case is a seed, changed by `mutate`, and put to: opening and saving again, which must give the same bytes;
inspect, fold, insert, strip, lift and verify, with and without their proofs. A case fails where a command ends with
an exit code that is not promised (70, a crash), writes an output and fails, says its error in more than one line,
takes more than 10 s of processor time, or more than 1 GB. What happens only where onnxruntime runs the file is
counted apart, because sn-graph promises nothing of that (docs/security.md). Ends with exit code 1 where a case
failed; the files are kept.
"""

import argparse
import contextlib
import io
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tools.fuzz.mutate import mutate
from tools.fuzz.seeds import seeds

_COMMANDS = ("inspect", "fold", "insert", "strip", "lift", "verify")
_PROMISED = frozenset({0, 1, 2, 3, 4})
_SECONDS, _BYTES = 10.0, 1 << 30
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
        verdict = judge(folder, prove=draw.random() < 0.3)
        results.send((number, verdict))
        if verdict != "ok":
            return
    results.send((numbers.stop, "over"))


def judge(folder: Path, prove: bool) -> str:
    """Put `case.onnx` of a folder to every command; return "ok", or what a command did that it must not."""
    verdict = _same_when_saved(folder)
    for command in _COMMANDS if prove else _COMMANDS[:-1]:  # verify runs the model, and does nothing else
        if verdict != "ok":
            break
        (folder / "proving").touch() if prove else (folder / "proving").unlink(missing_ok=True)
        verdict = _run(folder, command, prove)
    return verdict


def _same_when_saved(folder: Path) -> str:
    from sn_graph.errors import SnGraphError
    from sn_graph.model import Model

    (folder / "proving").unlink(missing_ok=True)
    try:
        Model.open(folder / "case.onnx").save(folder / "saved.onnx")
    except SnGraphError:
        return "ok"
    except Exception as error:
        return f"open and save: {type(error).__name__}, as exit 70 would say: {error}"
    same = (folder / "saved.onnx").read_bytes() == (folder / "case.onnx").read_bytes()
    return "ok" if same else "saved with other bytes, exit 0"


def _run(folder: Path, command: str, prove: bool) -> str:
    output = folder / "output.onnx"
    output.unlink(missing_ok=True)
    arguments = [command, str(folder / "case.onnx")]
    if command not in ("inspect", "verify"):
        arguments += ["-o", str(output)]
    if command in ("fold", "insert", "lift") and not prove:
        arguments += ["--no-verify"]
    before, held = _processor_time(), _peak()
    code, out, err = _invoke(arguments)
    took, size = _processor_time() - before, _peak()
    if code not in _PROMISED:
        return f"{command}: exit {code}: {err[-300:]}"
    if code and output.exists():
        return f"{command}: exit {code}, and wrote its output all the same"
    if code in (3, 4) and err.count("\n") != 1:
        return f"{command}: exit {code} in {err.count(chr(10))} lines: {err[-300:]}"
    if any(character < " " and character != "\n" for character in out + err):
        return f"{command}: exit {code}, with control characters"
    if took > _SECONDS:
        return f"{command}: {took:.0f} s of processor time"
    # What the process held before, such as the tests of other things, is not the command's.
    return "ok" if size - (held if held > _BYTES else 0) <= _BYTES else f"{command}: {size / 1e9:.1f} GB"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _invoke(arguments: Sequence[str]) -> tuple[int, str, str]:
    from sn_graph.cli.app import app

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(list(arguments), prog_name="sn-graph")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return code, out.getvalue(), err.getvalue()


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
