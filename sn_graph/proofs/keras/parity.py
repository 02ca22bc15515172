"""Parity with Keras: does the ONNX side do what Keras does, call by call? For tests and the command line.

Keras overwrites its kernel at each normalizing call, W_t = W_{t-1}/σ, which in exact arithmetic is W₀/σ_t(u_t; W₀): the
inserted model keeps W₀, and W₀/σ is what is compared with Keras's kernel (reference.py says how Keras is called).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sn_graph.choices import ProviderChoice
from sn_graph.errors import ModelError, UsageError
from sn_graph.frontends.keras import export, load, sidecars
from sn_graph.model import Model, watched
from sn_graph.passes import Insert, InsertOptions
from sn_graph.plan import load_plan
from sn_graph.proofs.keras.export import fitting_sizes
from sn_graph.proofs.keras.pairs import open_session, pair, unmatched
from sn_graph.proofs.keras.reference import KerasReference, unchanged
from sn_graph.rewrite import bake
from sn_graph.runtime.engine import require_provider
from sn_graph.runtime.parity import Comparison, Inputs, ParityResult, Rows, Side, distance, make_feeds, signature
from sn_graph.state import Inserted, read_inserted

Feeds = Sequence[Mapping[str, NDArray[Any]]]
Steps = int | Sequence[int]


def parity(
    model: Any,
    steps: Steps = 1,
    inputs: Inputs | None = None,
    *,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
) -> ParityResult:
    """Export a Keras model, insert its normalization, and compare it with Keras over several calls.

    After each call with the normalization in training mode come the outputs, every kernel (W₀/σ) and every u, and then
    the outputs of inference with the weights as that call stored them.

    Args:
        model: A built Keras 3 or tf_keras model; its weights, u and optimizer are the same afterwards.
        steps: How many calls, each of them compared; or after which calls to compare, such as (1, 10, 100).
        inputs: Arrays by the ONNX model's input names, used at every call; by default each call draws its own.
        seed: Of the inputs drawn.
        rtol, atol: For floats of any type; by default those of `sn-graph verify`, by type (float32: 1e-4 and 1e-6).

    Returns:
        The comparisons, `step` counted from 0; `raise_if_different()` raises where one fails.

    Raises:
        ModelError: The model can't be exported, or the inputs don't fit.
        EnvironmentUnavailable: tensorflow, keras, tf2onnx or onnxruntime is missing.
        UsageError: No call would be compared.
    """
    calls = _compared(steps)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        export(model).save(path)
        exported = Model.open(path)
        made = Insert(InsertOptions())(exported, load_plan(sidecars(path)[0], exported)).model
        dims = fitting_sizes(model, made) if inputs is None else None
        feeds = make_feeds(made, inputs=inputs, seed=seed, dims=dims, steps=max(calls))
        rows = Rows("the ONNX model", "the Keras model", rtol, atol)
        return _compare_training(made, _inserted(made), model, feeds, calls, rows, ("cpu",))


def assert_parity(
    model: Any, steps: Steps = 10, inputs: Inputs | None = None, *, rtol: float | None = None, atol: float | None = None
) -> None:
    """Fail a test unless the exported model does what the Keras model does; arguments as in `parity`.

    Raises:
        AssertionError: Something differs; the message names what and by how much.
    """
    result = parity(model, steps, inputs, rtol=rtol, atol=atol)
    failed = [one for one in result.comparisons if not one.ok]
    told = [
        f"{one.output} at step {one.step} ({one.right}): {one.max_abs:.3g} apart, "
        f"{one.atol:g} + {one.rtol:g} of the largest value allowed"
        for one in failed[:_TOLD]
    ]
    assert not failed, "\n".join(
        [f"{len(failed)} of {len(result.comparisons)} comparisons differ", *told, *result.notes]
    )


_TOLD = 10  # failed comparisons in a message


def verify_keras(
    path: str | os.PathLike[str],
    original: str | os.PathLike[str],
    *,
    providers: Sequence[ProviderChoice] = ("cpu",),
    inputs: Inputs | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    steps: int = 1,
) -> ParityResult:
    """Compare an ONNX file with the file of the Keras model that it was exported from.

    What is compared depends on the file, and `left` and `right` say it: an inserted one call by call as in `parity`,
    from the u that it holds; any other with inference, whose kernels are those of the Keras file as they are, after
    one normalize_weights(), or over their exact norms (float64): that of the three whose outputs are the nearest.

    Args:
        path: The ONNX model.
        original: A .keras or .h5 file or a SavedModel folder.
        providers, inputs, seed, dims, rtol, atol: As for `sn_graph.verify`.
        steps: How many calls.

    Raises:
        ModelError: A file can't be read, or their inputs and outputs do not match.
        EnvironmentUnavailable: A package or provider is missing.
        UsageError: An unknown provider or dimension, `steps` below 1.
    """
    for provider in providers:
        require_provider(provider)
    calls, model = _compared(steps), Model.open(path)
    inserted = read_inserted(model)
    rows = Rows(str(path), str(original), rtol, atol)
    reference = load(original)
    with watched(model):
        if inputs is None and not dims:
            dims = fitting_sizes(reference, model)
        feeds = make_feeds(model, inputs=inputs, seed=seed, dims=dims, steps=steps)
        if inserted is not None:
            return _compare_training(model, inserted, reference, feeds, calls, rows, providers)
        return _compare_inference(model, reference, feeds, rows, providers)


def _compare_training(
    model: Model,
    inserted: Inserted,
    original: Any,
    feeds: Feeds,
    calls: frozenset[int],
    rows: Rows,
    providers: Sequence[ProviderChoice],
) -> ParityResult:
    """Compare an inserted model's runs with normalizing calls, and with the inference after each."""
    with _reference(model, original) as reference:
        rows = replace(rows, compute=reference.narrowest)
        pairs = pair(model, inserted, reference.wrappers)
        sessions = {provider: open_session(model, inserted, pairs, provider) for provider in providers}
        found: list[Comparison] = []
        for step, feed in enumerate(feeds):
            runs = {provider: session.run(reference.outputs, feed) for provider, session in sessions.items()}
            normalized = reference.train(feed)
            if step + 1 not in calls:
                continue
            stored = reference.infer(feed)
            for provider, session in sessions.items():
                at = replace(rows, provider=provider, step=step)
                training, inference = at.called(right="training=True"), at.called("baked", "training=False")
                found += training.compare(dict(zip(reference.outputs, runs[provider], strict=True)), normalized)
                for one in pairs:
                    kernel, u = one.ours(session.sigma, session.state())
                    found.append(training.row(one.wrapper.weight, kernel, one.wrapper.kernel))
                    found.append(training.row(f"{one.wrapper.weight}.u", u, one.wrapper.vector_u))
                (baked,) = Side(bake(model, inserted, session.sigma), rows.left, provider).run([feed])
                found += inference.compare(baked, stored)
    return ParityResult(tuple(found), tuple(unmatched(pairs)))


