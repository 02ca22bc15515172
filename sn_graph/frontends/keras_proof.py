"""Proving an export: onnxruntime gives the outputs of the Keras model itself, for inputs drawn from its signature."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.frontends.keras_frameworks import require
from sn_graph.frontends.keras_inference import Inference, inference
from sn_graph.model import Model
from sn_graph.runtime.difference import difference, tolerances
from sn_graph.runtime.parity import Comparison, ParityResult, make_feeds
from sn_graph.runtime.proof import Proof
from sn_graph.runtime.side import Side


def prove_export(keras_model: Any, exported: Model, *, rtol: float | None = None, atol: float | None = None) -> Proof:
    """Prove that an exported model gives what its Keras model gives in inference.

    A model that onnxruntime can't run (a convolution in float64, say) is only as good as its structure: proved by that.

    Args:
        keras_model: What was exported.
        exported: The result, with nothing folded or inserted.
        rtol, atol: What outputs may differ by; by default they follow from the type.

    Raises:
        VerificationFailed: An output differs.
        EnvironmentUnavailable: onnxruntime is missing.
    """
    feeds = make_feeds(exported)
    side = Side(exported, "the exported model")
    try:
        (ours,) = side.run(feeds)
    except ModelError as error:
        return Proof("structure", f"the exported model can't be run: {error}")
    compare(keras_outputs(inference(keras_model), feeds), ours, side, rtol, atol).raise_if_different()
    return Proof("run")


def keras_outputs(keras: Inference, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the outputs of a Keras model in inference for the first feed, by name."""
    tf = require("tensorflow", "a Keras model")
    values = [feeds[0].get(name) for name in keras.inputs]
    tensors = [
        tf.zeros([side or 1 for side in spec.shape], spec.dtype) if value is None else tf.constant(value)
        for value, spec in zip(values, keras.specs, strict=True)  # no output needs an input that is not in the graph
    ]
    return {name: np.array(value) for name, value in keras.call(tensors).items()}


def compare(
    keras: Mapping[str, NDArray[Any]],
    ours: Mapping[str, NDArray[Any]],
    side: Side,
    rtol: float | None,
    atol: float | None,
) -> ParityResult:
    """Compare outputs one by one in their order, for a name that an input has as well was changed."""
    rows = []
    for name, (own, theirs) in zip(ours, zip(ours.values(), keras.values(), strict=True), strict=True):
        used = tolerances(theirs.dtype, rtol, atol)
        found = difference(own, theirs, *used)
        rows.append(
            Comparison(
                side.label,
                "the Keras model",
                side.provider,
                0,
                name,
                found.max_abs,
                found.max_rel_norm,
                *used,
                found.ok,
            )
        )
    return ParityResult(tuple(rows), ())
