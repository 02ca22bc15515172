"""What the inserted iteration costs at run time: inserted and folded models against the bare one, on one thread.

    python -m tools.bench.runtime --output docs/runtime.md
    python -m tools.bench.runtime --networks keras-dcgan --batches 1 --seconds 1 --frameworks  # two seconds, to try it

Every way of running a network takes its turn in each round, in random order; a turn is a few runs of which the first
is not counted. A figure is the median over the rounds of a turn's time divided by the bare model's in the same round,
with the ratio of the two least times beside it. PyTorch and Keras, where they can be imported, are each measured
against their own network without spectral normalization.
"""

import argparse
import contextlib
import importlib
import importlib.util
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

import sn_graph
from tools.bench.common import clock, interleaved, markdown_table, ratios, versions
from tools.bench.networks import DCGAN, NETWORKS, Network

TURN = 0.05  # seconds: runs shorter than this are repeated within a turn
MOST_RUNS = 20  # in a turn
LEAST_ROUNDS = 5
MARK = "<!-- written by tools/bench/runtime.py -->"
PACKAGES = ("sn-graph", "onnxruntime", "onnx", "numpy", "torch", "keras", "tensorflow-cpu", "tensorflow")

Run = Callable[[], object]
Array = NDArray[Any]


@dataclass(frozen=True)
class Figure:
    """What a way of running costs, in multiples of its baseline; milliseconds are those of its median turn."""

    network: str
    batch: int
    way: str
    ratio: float
    least: float
    milliseconds: float
    rounds: int


# The ways of running them


def ways(network: Network, folder: Path) -> Iterator[tuple[str, Path]]:
    """Write the models of a network; yield what each is and its file."""
    bare = network.make()
    made = {
        "bare": bare,
        "folded": sn_graph.fold(bare, sigma="power").to_proto(),
        "inserted": sn_graph.insert(bare).to_proto(),
        "inserted, k = 3": sn_graph.insert(bare, power_iterations=3).to_proto(),
        "inserted, weights scaled": sn_graph.insert(bare, scale="weight").to_proto(),
    }
    for number, (way, proto) in enumerate(made.items()):
        onnx.save(proto, folder / f"{number}.onnx")
        yield way, folder / f"{number}.onnx"


def one_thread() -> ort.SessionOptions:
    """Return options of a session that runs on one thread and says nothing."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def plain_run(path: Path) -> Callable[[Array], object]:
    """Return a run by onnxruntime itself, with each state output fed back by hand."""
    session = ort.InferenceSession(str(path), one_thread(), providers=["CPUExecutionProvider"])
    x, *state = [value.name for value in [*session.get_inputs(), *session.get_overridable_initializers()]]
    defaults = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    held = {name: defaults[name] for name in state}
    names = [value.name for value in session.get_outputs()]

    def run(array: Array) -> None:
        values = dict(zip(names, session.run(names, {x: array, **held}), strict=True))
        held.update({name: values[f"{name}.next"] for name in state})

    return run


def stateful_run(path: Path) -> Callable[[Array], object]:
    """Return a run by StatefulSession."""
    session = sn_graph.StatefulSession(path, session_options=one_thread())
    name = session.get_inputs()[0].name
    return lambda array: session.run(None, {name: array})


def measure(runs: Mapping[str, Run], seconds: float) -> dict[str, list[float]]:
    """Return the seconds of a run in each round, by way."""
    turns = {}
    for way, run in runs.items():
        run()
        count = max(1, min(MOST_RUNS, round(TURN / clock(run)[0])))
        turns[way] = partial(turn, run, count)
    return interleaved(turns, rounds=LEAST_ROUNDS, seconds=seconds, shuffled=True)


def turn(run: Run, count: int) -> float:
    """Run once uncounted and `count` times more; return the median of the seconds that a run took."""
    run()
    return statistics.median(clock(run)[0] for _ in range(count))


def figures(title: str, batch: int, taken: Mapping[str, list[float]], base: str = "bare") -> Iterator[Figure]:
    """Yield each way's figure, against the way that is the baseline."""
    for way, times in taken.items():
        found = ratios(times, taken[base])
        yield Figure(title, batch, way, found.median, found.least, statistics.median(times) * 1e3, len(times))


def onnx_figures(network: Network, batches: Sequence[int], seconds: float) -> Iterator[Figure]:
    """Yield the figures of a network in onnxruntime."""
    with tempfile.TemporaryDirectory() as name:
        runs: dict[str, Callable[[Array], object]] = {}
        for way, path in ways(network, Path(name)):
            runs[way] = plain_run(path)
            if way == "inserted":
                runs["inserted, StatefulSession"] = stateful_run(path)
        for batch in batches:
            x = network.x(batch)
            bound: dict[str, Run] = {way: partial(run, x) for way, run in runs.items()}
            yield from figures(network.title, batch, measure(bound, seconds))


# The frameworks


