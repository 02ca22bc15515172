"""Sides of a comparison: a model, and the way it is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray

from sn_graph.choices import ProviderChoice
from sn_graph.errors import ModelError
from sn_graph.model import Model, subgraphs
from sn_graph.runtime.engine import open_session, run_named, source_of
from sn_graph.runtime.parity.signature import Signature, client_signature
from sn_graph.state import Inserted, initial_state, read_inserted, state_names

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Side:
    """A model and the way it is run; the model is not edited any more.

    Attributes:
        model: The model.
        label: What results and messages call it.
        provider: "cpu" or "cuda".
        optimize: Whether onnxruntime may rewrite the graph.
        tf32: CUDA only: whether TensorFloat-32 is allowed.
        overrides: Arrays to replace initializers by, under their names; they turn optimizations off.
        weights: Arrays that each run is given under names of the model's inputs, which are not the client's.
        holder: The model of whose file those arrays are views.
    """

    model: Model
    label: str
    provider: ProviderChoice = "cpu"
    optimize: bool = True
    tf32: bool = False
    overrides: Mapping[str, NDArray[Any]] | None = None
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    holder: Model | None = None

    @cached_property
    def inserted(self) -> Inserted | None:
        """What the model's metadata say of an insertion: decoded once, when first asked for."""
        return read_inserted(self.model)

    @cached_property
    def signature(self) -> Signature:
        """The inputs to feed and the outputs to compare, without the state."""
        found = client_signature(self.model.proto.graph, self.inserted)
        return replace(found, inputs=tuple(value for value in found.inputs if value.name not in self.weights))

    @property
    def state_outputs(self) -> set[str]:
        """The names of the outputs that hold u and σ."""
        if self.inserted is None:
            return set()
        pairs, sigmas = state_names(self.inserted)
        return sigmas | set(pairs.values())

    def open(self, profile_prefix: Path | None = None) -> InferenceSession:
        """Open the onnxruntime session of this side; with a prefix, one that writes a profile to a file of that prefix.

        Raises:
            ModelError: onnxruntime can't load the model.
            EnvironmentUnavailable: The provider can't be used, or a modified model's temporary file can't be written.
            ValueError: An override names no initializer; onnxruntime would ignore it.
        """
        if unknown := set(self.overrides or {}) - _initializer_names(self.model.proto.graph):
            raise ValueError(f"overrides that name no initializer: {sorted(unknown)}")
        with source_of(self.model) as source:
            return open_session(
                source,
                self.provider,
                optimize=self.optimize,
                tf32=self.tf32,
                overrides=self.overrides,
                profile_prefix=profile_prefix,
                label=self.label,
            )

    def run(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[Outputs]:
        """Yield the outputs of each step, in one session; the state of an inserted model goes from step to step.

        Raises:
            ModelError: onnxruntime can't load the model, or can't run it on a feed; or an output of its state is
                missing in the model.
            EnvironmentUnavailable: As for `open`.
        """
        session = self.open()
        pairs = state_names(self.inserted)[0] if self.inserted is not None else {}
        state = initial_state(self.model, self.inserted) if self.inserted is not None else {}
        outputs: Outputs | None = None
        for feed in feeds:
            if outputs is not None:
                state = self._followed(pairs, outputs)
            outputs = run_named(session, {**self.weights, **state, **feed}, label=self.label)
            yield outputs
        (self.holder or self.model).let_go()  # the next side may be as large

    def _followed(self, pairs: Mapping[str, str], outputs: Outputs) -> Outputs:
        """Return what the state inputs take in the step behind one with these outputs."""
        lost = next((following for following in pairs.values() if following not in outputs), None)
        if lost is not None:
            raise ModelError(
                f"{self.label} lost its state '{lost}'",
                "so nothing goes from one step to the next",
                "insert after the tool that removed it has run, or compare a single step",
            )
        return {name: outputs[following] for name, following in pairs.items()}


def _initializer_names(graph: onnx.GraphProto) -> set[str]:
    names = {tensor.name for tensor in graph.initializer}
    return names.union(*(_initializer_names(body) for node in graph.node for _, body in subgraphs(node)))
