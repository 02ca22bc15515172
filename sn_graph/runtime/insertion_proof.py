"""Proving an inserted model before it takes its place.

Structure: what strip makes of the written file is the original, read with onnx's own reader. Run: the first step gives
the outputs of the original folded by the same estimate, which NumPy computed.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.inserted import read_inserted, state_names
from sn_graph.insertion import StateMode
from sn_graph.model import Model, Storage
from sn_graph.model.tensors import walk_tensors
from sn_graph.operators import Operators
from sn_graph.passes.base import PassResult
from sn_graph.passes.fold import Fold, FoldOptions, SigmaMethod
from sn_graph.passes.insert import Insert, InsertOptions
from sn_graph.passes.strip import Strip, StripOptions
from sn_graph.plan import Plan, rebind
from sn_graph.progress import Progress, silent
from sn_graph.runtime.parity import compare_sides, make_feeds, random_ops
from sn_graph.runtime.proof import Proof, save_proven
from sn_graph.runtime.side import Side


def save_inserted(
    source: Model,
    result: PassResult,
    options: InsertOptions,
    path: str | os.PathLike[str],
    storage: Storage = Storage.KEEP,
    *,
    verify: bool = True,
    force: bool = False,
    progress: Progress = silent,
) -> Proof:
    """Write an inserted model beside `path`, prove it against the model it came from, and put it in place.

    Args:
        source: The model before the pass.
        result, options: What the pass made of it, and how.
        path, storage: As for `Model.save`.
        verify: Whether to prove it at all.
        force: Put it in place even where the proof fails.
        progress: Told the bytes written.

    Raises:
        VerificationFailed: The written file is not what it should be; nothing is put in place.
        EnvironmentUnavailable: The folder can't be written, or onnxruntime is missing.
    """
    prover = partial(prove_insertion, source, result, options) if verify else None
    return save_proven(result, path, storage, prover, force, progress)


def prove_insertion(
    source: Model, result: PassResult, options: InsertOptions, written: Path, *, dims: Mapping[str, int] | None = None
) -> Proof:
    """Prove that the file `written` is `source` with the iteration of `result`. Raises VerificationFailed.

    `dims` are sizes of dynamic dimensions by name, as in `make_feeds`.
    """
    inserted = Model.open(written)
    stripped = inserted.copy()
    done = {record.id for record in result.sites if record.status == "inserted"}
    if done:
        try:
            Strip(StripOptions()).apply(stripped, result.plan)
        except ModelError as error:
            raise VerificationFailed(f"strip does not accept what was written: {error}") from None
    if _inline(stripped.to_proto()) != _inline(source.to_proto()):
        raise VerificationFailed("strip does not give the original back, so the insertion is not what it should be")
    if not done:
        return Proof("structure", "nothing was inserted, and it is the model as it was")
    drawn = random_ops(source.proto.graph)
    if drawn:
        return Proof("structure", f"it draws random numbers ({', '.join(drawn)}), so no two runs agree")
    try:
        feeds = make_feeds(source, dims=dims)
        list(Side(source, "the original").run(feeds))
    except ModelError as error:
        return Proof("structure", f"the original can't be run: {error}")
    folded = source.copy()
    plan = rebind(_only(result.plan, done), folded)
    method = SigmaMethod.EXACT if options.exact else SigmaMethod.POWER
    Fold(FoldOptions(method, options.seed, options.state)).apply(folded, plan)
    _give_first_state(source, inserted, rebind(plan, source), options)
    try:
        # Without optimizations, which could fuse one of the two and not the other.
        parity = compare_sides(
            Side(folded, "the original, folded", optimize=False),
            Side(inserted, "the inserted model's first step", optimize=False),
            feeds,
        )
    except ModelError as error:
        raise VerificationFailed(f"the inserted model does not run: {error}") from None
    parity.raise_if_different()
    return Proof("run")


def _give_first_state(source: Model, inserted: Model, plan: Plan, options: InsertOptions) -> None:
    """Where the state must be fed, give a model in memory the defaults that a client would feed first."""
    if options.mode is not StateMode.REQUIRED:
        return
    insert, metadata = Insert(options), read_inserted(inserted)
    assert metadata is not None
    state, operators = insert.start(source, plan), Operators(source)
    columns = [
        insert.first_u(site, plan, site.matrix(source), state, operators).u.astype(np.float32).reshape(-1, 1)
        for site in plan.eligible()
    ]
    starts = columns if metadata.state.input is None else [np.concatenate(columns)]
    for name, start in zip(state_names(metadata)[0], starts, strict=True):
        inserted.proto.graph.initializer.append(numpy_helper.from_array(start, name))


def _only(plan: Plan, done: set[str]) -> Plan:
    sites = tuple(
        site if site.id in done else replace(site, status="skipped", reason=site.reason or "not inserted")
        for site in plan.sites
    )
    return replace(plan, sites=sites)


def _inline(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without the places of external data, which are another file's after writing."""
    for _, tensor in walk_tensors(proto):
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return proto
