"""Tensors whose data stands in a file beside the model: reading their place safely, and laying out a new data file.

https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import onnx

from sn_graph.errors import ModelError
from sn_graph.model import wire
from sn_graph.model.payload import Payload, Source
from sn_graph.model.reading import READING

ALIGNMENT = 64  # bytes; a cache line
PAGE_ALIGNMENT = 4096  # for payloads that a runtime would rather map than read
_LINK_MET = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)  # EMLINK is FreeBSD's
_PLACE = ("location", "offset", "length", "checksum", "basepath")


def is_external(tensor: onnx.TensorProto) -> bool:
    """Say whether the tensor's data stands in a file of its own."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_location(tensor: onnx.TensorProto) -> str:
    """Return the data file's path as the tensor gives it, relative to the model's folder."""
    # protobuf gives bytes for what is not UTF-8
    return next((str(entry.value) for entry in reversed(tensor.external_data) if entry.key == "location"), "")


def resolve_location(location: str, folder: Path, tensor: str) -> Path:
    """Return the data file that `location` names.

    Raises:
        ModelError: It leaves the model's folder: an absolute path, `..`, or a link.
    """
    root = folder.resolve()
    try:
        path = (root / location).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file can have
        path = root
    escapes = Path(location).is_absolute() or "\\" in location or path == root
    if escapes or path != root.joinpath(*Path(location).parts):
        raise _escapes(location, tensor)
    return path


def _escapes(location: str, tensor: str) -> ModelError:
    return ModelError(
        f"tensor '{tensor}' refers to data outside the model's folder or behind a link ({location!r})",
        "which is refused",
        "put the data file beside the model",
    )


def _open_within(folder: Path, path: Path) -> int:
    """Open a file below a folder, and no link on the way: one may have been put there since the path was looked at.

    Raises:
        OSError: It can't be opened; with ELOOP or ENOTDIR, a link is in its path.
    """
    if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
        return os.open(path, READING)
    *inner, name = path.relative_to(folder).parts
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in inner:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(name, READING | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def external_payload(tensor: onnx.TensorProto, model: Path | None, files: dict[Path, Source]) -> Payload:
    """Return an external tensor's data, mapping its file once for all tensors in it.

    Raises:
        ModelError: The file leaves the folder, is missing, or is shorter than the tensor says.
    """
    if model is None:
        raise ModelError(
            f"tensor '{tensor.name}' has external data, and a model in memory has no folder",
            do="open the model by its path",
        )
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = resolve_location(external_location(tensor), model.parent, tensor.name)
    try:
        if path not in files:
            files[path] = Source.map_opened(path, _open_within(model.parent.resolve(), path))
        source = files[path]
    except OSError as error:
        if error.errno in _LINK_MET:
            raise _escapes(external_location(tensor), tensor.name) from None
        raise ModelError(
            f"the data file {path.name} of tensor '{tensor.name}' can't be read",
            str(error.strerror),
            "put it beside the model",
        ) from None
    try:
        start = int(entries.get("offset") or 0)
        size = int(entries["length"]) if entries.get("length") else max(len(source.buffer) - start, 0)
        if start < 0 or size < 0:
            raise ValueError
    except ValueError:
        raise ModelError("the file is corrupt", f"tensor '{tensor.name}' has no valid place in its data file") from None
    if start + size > len(source.buffer):
        raise ModelError(
            f"the data file {path.name} is cut off",
            f"tensor '{tensor.name}' reaches to byte {start + size} of {len(source.buffer)}",
            "copy it again",
        )
    return Payload(tensor.data_type, wire.RAW_DATA, source, start, size)


def clear_data(tensor: onnx.TensorProto) -> None:
    """Take the data out of an inline tensor."""
    for name in ("float_data", "int32_data", "int64_data", "raw_data", "double_data", "uint64_data"):
        tensor.ClearField(name)


def set_location(tensor: onnx.TensorProto, location: str | None, offset: int = 0, length: int = 0) -> None:
    """Point a tensor at its place in a data file, or with None make it an inline tensor without data."""
    kept = [entry for entry in tensor.external_data if entry.key not in _PLACE]
    del tensor.external_data[:]
    if location is None:
        tensor.ClearField("data_location")
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        clear_data(tensor)
    tensor.external_data.extend(kept)


class DataFile:
    """The layout of a data file in the making: payloads end to end, aligned, equal ones stored once."""

    def __init__(self) -> None:
        self.size = 0
        self._places: dict[Payload, tuple[int, int]] = {}

    @property
    def used(self) -> bool:
        """Whether any tensor refers to the file; it may still be empty."""
        return bool(self._places)

    def add(self, payload: Payload) -> tuple[int, int]:
        """Give a payload its (offset, length)."""
        if payload not in self._places:
            length = payload.encoded_size(wire.RAW_DATA)
            alignment = PAGE_ALIGNMENT if length >= 1 << 20 else ALIGNMENT
            offset = -(-self.size // alignment) * alignment
            self._places[payload] = (offset, length)
            self.size = offset + length
        return self._places[payload]

    def chunks(self) -> Iterator[wire.Buffer]:
        """Yield the file's bytes in order."""
        position = 0
        for payload, (offset, length) in self._places.items():
            yield memoryview(bytes(offset - position))
            yield from payload.blocks(wire.RAW_DATA)
            position = offset + length
