"""PyTorch beside ONNX: a module exported and written in one go, and the proof that a file does what the module does.

In training mode each forward of a normalized layer iterates once (k times) and divides by the new σ; so does each run
of an inserted model. Only the normalized layers are put in training mode for that: BatchNormalization and Dropout are
in the file as they are in evaluation.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.choices import FormChoice
from sn_graph.errors import ModelError, UsageError
from sn_graph.frontends.torch import Normalized, TorchExport, copied, export_module, normalized_layers, require_torch
from sn_graph.model import Model
from sn_graph.passes import Fold, FoldOptions, Insert, InsertOptions, PassResult
from sn_graph.plan import record_of
from sn_graph.progress import Progress, silent
from sn_graph.proofs.saving import save
from sn_graph.runtime.engine import PROVIDERS
from sn_graph.runtime.parity import Comparison, Inputs, ParityResult, Rows, Side, make_feeds, signature
from sn_graph.runtime.session import StatefulSession
from sn_graph.state import Inserted, State, read_inserted, save_state

FORMS = ("plain", "fold", "insert")


def export(
    module: Any,
    args: Sequence[Any],
    path: str | os.PathLike[str],
    as_: FormChoice = "plain",
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    progress: Progress = silent,
) -> TorchExport:
    """Export a module with spectral normalization to an ONNX file, with its plan and its own vectors beside it.

    Args:
        module: A torch.nn.Module with torch.nn.utils.spectral_norm, the parametrization of that name, or classes of its
            own that iterate from a stored vector; not changed.
        args: Example inputs, a tuple.
        path: The file to come: out.onnx; "plain" also writes out.plan.json and out.u.safetensors.
        as_: "plain" for W itself; "fold" for W/σ with the σ = u·(M v) that evaluation divides by; "insert" for the
            iteration in the graph, which goes on from the module's vectors as the module does in training.
        dynamic_shapes, input_names, output_names, opset: As for torch.onnx.export.
        progress: Told the stages.

    Returns:
        What was exported: the plain model, its plan and its state.

    Raises:
        ModelError: The module can't be exported, a weight can't be found in the export, or "fold" was asked for of a
            module whose u and v are random still.
        VerificationFailed: The written file is not what it should be; nothing is put in place.
        EnvironmentUnavailable: torch, onnxscript or onnxruntime is missing, or the folder can't be written.
        UsageError: `as_` is none of the three.
    """
    if as_ not in FORMS:
        raise UsageError(f"no form '{as_}'", do=f"choose one of {', '.join(FORMS)}")
    exported = export_module(
        module,
        args,
        dynamic_shapes=dynamic_shapes,
        input_names=input_names,
        output_names=output_names,
        opset=opset,
        progress=progress,
    )
    save(_formed(exported, as_), path, progress=progress)
    if as_ == "plain":
        exported.save_beside(path)
    return exported


def _formed(exported: TorchExport, form: str) -> PassResult:
    model, plan, state = exported.model, exported.plan, exported.state
    if form == "plain":
        return PassResult(model, plan, tuple(map(record_of, plan.sites)), source=model, name="plain")
    if form == "insert":
        return Insert(InsertOptions(state=state))(model, plan)
    for target in plan.targets():
        if target.id not in state.sigma:
            raise ModelError(
                f"the u and v of weight '{target.id}' give no norm",
                "because the module was never called in training mode, so that they are random still",
                "call it once in training mode, or fold the plain export",
            )
    # Evaluation divides by one σ, however often the layer is called.
    once = replace(plan, sites=tuple(replace(site, per_use=False) for site in plan.sites))
    return Fold(FoldOptions(known=state.sigma))(model, once)


def parity(
    module: Any,
    path: str | os.PathLike[str],
    steps: int = 1,
    inputs: Inputs | None = None,
    *,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
) -> ParityResult:
    """Compare an ONNX file with the PyTorch module that it came from, call by call.

    An inserted file begins with the module's own vectors and is compared with calls in training mode (of the
    normalized layers alone): outputs, and the vectors after each call. Any other file is compared with evaluation.

    Args:
        module: A torch.nn.Module; it is not changed.
        path: The ONNX model.
        steps: How many calls.
        inputs: Arrays by the ONNX model's input names, used at every call; by default each call draws its own.
        seed: Of the inputs drawn.
        rtol, atol: As for `sn_graph.verify`.

    Raises:
        ModelError: The model can't be run, or the module does not take its inputs or give its outputs.
        EnvironmentUnavailable: torch or onnxruntime is missing.
        UsageError: `steps` is below 1.
    """
    if steps < 1:
        raise UsageError(f"{steps} steps compare nothing", do="give 1 or more")
    model = Model.open(path)
    inserted = read_inserted(model)
    feeds = make_feeds(model, inputs=inputs, seed=seed, steps=steps)
    reference = copied(module).eval()
    layers = normalized_layers(reference)
    rows = Rows(str(path), "the PyTorch module", rtol, atol)
    if inserted is None:
        found = list(_evaluation(model, reference, feeds, rows))
    else:
        found = list(_training(model, inserted, reference, layers, feeds, rows))
    return ParityResult(tuple(found))


def assert_parity(
    module: Any, path: str | os.PathLike[str], steps: int = 10, inputs: Inputs | None = None, **options: Any
) -> None:
    """Fail a test unless a file does what its module does; arguments as in `parity`. Raises VerificationFailed."""
    parity(module, path, steps, inputs, **options).raise_if_different()


Feeds = Sequence[Mapping[str, NDArray[Any]]]


def _evaluation(model: Model, reference: Any, feeds: Feeds, rows: Rows) -> Iterator[Comparison]:
    ours = Side(model, rows.left).run(feeds)
    for step, (found, feed) in enumerate(zip(ours, feeds, strict=True)):
        yield from rows.at(step).compare(found, _call(reference, model, feed))


def _training(
    model: Model,
    inserted: Inserted,
    reference: Any,
    layers: Sequence[Normalized],
    feeds: Feeds,
    rows: Rows,
) -> Iterator[Comparison]:
    session = StatefulSession(model, providers=[PROVIDERS["cpu"]])
    own = [one for one in layers if one.name in session.state()]
    _begin(session, inserted, own)
    for one in own:
        one.train()
    names = [output.name for output in signature(model).outputs]
    for step, feed in enumerate(feeds):
        outputs = dict(zip(names, session.run(names, dict(feed)), strict=True))
        at, state = rows.at(step), session.state()
        yield from at.compare(outputs, _call(reference, model, feed))
        for one in own:
            yield at.row(f"{one.name}.u", state[one.name], one.state().astype(np.float32))


def _begin(session: StatefulSession, inserted: Inserted, layers: Sequence[Normalized]) -> None:
    """Give a session the vectors of a module."""
    vectors: dict[str, NDArray[np.floating]] = {**session.state()}
    vectors |= {one.name: one.state() for one in layers}
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "u.safetensors"
        save_state(start, State(vectors, {}), inserted.model, inserted.convention)
        session.load_state(start)


def _call(reference: Any, model: Model, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Call a module with the inputs of a model, in their order; return its outputs under the model's names."""
    torch = require_torch()
    told = signature(model)
    arguments = [torch.from_numpy(np.ascontiguousarray(feed[value.name])) for value in told.inputs]
    try:
        with torch.no_grad():
            found = reference(*arguments)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError("the module does not take the model's inputs", str(error).splitlines()[0]) from None
    # As the exporter flattens them: lists of feature maps, dicts, a single tensor.
    leaves = torch.utils._pytree.tree_leaves(found)
    outputs = [one.numpy() for one in leaves if isinstance(one, torch.Tensor)]
    if len(outputs) != len(told.outputs):
        raise ModelError(f"the module gives {len(outputs)} outputs", f"and the model {len(told.outputs)}")
    return {value.name: array for value, array in zip(told.outputs, outputs, strict=True)}
