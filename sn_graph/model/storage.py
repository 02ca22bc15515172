"""A model on disk: a small protobuf skeleton, and payloads that stay in their files until someone writes them.

Opening reads the skeleton only. Saving streams: untouched payloads go from file to file, replaced ones are produced
a block at a time. Where no more than payloads changed, the output is the source with those bytes exchanged.
"""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from sn_graph.errors import ModelError, UsageError
from sn_graph.model import wire
from sn_graph.model.external import DataFile, clear_data, external_location, external_payload, is_external, set_location
from sn_graph.model.files import StagedFiles
from sn_graph.model.payload import Payload, Source, element_type
from sn_graph.model.tensors import walk_tensors
from sn_graph.progress import Progress, silent

LARGE = 1024  # bytes from which a payload leaves the skeleton; also onnx's threshold for external data
PROTOBUF_LIMIT = 2**31 - 1
_INITIALIZER = 5  # GraphProto.initializer


class Storage(StrEnum):
    """Where a saved model keeps its tensors."""

    KEEP = "keep"
    INLINE = "inline"
    EXTERNAL = "external"


class Model:
    """An ONNX model whose large tensors stay where they are.

    Attributes:
        proto: The skeleton: the whole ModelProto but for the data of large tensors (names, types and shapes are there).
            Tensors moved or copied within it keep their data.
        path: The file it was opened from, or None.

    >>> import onnx, onnx.parser
    >>> proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) {y = Abs(x)}')
    >>> Model.open(proto).proto.graph.node[0].op_type
    'Abs'
    """

    def __init__(self, source: Source, path: Path | None) -> None:
        self.path = path
        self._source = source
        # The entry that marks a tensor whose data is in _payloads; random, so that no file can hold it.
        self._marker = f"sn_graph.payload.{secrets.token_hex(8)}"
        self._payloads: dict[int, Payload] = {}
        self._replaced: dict[int, onnx.TensorProto] = {}  # the tensor as the skeleton held it when it was opened
        self._files: dict[Path, Source] = {}
        self.proto = onnx.ModelProto()
        try:
            self.proto.ParseFromString(b"".join(self._elide()))
        except DecodeError:
            raise ModelError("the file is corrupt or no ONNX model; export or download it again") from None
        if not self.proto.HasField("graph"):
            raise ModelError("this is no ONNX model: it holds no graph; give the path of an exported model")
        self._opened = self.proto.SerializeToString(deterministic=True)

    @classmethod
    def open(cls, source: "str | os.PathLike[str] | onnx.ModelProto | Model") -> "Model":
        """Open a file, wrap a ModelProto (its data is copied once), or pass a Model through.

        Raises:
            ModelError: The file is missing, unreadable, corrupt, or refers to data outside its folder.
        """
        if isinstance(source, Model):
            return source
        if isinstance(source, onnx.ModelProto):
            return cls(Source(memoryview(source.SerializeToString(deterministic=True))), None)
        path = Path(source)
        try:
            mapped = Source.map(path)
        except OSError as error:
            raise ModelError(f"{path} can't be read: {error.strerror}") from None
        try:
            model = cls(mapped, path)
            for _, tensor in walk_tensors(model.proto):
                if is_external(tensor):
                    model.payload(tensor)  # refuses missing, short and escaping data files now
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        return model

    @property
    def name(self) -> str:
        """The file's path, or `<model>` for a model in memory."""
        return str(self.path) if self.path else "<model>"

    @property
    def modified(self) -> bool:
        """Whether the model differs from what was opened."""
        return bool(self._replaced) or self.proto.SerializeToString(deterministic=True) != self._opened

    # Tensors

    def payload(self, tensor: onnx.TensorProto) -> Payload | None:
        """Return where a tensor of the skeleton has its data, or None where it has none (or strings)."""
        marked = self._marked(tensor)
        if marked is not None:
            return self._payloads[marked]
        if is_external(tensor):
            return external_payload(tensor, self.path, self._files)
        serialized = memoryview(tensor.SerializeToString(deterministic=True))
        field = wire.find_payload(serialized, 0, len(serialized))
        if field is None:
            return None
        size = field.end - field.value
        return Payload(tensor.data_type, field.number, Source(serialized), field.value, size)

    def array(self, tensor: onnx.TensorProto) -> NDArray[np.generic]:
        """Return a tensor's elements in its own type and shape, read-only; a view of the file where possible.

        Raises:
            ModelError: The tensor has no data, or not as much as its shape says.
        """
        payload = self.payload(tensor)
        if payload is None:
            if 0 in tensor.dims:
                return np.zeros(tuple(tensor.dims), element_type(tensor.data_type))
            raise ModelError(f"tensor '{tensor.name}' holds no data; export the model with its weights")
        return payload.elements(tuple(tensor.dims))

    def scale(self, tensor: onnx.TensorProto, factor: float) -> None:
        """Multiply a tensor of the skeleton by `factor` when the model is written. Its encoding stays."""
        payload = self.payload(tensor)
        if payload is None:
            raise ModelError(f"tensor '{tensor.name}' holds no data; export the model with its weights")
        self._exchange(tensor, payload.scaled(factor))

    def replace(self, tensor: onnx.TensorProto, array: NDArray[np.generic]) -> None:
        """Give a tensor of the skeleton other elements, of the same shape; cast to its type, in its encoding."""
        if tuple(tensor.dims) != array.shape:
            raise ValueError(f"tensor '{tensor.name}' has shape {tuple(tensor.dims)}, its new data {array.shape}")
        payload = self.payload(tensor)
        field = wire.RAW_DATA if payload is None else payload.field
        self._exchange(tensor, Payload.of_array(array, tensor.data_type, field))

    def _exchange(self, tensor: onnx.TensorProto, payload: Payload) -> None:
        opened = onnx.TensorProto()
        opened.CopyFrom(self._replaced.get(self._marked(tensor) or 0, tensor))
        clear_data(tensor)
        self._mark(tensor, payload)
        self._replaced[len(self._payloads)] = opened

    def _mark(self, tensor: onnx.TensorProto, payload: Payload) -> None:
        key = len(self._payloads) + 1
        self._payloads[key] = payload
        self._unmark(tensor)
        tensor.external_data.add(key=self._marker, value=str(key))

    def _unmark(self, tensor: onnx.TensorProto) -> None:
        kept = [entry for entry in tensor.external_data if entry.key != self._marker]
        if len(kept) != len(tensor.external_data):
            del tensor.external_data[:]
            tensor.external_data.extend(kept)

    def _marked(self, tensor: onnx.TensorProto) -> int | None:
        # Only the last entry can be the marker.
        if tensor.external_data and tensor.external_data[-1].key == self._marker:
            return int(tensor.external_data[-1].value)
        return None

    # Reading

    def _elide(self) -> list[wire.Buffer]:
        """Return the skeleton's bytes, each large payload exchanged for a marker."""
        buffer = self._source.buffer

        def cut(_: wire.TensorPath, start: int, end: int) -> list[wire.Piece] | None:
            field = wire.find_payload(buffer, start, end)
            if field is None or field.end - field.value < LARGE:
                return None
            head = onnx.TensorProto.FromString(b"".join((buffer[start : field.start], buffer[field.end : end])))
            size = field.end - field.value
            marked = onnx.TensorProto()
            self._mark(marked, Payload(head.data_type, field.number, self._source, field.value, size))
            return [buffer[start : field.start], buffer[field.end : end], marked.SerializeToString()]

        return wire.rewrite(buffer, cut, LARGE)  # type: ignore[return-value]

    # Writing

    def save(self, path: str | os.PathLike[str], storage: Storage = Storage.KEEP, progress: Progress = silent) -> None:
        """Write the model to `path`, atomically; see `stage`."""
        with self.stage(path, storage, progress) as staged:
            staged.commit()

    def stage(
        self, path: str | os.PathLike[str], storage: Storage = Storage.KEEP, progress: Progress = silent
    ) -> StagedFiles:
        """Write the model beside `path`, to be put in place by `commit`, or dropped.

        Args:
            path: The model file to come; its external data, if any, go to `<path>.data`.
            storage: Inline or external; KEEP is as the source had it, external past 2 GiB.
            progress: Told the bytes written.

        Raises:
            UsageError: INLINE was asked for a model that passes protobuf's 2 GiB.
            EnvironmentUnavailable: The folder can't be written.
        """
        staged = StagedFiles(Path(path), data_files)
        pieces, data = self._compose(storage, staged.data_name)
        total = data.size + sum(map(len, pieces))
        written = 0

        def tick(count: int) -> None:
            nonlocal written
            written += count
            progress("writing", written, total)

        try:
            if data.size:
                staged.write_data(data.chunks(), tick)
            staged.write_model(_chunks(pieces), tick)
        except BaseException:
            staged.discard()
            raise
        return staged

    def to_proto(self) -> onnx.ModelProto:
        """Return the complete ModelProto, all data inline. Raises UsageError past protobuf's 2 GiB."""
        pieces, _ = self._compose(Storage.INLINE, "")
        return onnx.ModelProto.FromString(b"".join(_chunks(pieces)))

    def _compose(self, storage: Storage, data_name: str) -> tuple[list[wire.Piece], DataFile]:
        """Return the model file in pieces, and what goes to the data file."""
        data = DataFile()
        if storage is not Storage.EXTERNAL and not any(is_external(tensor) for _, tensor in walk_tensors(self.proto)):
            pieces = self._patched_source() or self._assembled(self.proto)
            if sum(map(len, pieces)) <= PROTOBUF_LIMIT:
                return pieces, data
            if storage is Storage.KEEP:
                storage = Storage.EXTERNAL
        pieces = self._assembled(self._placed(storage, data, data_name))
        if sum(map(len, pieces)) > PROTOBUF_LIMIT:
            raise UsageError("the model passes 2 GiB, which protobuf can't hold inline; save it with external data")
        return pieces, data

    def _placed(self, storage: Storage, data: DataFile, data_name: str) -> onnx.ModelProto:
        """Return a copy of the skeleton with each tensor's place as `storage` says, and fill `data`."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for path, tensor in walk_tensors(proto):
            payload = self.payload(tensor)
            if payload is None:
                continue
            external = is_external(tensor)
            self._unmark(tensor)
            if storage is Storage.EXTERNAL and path[-1][0] == _INITIALIZER and payload.size >= LARGE:
                external = True  # runtimes read external data of initializers; of Constant nodes not all do
            if external and storage is not Storage.INLINE:
                set_location(tensor, data_name, *data.add(payload))
            else:
                if is_external(tensor):
                    set_location(tensor, None)
                clear_data(tensor)
                self._mark(tensor, payload)
        return proto

    def _patched_source(self) -> list[wire.Piece] | None:
        """Return the source with replaced payloads exchanged, or None where more than payloads changed."""
        before = onnx.ModelProto()
        before.CopyFrom(self.proto)
        edits = {}
        for path, tensor in walk_tensors(before):
            marked = self._marked(tensor)
            if marked in self._replaced:
                edits[path] = self._payloads[marked]
                tensor.CopyFrom(self._replaced[marked])
        if before.SerializeToString(deterministic=True) != self._opened:
            return None
        if not edits:
            return [self._source.buffer]
        done = []
        buffer = self._source.buffer

        def exchange(path: wire.TensorPath, start: int, end: int) -> list[wire.Piece] | None:
            payload = edits.get(path)
            if payload is None:
                return None
            done.append(path)
            return wire.replace_payload(buffer, start, end, payload.field, Encoded(payload), lambda _: False)

        pieces = wire.rewrite(buffer, exchange)
        return pieces if len(done) == len(edits) else None

    def _assembled(self, proto: onnx.ModelProto) -> list[wire.Piece]:
        """Return a skeleton's bytes with each marked tensor's payload back in it."""
        edits = {path: self._payloads[key] for path, tensor in walk_tensors(proto) if (key := self._marked(tensor))}
        buffer = memoryview(proto.SerializeToString(deterministic=True))

        def is_marker(field: wire.Field) -> bool:
            if field.number != wire.EXTERNAL_DATA:
                return False
            return onnx.StringStringEntryProto.FromString(buffer[field.value : field.end]).key == self._marker

        def restore(path: wire.TensorPath, start: int, end: int) -> list[wire.Piece] | None:
            payload = edits.get(path)
            if payload is None:
                return None
            return wire.replace_payload(buffer, start, end, payload.field, Encoded(payload), is_marker)

        return wire.rewrite(buffer, restore)


def data_files(path: Path) -> set[Path]:
    """Return the data files that a model refers to, there or not; none where the file is no model."""
    try:
        model = Model(Source.map(path), path)
    except (OSError, ModelError):
        return set()
    tensors = (tensor for _, tensor in walk_tensors(model.proto) if is_external(tensor))
    return {(path.parent / external_location(tensor)).resolve() for tensor in tensors}


@dataclass(frozen=True)
class Encoded:
    """A payload as it stands in the file: a piece that is produced when it is written."""

    payload: Payload

    @cached_property
    def _size(self) -> int:
        return self.payload.encoded_size(self.payload.field)

    def __len__(self) -> int:
        return self._size


def _chunks(pieces: Iterable[wire.Piece]) -> Iterator[wire.Buffer]:
    for piece in pieces:
        if isinstance(piece, Encoded):
            yield from piece.payload.blocks(piece.payload.field)
        elif isinstance(piece, (bytes, memoryview)):
            yield memoryview(piece)
