"""Liveness: is the state of an inserted model still alive, or did a tool freeze it?

Optimizers and converters that take an input's default for a constant leave a model that runs, keeps its metadata, and
never iterates again. One step is odd in u, and σ is even:

    u'(-u) = -u'(u),  σ(-u) = σ(u)

so a living u' changes with the sign of u whatever the weight is, and σ with its direction, unless M is a single row or
column. TOOLS says what tools did when `tools/frozen_state.py` last tried them; docs/frozen-state.md is its record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sn_graph.choices import ProviderChoice
from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.model import Model, ModelSource, watched
from sn_graph.runtime.engine import require_provider, run_named
from sn_graph.runtime.parity import Comparison, Inputs, ParityResult, Side, make_feeds
from sn_graph.state import Inserted, initial_state, read_inserted, state_names, state_tensors

Source = ModelSource
Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Tool:
    """A tool that reads ONNX models, and what becomes of the state.

    Attributes:
        name: The tool, and how it was used.
        package, registry: Where it comes from: "pypi" or "npm".
        default, required: What it does with a state of that mode, in the layout that it takes worse: "alive", "frozen"
            or "refused" (it fails).
        tested: The version that was tried.
    """

    name: str
    package: str
    default: str
    required: str
    tested: str
    registry: str = "pypi"


TOOLS = (
    Tool("onnxruntime", "onnxruntime", "alive", "alive", "1.32.0"),
    Tool("onnxruntime, saved at level basic", "onnxruntime", "alive", "alive", "1.32.0"),
    Tool("onnxruntime, saved at level extended", "onnxruntime", "alive", "alive", "1.32.0"),
    Tool("onnxruntime, saved at level all", "onnxruntime", "alive", "alive", "1.32.0"),
    Tool("onnxruntime quantize_dynamic", "onnxruntime", "alive", "alive", "1.32.0"),
    Tool("onnxruntime quant_pre_process", "onnxruntime", "alive", "alive", "1.32.0"),
    Tool("onnx-graphsurgeon, import and export", "onnx-graphsurgeon", "frozen", "alive", "0.6.1"),
    Tool("onnxslim", "onnxslim", "frozen", "alive", "0.1.98"),
    Tool("onnxsim", "onnxsim", "frozen", "alive", "0.8.1"),
    Tool("onnxoptimizer", "onnxoptimizer", "alive", "alive", "0.4.2"),
    Tool("onnxscript optimizer", "onnxscript", "alive", "alive", "0.7.2"),
    Tool("onnx-ir RemoveInitializersFromInputs", "onnx-ir", "frozen", "alive", "1.1.0"),
    Tool("onnx version_converter", "onnx", "alive", "alive", "1.23.2"),
    Tool("onnxconverter-common float16", "onnxconverter-common", "refused", "refused", "1.16.0"),
    Tool("OpenVINO", "openvino", "frozen", "alive", "2026.4.1"),
    Tool("onnxruntime-node", "onnxruntime-node", "frozen", "alive", "1.30.0", "npm"),
    Tool("onnxruntime-web", "onnxruntime-web", "frozen", "alive", "1.30.0", "npm"),
)


@dataclass(frozen=True, repr=False)
class LivenessResult(ParityResult):
    """For each state output, left from the model's own u and right from another: `ok` where it moved."""

    def raise_if_different(self) -> None:
        """Raise VerificationFailed, naming what is frozen, unless all is alive."""
        if not self.ok:
            more = f" (and {len(self.notes) - 1} more findings, see --json)" if len(self.notes) > 1 else ""
            raise VerificationFailed(
                "the state is frozen",
                f"{self.notes[0]}{more}",
                "run the tool that did it before insert, or insert with --state-mode required",
            )


