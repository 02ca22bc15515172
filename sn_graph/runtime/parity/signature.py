"""Signatures: the inputs that a run of a model must be fed, and the outputs that it returns.

This is the one place that decides which of a graph's inputs and outputs are a client's to feed and to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, TypeProto

from sn_graph.model import Model
from sn_graph.state import Inserted, read_inserted, state_names

Dimension = int | str | None  # static; dynamic with a name; dynamic without one


@dataclass(frozen=True)
class Value:
    """An input or output.

    Attributes:
        name: Its name.
        type: Its type in words, such as "tensor(float)" or "seq(tensor(int64))".
        element_type: ONNX's number for the type of its elements; 0 where it is not a tensor.
        shape: Its dimensions; None where the rank is unknown or it is not a tensor.
    """

    name: str
    type: str
    element_type: int
    shape: tuple[Dimension, ...] | None


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


def describe(info: onnx.ValueInfoProto) -> Value:
    """Return what is known of a graph's input or output; optional(tensor) counts as the tensor."""
    kind = info.type
    if kind.HasField("optional_type"):
        kind = kind.optional_type.elem_type
    if not kind.HasField("tensor_type"):
        return Value(info.name, _type_name(info.type), 0, None)
    tensor = kind.tensor_type
    shape = tuple(_dimension(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return Value(info.name, _type_name(info.type), tensor.elem_type, shape)


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


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> Dimension:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None  # old exporters write -1 for "any"
    return dim.dim_param or None


def _text(shape: tuple[Dimension, ...] | None) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape or ()) + "]"


def _type_name(kind: TypeProto) -> str:
    """Name a type without its shape: "tensor(float)", "seq(tensor(int64))"."""
    case = kind.WhichOneof("value")
    if case == "tensor_type":
        return f"tensor({_element_name(kind.tensor_type.elem_type)})"
    if case == "sparse_tensor_type":
        return f"sparse_tensor({_element_name(kind.sparse_tensor_type.elem_type)})"
    if case == "sequence_type":
        return f"seq({_type_name(kind.sequence_type.elem_type)})"
    if case == "optional_type":
        return f"optional({_type_name(kind.optional_type.elem_type)})"
    if case == "map_type":
        return f"map({_element_name(kind.map_type.key_type)}, {_type_name(kind.map_type.value_type)})"
    return case or "untyped"


def _element_name(element_type: int) -> str:
    known = element_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(element_type).lower() if known else str(element_type)
