"""Weights that are given at each run: onnxruntime then keeps no copies of them, where a session of its own holds two.

What it computes is the same: a graph input in place of an initializer of the same value. Only constants that a kernel
insists on are no longer there, so that a model may fail to load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import TensorProto, helper

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.runtime.engine import source_of, weights_size
from sn_graph.runtime.parity.side import Side

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})


def with_given_weights(side: Side, least: int = 1 << 20) -> Side:
    """Return a side whose large floating-point initializers of the main graph are given as views of the model's file.

    Args:
        side: A model that is run on the CPU.
        least: The bytes from which on a tensor is large.
    """
    model = side.model.copy()
    graph = model.proto.graph
    weights: dict[str, NDArray[Any]] = {}
    known = {value.name for value in graph.input}
    for tensor in graph.initializer:
        payload = model.payload(tensor) if tensor.data_type in _FLOATS else None
        if payload is not None and payload.size >= least:
            weights[tensor.name] = model.array(tensor)
            if tensor.name not in known:
                graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    kept = [tensor for tensor in graph.initializer if tensor.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    model.edited()
    return replace(side, model=model, weights=weights, holder=side.model) if weights else side


def lean_side(model: Model, label: str) -> Side:
    """Return a model without optimizations, a large one without copies of its weights in memory.

    Args:
        model: The model; weights that are in no file yet are written to one that is gone when nobody reads it any more.
        label: What results and messages call it.

    Raises:
        EnvironmentUnavailable: The temporary file can't be written.
    """
    side = Side(model, label, optimize=False)
    if weights_size(model) < _LARGE:
        return side
    with source_of(model) as source:  # views of a file stay readable when it has lost its name
        stored = Model.open(source) if isinstance(source, Path) else model
        given = with_given_weights(replace(side, model=stored))
        if stored is not model:
            given = replace(given, model=Model.open(given.model.to_proto()))
    model.let_go()
    if not given.weights:
        return side
    try:
        given.open()
    except ModelError:  # a kernel wants a constant
        return side
    return given


def with_overrides(side: Side, arrays: Mapping[str, NDArray[Any]]) -> Side:
    """Return a side whose initializers of these names are replaced by arrays of the same shape and dtype."""
    given = {name: array for name, array in arrays.items() if name in side.weights}
    overrides = {name: array for name, array in arrays.items() if name not in given}
    return replace(side, weights={**side.weights, **given}, overrides=overrides)


_LARGE = 1 << 25  # bytes of tensors
