"""StatefulSession on the provider under test: where u is kept, forks, CUDA graphs, and what is folded at load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import sn_graph
from sn_graph.choices import ProviderChoice
from sn_graph.model import Model
from sn_graph.runtime import make_feeds
from sn_graph.runtime.engine import PROVIDERS, open_on, provider_chain, quiet_options, source_of
from tools.cuda_check.cases import STEPS

CAPTURE = {"enable_cuda_graph": "1"}
Feed = Mapping[str, NDArray[Any]]


def session_on(
    model: Model, provider: ProviderChoice, options: Mapping[str, str] | None = None
) -> sn_graph.StatefulSession:
    """Open a session whose first provider is the one under test, with options of that provider."""
    return sn_graph.StatefulSession(model, providers=[(PROVIDERS[provider], dict(options or {}))])


def state(model: Model, provider: ProviderChoice, seed: int) -> dict[str, Any]:
    """Compare outputs, u and σ over 10 steps with the CPU's; look where u is, and at a fork."""
    ours, theirs = session_on(model, provider), session_on(model, "cpu")
    feeds = make_feeds(model, seed=seed, steps=STEPS)
    apart = [distance(ours, theirs, feed) for feed in feeds]
    twin, before = ours.fork(), ours.state()
    forked = distance(twin, theirs, feeds[0])
    untouched = all(np.array_equal(before[site], u) for site, u in ours.state().items())
    devices = sorted(ours._buffers.devices() | twin._buffers.devices())
    difference = max(apart)
    return {
        "ok": max(difference, forked) <= 1e-4 and untouched and devices == [provider],
        "difference": difference,
        "fork": forked,
        "untouched": untouched,
        "devices": ", ".join(devices),
    }


def captured(model: Model, provider: ProviderChoice, seed: int) -> dict[str, Any]:
    """Compare a session that replays a CUDA graph with one that does not, over 10 steps.

    On the CPU the same options fix the addresses and nothing more, so that the way of binding is tried.
    """
    ours, theirs = session_on(model, provider, CAPTURE), session_on(model, provider)
    (feed,) = make_feeds(model, seed=seed)
    difference = max(distance(ours, theirs, feed) for _ in range(STEPS))
    return {"ok": difference <= 1e-4, "difference": difference}


def distance(ours: sn_graph.StatefulSession, theirs: sn_graph.StatefulSession, feed: Feed) -> float:
    """Run both once; return the largest max|a−b| / max|b| of outputs, u and σ."""
    a, b = ours.run(None, feed), theirs.run(None, feed)
    u, v, sigma, tau = ours.state(), theirs.state(), ours.sigma, theirs.sigma
    pairs = [*zip(a, b, strict=True), *((u[site], v[site]) for site in v)]
    pairs.append((np.array([sigma[site] for site in tau]), np.array(list(tau.values()))))
    return max(_relative(np.asarray(x), np.asarray(y)) for x, y in pairs)


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.dtype.kind not in "fc":
        return 0.0 if np.array_equal(a, b) else np.inf
    apart = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
    return apart / max(float(np.max(np.abs(b), initial=0.0)), 1e-6)


def loaded(model: Model, provider: ProviderChoice) -> dict[str, Any]:
    """Open a model, have onnxruntime save what it made of it, and count its constants.

    The Gram matrix is made of constants, by operators of float64: onnxruntime is to compute it once, on the CPU, while
    it loads the model.
    """
    with tempfile.TemporaryDirectory() as folder, source_of(model) as source:
        saved = Path(folder) / "optimized.onnx"
        options = quiet_options()
        options.optimized_model_filepath = str(saved)
        begin = time.perf_counter()
        open_on(source, provider_chain([PROVIDERS[provider]]), options, model.name)
        seconds = time.perf_counter() - begin
        graph = onnx.load(saved).graph
    left = unfolded(graph.node)
    return {
        "ok": not left,
        "left": ", ".join(left) or "–",
        "seconds": seconds,
        "stored": constants(model.to_proto().graph),
        "constants": constants(graph),
    }


def unfolded(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Return the names of nodes that make a Gram matrix, or what it is made of."""
    made_of = ("gram", "gram_float32", "gram_norm", "most", "float64")
    return [node.name for node in nodes if node.name.rpartition("/")[2] in made_of]


def constants(graph: onnx.GraphProto) -> int:
    """Return the bytes of a graph's initializers."""
    return sum(
        onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * int(np.prod(tensor.dims, dtype=np.int64))
        for tensor in graph.initializer
    )
