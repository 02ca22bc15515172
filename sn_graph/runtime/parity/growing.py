"""Growing: sizes of dynamic dimensions with which a model runs, where 2 is too small for its kernels and strides."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.runtime.engine import run_named
from sn_graph.runtime.parity.given import with_given_weights
from sn_graph.runtime.parity.inputs import DYNAMIC_SIZE, Sizes, has_open_sizes, make_inputs
from sn_graph.runtime.parity.side import Outputs, Side
from sn_graph.state import initial_state

_USUAL = (DYNAMIC_SIZE, 8, 16, 32, 64, 128, 224, 256)
# What Flatten before a Gemm or a fixed Reshape may ask for: any small size, then what images are cut to.
_OTHERS = tuple(size for size in (28, 96, 299, 112, 384, 512, *range(1, 65), *range(72, 384, 8)) if size not in _USUAL)
_PATIENCE = 20.0  # seconds; a model that runs with no size at all costs no more


def fitting_sizes(model: Model, *, seed: int = 0, dims: Mapping[str, int] | None = None) -> Sizes:
    """Return the sizes for what is dynamic with which onnxruntime runs a model on the CPU; 2 where none is found.

    Height, width, lengths and all else that neither the file, nor `dims`, nor a weight decides have one size, which
    grows until the model runs and has outputs that are neither empty nor all NaN, as those of a pool are that nothing
    is left for. Then the same is tried with a batch of 1.

    Args:
        model: The model.
        seed, dims: As for `make_inputs`.

    Raises:
        UsageError: As by `make_inputs`.
        ModelError: As by `make_inputs`, where the usual sizes are refused.
        EnvironmentUnavailable: onnxruntime is missing.
    """
    usual = Sizes()
    if not has_open_sizes(model, dims):
        return usual
    make_inputs(model, seed=seed, dims=dims, sizes=usual)
    trial = _Trial.of(model)
    if trial is None:
        return usual
    poor, seen, end = None, set[tuple[tuple[int, ...], ...]](), time.monotonic() + _PATIENCE
    for sizes in _candidates():
        if sizes.other not in _USUAL and (poor is not None or time.monotonic() > end):
            break
        try:
            feed = make_inputs(model, seed=seed, dims=dims, sizes=sizes)
        except ModelError:  # more than what is drawn for a model of its size
            continue
        shapes = tuple(array.shape for array in feed.values())
        if shapes in seen:
            continue
        seen.add(shapes)
        outputs = trial.run(feed)
        if outputs is not None and all(map(_tells, outputs.values())):
            return sizes
        if outputs is not None and poor is None:
            poor = sizes
    return poor or usual


def _candidates() -> Iterator[Sizes]:
    for batch in (DYNAMIC_SIZE, 1):
        yield from (Sizes(batch, other) for other in _USUAL)
    yield from (Sizes(other=other) for other in _OTHERS)


def _tells(output: NDArray[Any]) -> bool:
    if output.size == 0:
        return False
    return output.dtype.kind not in "fc" or not np.isnan(output).all()


class _Trial:
    """A session of a model, to be run with inputs that may not fit it."""

    def __init__(self, side: Side) -> None:
        self._session = side.open()
        state = {} if side.inserted is None else initial_state(side.model, side.inserted)
        self._given = {**side.weights, **state}

    @classmethod
    def of(cls, model: Model) -> _Trial | None:
        """Open a session; return None where onnxruntime can't load the model."""
        side = Side(model, model.name, optimize=False)
        for one in (with_given_weights(side), side):
            try:
                return cls(one)
            except ModelError:
                continue  # a kernel that wants a constant weight, or one that onnxruntime does not have
        return None

    def run(self, feed: Mapping[str, NDArray[Any]]) -> Outputs | None:
        """Return the outputs; None where the model does not run on these inputs."""
        try:
            return run_named(self._session, {**self._given, **feed}, label="the model")
        except ModelError:
            return None
