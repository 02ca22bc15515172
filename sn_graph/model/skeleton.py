"""Skeletons: how large payloads leave a serialized model, markers in their place, and how they come back."""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx
from google.protobuf.message import DecodeError

from sn_graph.errors import ModelError
from sn_graph.model import wire
from sn_graph.model.external import clear_data
from sn_graph.model.payload import Payload, Source
from sn_graph.model.tensors import walk_tensors

LARGE = 1024  # bytes from which a payload leaves the skeleton; also onnx's threshold for external data


def read_skeleton(source: Source) -> "tuple[onnx.ModelProto, Markers]":
    """Parse a serialized model without its large payloads.

    Raises:
        ModelError: It is corrupt, or no model.
    """
    markers = Markers()
    try:
        proto = onnx.ModelProto.FromString(markers.elide(source))
    except DecodeError:
        raise ModelError("the file is corrupt or not an ONNX model", do="export or download it again") from None
    if not proto.HasField("graph"):
        raise ModelError("this is not an ONNX model", "it holds no graph", "give the path of an exported model")
    return proto, markers


class Markers:
    """The payloads that marked tensors stand for. A marked tensor can be moved and copied: its marker goes with it."""

    def __init__(self) -> None:
        # The external_data entry that marks a tensor; random, so that no file can hold it.
        self._name = f"sn_graph.payload.{secrets.token_hex(8)}"
        self._payloads: dict[int, Payload] = {}

    def mark(self, tensor: onnx.TensorProto, payload: Payload) -> int:
        """Let `tensor` stand for `payload`, without data of its own, and return its key."""
        key = len(self._payloads) + 1
        self._payloads[key] = payload
        self.unmark(tensor)
        clear_data(tensor)
        tensor.external_data.add(key=self._name, value=str(key))
        return key

    def unmark(self, tensor: onnx.TensorProto) -> None:
        """Take the marker off a tensor."""
        if self.key(tensor) is not None:
            del tensor.external_data[-1]

    def key(self, tensor: onnx.TensorProto) -> int | None:
        """Return the key of a marked tensor, else None."""
        if tensor.external_data and tensor.external_data[-1].key == self._name:
            return int(tensor.external_data[-1].value)
        return None

    def payload(self, tensor: onnx.TensorProto) -> Payload | None:
        """Return what a marked tensor stands for, else None."""
        return None if self.key(tensor) is None else self[tensor]

    def __getitem__(self, tensor: onnx.TensorProto) -> Payload:
        return self._payloads[self.key(tensor) or 0]  # keys begin at 1

    def without_data(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Return a copy of a tensor with neither data nor marker."""
        bare = onnx.TensorProto()
        bare.CopyFrom(tensor)
        clear_data(bare)
        self.unmark(bare)
        return bare

    def elide(self, source: Source) -> bytes:
        """Return a serialized model with a marker for each large payload.

        Raises:
            ModelError, DecodeError: It is corrupt.
        """
        buffer = source.buffer

        def cut(_: wire.TensorPath, start: int, end: int) -> list[wire.Piece] | None:
            field = wire.find_payload(buffer, start, end)
            if field is None or field.end - field.value < LARGE:
                return None
            around = buffer[start : field.start], buffer[field.end : end]
            head = onnx.TensorProto.FromString(b"".join(around))
            if head.data_location == onnx.TensorProto.EXTERNAL:
                return None  # what counts is in the data file
            marked = onnx.TensorProto()
            self.mark(marked, Payload(head.data_type, field.number, source, field.value, field.end - field.value))
            return [*around, marked.SerializeToString()]

        return b"".join(wire.rewrite(buffer, cut, LARGE))  # type: ignore[arg-type]

    def assemble(self, proto: onnx.ModelProto) -> list[wire.Piece]:
        """Return a skeleton serialized, each marked tensor's payload back in it."""
        edits = {path: payload for path, tensor in walk_tensors(proto) if (payload := self.payload(tensor))}
        buffer = memoryview(proto.SerializeToString(deterministic=True))

        def is_marker(field: wire.Field) -> bool:
            if field.number != wire.EXTERNAL_DATA:
                return False
            return onnx.StringStringEntryProto.FromString(bytes(buffer[field.value : field.end])).key == self._name

        def restore(path: wire.TensorPath, start: int, end: int) -> list[wire.Piece] | None:
            payload = edits.get(path)
            if payload is None:
                return None
            return wire.replace_payload(buffer, start, end, payload.field, Encoded(payload), is_marker)

        return wire.rewrite(buffer, restore)


def exchange_payloads(buffer: wire.Buffer, payloads: dict[wire.TensorPath, Payload]) -> list[wire.Piece] | None:
    """Return a serialized model with other payloads in its tensors, or None where a tensor does not stand there."""
    done = []

    def exchange(path: wire.TensorPath, start: int, end: int) -> list[wire.Piece] | None:
        payload = payloads.get(path)
        if payload is None:
            return None
        done.append(path)
        return wire.replace_payload(buffer, start, end, payload.field, Encoded(payload), lambda _: False)

    pieces = wire.rewrite(buffer, exchange)
    return pieces if len(done) == len(payloads) else None


@dataclass(frozen=True)
class Encoded:
    """A payload as it stands in the file: a piece that is produced when it is written."""

    payload: Payload

    @cached_property
    def _size(self) -> int:
        return self.payload.encoded_size(self.payload.field)

    def __len__(self) -> int:
        return self._size


def put_data(tensor: onnx.TensorProto, payload: Payload, field: int) -> None:
    """Give an empty tensor the data of a payload, encoded for `field`."""
    content = bytearray()
    for block in payload.blocks(field):  # not join: a block holds until the next is asked for
        content += block
    tensor.MergeFromString(gather(wire.length_delimited(field, [bytes(content)])))


def chunks(pieces: Iterable[wire.Piece]) -> Iterator[wire.Buffer]:
    """Yield the bytes of pieces, those of payloads in blocks; a block holds until the next is asked for."""
    for piece in pieces:
        if isinstance(piece, Encoded):
            yield from piece.payload.blocks(piece.payload.field)
        elif isinstance(piece, (bytes, memoryview)):
            yield memoryview(piece)


def gather(pieces: Iterable[wire.Piece]) -> bytes:
    """Return all bytes of pieces."""
    content = bytearray()
    for chunk in chunks(pieces):  # not join: a chunk holds until the next is asked for
        content += chunk
    return bytes(content)
