"""Proving: each written result by the proof of the pass that made it."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from sn_graph.errors import UsageError, VerificationFailed
from sn_graph.model import Model
from sn_graph.passes import InsertResult, LiftResult, PassResult
from sn_graph.proofs.fold import prove_fold
from sn_graph.proofs.insert import prove_insertion
from sn_graph.proofs.lift import prove_carried, prove_lift
from sn_graph.proofs.proof import Proof, Terms
from sn_graph.proofs.sameness import first_difference
from sn_graph.proofs.strip import prove_strip
from sn_graph.runtime.parity import Inputs, make_feeds, make_inputs


def require_fitting(result: PassResult, dims: Mapping[str, int] | None, inputs: Inputs | None) -> None:
    """Raise the error where what models are to be run on does not fit them; they are not models that can't be run.

    Raises:
        UsageError: No input has a dimension of that name.
        ModelError: The inputs given don't fit the model.
    """
    if result.source is None:
        return
    if inputs is not None:
        make_feeds(result.source, inputs=inputs)
    if dims:
        make_inputs(result.source, dims=dims)


def prove(result: PassResult, written: Path, terms: Terms) -> Proof:
    """Prove that a written file is what a pass made of its source.

    Raises:
        VerificationFailed: It is not.
        UsageError: The result does not know the model that it came from.
    """
    source = result.source
    if source is None:
        raise UsageError(
            f"the result of pass '{result.name}' can't be proved",
            "because apply changed the model in place",
            "call the pass itself, which keeps the source",
        )
    if isinstance(result.before, LiftResult):
        prove_carried(result.before)
    if isinstance(result, LiftResult):
        return prove_lift(result, source, written, terms)
    if isinstance(result, InsertResult):
        return prove_insertion(result, source, written, terms)
    if result.name == "strip":
        return prove_strip(result, source, written)
    if result.name in ("fold", "plain"):
        return prove_fold(result, source, written, terms)
    return _prove_written(result.model, written)


def _prove_written(model: Model, written: Path) -> Proof:
    """Prove no more than that the file holds the model: what a third party's pass means to do is not known here."""
    difference = first_difference(model, onnx.load(written, load_external_data=False), Model.open(written))
    if difference is not None:
        raise VerificationFailed("the written model is not the one that the pass made", difference)
    return Proof("structure", "sn-graph does not know what this pass promises, only that the file holds its model")
