"""A side of a comparison: a model, and the way it is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray

from sn_graph.inserted import initial_state, read_inserted, state_names
from sn_graph.model import Model
from sn_graph.model.graph import subgraphs
from sn_graph.runtime.providers import open_session
from sn_graph.runtime.running import run_named

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Side:
    """A model and the way it is run. `overrides` replace initializers by name, and turn optimizations off."""

    model: Model
    label: str
    provider: str = "cpu"
    optimize: bool = True
    tf32: bool = False
    overrides: Mapping[str, NDArray[Any]] | None = None

    def open(self, profile_prefix: Path | None = None) -> InferenceSession:
        """The onnxruntime session of this side: from the model's file, unless it was modified.

        Raises:
            ModelError: onnxruntime can't load the model.
            UsageError: the model was modified and exceeds 2 GiB; only a file can hold it.
            EnvironmentUnavailable: the provider can't be used.
            ValueError: an override names no initializer; onnxruntime would ignore it.
        """
        if unknown := set(self.overrides or {}) - _initializer_names(self.model.proto.graph):
            raise ValueError(f"overrides that name no initializer: {sorted(unknown)}")
        path = self.model.path
        return open_session(
            path if path is not None and not self.model.modified else _serialize(self.model),
            self.provider,
            optimize=self.optimize,
            tf32=self.tf32,
            overrides=self.overrides,
            profile_prefix=profile_prefix,
            label=self.label,
        )

    def run(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[Outputs]:
        """The outputs of each step, in one session; the state of an inserted model goes from step to step."""
        session = self.open()
        inserted = read_inserted(self.model)
        pairs = state_names(inserted)[0] if inserted is not None else {}
        state = initial_state(self.model, inserted) if inserted is not None else {}
        for feed in feeds:
            outputs = run_named(session, {**state, **feed}, label=self.label)
            state = {name: outputs[following] for name, following in pairs.items()}
            yield outputs


def _serialize(model: Model) -> bytes:
    data: bytes = model.to_proto().SerializeToString()
    return data


def _initializer_names(graph: onnx.GraphProto) -> set[str]:
    names = {tensor.name for tensor in graph.initializer}
    return names.union(*(_initializer_names(body) for node in graph.node for _, body in subgraphs(node)))
