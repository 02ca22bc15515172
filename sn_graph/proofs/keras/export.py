"""Proving an export: onnxruntime gives the outputs of the Keras model itself, on inputs drawn from its signature."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.frontends.keras import Inference, KerasExport, inference, require
from sn_graph.model import Model, Storage
from sn_graph.passes import PassResult
from sn_graph.proofs import Proof, Terms, prove, save_proven
from sn_graph.runtime.parity import ParityResult, Rows, Side, make_feeds, signature


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
        return Proof("structure", f"the exported model can't be run: {error.reason}"), {}
    reason = "Keras takes no input of a size that was tried"
    for dims, feeds, theirs in _taken(keras, exported, _sizes(exported)):
        try:
            (ours,) = side.run(feeds)
        except ModelError as error:
            reason = error.reason
            continue
        compare(theirs, ours, side, rtol, atol).raise_if_different()
        return Proof("run"), dims
    return Proof("structure", f"the exported model can't be run: {reason}"), {}


def save_export(
    keras_model: Any,
    exported: KerasExport,
    result: PassResult,
    path: Path,
    storage: Storage,
    terms: Terms,
    *,
    verify: bool = True,
    force: bool = False,
    sync: bool = True,
) -> Proof:
    """Write what was made of an export, prove it, and put it in place behind its plan and state.

    Args:
        keras_model, exported: What was exported, and the export.
        result: What was made of it: the export itself, folded or inserted.
        path, storage: As for `Model.save`.
        terms: On what terms outputs are compared.
        verify: Whether to prove it at all: the export against Keras, then the result against the export.
        force: Put it in place even where the proof fails.
        sync: Whether the files are on the disk before the model takes its place.

    Raises:
        VerificationFailed: The written file is not what it should be; nothing is put in place.
        EnvironmentUnavailable: The folder can't be written, or onnxruntime is missing.
    """

    def prover(written: Path) -> Proof:
        try:
            proof = _prove_both(keras_model, exported, result, written, terms) if verify else Proof("no")
        except VerificationFailed:
            if force:
                exported.save_beside(path)
            raise
        exported.save_beside(path)  # the model takes its place behind them
        return proof

    return save_proven(result.model, path, storage, prover, force=force, sync=sync, progress=terms.progress)


def _prove_both(keras_model: Any, exported: KerasExport, result: PassResult, written: Path, terms: Terms) -> Proof:
    proof, dims = prove_export(keras_model, exported.model, rtol=terms.rtol, atol=terms.atol)
    return prove(result, written, replace(terms, dims=dims)) if proof.verified == "run" else proof


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
    """Compare outputs one by one in their order, because a name that an input has as well was changed."""
    rows = Rows(side.label, "the Keras model", rtol, atol, side.provider)
    return ParityResult(
        tuple(rows.row(name, own, theirs) for (name, own), theirs in zip(ours.items(), keras.values(), strict=True)), ()
    )
