"""Start-up: what commands on a small model cost beside importing numpy and onnx.

    python -m tools.bench.start                  # 15 rounds, a minute
    python -m tools.bench.start --rounds 3       # to try it

Each way is a process of its own, and they take turns. A figure is the ratio of processor times, user and system, of
all the processes of a command; on a machine with other work they say more than the times by the clock, which stand
beside them. The bytecode is there: the first round fills it, and is not counted.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tools.bench.common import clock, interleaved, markdown_table, ratios, versions

PACKAGES = ("sn-graph", "numpy", "onnx", "scipy", "click", "rich")
BASE = "import numpy, onnx"


def write_model(path: Path) -> None:
    """Write a convolution and a dense layer, 1.4 kB."""
    rng = np.random.default_rng(0)
    shapes = {"conv.weight": (8, 3, 3, 3), "fc.weight": (8, 10)}
    weights = [numpy_helper.from_array(rng.standard_normal(shape, np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "fc.weight"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in {"x": [1, 3, 8, 8], "y": [1, 10]}.items()
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def ways(model: Path, output: Path) -> dict[str, list[str]]:
    """Return the command lines, by what they are called; `BASE` is one of them."""
    command = [sys.executable, "-m", "sn_graph"]
    return {
        BASE: [sys.executable, "-c", BASE],
        "`--version`": [*command, "--version"],
        "`--help`": [*command, "--help"],
        "`inspect`": [*command, "inspect", str(model)],
        "`inspect --json`": [*command, "inspect", str(model), "--json"],
        "`fold --no-verify`": [*command, "fold", str(model), "-o", str(output), "--no-verify"],
        "`fold`, verified": [*command, "fold", str(model), "-o", str(output)],
    }


def turn(command: Sequence[str]) -> tuple[float, float]:
    """Run a process; return the processor time of it and of those that it started, and the time by the clock."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, _ = clock(partial(subprocess.run, command, env=environment, check=True, capture_output=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = 1 + parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "small.onnx")
        write_model(model)
        commands = ways(model, model.with_name("out.onnx"))
        taken = interleaved({name: partial(turn, command) for name, command in commands.items()}, rounds=rounds)
    processor = {name: [used for used, _ in turns[1:]] for name, turns in taken.items()}
    clocked = {name: [seconds for _, seconds in turns[1:]] for name, turns in taken.items()}
    print(versions(PACKAGES))
    rows = [
        [
            name,
            f"{1e3 * statistics.median(processor[name]):.0f}",
            f"{ratios(processor[name], processor[BASE]).median:.2f}",
            f"{ratios(clocked[name], clocked[BASE]).median:.2f}",
        ]
        for name in commands
    ]
    print(markdown_table(["", "processor ms", f"× `{BASE}`", "× by the clock"], rows))


if __name__ == "__main__":
    main()
