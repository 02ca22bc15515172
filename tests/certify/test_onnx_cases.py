"""The cases that onnx has for its operators: what certify's networks compute is what they expect."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from sn_graph.certify import Network, network_of
from sn_graph.certify.product import product_bounds
from sn_graph.model import Model

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
# Of the 1,900 cases, about 800 have a node without a constant, and 500 read no floats, or types that numpy lacks.
AT_LEAST = 500


def cases() -> Iterator[tuple[str, onnx.ModelProto, str, NDArray[Any], NDArray[Any]]]:
    """Yield (name, model, its float input, that input, the first output); other inputs are constants of the model."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        if case.model is None or not case.data_sets:
            continue
        names = [value.name for value in case.model.graph.input]
        floats = [value.name for value in case.model.graph.input if value.type.tensor_type.elem_type in FLOATS]
        inputs, outputs = case.data_sets[0]
        arrays = dict(zip(names, inputs, strict=False))
        if not floats or not all(isinstance(one, np.ndarray) for one in (*inputs, outputs[0])):
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for name, array in arrays.items():
            if name != floats[0]:
                model.graph.initializer.append(numpy_helper.from_array(array, name))
        yield case.name, model, floats[0], arrays[floats[0]], outputs[0]


def test_networks_compute_what_onnx_expects() -> None:
    agreed, wrong = 0, []
    for name, model, source, x, expected in cases():
        made = network_of(Model.open(model), inputs=[source], output=model.graph.output[0].name)
        if not isinstance(made, Network) or made.constant is not None:
            continue
        product_bounds(made)
        (only,) = made.sources
        ours = made.forward(x[tuple(slice(0, size) for size in only.shape)].astype(np.float64))
        if ours.ndim != expected.ndim:
            wrong.append(f"{name}: {ours.shape} for {expected.shape}")
            continue
        if made.samples == 1:  # the first sample, wherever samples stand
            expected = expected[tuple(slice(0, size) for size in ours.shape)]
        room = 1e-2 if x.dtype == np.float16 else 1e-3
        if not np.allclose(ours, expected.astype(np.float64), rtol=room, atol=room * 0.01, equal_nan=True):
            wrong.append(f"{name}: off by {np.abs(ours - expected).max()}")
        agreed += 1
    assert not wrong
    assert agreed >= AT_LEAST
