"""The protobuf wire format of a ModelProto, read and rewritten around its tensors.

A model is nested length-delimited messages. `rewrite` walks them down to every TensorProto, lets the caller
replace that tensor's bytes, and mends the lengths of the messages around it; all else is passed on as slices
of the buffer it came from, so large payloads are never copied into Python's protobuf.

Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx.proto3.
"""

from collections.abc import Callable, Iterator, Sized
from typing import NamedTuple

from sn_graph.errors import ModelError

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)

TENSOR = "TensorProto"
# For each message, the fields that lead to tensors.
CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: TENSOR, 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: TENSOR,
        6: "GraphProto",
        10: TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: TENSOR, 2: TENSOR},
}
# Those that a message holds once; protobuf would merge a second one into the first, which no path can express.
SINGULAR: dict[str, frozenset[int]] = {
    "ModelProto": frozenset({7}),
    "TrainingInfoProto": frozenset({1, 2}),
    "AttributeProto": frozenset({5, 6, 22}),
    "SparseTensorProto": frozenset({1, 2}),
}
FLOAT_DATA, INT32_DATA, INT64_DATA, RAW_DATA, DOUBLE_DATA, UINT64_DATA, EXTERNAL_DATA = 4, 5, 7, 9, 10, 11, 13
PAYLOAD_FIELDS = frozenset({FLOAT_DATA, INT32_DATA, INT64_DATA, RAW_DATA, DOUBLE_DATA, UINT64_DATA})
MAX_DEPTH = 100  # protobuf's own limit on nested messages

Buffer = memoryview
Piece = Sized
"""A part of a message: bytes, a slice of a buffer, or something of a known length that its maker can write."""

TensorPath = tuple[tuple[int, int], ...]
"""Where a tensor stands: (field number, how many fields of that number came before) from the model down."""


class Field(NamedTuple):
    """One field of a message: `start` at its tag, `value` at its content (behind a length prefix), `end` behind it."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int


Edit = Callable[[TensorPath, int, int], list[Piece] | None]
"""Gets a tensor's path and byte range; returns the pieces to write instead, or None to leave it."""


def read_varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return the unsigned varint at `position` and the position behind it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ModelError("the file is corrupt", "a number in it is cut off", "export or download the model again")


def write_varint(value: int) -> bytes:
    """Return `value` >= 0 as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message that stands at `start` to `end`.

    Raises:
        ModelError: The bytes are not a protobuf message, or are cut off.
    """
    position = start
    while position < end:
        tag, value = read_varint(buffer, position, end)
        field = _field(buffer, tag, position, value, end)
        yield field
        position = field.end


def _field(buffer: Buffer, tag: int, start: int, value: int, end: int, depth: int = 0) -> Field:
    number, wire_type = tag >> 3, tag & 7
    if wire_type == LENGTH:
        length, value = read_varint(buffer, value, end)
        stop = value + length
    elif wire_type == VARINT:
        _, stop = read_varint(buffer, value, end)
    elif wire_type in (FIXED64, FIXED32):
        stop = value + (8 if wire_type == FIXED64 else 4)
    elif wire_type == GROUP and depth < MAX_DEPTH:
        stop = value
        while True:
            inner, content = read_varint(buffer, stop, end)
            if inner & 7 == END_GROUP:
                stop = content
                break
            stop = _field(buffer, inner, stop, content, end, depth + 1).end
    else:
        raise ModelError(
            "the file is corrupt or not an ONNX model",
            "it holds an impossible field",
            "export or download it again",
        )
    if number == 0 or stop > end:
        raise ModelError(
            "the file is corrupt or cut off",
            "a part of it reaches beyond its end",
            "export or download it again",
        )
    return Field(number, wire_type, start, value, stop)


def length_delimited(number: int, pieces: list[Piece]) -> list[Piece]:
    """Return `pieces` behind the tag and length of field `number`."""
    head = write_varint(number << 3 | LENGTH) + write_varint(sum(map(len, pieces)))
    return [head, *pieces]


def rewrite(buffer: Buffer, edit: Edit, smallest: int = 0) -> list[Piece]:
    """Walk a serialized ModelProto and return it as pieces, each tensor as `edit` wants it.

    Args:
        buffer: The serialized model.
        edit: Called for each TensorProto of at least `smallest` bytes.
        smallest: Messages below this many bytes are passed on unread.
    """
    return _rewrite(buffer, "ModelProto", 0, len(buffer), (), edit, smallest) or [buffer]


def _rewrite(
    buffer: Buffer, kind: str, start: int, end: int, path: TensorPath, edit: Edit, smallest: int
) -> list[Piece] | None:
    """Return the message's pieces, or None where nothing in it changes."""
    if len(path) > MAX_DEPTH:
        raise ModelError("the file is corrupt or hostile", "its messages are nested more than 100 deep")
    children, singular = CHILDREN[kind], SINGULAR.get(kind, frozenset())
    seen = dict.fromkeys(children, -1)
    pieces: list[Piece] = []
    written = start
    for field in read_fields(buffer, start, end):
        child = children.get(field.number)
        if child is None or field.wire_type != LENGTH:
            continue
        seen[field.number] += 1
        if seen[field.number] and field.number in singular:
            raise ModelError("the file is unusual or corrupt", f"a {child} in it comes in two parts", "export it again")
        if field.end - field.value < smallest:
            continue
        here = (*path, (field.number, seen[field.number]))
        if child == TENSOR:
            changed = edit(here, field.value, field.end)
        else:
            changed = _rewrite(buffer, child, field.value, field.end, here, edit, smallest)
        if changed is not None:
            if field.start > written:
                pieces.append(buffer[written : field.start])
            pieces += length_delimited(field.number, changed)
            written = field.end
    if not pieces:
        return None
    if end > written:
        pieces.append(buffer[written:end])
    return pieces


def owner(path: TensorPath) -> str:
    """Return the kind of message that holds the tensor at `path`."""
    kind = "ModelProto"
    for number, _ in path[:-1]:
        kind = CHILDREN[kind][number]
    return kind


def find_payload(buffer: Buffer, start: int, end: int) -> Field | None:
    """Return the one field that holds a tensor's data, or None where it is absent, unpacked or in several parts."""
    found: Field | None = None
    for field in read_fields(buffer, start, end):
        if field.number in PAYLOAD_FIELDS:
            if found is not None or field.wire_type != LENGTH:
                return None
            found = field
    return found


def replace_payload(
    buffer: Buffer, start: int, end: int, number: int, payload: Piece, drop: Callable[[Field], bool]
) -> list[Piece]:
    """Return a tensor's pieces with `payload` as field `number`, where its data stood or else in field order.

    The fields that held data, and those that `drop` names, are left out.
    """
    fields = list(read_fields(buffer, start, end))
    held = [field.start for field in fields if field.number in PAYLOAD_FIELDS]
    place = held[0] if held else next((field.start for field in fields if field.number > number), end)
    before: list[Piece] = []
    behind: list[Piece] = []
    for field in fields:
        if field.number not in PAYLOAD_FIELDS and not drop(field):
            (before if field.start < place else behind).append(buffer[field.start : field.end])
    return [*before, *length_delimited(number, [payload]), *behind]
