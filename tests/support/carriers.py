"""Serialized tensors and models in every form that protobuf allows, written without sn_graph.

A model is bytes; what they mean is protobuf's and onnx's own reading of them.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as hidden
from typing import Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import Message
from hypothesis import strategies as st
from onnx import TensorProto, helper

FORMS = ("raw", "packed", "unpacked", "split", "mixed")
# Where a tensor may stand: the field numbers from the ModelProto down to it.
PLACES = {
    "initializer": (7, 5),
    "constant": (7, 1, 5, 5),
    "attribute tensors": (7, 1, 5, 10),
    "subgraph initializer": (7, 1, 5, 6, 5),
    "subgraph constant": (7, 1, 5, 6, 1, 5, 5),
    "subgraph of a subgraph": (7, 1, 5, 6, 1, 5, 6, 5),
    "graphs": (7, 1, 5, 11, 5),
    "function": (25, 7, 5, 5),
    "function's subgraph": (25, 7, 5, 6, 5),
    "function default": (25, 11, 5),
    "sparse values": (7, 15, 1),
    "sparse indices": (7, 15, 2),
    "sparse attribute": (7, 1, 5, 22, 1),
    "sparse attributes": (7, 1, 5, 23, 1),
    "training initialization": (20, 1, 5),
    "training algorithm": (20, 2, 1, 5, 5),
}
TYPES = [
    "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
    "BOOL", "COMPLEX64", "COMPLEX128", "INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E4M3FNUZ",
]  # fmt: skip
FLOATS = ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"]
ATTRIBUTE_TYPES = {"t": 4, "g": 5, "tensors": 9, "graphs": 10, "sparse_tensor": 11, "sparse_tensors": 12}
MODEL, GRAPH = onnx.ModelProto.DESCRIPTOR, onnx.GraphProto.DESCRIPTOR
DATA_FIELDS = {"float_data": 4, "int32_data": 5, "int64_data": 7, "raw_data": 9, "double_data": 10, "uint64_data": 11}


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = []
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return tag(number, 2) + varint(len(content)) + content


def unknown(rng: random.Random) -> bytes:
    """A field that onnx does not know: a number, a string, or a group with a group in it."""
    return rng.choice(
        [
            tag(1000, 0) + varint(rng.getrandbits(60)),
            tag(1001, 1) + bytes(8),
            tag(1002, 5) + b"abcd",
            field(1003, b"a string"),
            tag(1004, 3) + tag(1, 0) + b"\x07" + tag(2, 3) + field(3, b"in") + tag(2, 4) + tag(1004, 4),
        ]
    )


@dataclass(frozen=True)
class Tensor:
    """A serialized TensorProto, and the bytes of its one payload field (None where it comes in several parts)."""

    content: bytes = hidden(repr=False)
    payload: bytes | None = hidden(repr=False)
    recipe: str

    @property
    def proto(self) -> onnx.TensorProto:
        return onnx.TensorProto.FromString(self.content)


def values(data_type: int, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    if data_type == TensorProto.BOOL:
        return rng.integers(0, 2, count).astype(bool)
    if data_type in (TensorProto.INT4, TensorProto.UINT4):
        return rng.integers(0, 8, count).astype(dtype)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return rng.integers(bounds.min, bounds.max, count, dtype=dtype, endpoint=True)
    if dtype.kind == "c":
        return (rng.standard_normal(count) + 1j * rng.standard_normal(count)).astype(dtype)
    return rng.standard_normal(count).astype(dtype)


def serialize(proto: onnx.TensorProto, form: str, seed: int) -> Tensor:
    """Write a tensor's fields in a random order, unknown ones among them, its data in the form asked for."""
    rng = random.Random(seed)
    groups = [[tag(2, 0) + varint(proto.data_type)], [field(8, proto.name.encode())], [unknown(rng)]]
    dims = list(proto.dims)
    groups.append(
        [field(1, b"".join(map(varint, dims)))] if rng.random() < 0.5 else [tag(1, 0) + varint(d) for d in dims]
    )
    payload = None
    for name, number in DATA_FIELDS.items():
        held = getattr(proto, name)
        if name == "raw_data":
            if proto.HasField("raw_data"):
                payload = held
                groups.append([field(number, held)])
        elif held:
            items = [_item(name, value) for value in held]
            wire_type = {"float_data": 5, "double_data": 1}.get(name, 0)
            cut = rng.randint(0, len(items))
            packed, loose = field(number, b"".join(items)), [tag(number, wire_type) + item for item in items]
            halves = [field(number, b"".join(items[:cut])), field(number, b"".join(items[cut:]))]
            groups.append(
                {"packed": [packed], "unpacked": loose, "split": halves, "mixed": [halves[0], *loose[cut:]]}[form]
            )
            payload = b"".join(items) if form == "packed" else None
    return Tensor(
        b"".join(_interleave(groups, rng)),
        payload,
        f"{onnx.TensorProto.DataType.Name(proto.data_type)} {form} {proto.dims} seed {seed}",
    )