def _compare_inference(
    model: Model, original: Any, feeds: Feeds, rows: Rows, providers: Sequence[ProviderChoice]
) -> ParityResult:
    """Compare a model without state with inference, with the kernels that it holds: its first outputs tell which."""
    runs = {provider: list(Side(model, rows.left, provider).run(feeds)) for provider in providers}
    first = next(iter(runs.values()))[0]
    expected = {}
    for kernels, prepare in _KERNELS.items():
        with _reference(model, original) as reference:
            prepare(reference, feeds[0])
            expected[kernels] = [reference.infer(feed) for feed in feeds]
            rows = replace(rows, compute=reference.narrowest)
    nearest = min(_KERNELS, key=lambda kernels: distance(first, expected[kernels][0]))
    found: list[Comparison] = []
    for provider, ours in runs.items():
        for step, theirs in enumerate(expected[nearest]):
            at = replace(rows.called(right=nearest), provider=provider, step=step)
            found += at.compare(ours[step], theirs)
    told = f"{rows.left} agrees with none of: {'; '.join(_KERNELS)}" if not all(one.ok for one in found) else ""
    return ParityResult(tuple(found), (told,) if told else ())


# What a file without state may hold: the kernels as they are, or what fold --sigma power or exact makes of them.
_KERNELS: dict[str, Callable[[KerasReference, Mapping[str, NDArray[Any]]], object]] = {
    "training=False": lambda _reference, _feed: None,
    "normalize_weights() once, training=False": lambda reference, feed: reference.normalize(feed),
    "kernels over their exact norms, training=False": lambda reference, _feed: reference.divide_exactly(),
}


@contextmanager
def _reference(model: Model, original: Any) -> Iterator[KerasReference]:
    own = signature(model)
    with unchanged(original):
        yield KerasReference(original, [one.name for one in own.inputs], [one.name for one in own.outputs])


def _compared(steps: Steps) -> frozenset[int]:
    """Return after which calls to compare."""
    calls = frozenset(range(1, steps + 1) if isinstance(steps, int) else steps)
    if not calls or min(calls) < 1:
        raise UsageError(f"{steps} steps compare nothing", do="give 1 or more")
    return calls


def _inserted(model: Model) -> Inserted:
    inserted = read_inserted(model)
    if inserted is None:  # every kernel is zero
        raise ModelError(_NOTHING)
    return inserted


_NOTHING = (
    "the model has no SpectralNormalization layer whose kernel is not all zeros, so no call normalizes anything; "
    "compare inference with sn-graph verify instead"
)
