"""Trials of certify, whose proven constant nothing may exceed.

    OPENBLAS_NUM_THREADS=1 python -m tools.certify_trials graphs --count 1000 --seed 0
    OPENBLAS_NUM_THREADS=1 python -m tools.certify_trials models FOLDER… --budget 20

`graphs` certifies random graphs over all rules, and attacks each twice: by certify's own search, measured again in
onnxruntime, and by Jacobians that onnxruntime's outputs give by differences. `models` certifies every model of folders,
each in a process of its own: it must end within its budget and a minute, under 4 GB, with a bound or in one sentence.

Prints what was found, and ends with 1 where a quotient exceeds a proven constant, or a model ends in another way.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

import sn_graph as sn
from sn_graph.errors import SnGraphError
from tools.certify_trials import attack, graphs

# What a quotient of float32 outputs may exceed a constant by.
ROUNDED = 1e-4
MEMORY = 4.0  # GB
PATIENCE = 60.0  # seconds beyond the budget, for what is always finished


def main() -> int:
    """Run the trials that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    random = commands.add_parser("graphs", help="random graphs")
    random.add_argument("--count", type=int, default=1000)
    random.add_argument("--seed", type=int, default=0, help="the first graph")
    random.add_argument("--level", default="auto")
    random.add_argument("--budget", type=float, default=2.0, help="seconds of certify for each")
    random.add_argument("--attack", type=float, default=0.5, help="seconds of each attack")
    stored = commands.add_parser("models", help="models in folders")
    stored.add_argument("paths", nargs="+", type=Path)
    stored.add_argument("--level", default="auto")
    stored.add_argument("--budget", type=float, default=20.0)
    arguments = parser.parse_args()
    return _graphs(arguments) if arguments.command == "graphs" else _models(arguments)


def _graphs(arguments: argparse.Namespace) -> int:
    kinds, shares, failed = Counter[str](), [], 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        model, shape = graphs.make(seed)
        for node in model.graph.node:
            kinds[node.op_type] += 1
        try:
            found = sn.certify(model, level=arguments.level, budget=arguments.budget)
        except SnGraphError as error:
            failed += 1
            print(f"{seed}: {error}")
            continue
        except Exception:
            failed += 1
            print(f"{seed}: {traceback.format_exc()}")
            continue
        if found.proven is None:
            failed += 1
            print(f"{seed}: {found.sentence}")
            continue
        quotient = attack.attained(model, shape, arguments.attack, seed)
        best = max(quotient, found.attained or 0.0)
        if best > found.proven * (1.0 + ROUNDED) + 1e-6:
            failed += 1
            operators = " ".join(node.op_type for node in model.graph.node)
            print(f"{seed}: {best!r} is attained, {found.proven!r} proven by {found.level}: {operators}")
        shares.append(best / found.proven if found.proven else 1.0)
    print(f"{len(shares)} graphs with a bound, {failed} failures; operators: {dict(kinds.most_common())}")
    if shares:
        quantiles = np.quantile(shares, [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
        print("attained / proven at 0, 10, 25, 50, 75, 90, 100 %:", np.array2string(quantiles, precision=6))
    return int(failed > 0)


_CHILD = """
import json, resource, sys
import sn_graph as sn
from sn_graph.errors import SnGraphError
try:
    found = sn.certify(sys.argv[1], level=sys.argv[2], budget=float(sys.argv[3]))
    word, told = ("unbounded" if found.proven is None else "bound"), found.sentence + " by " + str(found.level)
except SnGraphError as error:
    word, told = f"exit {error.exit_code}", str(error)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print("\\n" + json.dumps([word, told, used]))
"""


def _models(arguments: argparse.Namespace) -> int:
    paths = [
        path for given in arguments.paths for path in (sorted(given.rglob("*.onnx")) if given.is_dir() else [given])
    ]
    ends, failed = Counter[str](), 0
    for path in paths:
        begun = time.monotonic()
        command = [sys.executable, "-c", _CHILD, str(path), arguments.level, str(arguments.budget)]
        try:
            ended = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=arguments.budget + PATIENCE,
                check=False,
            )
            word, told, used = json.loads(ended.stdout.strip().splitlines()[-1])
        except subprocess.TimeoutExpired:
            word, told, used = "hangs", "", 0.0
        except (ValueError, IndexError):
            word, told, used = "breaks", ended.stderr[-600:], 0.0
        bad = word in ("hangs", "breaks") or used > MEMORY or "\n" in told
        failed += bad
        ends[word] += 1
        print(
            f"{'BAD ' if bad else ''}{time.monotonic() - begun:6.1f} s {used:5.2f} GB {path}: {word}: {told}",
            flush=True,
        )
    print(dict(ends), f"{failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
