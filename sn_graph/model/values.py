"""Values: what a graph says of its inputs and outputs: type and shape."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, TypeProto

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


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> Dimension:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None  # old exporters write -1 for "any"
    return dim.dim_param or None


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
