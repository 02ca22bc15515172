"""Time and peak memory of "load, change every weight, save", beside cp and other libraries.

    python -m tools.bench.storage --size 1.5 --external 6
    python -m tools.bench.storage --size 0.01 --repeats 1  # ten seconds, to try it

Makes models of chained MatMuls, runs every way of changing them in a fresh process, in turns, and prints a Markdown
table. Peak memory is anonymous memory: mapped files can be dropped by the system at any time, and are not counted.
"""

import argparse
import importlib
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sn_graph.model import Model, Storage, set_location
from tools.bench.common import interleaved, markdown_table, versions

GB = 10**9
FACTOR = 0.5
POLL = 0.002  # seconds between two looks at a process's memory
NAME = "model.onnx"
PACKAGES = ("sn-graph", "onnx", "numpy", "onnx-graphsurgeon", "onnx-ir", "protobuf")


@dataclass(frozen=True)
class Method:
    """One way to change every weight.

    Attributes:
        command: The process that reads the first folder's model and writes it to the second.
        package: What it needs beyond sn-graph's own packages.
        inline, external: Memory that it needs, in multiples of the model's size, by where the data stand.
    """

    command: Callable[[Path, Path], list[str]]
    package: str | None = None
    inline: float = 0.0
    external: float = 0.0


def worker(name: str) -> Callable[[Path, Path], list[str]]:
    """Return the command of a library's work, which is this module again."""
    command = [sys.executable, "-m", "tools.bench.storage", "--worker", name]
    return lambda source, target: [*command, str(source / NAME), str(target / NAME)]


def fold(source: Path, target: Path) -> list[str]:
    """Return the command of a fold that measures by one power step and runs nothing."""
    command = [sys.executable, "-m", "sn_graph.cli", "fold", str(source / NAME), "-o", str(target / NAME)]
    return [*command, "--sigma", "power", "--no-verify", "--quiet"]


def fold_without_sync(source: Path, target: Path) -> list[str]:
    """Return the command of the same fold that does not wait for the disk, as cp does not either."""
    return [*fold(source, target), "--no-sync"]


def save_without_sync(source: Path, target: Path) -> list[str]:
    """Return the command of the library's work that does not wait for the disk."""
    return worker("sn-graph, no sync")(source, target)


METHODS = {
    "cp": Method(lambda source, target: ["cp", "-r", f"{source}/.", str(target)]),
    "sn-graph, scale every weight": Method(worker("sn-graph")),
    "sn-graph, scale every weight, no sync": Method(save_without_sync),
    "`sn-graph fold --sigma power --no-verify`": Method(fold),
    "`sn-graph fold --sigma power --no-verify --no-sync`": Method(fold_without_sync),
    "onnx load/save": Method(worker("onnx"), None, 3.2, 2.2),
    "onnx-graphsurgeon": Method(worker("onnx-graphsurgeon"), "onnx_graphsurgeon", 4.5, 3.5),
    "onnx-ir, lazy": Method(worker("onnx-ir"), "onnx_ir", 3.5, 0.2),
}
CP = "cp"
LIBRARIES = {"onnx": "onnx load/save", "onnx-graphsurgeon": "onnx-graphsurgeon", "onnx-ir": "onnx-ir, lazy"}
TINY = 4096  # bytes: what a method takes for such a model is its start-up


# The work, each in a process of its own


def scale_with_sn_graph(source: Path, target: Path, sync: bool = True) -> None:
    """Note the factor of each weight, and save."""
    model = Model.open(source)
    for tensor in model.proto.graph.initializer:
        model.scale(tensor, FACTOR)
    model.save(target, sync=sync)


def scale_with_onnx(source: Path, target: Path) -> None:
    """Load everything, exchange the bytes, and save."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * np.float32(FACTOR)).tobytes()
    save_with_onnx(model, source, target)


def scale_with_graphsurgeon(source: Path, target: Path) -> None:
    """Import, scale every constant, export, and save."""
    surgeon = importlib.import_module("onnx_graphsurgeon")
    graph = surgeon.import_onnx(onnx.load(source))
    for tensor in graph.tensors().values():
        if isinstance(tensor, surgeon.Constant):
            tensor.values = tensor.values * np.float32(FACTOR)
    save_with_onnx(surgeon.export_onnx(graph), source, target)


def scale_with_onnx_ir(source: Path, target: Path) -> None:
    """Load lazily, and scale each weight when it is saved."""
    ir = importlib.import_module("onnx_ir")

    def scaled(tensor: Any) -> Any:
        shape = ir.Shape(tensor.shape.numpy())
        return ir.LazyTensor(
            lambda: ir.tensor(tensor.numpy() * np.float32(FACTOR)), dtype=tensor.dtype, shape=shape, name=tensor.name
        )

    model = ir.load(source)
    for value in model.graph.initializers.values():
        value.const_value = scaled(value.const_value)
    ir.save(model, target, external_data=data_name(source))


def data_name(model: Path) -> str | None:
    """Return the name of a model's data file, None where its data are inline."""
    return f"{NAME}.data" if Path(f"{model}.data").exists() else None


def save_with_onnx(model: onnx.ModelProto, source: Path, target: Path) -> None:
    """Save a model as its source is stored."""
    location = data_name(source)
    onnx.save(model, target, save_as_external_data=location is not None, location=location)


WORKERS: dict[str, Callable[[Path, Path], None]] = {
    "sn-graph": scale_with_sn_graph,
    "sn-graph, no sync": partial(scale_with_sn_graph, sync=False),
    "onnx": scale_with_onnx,
    "onnx-graphsurgeon": scale_with_graphsurgeon,
    "onnx-ir": scale_with_onnx_ir,
}


# Making and measuring