def torch_figures(name: str, batches: Sequence[int], seconds: float) -> Iterator[Figure]:
    """Yield the figures of DCGAN or the product in PyTorch, training mode."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    nn, utils = torch.nn, torch.nn.utils

    def make(wrap: Callable[[Any], Any]) -> Any:
        if name == "matmul":
            return nn.Sequential(wrap(nn.Linear(4096, 4096, bias=False))).train()
        layers = []
        for inputs, outputs in pairwise(DCGAN):
            layers += [wrap(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, wrap(nn.Conv2d(DCGAN[-1], 1, 4))).train()

    hook, parametrization = "PyTorch, `spectral_norm` hook", "PyTorch, parametrization"
    plain = "PyTorch, train mode"
    models = {
        plain: make(lambda layer: layer),
        hook: make(utils.spectral_norm),
        parametrization: make(utils.parametrizations.spectral_norm),
    }
    for batch in batches:
        x = torch.from_numpy(NETWORKS[name].x(batch))
        with torch.no_grad():
            taken = measure({way: partial(model, x) for way, model in models.items()}, seconds)
        yield from figures(NETWORKS[name].title, batch, taken, plain)


def keras_figures(name: str, batches: Sequence[int], seconds: float) -> Iterator[Figure]:
    """Yield the figures of DCGAN or the product in Keras."""
    tensorflow = importlib.import_module("tensorflow")
    with contextlib.suppress(RuntimeError):  # set already
        tensorflow.config.threading.set_intra_op_parallelism_threads(1)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    layers = importlib.import_module("keras").layers

    def make(wrap: Callable[[Any], Any]) -> Any:
        if name == "matmul":
            stack = [wrap(layers.Dense(4096, use_bias=False))]
        else:
            stack = []
            for outputs in DCGAN[1:]:
                stack += [wrap(layers.Conv2D(outputs, 4, 2, "same")), layers.LeakyReLU(negative_slope=0.2)]
            stack.append(wrap(layers.Conv2D(1, 4)))

        def call(x: Any) -> Any:
            for layer in stack:
                x = layer(x, training=True) if isinstance(layer, layers.SpectralNormalization) else layer(x)
            return x

        compiled = tensorflow.function(call)
        return lambda x: compiled(x).numpy()

    plain, wrapped = "Keras", "Keras, `SpectralNormalization`, training=True"
    calls = {plain: make(lambda layer: layer), wrapped: make(layers.SpectralNormalization)}
    for batch in batches:
        x = NETWORKS[name].x(batch)
        x = tensorflow.constant(np.moveaxis(x, 1, -1) if x.ndim == 4 else x)
        for call in calls.values():
            call(x)
        taken = measure({way: partial(call, x) for way, call in calls.items()}, seconds)
        yield from figures(NETWORKS[name].title, batch, taken, plain)


FRAMEWORKS = {"torch": torch_figures, "keras": keras_figures}


def framework_figures(framework: str, name: str, batches: Sequence[int], seconds: float) -> Iterator[Figure]:
    """Yield a framework's figures from a fresh process.

    Beside TensorFlow, PyTorch's product of a matrix and a vector took a third of the time that it takes alone.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield from pool.submit(measure_framework, framework, name, batches, seconds).result()


def measure_framework(framework: str, name: str, batches: Sequence[int], seconds: float) -> list[Figure]:
    """Return a framework's figures; what the fresh process runs."""
    return list(FRAMEWORKS[framework](name, batches, seconds))


# The record


def render(found: Sequence[Figure], command: str) -> str:
    """Return the record: how it was measured, and a row for each figure."""
    head = ("network", "batch", "way", "ratio", "of the least times", "ms", "rounds")
    rows = (
        (
            one.network,
            str(one.batch),
            one.way,
            f"{one.ratio:.2f}",
            f"{one.least:.2f}",
            f"{one.milliseconds:.3g}",
            str(one.rounds),
        )
        for one in found
    )
    measured = f"Measured by `{command}` on {date.today().isoformat()}."
    return f"{measured}\n{versions(PACKAGES)}.\n\n{markdown_table(head, rows)}\n"


def main() -> None:
    """Measure what the command line asks for, and print or write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each network and batch, at least")
    parser.add_argument("--frameworks", nargs="*", choices=FRAMEWORKS, default=[*FRAMEWORKS])
    parser.add_argument("--output", type=Path, help="write the table behind the mark in this file")
    options = parser.parse_args()
    found: list[Figure] = []
    for name in options.networks:
        sources = [onnx_figures(NETWORKS[name], options.batches, options.seconds)]
        sources += [
            framework_figures(framework, name, options.batches, options.seconds)
            for framework in options.frameworks
            if name in ("dcgan", "matmul") and importlib.util.find_spec(framework)
        ]
        for figure in (figure for source in sources for figure in source):
            print(figure, file=sys.stderr, flush=True)
            found.append(figure)
    table = render(found, shlex.join(["python", "-m", "tools.bench.runtime", *sys.argv[1:]]))
    if options.output is None:
        print(table)
        return
    before = options.output.read_text(encoding="utf-8").partition(MARK)[0] if options.output.exists() else ""
    options.output.write_text(f"{before}{MARK}\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()
