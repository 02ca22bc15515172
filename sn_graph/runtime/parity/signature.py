"""Signatures: the inputs that a run of a model must be fed, and the outputs that it returns.

This is the one place that decides which of a graph's inputs and outputs are a client's to feed and to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from sn_graph.model import Dimension, Model, Value, describe
from sn_graph.state import Inserted, read_inserted, state_names


@dataclass(frozen=True)
class Signature:
    """The inputs that a run must be fed, and the outputs, in the order of the graph."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def signature(model: Model) -> Signature:
    """Return a model's signature, without the inputs that have defaults and the state of an insertion.

    Raises:
        ModelError: The metadata of the insertion can't be read.
    """
    return client_signature(model.proto.graph, read_inserted(model))


def client_signature(graph: onnx.GraphProto, inserted: Inserted | None) -> Signature:
    """Return the signature of a graph, given what the metadata say of an insertion."""
    pairs, sigmas = state_names(inserted) if inserted is not None else ({}, set[str]())
    given = {tensor.name for tensor in graph.initializer} | set(pairs)
    given |= {tensor.values.name for tensor in graph.sparse_initializer}
    hidden = sigmas | set(pairs.values())
    return Signature(
        inputs=tuple(describe(info) for info in graph.input if info.name not in given),
        outputs=tuple(describe(info) for info in graph.output if info.name not in hidden),
    )


def first_difference(left: Signature, right: Signature) -> str | None:
    """Say in words what tells two signatures apart; None where nothing does. Order does not count."""
    for role, ours, theirs in (("input", left.inputs, right.inputs), ("output", left.outputs, right.outputs)):
        others = {value.name: value for value in theirs}
        for value in ours:
            if value.name not in others:
                return f"{role} {value.name!r} is only in the first"
            other = others[value.name]
            if value.type != other.type:
                return f"{role} {value.name!r} is {value.type} in the first, {other.type} in the second"
            if role == "input" and not _compatible(value.shape, other.shape):
                return f"input {value.name!r} is {_text(value.shape)} in the first, {_text(other.shape)} in the second"
        if extra := [value.name for value in theirs if value.name not in {value.name for value in ours}]:
            return f"{role} {extra[0]!r} is only in the second"
    return None


def _compatible(left: tuple[Dimension, ...] | None, right: tuple[Dimension, ...] | None) -> bool:
    if left is None or right is None:
        return True
    pairs = zip(left, right, strict=False)
    return len(left) == len(right) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def _text(shape: tuple[Dimension, ...] | None) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape or ()) + "]"