def verify_state(
    source: Source,
    *,
    providers: Sequence[ProviderChoice] = ("cpu",),
    inputs: Inputs | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
) -> LivenessResult:
    """Run an inserted model from different u, and say for each state output whether it moved.

    Args:
        source: A model that `insert` wrote, as some tool left it.
        providers, inputs, seed, dims: As for `verify`.

    Returns:
        A comparison for each state output and provider, `ok` where it depends on u as it must; `raise_if_different`
        raises where one does not.

    Raises:
        ModelError: The model's metadata say nothing of an insertion, or it can't be run.
        EnvironmentUnavailable: onnxruntime or a provider is missing.
    """
    model = Model.open(source)
    inserted = read_inserted(model)
    if inserted is None:
        raise ModelError(
            f"{model.name} holds nothing that insert wrote (no metadata key sn_graph)",
            "so it has no state to check",
            "insert it first, or keep the metadata in the tool that dropped them",
        )
    rows: list[Comparison] = []
    notes: dict[str, None] = {}
    with watched(model):
        feeds = make_feeds(model, inputs=inputs, seed=seed, dims=dims)
        (feed,) = feeds
        for provider in providers:
            require_provider(provider)
            found, reasons = _examine(model, inserted, provider, feed, seed)
            rows += found
            notes |= dict.fromkeys(reasons)
    if not notes and feeds.note is not None:  # beside findings it would read as one
        notes[feeds.note] = None
    return LivenessResult(tuple(rows), tuple(notes))


def _examine(
    model: Model, inserted: Inserted, provider: ProviderChoice, feed: Mapping[str, NDArray[np.generic]], seed: int
) -> tuple[list[Comparison], list[str]]:
    pairs, _ = state_names(inserted)
    taken = {value.name for value in model.proto.graph.input}
    reasons = [f"the input {name!r} is gone" for name in pairs if name not in taken]
    start = {name: u for name, u in initial_state(model, inserted).items() if name in taken}
    flipped = {name: -u for name, u in start.items()}
    generator = np.random.default_rng([seed, 1])
    others = [
        {name: generator.standard_normal(u.shape).astype(np.float32) for name, u in start.items()} for _ in range(2)
    ]
    session = Side(model, model.name, provider).open()
    # An input that nothing reads any more is dropped by onnxruntime, which then refuses to be fed.
    known = {value.name for value in [*session.get_inputs(), *session.get_overridable_initializers()]}
    probes = [{name: u for name, u in state.items() if name in known} for state in (start, flipped, *others)]
    runs = [run_named(session, {**feed, **state}, label=model.name) for state in probes]
    rows = []
    sizes = _sizes(inserted)
    for output, sites in _outputs(inserted).items():
        gone = "is gone" if output not in runs[0] else None
        if gone is None and any(run[output].dtype != np.float32 or run[output].size != sizes[output] for run in runs):
            gone = "holds something else"
        if gone is not None:
            reasons.append(f"the output {output!r} {gone}")
            rows.append(_row(model.name, provider, output, [np.zeros(1, np.float32)] * 2, False))
            continue
        values = [np.ravel(run[output]) for run in runs]
        still = [site for site, place in sites if not _moved([value[place] for value in values])]
        rows.append(_row(model.name, provider, output, values, not still))
        if still:
            whose = "" if len(sites) == len(still) else f" for {', '.join(map(repr, still))}"
            reasons.append(f"the output {output!r} does not follow the u that is fed{whose}")
    return rows, reasons


def _outputs(inserted: Inserted) -> dict[str, list[tuple[str, slice]]]:
    """Return, for each state output, the ids of the sites in it that must move, and where they stand."""
    fixed = {site.id for site in inserted.sites if min(site.rows, site.cols) == 1}  # σ is a vector's length, whatever u
    tensors = state_tensors(inserted)
    found = {tensor.output: [(site, part) for site, (part, _) in tensor.sites.items()] for tensor in tensors}
    sigmas = {
        tensor.sigma: [
            (site, slice(place, place + 1)) for site, (_, place) in tensor.sites.items() if site not in fixed
        ]
        for tensor in tensors
    }
    return found | sigmas


def _sizes(inserted: Inserted) -> dict[str, int]:
    """Return how many elements each state output has."""
    tensors = state_tensors(inserted)
    return {one.output: one.shape[0] for one in tensors} | {one.sigma: len(one.sites) for one in tensors}


def _moved(values: Sequence[NDArray[np.float32]]) -> bool:
    return any(not np.array_equal(values[0], other, equal_nan=True) for other in values[1:])


def _row(label: str, provider: str, output: str, values: Sequence[NDArray[np.float32]], ok: bool) -> Comparison:
    change = max(float(np.max(np.abs(values[0] - other), initial=0.0)) for other in values[1:])
    largest = float(np.max(np.abs(values[0]), initial=0.0))
    relative = change / largest if largest else 0.0
    return Comparison(f"{label} (its u)", f"{label} (another u)", provider, 0, output, change, relative, 0.0, 0.0, ok)
