"""Proving an export: onnxruntime gives the outputs of the Keras model itself, for inputs drawn from its signature."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.frontends.keras_frameworks import require
from sn_graph.frontends.keras_inference import Inference, inference
from sn_graph.frontends.keras_parity_rows import Rows
from sn_graph.model import Model
from sn_graph.runtime.parity import ParityResult, make_feeds
from sn_graph.runtime.proof import Proof
from sn_graph.runtime.side import Side
from sn_graph.runtime.signature import signature


def prove_export(
    keras_model: Any, exported: Model, *, rtol: float | None = None, atol: float | None = None
) -> tuple[Proof, Mapping[str, int]]:
    """Prove that an exported model gives what its Keras model gives in inference.

    A model that onnxruntime can't run (a convolution in float64, say) is only as good as its structure: proved by that.

    Args:
        keras_model: What was exported.
        exported: The result, with nothing folded or inserted.
        rtol, atol: What outputs may differ by; by default they follow from the type.

    Returns:
        The proof, and the sizes of dynamic dimensions, by name, on which both models ran.

    Raises:
        VerificationFailed: An output differs.
        EnvironmentUnavailable: onnxruntime is missing.
    """
    side, keras = Side(exported, "the exported model"), inference(keras_model)
    try:
        side.open()
    except ModelError as error:
        return Proof("structure", f"the exported model can't be run: {_what(error)}"), {}
    reason = "Keras takes no input of a size that was tried"
    for dims, feeds, theirs in _taken(keras, exported, _sizes(exported)):
        try:
            (ours,) = side.run(feeds)
        except ModelError as error:
            reason = _what(error)
            continue
        compare(theirs, ours, side, rtol, atol).raise_if_different()
        return Proof("run"), dims
    return Proof("structure", f"the exported model can't be run: {reason}"), {}


def fitting_sizes(keras_model: Any, exported: Model) -> Mapping[str, int]:
    """Return sizes of dynamic dimensions, by name, that a Keras model takes; none where the usual 2 will do."""
    if not any(_sizes(exported)):
        return {}
    keras = inference(keras_model)
    return next((dims for dims, _, _ in _taken(keras, exported, ({}, *_sizes(exported)))), {})


def _taken(
    keras: Inference, exported: Model, sizes: Iterable[dict[str, int]]
) -> Iterator[tuple[dict[str, int], list[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]]:
    """Yield sizes that a Keras model takes, with inputs of them and its outputs for those."""
    for dims in sizes:
        feeds = make_feeds(exported, dims=dims)
        try:
            outputs = keras_outputs(keras, feeds)
        except Exception:  # whatever a layer's own code raises: an image too small for it, say
            continue
        if any(value.size for value in outputs.values()):
            yield dims, feeds, outputs


def _what(error: ModelError) -> str:
    """Return what an error says without its advice, which is for other commands."""
    return str(error).rpartition("; ")[0] or str(error)


def _sizes(exported: Model) -> Iterator[dict[str, int]]:
    """Yield sizes for the dynamic dimensions, until some fit.

    All others than the batch's differ from it and from each other first, so that dimensions which tf2onnx or Keras
    takes for one another show; then equal ones, for inputs that must fit together, up to what deep networks need.
    """
    names = [dim for value in signature(exported).inputs for dim in value.shape or () if isinstance(dim, str)]
    others = [name for name in dict.fromkeys(names) if name != "batch"]
    if not others:
        yield {}
        return
    yield {name: 3 + 2 * place for place, name in enumerate(others)}
    yield {name: 16 * (place + 1) for place, name in enumerate(others)}  # halved four times over
    for size in (2, 16, 32, 64, 128, 256):
        yield dict.fromkeys(others, size)


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
    rows = Rows(side.label, "the Keras model", rtol, atol, side.provider)
    return ParityResult(
        tuple(rows.row(name, own, theirs) for (name, own), theirs in zip(ours.items(), keras.values(), strict=True)), ()
    )