def make_model(folder: Path, size: float, storage: Storage) -> None:
    """Write a model of about `size` bytes, one weight in memory at a time."""
    width = 4096 if size >= GB else min(1024, int((size / 4) ** 0.5))
    count = max(1, round(size / (4 * width * width)))
    rng = np.random.default_rng(0)
    weights = []
    with open(folder / f"{NAME}.data", "wb") as file:
        for index in range(count):
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[width, width])
            set_location(tensor, f"{NAME}.data", file.tell(), 4 * width * width)
            weights.append(tensor)
            rng.standard_normal((width, width), np.float32).tofile(file)
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, width]) for i in (0, count)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / NAME).write_bytes(proto.SerializeToString())
    if storage is Storage.INLINE:
        Model.open(folder / NAME).save(folder / NAME, Storage.INLINE)


def size_of(folder: Path) -> int:
    """Return how many bytes the files of a folder hold."""
    return sum(path.stat().st_size for path in folder.iterdir())


def anonymous_memory(process: int) -> int:
    """Return the anonymous memory of a process and its children in bytes, 0 once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return own + sum(anonymous_memory(int(child)) for child in children)


def measure(command: list[str]) -> tuple[float, int]:
    """Run a command and return its seconds and its peak of anonymous memory in bytes."""
    peak = 0
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process:
            while process.poll() is None:
                peak = max(peak, anonymous_memory(process.pid))
                time.sleep(POLL)
            seconds = time.perf_counter() - started
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}: {errors.read()[-2000:]}")
    return seconds, peak


def reason_to_skip(method: Method, size: int, external: bool) -> str | None:
    """Return why a method can't change a model of `size` bytes here, None where it can."""
    if method.package and importlib.util.find_spec(method.package) is None:
        return "not installed"
    needed = size * (method.external if external else method.inline)
    if needed > available_memory():
        return f"skipped: needs {needed / GB:.0f} GB of memory"
    return None


def available_memory() -> float:
    """Return how many bytes of memory Linux would give to a new process."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable"))


@dataclass(frozen=True)
class Taken:
    """What a turn of a method took: seconds for the model and for a tiny one, and bytes of anonymous memory."""

    seconds: float
    start_up: float
    memory: int


def turn(name: str, source: Path, tiny: Path) -> Taken:
    """Let a method change both models."""
    start_up, _ = run(name, tiny)
    seconds, memory = run(name, source)
    print(f"{name}: {seconds:.2f} s", file=sys.stderr)
    return Taken(seconds, start_up, memory)


def run(name: str, source: Path) -> tuple[float, int]:
    """Run a method into a new folder, removed again; return its seconds and memory."""
    target = Path(tempfile.mkdtemp(dir=source.parent))
    os.sync()  # no run pays for writing back what another wrote
    taken = measure(METHODS[name].command(source, target))
    written, wanted = size_of(target), size_of(source)
    if not 0.99 * wanted < written < 1.01 * wanted + TINY:
        sys.exit(f"{name} wrote {written} bytes of {wanted}")
    shutil.rmtree(target)
    return taken


def compare(place: Path, size: float, storage: Storage, names: Sequence[str], repeats: int) -> None:
    """Make a model, run every method `repeats` times in turns, and print the table."""
    source, tiny = place / "source", place / "tiny"
    for folder, wanted in ((source, size), (tiny, TINY)):
        folder.mkdir()
        make_model(folder, wanted, storage)
    total = size_of(source)
    skipped = {name: reason_to_skip(METHODS[name], total, storage is Storage.EXTERNAL) for name in names}
    turns = {name: partial(turn, name, source, tiny) for name, reason in skipped.items() if reason is None}
    taken = interleaved(turns, rounds=repeats)
    copied = statistics.median(one.seconds for one in taken[CP])
    head = ("load, change every weight, save", "s", "× cp", "start-up s", "× cp, less start-up", "peak anonymous MB")
    rows = [(name, reason) if reason else (name, *figures(taken[name], copied)) for name, reason in skipped.items()]
    print(f"\n{total / GB:.2f} GB {storage}, median of {repeats}\n\n{markdown_table(head, rows)}", flush=True)


def figures(taken: Sequence[Taken], copied: float) -> tuple[str, ...]:
    """Return a method's cells of the table, with the seconds that cp took."""
    seconds = statistics.median(one.seconds for one in taken)
    start = statistics.median(one.start_up for one in taken)
    peak = max(one.memory for one in taken) / 1e6
    return (
        f"{seconds:.2f}",
        f"{seconds / copied:.2f}",
        f"{start:.2f}",
        f"{(seconds - start) / copied:.2f}",
        f"{peak:.0f}",
    )


def main() -> None:
    """Print a table for each storage that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1.5, help="GB of the inline model, below 2.1; 0 leaves it out")
    parser.add_argument(
        "--external", type=float, default=0.0, help="GB of an external model, such as 6; 0 leaves it out"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; three times the larger model must fit")
    parser.add_argument("--libraries", nargs="*", choices=LIBRARIES, default=[*LIBRARIES], help="compare with these")
    parser.add_argument("--worker", nargs=3, metavar=("NAME", "IN", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, source, target = options.worker
        WORKERS[name](Path(source), Path(target))
        return
    left_out = {label for name, label in LIBRARIES.items() if name not in options.libraries}
    names = [name for name in METHODS if name not in left_out]
    print(versions(PACKAGES, name_absent=True))
    for size, storage in ((options.size, Storage.INLINE), (options.external, Storage.EXTERNAL)):
        if size:
            with tempfile.TemporaryDirectory(dir=options.folder) as place:
                compare(Path(place), size * GB, storage, names, options.repeats)


if __name__ == "__main__":
    main()
