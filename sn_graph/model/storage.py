"""Models on disk: a small protobuf skeleton, and payloads that stay in their files until someone writes them.

Opening reads the skeleton only. Saving streams: untouched payloads go from file to file, replaced ones are produced
a block at a time. Where no more than payloads changed, the output is the source with those bytes exchanged.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from numpy.typing import NDArray

from sn_graph.errors import ModelError, SnGraphError, UsageError
from sn_graph.model import wire
from sn_graph.model.external import DataFile, clear_data, external_payload, is_external, set_location
from sn_graph.model.files import StagedFiles, same_file
from sn_graph.model.foreign import not_a_model
from sn_graph.model.graph import Graph
from sn_graph.model.payload import Payload, Source
from sn_graph.model.skeleton import LARGE, chunks, exchange_payloads, gather, put_data, read_skeleton
from sn_graph.model.source import proto_of_graph
from sn_graph.model.tensors import walk_tensors
from sn_graph.progress import Progress, silent

if TYPE_CHECKING:
    from sn_graph.model.remote import Held

PROTOBUF_LIMIT = 2**31 - 1
_KEPT = 1 << 26  # bytes that are written before those that were read for them are let go
# The fields that lead to initializers of the graph and of subgraphs. In Constant nodes, functions and training info,
# not even onnx itself looks for external data.
_READ_BY_ALL = frozenset({7, 1, 5, 6, 11})


class Storage(StrEnum):
    """Where a saved model keeps its tensors."""

    KEEP = "keep"
    INLINE = "inline"
    EXTERNAL = "external"


class HoldsModel(Protocol):
    """What has a model: a PassResult, above all."""

    @property
    def model(self) -> "Model":
        """The model."""
        ...


class Model:
    """An ONNX model whose large tensors stay where they are.

    Attributes:
        proto: The skeleton: the whole ModelProto but for the data of large tensors (names, types and shapes are there).
            Tensors moved or copied within it keep their data.
        path: The file it was opened from, or None.

    >>> from onnx.parser import parse_model
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) {y = Abs(x)}'
    >>> Model.open(parse_model(text)).proto.graph.node[0].op_type
    'Abs'
    """

    def __init__(self, source: Source, path: Path | None) -> None:
        self.path = path
        self._held: Held | None = None
        self._source = source
        self._replaced: dict[int, onnx.TensorProto] = {}  # the tensor as the skeleton held it when it was opened
        self._files: dict[Path, Source] = {}
        self._graph: Graph | None = None
        self.proto, self._markers = read_skeleton(source)
        self._opened = self.proto.SerializeToString(deterministic=True)

    @classmethod
    def open(cls, source: "ModelSource") -> "Model":
        """Open a file or the URL of one, wrap a ModelProto (its data is copied once), or pass a Model or a result's on.

        Raises:
            ModelError: The file is missing, unreadable, corrupt, or refers to data outside its folder.
            UsageError: The source is nothing that holds a model.
        """
        if isinstance(source, Model):
            return source
        if not isinstance(source, str | os.PathLike | onnx.ModelProto):
            held = getattr(source, "model", None)
            if isinstance(held, Model):
                return held
            proto = proto_of_graph(source)
            if proto is None:
                raise UsageError(
                    f"a {type(source).__name__} is not a model", do="give a path, a ModelProto, a Model or a PassResult"
                )
            source = proto
        if isinstance(source, onnx.ModelProto):
            try:
                return cls(Source(memoryview(source.SerializeToString(deterministic=True))), None)
            except (EncodeError, ValueError):
                raise ModelError(
                    "the model passes 2 GiB", do="save it with external data and open it by its path"
                ) from None
        if isinstance(source, str) and "://" in source:
            return cls._fetched(source)
        path = Path(source)
        try:
            mapped = Source.map(path)
        except OSError as error:
            if os.path.isdir(path):
                raise not_a_model(path, ModelError("it is a folder")) from None
            raise ModelError(f"{path} can't be read", str(error.strerror), "give the path of a model file") from None
        try:
            model = cls(mapped, path)
        except ModelError as error:
            raise not_a_model(path, error) from None
        try:
            for _, tensor in walk_tensors(model.proto):
                if is_external(tensor):
                    model.payload(tensor)  # refuses missing, short and escaping data files now
        except ModelError as error:
            raise error.about(str(path)) from None
        return model

    @classmethod
    def _fetched(cls, url: str) -> "Model":
        from sn_graph.model.remote import Held, local_path  # which needs fsspec, and reads models itself

        if "://" not in local_path(url):
            return cls.open(Path(local_path(url)))
        held = Held(url)
        try:
            model = cls.open(held.path)
        except ModelError as error:
            raise error.about(url) from None
        model._held = held
        return model

    def copy(self) -> "Model":
        """Return a model that can be changed without changing this one. Payloads are shared, not copied."""
        twin = object.__new__(Model)
        twin.__dict__.update(self.__dict__, _replaced=dict(self._replaced), _graph=None)
        twin.proto = onnx.ModelProto()
        twin.proto.CopyFrom(self.proto)
        return twin

    @property
    def name(self) -> str:
        """The file's path or URL, or `<model>` for a model in memory."""
        if self._held is not None:
            return self._held.url
        return str(self.path) if self.path else "<model>"

    @property
    def modified(self) -> bool:
        """Whether the model differs from what was opened."""
        return bool(self._replaced) or self.proto.SerializeToString(deterministic=True) != self._opened

    @property
    def graph(self) -> Graph:
        """The index of the skeleton, made when first asked for. It does not know of later edits: see `edited`."""
        if self._graph is None:
            self._graph = Graph(self.proto)
        return self._graph

    def edited(self) -> None:
        """Forget the index, because the skeleton was edited; the next one to ask gets it as it is then."""
        self._graph = None

    # Tensors

    def payload(self, tensor: onnx.TensorProto) -> Payload | None:
        """Return where a tensor of the skeleton has its data, or None where it has none (or strings)."""
        marked = self._markers.payload(tensor)
        if marked is not None:
            return marked
        if is_external(tensor):
            return external_payload(tensor, self.path, self._files)
        serialized = memoryview(tensor.SerializeToString(deterministic=True))
        field = wire.find_payload(serialized, 0, len(serialized))
        if field is None:
            return None
        size = field.end - field.value
        return Payload(tensor.data_type, field.number, Source(serialized), field.value, size)

    def array(self, tensor: onnx.TensorProto, factor: float | None = None) -> NDArray[np.generic]:
        """Return a tensor's elements in its own type and shape, read-only; a view of the file where possible.

        Args:
            tensor: A tensor of the skeleton.
            factor: Return what the elements would be, to the last digit, once `scale` has multiplied them by this too.

        Raises:
            ModelError: The tensor has no data, or not as much as its shape says.
        """
        payload = self.payload(tensor)
        if payload is not None and factor is not None:
            payload = payload.scaled(factor)
        if payload is None:
            if 0 in tensor.dims:
                return Payload.empty(tensor.data_type).elements(tuple(tensor.dims))
            raise ModelError(f"tensor '{tensor.name}' holds no data", do="export the model with its weights")
        try:
            return payload.elements(tuple(tensor.dims))
        except ModelError as error:
            told = error.about(f"{self.name}: tensor '{tensor.name}'")
            raise ModelError(told.what, told.why, "export or download it again") from None

    def scale(self, tensor: onnx.TensorProto, factor: float) -> None:
        """Multiply a tensor of the skeleton by `factor` when the model is written. Its encoding stays."""
        payload = self.payload(tensor)
        if payload is None:
            raise ModelError(f"tensor '{tensor.name}' holds no data", do="export the model with its weights")
        self._exchange(tensor, payload.scaled(factor))

    def is_scaled(self, tensor: onnx.TensorProto) -> bool:
        """Say whether `scale` has multiplied a tensor, so that `array` gives rounded products of the source's data."""
        payload = self.payload(tensor)
        return payload is not None and payload.factor is not None

    def replace(self, tensor: onnx.TensorProto, array: NDArray[np.generic]) -> None:
        """Give a tensor of the skeleton other elements, of the same shape; cast to its type, in its encoding."""
        if tuple(tensor.dims) != array.shape:
            raise ValueError(f"tensor '{tensor.name}' has shape {tuple(tensor.dims)}, its new data {array.shape}")
        payload = self.payload(tensor)
        field = wire.RAW_DATA if payload is None else payload.field
        self._exchange(tensor, Payload.of_array(array, tensor.data_type, field))

    def is_large(self, tensor: onnx.TensorProto) -> bool:
        """Say whether a tensor's data stands outside the skeleton."""
        return self._markers.key(tensor) is not None or is_external(tensor)

    def share(self, source: onnx.TensorProto, tensor: onnx.TensorProto) -> None:
        """Give a tensor, of this skeleton or one to come, the data of a tensor of this skeleton."""
        name, dims = tensor.name, list(tensor.dims)
        documentation = tensor.doc_string if tensor.HasField("doc_string") else None
        had_name = tensor.HasField("name")
        tensor.CopyFrom(source)
        tensor.dims[:] = dims
        tensor.name = name
        if not had_name:
            tensor.ClearField("name")
        tensor.ClearField("doc_string")
        if documentation is not None:
            tensor.doc_string = documentation

    def embed(self, tensor: onnx.TensorProto) -> None:
        """Put a tensor's data into the tensor itself, in their encoding."""
        payload = self.payload(tensor)
        set_location(tensor, None)
        del tensor.external_data[:]
        if payload is not None:
            clear_data(tensor)
            put_data(tensor, payload, payload.field)

    def _exchange(self, tensor: onnx.TensorProto, payload: Payload) -> None:
        opened = onnx.TensorProto()
        opened.CopyFrom(self._replaced.get(self._markers.key(tensor) or 0, tensor))
        self._replaced[self._markers.mark(tensor, payload)] = opened

    # Writing

    def save(
        self,
        path: str | os.PathLike[str],
        storage: Storage = Storage.KEEP,
        progress: Progress = silent,
        *,
        sync: bool = True,
    ) -> None:
        """Write the model to `path`, or a URL, atomically; see `stage`."""
        from sn_graph.model.remote import placed

        with placed(path, progress) as place, self.stage(place, storage, progress, sync=sync) as staged:
            staged.commit()

    def stage(
        self,
        path: str | os.PathLike[str],
        storage: Storage = Storage.KEEP,
        progress: Progress = silent,
        *,
        sync: bool = True,
    ) -> StagedFiles:
        """Write the model beside `path`, to be put in place by `commit`, or dropped.

        Args:
            path: The model file to come; its external data, if any, go to `<path>.data`.
            storage: Inline or external; KEEP is as the source had it, external past 2 GiB.
            progress: Told the bytes written.
            sync: Whether `commit` waits until everything is on the disk, so that a power cut leaves a whole model too.

        Raises:
            UsageError: INLINE was asked for a model that passes protobuf's 2 GiB, or `path` is a data file of this one.
            EnvironmentUnavailable: The folder can't be written, or a file that the model is read from was changed.
        """
        self._refuse_own_data(Path(path))
        staged = StagedFiles(Path(path), sync)
        total = written = kept = 0

        def tick(count: int) -> None:
            nonlocal written, kept
            written, kept = written + count, kept + count
            if kept >= _KEPT:
                self.let_go()
                kept = 0
            progress("writing", written, total)

        try:
            pieces, data = self._compose(storage, staged.reserve_data)
            total = data.size + sum(map(len, pieces))
            if data.used:
                staged.write_data(data.chunks(), tick)
            staged.write_model(chunks(pieces), tick)
            self.require_unchanged()
        except BaseException as error:
            staged.discard()
            if isinstance(error, Exception):
                self.require_unchanged()  # which says more than what came of it
            raise
        return staged

    def require_unchanged(self) -> None:
        """Raise EnvironmentUnavailable where a file that the model is read from was changed, replaced or deleted."""
        for source in (self._source, *self._files.values()):
            source.require_unchanged()

    def let_go(self) -> None:
        """Give back the memory of what was read of large files; arrays that are views of them stay valid."""
        for source in (self._source, *self._files.values()):
            source.let_go()

    def _refuse_own_data(self, target: Path) -> None:
        for path in self._files:
            if same_file(path, target):
                raise UsageError(
                    f"{target} would overwrite the weights that are read",
                    f"because {path.name} is a data file of {self.name}",
                    "give another file",
                )

    def to_proto(self) -> onnx.ModelProto:
        """Return the complete ModelProto, all data inline. Raises UsageError past protobuf's 2 GiB."""
        pieces, _ = self._compose(Storage.INLINE, str)
        return onnx.ModelProto.FromString(gather(pieces))

    def _compose(self, storage: Storage, data_name: Callable[[], str]) -> tuple[list[wire.Piece], DataFile]:
        """Return the model file in pieces, and what goes to the data file."""
        data = DataFile()
        if storage is not Storage.EXTERNAL and not any(is_external(tensor) for _, tensor in walk_tensors(self.proto)):
            pieces = self._patched_source() or self._markers.assemble(self.proto)
            if sum(map(len, pieces)) <= PROTOBUF_LIMIT:
                return pieces, data
            if storage is Storage.KEEP:
                storage = Storage.EXTERNAL
        pieces = self._markers.assemble(self._placed(storage, data, data_name))
        if sum(map(len, pieces)) > PROTOBUF_LIMIT:
            raise UsageError("the model passes 2 GiB", "which protobuf can't hold inline", "save it with external data")
        return pieces, data

    def _placed(self, storage: Storage, data: DataFile, data_name: Callable[[], str]) -> onnx.ModelProto:
        """Return a copy of the skeleton with each tensor's place as `storage` says, and fill `data`."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for path, tensor in walk_tensors(proto):
            payload = self.payload(tensor)
            if payload is None:
                continue
            movable = wire.owner(path) == "GraphProto" and _READ_BY_ALL.issuperset(number for number, _ in path)
            moved = storage is Storage.EXTERNAL and movable and payload.size >= LARGE
            if moved or (is_external(tensor) and storage is not Storage.INLINE):
                self._markers.unmark(tensor)
                set_location(tensor, data_name(), *data.add(payload))
            elif is_external(tensor):
                self._markers.unmark(tensor)
                set_location(tensor, None)
                self._markers.mark(tensor, payload)
        return proto

    def _patched_source(self) -> list[wire.Piece] | None:
        """Return the source with replaced payloads exchanged, or None where more than payloads changed."""
        before = onnx.ModelProto()
        before.CopyFrom(self.proto)
        edits: dict[wire.TensorPath, Payload] = {}
        for path, tensor in walk_tensors(before):
            opened = self._replaced.get(self._markers.key(tensor) or 0)
            if opened is not None:
                if self._markers.without_data(tensor) != self._markers.without_data(opened):
                    return None
                edits[path] = self._markers[tensor]
                tensor.CopyFrom(opened)
        if before.SerializeToString(deterministic=True) != self._opened:
            return None
        if not edits:
            return [self._source.buffer]
        return exchange_payloads(self._source.buffer, edits)


ModelSource = str | os.PathLike[str] | onnx.ModelProto | Model | HoldsModel
"""What every function of the API takes for a model; a graph of onnx-graphsurgeon too, which has no types."""


@contextlib.contextmanager
def watched(*models: Model) -> Iterator[None]:
    """Raise EnvironmentUnavailable where a file of these models changes within the block.

    That goes before any SnGraphError of the block, because it says more than what came of it.
    """
    try:
        yield
    except SnGraphError:
        for model in models:
            model.require_unchanged()
        raise
    for model in models:
        model.require_unchanged()
