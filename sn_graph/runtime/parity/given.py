"""Weights that are given at each run: onnxruntime then keeps no copies of them, where a session of its own holds two.

What it computes is the same: a graph input in place of an initializer of the same value. Only constants that a kernel
insists on are no longer there, so that a model may fail to load.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from onnx import TensorProto, helper

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
    return replace(side, model=model, weights=weights) if weights else side
