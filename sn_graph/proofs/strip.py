"""Proving a stripped model: the written file is the model before the insertion, equal as a proto.

Two checks, of which neither trusts the code that took the insertion out: onnx's own reader gives the nodes and tensors
of the result, and the skeleton has the hash that insert recorded of the model before it.
"""

from pathlib import Path

import onnx

from sn_graph.errors import VerificationFailed
from sn_graph.model import Model
from sn_graph.passes import PassResult
from sn_graph.proofs.proof import Proof
from sn_graph.proofs.sameness import first_difference
from sn_graph.state import read_inserted, skeleton_hash


def prove_strip(result: PassResult, source: Model, written: Path) -> Proof:
    """Prove that the file `written` is the model that `source` was before the insertion. Raises VerificationFailed."""
    model = Model.open(written)  # reads what is in a data file; the rest is as onnx's reader gives it
    difference = first_difference(result.model, onnx.load(written, load_external_data=False), model)
    if difference is not None:
        raise VerificationFailed("the written model is not the one before the insertion", difference)
    inserted = read_inserted(source)
    if inserted is None or skeleton_hash(model) != inserted.model:
        raise VerificationFailed("the written model has not the hash that insert recorded of the one before it")
    return Proof("structure", "it is equal to the model before the insertion, node by node and tensor by tensor")
