"""Proving an inserted model before it takes its place.

Structure: what strip makes of the written file is the original, node by node and tensor by tensor. Run: the first step
gives the outputs of the original folded by the same estimate, which NumPy computed.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.model import Model, random_ops
from sn_graph.norms import SigmaMethod
from sn_graph.passes import Fold, FoldOptions, InsertResult, PassResult
from sn_graph.plan import Plan
from sn_graph.proofs.outputs import prove_outputs
from sn_graph.proofs.proof import Proof, Terms
from sn_graph.proofs.sameness import first_difference
from sn_graph.proofs.steps import Feeds, find_steps
from sn_graph.rewrite import restore
from sn_graph.rewrite.insertion import StateMode
from sn_graph.runtime import Side, lean_side, make_feeds
from sn_graph.state import Inserted, State, read_inserted, state_tensors


def prove_insertion(result: InsertResult, source: Model, written: Path, terms: Terms) -> Proof:
    """Prove that the file `written` is `source` with the iteration of `result`. Raises VerificationFailed."""
    model = Model.open(written)
    inserted = read_inserted(model)
    stripped = model if result.idle else _strip(model, inserted)
    difference = first_difference(source, stripped)
    if difference is not None:
        raise VerificationFailed(
            f"strip does not give the original back ({difference})", "so the insertion is not what it should be"
        )
    if inserted is None or not inserted.sites or result.plan is None:
        return Proof("structure", "nothing was inserted, and the graph is as it was")
    drawn = random_ops(source)
    if drawn:
        return Proof("structure", f"it draws random numbers ({', '.join(drawn)}), so no two runs agree")
    try:
        feeds = make_feeds(source, inputs=terms.inputs, dims=terms.dims)
        list(lean_side(source, "the original").run(feeds))
    except ModelError as error:
        return Proof("structure", f"the original can't be run: {error}")
    options = result.options
    method = SigmaMethod.EXACT if options.exact else SigmaMethod.POWER
    # From the u that the graph holds, in float32, and not from that before it was rounded.
    first = State({start.target.id: start.u.astype(np.float32) for start in result.starts}, {})
    plan = _only_inserted(result, result.plan)
    state = State({}, {}) if options.exact else first
    folded = Fold(FoldOptions(method, options.seed, state, as_written=True))(source, plan)
    if options.mode is StateMode.REQUIRED:
        _give_first_state(model, inserted, result)
    # Without optimizations, which could fuse one of the two and not the other.
    reference = lean_side(folded.model, "the original, folded")
    side = lean_side(model, "the inserted model's first step")
    proof = prove_outputs(source, plan, reference, side, feeds, Terms(), "the inserted model")
    if proof.verified != "run" or find_steps(source).nodes:
        _check_sigmas(folded, inserted, side, feeds)
    return proof.with_note(feeds.note)


def _check_sigmas(folded: PassResult, inserted: Inserted, side: Side, feeds: Feeds) -> None:
    """Check σ of the first run, which outputs behind a step may tell little of. Raises VerificationFailed."""
    try:
        (outputs,) = side.run(feeds)
    except ModelError:
        return  # whether that is the insertion's fault is for the comparison to say
    expected = {record.id: record.sigma_used for record in folded.sites}
    places = {(t.sigma, place): site for t in state_tensors(inserted) for site, (_, place) in t.sites.items()}
    for (output, place), site in places.items():
        found, wanted = float(outputs[output].reshape(-1)[place]), expected.get(site)
        if wanted is not None and not abs(found - wanted) <= _SIGMA_EXACT * wanted:
            raise VerificationFailed(
                f"the σ that the graph computes of weight '{site}' is {found:.9g}, not {wanted:.9g}"
            )


_SIGMA_EXACT = 1e-4  # relatively; float32 in the graph, float64 in NumPy


def _strip(model: Model, inserted: Inserted | None) -> Model:
    if inserted is None:
        raise VerificationFailed("what was written holds no metadata of the insertion")
    try:
        return restore(model, inserted)
    except ModelError as error:
        raise VerificationFailed("strip does not accept what was written", str(error)) from None


def _give_first_state(model: Model, inserted: Inserted, result: InsertResult) -> None:
    """Give a model in memory, whose state must be fed, the defaults that a client would feed first."""
    vectors = {start.target.id: start.u for start in result.starts}
    for tensor in state_tensors(inserted):
        model.proto.graph.initializer.append(numpy_helper.from_array(tensor.pack(vectors), tensor.input))


def _only_inserted(result: InsertResult, plan: Plan) -> Plan:
    done = {start.target.id for start in result.starts}
    sites = tuple(
        site if site.id in done else replace(site, status="skipped", reason=site.reason or "not inserted")
        for site in plan.sites
    )
    return replace(plan, sites=sites)
