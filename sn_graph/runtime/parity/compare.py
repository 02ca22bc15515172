"""Comparisons of two models, or of one model run in two ways, by their outputs for the same inputs.

A Side is one of the two: a model and the way it is run. `compare_sides` is the comparison; `compare` and `verify`
choose the sides. Only one side's session is in memory at a time; the outputs of the left one are kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.choices import ProviderChoice
from sn_graph.errors import ModelError, UsageError, VerificationFailed
from sn_graph.model import Model, ModelSource, random_ops, watched
from sn_graph.report import Shown, Table, number, one_line
from sn_graph.runtime.engine import require_provider
from sn_graph.runtime.parity.difference import difference, tolerances
from sn_graph.runtime.parity.evidence import doubts
from sn_graph.runtime.parity.growing import fitting_sizes
from sn_graph.runtime.parity.inputs import DYNAMIC_SIZE, load_inputs, make_inputs
from sn_graph.runtime.parity.side import Side
from sn_graph.runtime.parity.signature import first_difference, signature

Source = ModelSource
Inputs = str | os.PathLike[str] | Mapping[str, NDArray[Any]]

_TF32_OFF = "TF32 is off on CUDA: products are taken in full float32, where onnxruntime's default rounds to 10 bits"


@dataclass(frozen=True, repr=False)
class Comparison:
    """One output of one step, left (a) against right (b); the fields are those of `verify --json`.

    Attributes:
        left, right: The labels of the sides.
        provider: The right side's.
        step: Which run, from 0.
        output: The output's name.
        max_abs: max|a-b|.
        max_rel_norm: max|a-b| / max|b|; both are NaN where no number can tell (other shapes, a NaN on one side only,
            text).
        rtol, atol: What was allowed: atol + rtol * max|b|.
        ok: Whether it is within that.
        notes: Why it proves little, if so: see `evidence`.
    """

    left: str
    right: str
    provider: str
    step: int
    output: str
    max_abs: float
    max_rel_norm: float
    rtol: float
    atol: float
    ok: bool
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return one_line("Comparison", *self.cells)

    @property
    def cells(self) -> tuple[str, ...]:
        """The comparison as a row of a table, under `HEADINGS`."""
        numbers = (number(self.max_abs), number(self.max_rel_norm), f"{self.atol:g} + {self.rtol:g}·max|b|")
        ended = "ok" if self.ok else "DIFFERS"
        return (
            self.output,
            self.provider,
            str(self.step),
            *numbers,
            ended,
            self.left,
            self.right,
            "; ".join(self.notes),
        )


HEADINGS = ("output", "provider", "step", "max |a-b|", "relative", "allowed", "ok", "a", "b", "remarks")


@dataclass(frozen=True, repr=False)
class ParityResult(Shown):
    """Every output compared, and what a reader must know to judge it.

    Attributes:
        comparisons: One for each output of each step.
        notes: Sentences, each once.
    """

    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every output agrees."""
        return all(comparison.ok for comparison in self.comparisons)

    @property
    def table(self) -> Table:
        """The comparisons as a table, those that differ first."""
        failed = sum(not comparison.ok for comparison in self.comparisons)
        said = f"{failed} of {len(self.comparisons)} outputs differ" if failed else "all outputs agree"
        ordered = sorted(self.comparisons, key=lambda one: one.ok)
        return Table(f"{type(self).__name__}: {said}", HEADINGS, [one.cells for one in ordered])

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `verify --json` prints."""
        return self.to_json()

    def _records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.to_json()["comparisons"]
        return found

    @property
    def doubt(self) -> str | None:
        """Why the whole comparison proves little: the first note, where each output has one; else None."""
        if not self.comparisons or not all(comparison.notes for comparison in self.comparisons):
            return None
        first = self.comparisons[0]
        return f"the comparison of outputs proves little: of {first.output!r}, {first.notes[0]}"

    def raise_if_different(self) -> None:
        """Raise VerificationFailed, naming the output furthest apart, unless every output agrees."""
        failed = [comparison for comparison in self.comparisons if not comparison.ok]
        if not failed:
            return
        worst = max(failed, key=lambda one: math.inf if math.isnan(one.max_abs) else one.max_abs)
        where = f"{worst.provider}, step {worst.step}"
        raise VerificationFailed(
            f"{len(failed)} of {len(self.comparisons)} outputs differ between {worst.left} and {worst.right}",
            f"{worst.output!r} ({where}) by {worst.max_abs:.3g}, {worst.max_rel_norm:.3g} of its largest value, "
            f"where {worst.atol:g} + {worst.rtol:g} of it are allowed",
            "see all with --json, or give --rtol and --atol",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that `verify --json` prints, with None for NaN and infinity, and notes if any."""
        rows = [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
                if key != "notes" or value
            }
            for row in map(asdict, self.comparisons)
        ]
        return {"ok": self.ok, "comparisons": rows, "notes": list(self.notes)}