def _item(name: str, value: float) -> bytes:
    formats = {"float_data": "<f", "double_data": "<d"}
    return struct.pack(formats[name], value) if name in formats else varint(int(value))


def _interleave(groups: list[list[bytes]], rng: random.Random) -> Iterator[bytes]:
    """Mix the groups' parts, each group in its own order."""
    turns = [group for group in groups for _ in group]
    rng.shuffle(turns)
    places = {id(group): iter(group) for group in groups}
    for group in turns:
        yield next(places[id(group)])


def make_tensor(name: str, data_type: str, count: int, form: str, seed: int) -> Tensor:
    number = TensorProto.DataType.Value(data_type)
    array = values(number, count, seed)
    proto = helper.make_tensor(
        name, number, [count], array if form != "raw" else _raw(array, number), raw=form == "raw"
    )
    return serialize(proto, form, seed)


def _raw(array: np.ndarray, data_type: int) -> bytes:
    if data_type in (TensorProto.INT4, TensorProto.UINT4):
        nibbles = array.astype(np.uint8) & 15
        nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
        return (nibbles[::2] | nibbles[1::2] << 4).tobytes()
    return array.tobytes()


def make_model(tensors: list[tuple[str, Tensor]], seed: int = 0) -> bytes:
    """Write a model that holds each tensor in the place named, with unknown fields around it, in a random order."""
    rng = random.Random(seed)
    graph = [
        [wrap(PLACES[place][1:], tensor.content, rng, GRAPH)] for place, tensor in tensors if PLACES[place][0] == 7
    ]
    graph += [[field(2, b"g")], [unknown(rng)], [field(10, b"documented")]]
    parts = [[wrap(PLACES[place], made.content, rng)] for place, made in tensors if PLACES[place][0] != 7]
    parts += [[tag(1, 0) + varint(8)], [unknown(rng)], [field(8, tag(2, 0) + varint(17))]]
    parts.append([field(7, b"".join(_interleave(graph, rng)))])
    return b"".join(_interleave(parts, rng))


def wrap(numbers: tuple[int, ...], content: bytes, rng: random.Random, around: Any = MODEL) -> bytes:
    """Put a tensor's bytes into the messages between it and the one around them all."""
    if not numbers:
        return content
    inner = around.fields_by_number[numbers[0]]
    content = wrap(numbers[1:], content, rng, inner.message_type)
    if inner.message_type.name == "AttributeProto":
        held = inner.message_type.fields_by_number[numbers[1]].name
        content += tag(20, 0) + varint(ATTRIBUTE_TYPES[held])
    if inner.message_type.name != "TensorProto":
        content = rng.choice([b"", unknown(rng)]) + content + rng.choice([b"", unknown(rng)])
    return field(numbers[0], content)


def find_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every TensorProto in a message, by protobuf's reflection."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in value if descriptor.is_repeated else [value]:
                yield from find_tensors(item)


def tensors_by_name(message: Message) -> dict[str, onnx.TensorProto]:
    found = list(find_tensors(message))
    named = {tensor.name: tensor for tensor in found}
    assert len(named) == len(found)
    return named


class Made(NamedTuple):
    """A serialized model, and its tensors by name."""

    content: bytes
    tensors: dict[str, Tensor]
    recipe: str

    def __repr__(self) -> str:
        return f"Made({self.recipe}, {self.tensors})"


@st.composite
def tensors(draw: st.DrawFn, name: str, types: list[str] = TYPES, forms: tuple[str, ...] = FORMS) -> Tensor:
    count = draw(st.sampled_from([0, 1, 7, 255, 513, 1500]))
    return make_tensor(
        name, draw(st.sampled_from(types)), count, draw(st.sampled_from(forms)), draw(st.integers(0, 2**32 - 1))
    )


@st.composite
def models(draw: st.DrawFn, types: list[str] = TYPES, forms: tuple[str, ...] = FORMS) -> Made:
    places = draw(st.lists(st.sampled_from(sorted(PLACES)), min_size=1, max_size=6))
    made = [(place, draw(tensors(f"t{i}", types, forms))) for i, place in enumerate(places)]
    seed = draw(st.integers(0, 2**32 - 1))
    named = {f"t{i}": tensor for i, (_, tensor) in enumerate(made)}
    return Made(make_model(made, seed), named, f"{places} seed {seed}")
