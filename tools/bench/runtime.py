"""What the inserted iteration costs at run time: inserted and folded models against the bare one, on one thread.

    python tools/bench/runtime.py --output docs/runtime.md

Every way of running a network takes its turn in each round, in random order; a turn is a few runs of which the first
is not counted. A figure is the median over the rounds of a turn's time divided by the bare model's in the same round,
with the ratio of the two least times beside it. PyTorch and Keras, where they can be imported, are each measured
against their own network without spectral normalization.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
from onnx import TensorProto, helper, numpy_helper

from sn_graph.api import fold, insert
from sn_graph.inserted import read_inserted, state_names
from sn_graph.model import Model

ROOT = Path(__file__).parents[2]
TURN = 0.05  # seconds: runs shorter than this are repeated within a turn
MOST_RUNS = 20  # in a turn
LEAST_ROUNDS = 5
DCGAN = (3, 64, 128, 256, 512)
RESNET = ((64, 3), (128, 4), (256, 6), (512, 3))  # width, blocks
MARK = "<!-- written by tools/bench/runtime.py -->"
PACKAGES = ("sn-graph", "onnxruntime", "onnx", "numpy", "torch", "keras", "tensorflow-cpu", "tensorflow")

Run = Callable[[], object]
Array = NDArray[Any]


@dataclass(frozen=True)
class Network:
    """A model with input `x`, and what to feed it at a batch size."""

    title: str
    make: Callable[[], onnx.ModelProto]
    x: Callable[[int], Array]


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


# The networks


def random(*shape: int, gain: float = 2.0) -> NDArray[np.float32]:
    """Normal weights; images pass a stack of them without growing or dying."""
    fan = int(np.prod(shape[1:]))
    return np.random.default_rng(shape).standard_normal(shape, np.float32) * np.float32((gain / fan) ** 0.5)


class Builder:
    """Nodes one behind the other."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def weight(self, array: Array) -> str:
        self.weights.append(numpy_helper.from_array(array, f"weight_{len(self.weights)}"))
        return self.weights[-1].name

    def conv(self, x: str, outputs: int, inputs: int, size: int, stride: int, gain: float = 2.0) -> str:
        pad = size // 2 if size % 2 else (size - stride) // 2
        names = [
            self.weight(random(outputs, inputs, size, size, gain=gain)),
            self.weight(np.zeros(outputs, np.float32)),
        ]
        return self.op("Conv", x, *names, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def model(self, shape: Sequence[int], output: str, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info("x", element, ["n", *shape]),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, None),
        ]
        graph = helper.make_graph(self.nodes, "network", ends[:1], ends[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dcgan() -> onnx.ModelProto:
    build, y = Builder(), "x"
    for inputs, outputs in pairwise(DCGAN):
        y = build.op("LeakyRelu", build.conv(y, outputs, inputs, 4, 2), alpha=0.2)
    return build.model((3, 64, 64), build.conv(y, 1, DCGAN[-1], 4, 4))


def resnet50() -> onnx.ModelProto:
    """ResNet-50 with its batch normalizations folded into the convolutions."""
    build = Builder()
    y = build.op("Relu", build.conv("x", 64, 3, 7, 2))
    y = build.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for width, blocks in RESNET:
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            short = build.conv(y, 4 * width, channels, 1, stride, 1.0) if block == 0 else y
            z = build.op("Relu", build.conv(y, width, channels, 1, 1))
            z = build.op("Relu", build.conv(z, width, width, 3, stride))
            y = build.op("Relu", build.op("Add", build.conv(z, 4 * width, width, 1, 1, 0.1), short))
            channels = 4 * width
    y = build.op("Flatten", build.op("GlobalAveragePool", y))
    y = build.op("Gemm", y, build.weight(random(1000, channels)), build.weight(np.zeros(1000, np.float32)), transB=1)
    return build.model((3, 224, 224), y)


def matmul(size: int = 4096) -> onnx.ModelProto:
    build = Builder()
    return build.model((size,), build.op("MatMul", "x", build.weight(random(size, size))))


def gather(rows: int = 50_000, columns: int = 256) -> onnx.ModelProto:
    build = Builder()
    return build.model((), build.op("Gather", build.weight(random(rows, columns)), "x"), TensorProto.INT64)


def normal(*shape: int) -> Callable[[int], Array]:
    return lambda batch: np.random.default_rng(batch).standard_normal((batch, *shape), np.float32)


def keras_dcgan() -> onnx.ModelProto:
    return onnx.load(ROOT / "models" / "keras_dcgan_discriminator.onnx")


NETWORKS = {
    "dcgan": Network("DCGAN-D 64×64", dcgan, normal(3, 64, 64)),
    "keras-dcgan": Network("`models/keras_dcgan_discriminator.onnx`", keras_dcgan, normal(32, 32, 3)),
    "resnet50": Network("ResNet-50", resnet50, normal(3, 224, 224)),
    "matmul": Network("MatMul 4096²", matmul, normal(4096)),
    "gather": Network("Gather 50000×256", gather, lambda batch: np.random.default_rng(0).integers(0, 50_000, batch)),
}


# The ways of running them


def ways(network: Network, folder: Path) -> Iterator[tuple[str, Path]]:
    """Write the models of a network; yield what each is and its file."""
    bare = network.make()
    made = {
        "bare": bare,
        "folded": fold(bare, sigma="power").to_proto(),
        "inserted": insert(bare).to_proto(),
        "inserted, k = 3": insert(bare, power_iterations=3).to_proto(),
        "inserted, weights scaled": insert(bare, scale="weight").to_proto(),
    }
    for number, (way, proto) in enumerate(made.items()):
        onnx.save(proto, folder / f"{number}.onnx")
        yield way, folder / f"{number}.onnx"


def one_thread() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def plain_run(path: Path) -> Callable[[Array], object]:
    """onnxruntime itself, u.next fed back by hand."""
    session = ort.InferenceSession(str(path), one_thread(), providers=["CPUExecutionProvider"])
    inserted = read_inserted(Model.open(path))
    pairs = state_names(inserted)[0] if inserted else {}
    x, *state = [value.name for value in [*session.get_inputs(), *session.get_overridable_initializers()]]
    fed = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    held = {name: fed[name] for name in state}
    names = [value.name for value in session.get_outputs()]

    def run(array: Array) -> None:
        values = dict(zip(names, session.run(names, {x: array, **held}), strict=True))
        held.update({name: values[following] for name, following in pairs.items()})

    return run


def stateful_run(path: Path) -> Callable[[Array], object]:
    stateful = importlib.import_module("sn_graph.runtime.session").StatefulSession
    session = stateful(path, session_options=one_thread())
    name = session.get_inputs()[0].name
    return lambda array: session.run(None, {name: array})


def measure(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Seconds of a run in each round, by way."""
    counts = {}
    for way, run in runs.items():
        run()
        begin = time.perf_counter()
        run()
        counts[way] = max(1, min(MOST_RUNS, round(TURN / (time.perf_counter() - begin))))
    taken: dict[str, list[float]] = {way: [] for way in runs}
    rng, end = np.random.default_rng(0), time.monotonic() + seconds
    while time.monotonic() < end or len(taken[way]) < LEAST_ROUNDS:
        for way in rng.permutation(list(runs)):
            runs[way]()
            taken[way].append(statistics.median(clock(runs[way]) for _ in range(counts[way])))
    return taken


def clock(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def figures(title: str, batch: int, taken: dict[str, list[float]], bases: dict[str, str]) -> Iterator[Figure]:
    """Yield each way's figure; `bases` names the baseline of those whose is not "bare"."""
    for way, times in taken.items():
        base = taken[bases.get(way, "bare")]
        ratio = statistics.median(time / other for time, other in zip(times, base, strict=True))
        least = min(times) / min(base)
        yield Figure(title, batch, way, ratio, least, statistics.median(times) * 1e3, len(times))


def onnx_figures(network: Network, batches: Sequence[int], seconds: float) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        runs: dict[str, Callable[[Array], object]] = {}
        for way, path in ways(network, Path(name)):
            runs[way] = plain_run(path)
            if way == "inserted":
                runs["inserted, StatefulSession"] = stateful_run(path)
        for batch in batches:
            x = network.x(batch)
            bound: dict[str, Run] = {way: partial(run, x) for way, run in runs.items()}
            yield from figures(network.title, batch, measure(bound, seconds), {})


# The frameworks


def torch_figures(name: str, batches: Sequence[int], seconds: float) -> Iterator[Figure]:
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
        yield from figures(NETWORKS[name].title, batch, taken, dict.fromkeys(models, plain))


def keras_figures(name: str, batches: Sequence[int], seconds: float) -> Iterator[Figure]:
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

        @tensorflow.function
        def call(x: Any) -> Any:
            for layer in stack:
                x = layer(x, training=True) if isinstance(layer, layers.SpectralNormalization) else layer(x)
            return x

        return lambda x: call(x).numpy()

    plain, wrapped = "Keras", "Keras, `SpectralNormalization`, training=True"
    calls = {plain: make(lambda layer: layer), wrapped: make(layers.SpectralNormalization)}
    for batch in batches:
        x = NETWORKS[name].x(batch)
        x = tensorflow.constant(np.moveaxis(x, 1, -1) if x.ndim == 4 else x)
        for call in calls.values():
            call(x)
        taken = measure({way: partial(call, x) for way, call in calls.items()}, seconds)
        yield from figures(NETWORKS[name].title, batch, taken, dict.fromkeys(calls, plain))


FRAMEWORKS = {"torch": torch_figures, "keras": keras_figures}


def framework_figures(framework: str, name: str, batches: Sequence[int], seconds: float) -> Iterator[Figure]:
    """Measure in a fresh process: beside TensorFlow, PyTorch's product of a matrix and a vector took a third."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield from pool.submit(measure_framework, framework, name, batches, seconds).result()


def measure_framework(framework: str, name: str, batches: Sequence[int], seconds: float) -> list[Figure]:
    return list(FRAMEWORKS[framework](name, batches, seconds))


# The record


def render(found: Sequence[Figure], command: str) -> str:
    lines = [
        f"Measured by `{command}` on {date.today().isoformat()}.",
        versions() + ".",
        "",
        "| network | batch | way | ratio | of the least times | ms | rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        ratios = f"{one.ratio:.2f} | {one.least:.2f} | {one.milliseconds:.3g}"
        lines.append(f"| {one.network} | {one.batch} | {one.way} | {ratios} | {one.rounds} |")
    return "\n".join(lines) + "\n"


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return f"{', '.join(found)}; {platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
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
    table = render(found, shlex.join(["python", "tools/bench/runtime.py", *sys.argv[1:]]))
    if options.output is None:
        print(table)
        return
    before = options.output.read_text(encoding="utf-8").partition(MARK)[0] if options.output.exists() else ""
    options.output.write_text(f"{before}{MARK}\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()