def compare(
    left: Source,
    right: Source,
    *,
    provider: ProviderChoice = "cpu",
    inputs: Inputs | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    steps: int = 1,
) -> ParityResult:
    """Compare the outputs of two models of the same signature on the same inputs.

    Args:
        left, right: A path, a ModelProto, a Model or a PassResult.
        provider: "cpu" or "cuda"; TF32 is off.
        inputs: Arrays by name or an .npz file of them, used at every step; by default each step draws its own.
        seed: Of the inputs drawn (standard normal; integers within the tables that they index).
        dims: Sizes of dynamic dimensions by name; by default 2, or what the weights ask for (growing.py).
        rtol, atol: For floats of any type; by default they follow from the type (difference.py).
        steps: How many runs to compare, counted from 0.

    Raises:
        ModelError: A model or the inputs can't be used, or the signatures differ.
        EnvironmentUnavailable: onnxruntime or the provider is missing.
        UsageError: An unknown provider or dimension, `steps` below 1.

    >>> from sn_graph import insert, fold
    >>> model = "models/keras_dcgan_discriminator.onnx"
    >>> compare(insert(model).to_proto(), fold(model, sigma="power").to_proto()).ok
    True
    """
    return verify(
        left, right, providers=(provider,), inputs=inputs, seed=seed, dims=dims, rtol=rtol, atol=atol, steps=steps
    )


def verify(
    a: Source,
    b: Source | None = None,
    *,
    providers: Sequence[ProviderChoice] = ("cpu",),
    inputs: Inputs | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    steps: int = 1,
) -> ParityResult:
    """Compare two models on every provider, or one model with itself.

    One model alone is compared across the providers, the first of them being the left side of each comparison; on
    one provider, with onnxruntime's graph optimizations off (left) and on (right).

    Args:
        a, b: A path, a ModelProto, a Model or a PassResult each; None compares `a` with itself.
        providers: "cpu", "cuda".
        inputs, seed, dims, rtol, atol, steps: As for `compare`.

    Raises:
        ModelError, EnvironmentUnavailable, UsageError: As by `compare`.

    >>> verify("models/keras_dcgan_discriminator.onnx").comparisons[0].output
    'logits'
    """
    if steps < 1:
        raise UsageError(f"{steps} steps compare nothing", do="give 1 or more")
    if not providers:
        raise UsageError("no execution provider is named", do="give at least one, such as cpu")
    for provider in providers:
        require_provider(provider)
    model, other = Model.open(a), None if b is None else Model.open(b)
    with watched(*filter(None, (model, other))):
        feeds = make_feeds(model, inputs=inputs, seed=seed, dims=dims, steps=steps)
        results = [
            compare_sides(left, right, feeds, rtol=rtol, atol=atol)
            for left, right in _choose_sides(model, other, providers)
        ]
    told = [feeds.note] if feeds.note is not None else []
    notes = dict.fromkeys([*told, *(note for result in results for note in result.notes)])
    return ParityResult(tuple(one for result in results for one in result.comparisons), tuple(notes))


def compare_sides(
    left: Side,
    right: Side,
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    passed: Collection[np.dtype[Any]] = (),
) -> ParityResult:
    """Compare what two sides give for the same feeds, one feed a step.

    Args:
        left, right: The sides.
        feeds: For each step an array for each input, by its name.
        rtol, atol: As for `compare`.
        passed: Types in which the two sides may round differently on the way; the coarsest, or an output's own, counts.

    Raises:
        ModelError: A side can't be run, or the signatures differ.
        EnvironmentUnavailable: onnxruntime or a provider is missing.
    """
    if reason := first_difference(left.signature, right.signature):
        raise ModelError(f"{left.label} and {right.label} can't be compared", reason, "give models of one signature")
    notes = dict.fromkeys(_TF32_OFF for side in (left, right) if side.provider == "cuda" and not side.tf32)
    if drawn := random_ops(left.model):
        notes[f"{left.label} draws random numbers ({', '.join(drawn)}): its outputs may differ for that alone"] = None
    state = left.state_outputs | right.state_outputs
    kept = list(left.run(feeds))
    rows: list[Comparison] = []
    for step, (ours, theirs) in enumerate(zip(kept, right.run(feeds), strict=True)):
        for name in dict.fromkeys([*ours, *theirs]):
            if name in state and not (name in ours and name in theirs):
                continue
            if name not in ours or name not in theirs:
                notes[f"{name!r} came from {left.label if name in ours else right.label} only"] = None
            elif ours[name].shape != theirs[name].shape:
                shapes = f"{list(ours[name].shape)} on the left, {list(theirs[name].shape)} on the right"
                notes[f"{name!r} has shape {shapes}"] = None
            pair = ours.get(name), theirs.get(name)
            rows.append(_compare_output(left, right, step, name, *pair, rtol, atol, passed))
    return ParityResult(tuple(rows), tuple(notes))


