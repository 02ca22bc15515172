"""Times: folded and inserted models and StatefulSession against the bare model, with everything on the device.

Every way takes its turn in each round (`tools/bench/common.py`), and a figure is a ratio within the round. The bare,
the folded and the inserted model run on inputs and outputs that stay on the device; u and u.next share a buffer
there. With a CUDA graph each way replays one. StatefulSession copies its outputs to the host, and with a CUDA graph
its inputs to the device, so it is also measured against a bare model that does the same ("bare, from the host").
"""

from __future__ import annotations

import atexit
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import sn_graph
from sn_graph.choices import ProviderChoice
from sn_graph.model import Model
from sn_graph.runtime.engine import PROVIDERS, Chain, open_on, provider_chain, quiet_options, state_device
from sn_graph.state import initial_state, read_inserted, state_names
from tools.bench.common import ratios
from tools.bench.networks import NETWORKS
from tools.bench.runtime import measure
from tools.cuda_check.cases import halved
from tools.cuda_check.stateful import CAPTURE

WAYS = ("bare", "folded", "inserted")
Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """A network to time, in one element type, with or without a CUDA graph, at one batch size."""

    network: str
    dtype: str
    graph: bool
    batch: int

    @property
    def key(self) -> str:
        """What the record calls it."""
        return f"{self.network}, {self.dtype}, {'graph' if self.graph else 'no graph'}, {self.batch}"


def timings(provider: ProviderChoice, *, quick: bool) -> Iterator[Timing]:
    """Yield what is to be timed, what is worth most first; on the CPU as much as its time allows."""
    if quick:
        yield Timing("keras-dcgan", "float32", False, 1)
        yield Timing("keras-dcgan", "float32", True, 1)
    elif provider == "cpu":
        for graph in (True, False):
            yield from (Timing(name, "float32", graph, 1) for name in ("dcgan", "resnet50", "matmul"))
            yield Timing("dcgan", "float16", graph, 1)
    else:
        for dtype in ("float32", "float16"):
            for batch in (16, 1, 64):
                for graph in (True, False):
                    yield from (Timing(name, dtype, graph, batch) for name in ("dcgan", "resnet50", "matmul"))


def times(timing: Timing, provider: ProviderChoice, seconds: float) -> dict[str, Any]:
    """Time every way; return milliseconds of the bare model and the ratio of each."""
    options = dict(CAPTURE) if timing.graph else {}
    chain = provider_chain([(PROVIDERS[provider], options)])
    x = NETWORKS[timing.network].x(timing.batch)
    x = x.astype(np.float16) if timing.dtype == "float16" else x
    files = written(timing.network, timing.dtype, provider)
    runs = {way: bound_run(files[way], chain, x) for way in WAYS}
    runs["bare, from the host"] = fed_run(files["bare"], provider_chain([PROVIDERS[provider]]), x)
    runs["session"] = session_run(files["inserted"], chain, x)
    taken = measure(runs, seconds)
    rows = {}
    for way, found in taken.items():
        base = "bare, from the host" if way == "session" else "bare"
        one = ratios(found, taken["bare"])
        rows[way] = {"ratio": one.median, "least": one.least, "ms": 1e3 * statistics.median(found)}
        rows[way]["of its like"] = ratios(found, taken[base]).median
    return {"ok": True, "ways": rows, "rounds": len(taken["bare"])}


@cache
def scratch() -> Path:
    """Return a folder that is removed at the end of the process."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def written(network: str, dtype: str, provider: ProviderChoice) -> dict[str, Path]:
    """Write the models of a network as onnxruntime optimized them; return their files.

    The Gram matrix of a large weight takes seconds to make; so it is made once, not at every opening.
    """
    bare = NETWORKS[network].make()
    bare = halved(bare) if dtype == "float16" else bare
    made = {
        "bare": bare,
        "folded": sn_graph.fold(bare, sigma="power").to_proto(),
        "inserted": sn_graph.insert(bare).to_proto(),
    }
    files = {}
    for way, proto in made.items():
        stem = f"{network}-{dtype}-{way}"
        source, files[way] = scratch() / f"{stem}.source.onnx", scratch() / f"{stem}.onnx"
        onnx.save(proto, source)
        options = quiet_options()
        options.optimized_model_filepath = str(files[way])
        open_on(source, provider_chain([PROVIDERS[provider]]), options, stem)
        source.unlink()
    return files


def opened(path: Path, chain: Chain) -> onnxruntime.InferenceSession:
    """Open a model that is optimized already."""
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_on(path, chain, options, path.name)


def bound_run(path: Path, chain: Chain, x: NDArray[Any]) -> Run:
    """Return a run whose inputs, outputs and state stay on the device, at their addresses."""
    session, device = opened(path, chain), state_device(chain)
    make = onnxruntime.OrtValue.ortvalue_from_numpy
    binding = session.io_binding()
    model = Model.open(path)
    found = read_inserted(model)
    state = {} if found is None else initial_state(model, found)
    following = {} if found is None else state_names(found)[0]
    name = next(value.name for value in session.get_inputs() if value.name not in state)
    kept = {name: make(x.copy(), *device)} | {key: make(array.copy(), *device) for key, array in state.items()}
    for key, value in kept.items():
        binding.bind_ortvalue_input(key, value)
    held = {following[key]: kept[key] for key in state}
    for output in (value.name for value in session.get_outputs()):
        if output in held:
            binding.bind_ortvalue_output(output, held[output])
        else:
            binding.bind_output(output, *device)

    def run(_kept: object = kept) -> None:  # onnxruntime holds bare pointers to what is bound
        session.run_with_iobinding(binding)

    return run


def fed_run(path: Path, chain: Chain, x: NDArray[Any]) -> Run:
    """Return a run of onnxruntime's own `run`: from the host, and back to it."""
    session = opened(path, chain)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})


def session_run(path: Path, chain: Chain, x: NDArray[Any]) -> Run:
    """Return a run of StatefulSession, from the host."""
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = sn_graph.StatefulSession(path, providers=chain, session_options=options)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})
