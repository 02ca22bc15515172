"""Skeletons: how large payloads leave a serialized model, markers in their place, and how they come back."""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx

from sn_graph.model import wire
from sn_graph.model.external import clear_data
from sn_graph.model.payload import Payload, Source
from sn_graph.model.tensors import walk_tensors

LARGE = 1024  # bytes from which a payload leaves the skeleton; also onnx's threshold for external data


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
        key = self.key(tensor)
        return None if key is None else self._payloads[key]

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


@dataclass(frozen=True)
class Encoded:
    """A payload as it stands in the file: a piece that is produced when it is written."""

    payload: Payload

    @cached_property
    def _size(self) -> int:
        return self.payload.encoded_size(self.payload.field)

    def __len__(self) -> int:
        return self._size


def chunks(pieces: Iterable[wire.Piece]) -> Iterator[wire.Buffer]:
    """Yield the bytes of pieces, those of payloads in blocks; a block holds until the next is asked for."""
    for piece in pieces:
        if isinstance(piece, Encoded):
            yield from piece.payload.blocks(piece.payload.field)
        elif isinstance(piece, (bytes, memoryview)):
            yield memoryview(piece)