class Feeds(list[dict[str, NDArray[Any]]]):
    """The feeds of some runs, one a run.

    Attributes:
        note: What shapes were made up, where those are not 2 for all that is dynamic; else None.
    """

    def __init__(self, feeds: Iterable[dict[str, NDArray[Any]]], note: str | None = None) -> None:
        super().__init__(feeds)
        self.note = note


def make_feeds(
    model: Model,
    *,
    inputs: Inputs | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    steps: int = 1,
) -> Feeds:
    """Return the feeds of some runs of a model: drawn for each, or the inputs given at every one.

    Args:
        model: The model.
        inputs, seed, dims: As for `compare`.
        steps: How many runs.

    Raises:
        ModelError: The inputs don't fit the model, or none can be drawn for it.
        UsageError: No input has a dynamic dimension of a name in `dims`.
        EnvironmentUnavailable: onnxruntime, which tells what sizes fit, is missing.
    """
    if inputs is not None:
        arrays = dict(inputs) if isinstance(inputs, Mapping) else load_inputs(inputs, model)
        return Feeds([arrays] * steps)
    sizes = fitting_sizes(model, seed=seed, dims=dims)
    feeds = [make_inputs(model, seed=seed, step=step, dims=dims, sizes=sizes) for step in range(steps)]
    return Feeds(feeds, _chosen(model, feeds[0], dims or {}) if feeds else None)


def _chosen(model: Model, feed: Mapping[str, NDArray[Any]], dims: Mapping[str, int]) -> str | None:
    """Say which shapes were chosen for inputs, where a size that nobody gave is not the usual one."""
    told = [
        f"{value.name} {list(feed[value.name].shape)}"
        for value in signature(model).inputs
        if value.shape is None
        or any(
            size != DYNAMIC_SIZE and not isinstance(dim, int) and (dim or "") not in dims
            for dim, size in zip(value.shape, feed[value.name].shape, strict=True)
        )
    ]
    return f"run on made-up inputs of sizes that fit the weights: {', '.join(told)}" if told else None


def _choose_sides(
    model: Model, other: Model | None, providers: Sequence[ProviderChoice]
) -> Iterator[tuple[Side, Side]]:
    name = _label(model, "the first model")
    if other is not None:
        for provider in providers:
            yield Side(model, name, provider), Side(other, _label(other, "the second model"), provider)
    elif len(providers) == 1:
        (provider,) = providers
        yield (
            Side(model, f"{name} (optimizations off)", provider, optimize=False),
            Side(model, f"{name} (optimizations on)", provider),
        )
    else:
        first, *rest = providers
        for provider in rest:
            yield Side(model, f"{name} ({first})", first), Side(model, f"{name} ({provider})", provider)


def _compare_output(
    left: Side,
    right: Side,
    step: int,
    output: str,
    ours: NDArray[Any] | None,
    theirs: NDArray[Any] | None,
    rtol: float | None,
    atol: float | None,
    passed: Collection[np.dtype[Any]],
) -> Comparison:
    max_abs, max_rel_norm, ok, used, notes = math.nan, math.nan, False, (0.0, 0.0), tuple[str, ...]()
    if ours is not None and theirs is not None:
        used = tolerances(theirs.dtype, rtol, atol, passed)
        max_abs, max_rel_norm, ok = difference(ours, theirs, *used)
        notes = doubts(ours, theirs, *used) if ok else ()
    return Comparison(left.label, right.label, right.provider, step, output, max_abs, max_rel_norm, *used, ok, notes)


def _label(model: Model, unnamed: str) -> str:
    return str(model.path) if model.path is not None else unnamed
