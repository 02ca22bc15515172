"""Payloads: the data of one tensor, a range of bytes in some file or buffer, how it is encoded, and a pending factor.

A payload is read when someone asks for its elements, and scaled when it is written, a block at a time.
"""

import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from sn_graph.errors import EnvironmentUnavailable, ModelError
from sn_graph.model import wire
from sn_graph.model.reading import READING, require_ordinary
from sn_graph.model.watch import tell_read

BLOCK_BYTES = 1 << 19  # source and scaled block together stay in a core's second-level cache
FLOAT_TYPES = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
)
# Data types whose elements stand in the file as a plain little-endian array.
_PLAIN_TYPES = FLOAT_TYPES | {
    onnx.TensorProto.INT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.UINT16,
    onnx.TensorProto.UINT32,
    onnx.TensorProto.UINT64,
    onnx.TensorProto.BOOL,
}
_VARINT_FIELDS = frozenset({wire.INT32_DATA, wire.INT64_DATA, wire.UINT64_DATA})
_FIELDS = {
    "float_data": wire.FLOAT_DATA,
    "int32_data": wire.INT32_DATA,
    "int64_data": wire.INT64_DATA,
    "double_data": wire.DOUBLE_DATA,
    "uint64_data": wire.UINT64_DATA,
}
MAX_RANK = 64
"""The axes that an array of numpy may have; tensors of more are not read."""

_MAX_VARINT = 10  # bytes
_LARGE_FILE = 1 << 26


class Source:
    """Bytes that payloads refer to: a memory-mapped file, or a buffer.

    A mapped file must stay as it is while it is read. That it did can be asked afterwards; one that is cut off
    meanwhile kills the process (SIGBUS), which the command line turns into an error.
    """

    def __init__(self, buffer: wire.Buffer, path: Path | None = None, opened: os.stat_result | None = None) -> None:
        self.buffer = buffer
        self._path = path
        self._opened = opened

    @classmethod
    def map(cls, path: Path) -> "Source":
        """Map a file for reading. Raises OSError where it can't be opened, or is not an ordinary file."""
        return cls.map_opened(path, os.open(path, READING))

    @classmethod
    def map_opened(cls, path: Path, descriptor: int) -> "Source":
        """Map the file that was opened, and close it; `path` is what it is called. Raises OSError as `map` does."""
        try:
            there = os.fstat(descriptor)
            require_ordinary(there)
            tell_read(path, there.st_size)
            if not there.st_size:
                return cls(memoryview(b""), path, there)
            content = mmap.mmap(descriptor, there.st_size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        if hasattr(mmap, "MADV_SEQUENTIAL"):
            content.madvise(mmap.MADV_SEQUENTIAL)  # weights are read from end to end: a cold file goes 1.2x faster
        return cls(memoryview(content), path, there)

    def let_go(self) -> None:
        """Give back the memory of what was read of a large file; what is asked for again is read again."""
        content = self.buffer.obj if isinstance(self.buffer, memoryview) else None
        if isinstance(content, mmap.mmap) and len(content) >= _LARGE_FILE and hasattr(mmap, "MADV_DONTNEED"):
            content.madvise(mmap.MADV_DONTNEED)

    def require_unchanged(self) -> None:
        """Raise EnvironmentUnavailable where the file is not the one that was mapped, or was written to since."""
        if self._path is None or self._opened is None:
            return
        try:
            now = os.stat(self._path)
        except OSError as error:
            raise _changed(self._path, f"it is gone: {error.strerror}") from None
        if (now.st_dev, now.st_ino) != (self._opened.st_dev, self._opened.st_ino):
            raise _changed(self._path, "another file took its place")
        if now.st_size != self._opened.st_size:
            raise _changed(self._path, f"it has {now.st_size} bytes where it had {self._opened.st_size}")
        if now.st_mtime_ns != self._opened.st_mtime_ns:
            raise _changed(self._path, "it was written to")


def _changed(path: Path, how: str) -> EnvironmentUnavailable:
    return EnvironmentUnavailable(
        f"{path} was changed while it was read", how, "run it again when nobody writes to it any more"
    )


def element_type(data_type: int) -> np.dtype[np.generic]:
    """Return the numpy dtype of an ONNX data type (ml_dtypes' for bfloat16 and the like).

    Raises:
        ModelError: onnx knows no such type.
    """
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    except KeyError:
        raise ModelError(f"a tensor has the element type {data_type}", "which this version of onnx lacks") from None


@dataclass(frozen=True)
class Payload:
    """A tensor's data.

    Attributes:
        data_type: The ONNX element type.
        field: The TensorProto field whose encoding the bytes have.
        source: Where the bytes are; `start` and `size` say which.
        factor: What the elements are multiplied by when read or written; None leaves the bytes as they are.
    """

    data_type: int
    field: int
    source: Source
    start: int
    size: int
    factor: float | None = None

    @classmethod
    def of_array(cls, array: NDArray[np.generic], data_type: int, field: int = wire.RAW_DATA) -> "Payload":
        """Hold `array` in memory, encoded for `field`."""
        flat = np.ascontiguousarray(array, dtype=element_type(data_type)).reshape(-1)
        data = memoryview(_encode(flat, field)).cast("B")
        return cls(data_type, field, Source(data), 0, len(data))

    @classmethod
    def empty(cls, data_type: int) -> "Payload":
        """Hold no elements."""
        return cls(data_type, wire.RAW_DATA, Source(memoryview(b"")), 0, 0)

    @property
    def data(self) -> wire.Buffer:
        """The encoded bytes, before the factor."""
        return self.source.buffer[self.start : self.start + self.size]

    def scaled(self, factor: float) -> "Payload":
        """Return the payload with every element multiplied by `factor`, when it is read or written.

        Raises:
            ModelError: The factor is not finite.
        """
        product = factor if self.factor is None else self.factor * factor
        if not math.isfinite(product):
            raise ModelError(f"a weight can't be multiplied by {product}", do="leave it out with --exclude")
        return replace(self, factor=product)

    def elements(self, dims: tuple[int, ...]) -> NDArray[np.generic]:
        """Return the elements, of shape `dims`, read-only; a view of the file where the encoding allows.

        Raises:
            ModelError: There are more or fewer elements than `dims` says.
        """
        element_type(self.data_type)
        if self.field not in (wire.RAW_DATA, _FIELDS.get(onnx.helper.tensor_dtype_to_field(self.data_type))):
            raise ModelError("the file is corrupt", "a tensor holds its elements in the field of another type")
        try:
            if any(dim < 0 for dim in dims):
                raise ValueError("a dimension is negative")
            array = self._plain(dims) if self.data_type in _PLAIN_TYPES else self._exotic(dims)
        except (ValueError, TypeError, DecodeError) as error:
            raise ModelError("the file is corrupt", f"a tensor of shape {list(dims)} can't be read: {error}") from None
        array.flags.writeable = False
        return array

    def _plain(self, dims: tuple[int, ...]) -> NDArray[np.generic]:
        flat = _decode(self.data, self.data_type, self.field)
        if flat.size != math.prod(dims):
            raise ValueError(f"it holds {flat.size} elements")
        return (flat if self.factor is None else scale_elements(flat, self.factor)).reshape(dims)

    def _exotic(self, dims: tuple[int, ...]) -> NDArray[np.generic]:
        head = wire.write_varint(self.field << 3 | wire.LENGTH) + wire.write_varint(self.size)
        tensor = onnx.TensorProto.FromString(head + bytes(self.data))
        tensor.dims.extend(dims)
        tensor.data_type = self.data_type
        return numpy_helper.to_array(tensor)

    def encoded_size(self, field: int) -> int:
        """Return how many bytes `blocks(field)` gives."""
        if self._same_encoding(field) and (self.factor is None or field not in _VARINT_FIELDS):
            return self.size
        return sum(len(block) for block in self.blocks(field))

    def blocks(self, field: int) -> Iterator[wire.Buffer]:
        """Yield the bytes, scaled and encoded for `field`, in blocks; a block holds until the next is asked for.

        Raises:
            ModelError: A scaled element is too large for its type.
        """
        if not self._same_encoding(field):
            yield memoryview(self._recode(field)).cast("B")
        elif self.factor is None:
            yield self.data
        elif field in _VARINT_FIELDS:
            yield memoryview(self._recode(field)).cast("B")
        else:
            yield from self._scaled_blocks(self.factor)

    def _same_encoding(self, field: int) -> bool:
        """Say whether the bytes, scaling aside, may stand in `field` as they are."""
        return field == self.field or not _VARINT_FIELDS & {field, self.field}

    def _scaled_blocks(self, factor: float) -> Iterator[wire.Buffer]:
        """Yield scaled blocks; a block is scaled on another thread while its predecessor is being written."""
        dtype = element_type(self.data_type)
        if self.size % dtype.itemsize:
            raise ModelError("the file is corrupt", "a tensor ends inside an element")
        work = _work_type(dtype, factor)
        rooms = np.empty((2, BLOCK_BYTES // work.itemsize), work)
        step = rooms.shape[1] * dtype.itemsize
        data = self.data

        def block(start: int, room: NDArray[np.floating]) -> wire.Buffer:
            flat = np.frombuffer(data[start : start + step], dtype)
            return scale_elements(flat, factor, room[: flat.size]).view(np.uint8).data

        if self.size <= step:  # a thread would cost more than it saves
            yield block(0, rooms[0])
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(block, 0, rooms[0])
            for number, start in enumerate(range(step, self.size + step, step), 1):
                ready = ahead.result()
                if start < self.size:
                    ahead = pool.submit(block, start, rooms[number % 2])
                yield ready

    def _recode(self, field: int) -> bytes:
        if self.data_type in _PLAIN_TYPES:
            flat = _decode(self.data, self.data_type, self.field)
            return _encode(flat if self.factor is None else scale_elements(flat, self.factor), field)
        if field == wire.RAW_DATA and self.field == wire.INT32_DATA:
            return _decode_varints(self.data).astype(np.uint8).tobytes()  # float8 and packed 4-bit types: a byte each
        raise ModelError(
            "a tensor of this element type can't be stored in the way asked for",
            do="keep the model's storage",
        )


def _work_type(dtype: np.dtype[np.generic], factor: float) -> np.dtype[np.floating]:
    """Return the type to multiply in: float32, or float64 where that could round or overflow."""
    moderate = 2.0**-100 < abs(factor) < 2.0**100
    return np.dtype(np.float32 if moderate and dtype != np.float64 else np.float64)


def scale_elements(
    flat: NDArray[np.generic], factor: float, out: NDArray[np.floating] | None = None
) -> NDArray[np.generic]:
    """Return `flat * factor` in the type of `flat`; `out` is room for the product in the type it is computed in.

    Raises:
        ModelError: An element is too large for its type.
    """
    work = _work_type(flat.dtype, factor)
    try:
        with np.errstate(over="raise", under="ignore", invalid="ignore"):
            product = np.multiply(flat, work.type(factor), out=out, dtype=work)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            scaled: NDArray[np.generic] = product.astype(flat.dtype, copy=False)
        fits = work == flat.dtype or bool(np.isfinite(scaled).all())
    except FloatingPointError:
        fits = False
    if not fits:
        raise ModelError(f"a scaled weight does not fit into {flat.dtype.name}", do="choose a smaller --bound")
    return scaled


def _decode(data: wire.Buffer, data_type: int, field: int) -> NDArray[np.generic]:
    """Return the elements of a plain type as a flat array, a view where possible."""
    dtype = element_type(data_type)
    if field in _VARINT_FIELDS:
        values = _decode_varints(data)
        if data_type in FLOAT_TYPES:
            return values.astype(np.uint16).view(dtype)  # 16-bit floats: their bits
        return values.view(np.int64).astype(dtype)
    if len(data) % dtype.itemsize:
        raise ModelError("the file is corrupt", "a tensor ends inside an element")
    return np.frombuffer(data, dtype.newbyteorder("<") if dtype.kind in "iuf" else dtype)


def _encode(flat: NDArray[np.generic], field: int) -> bytes:
    if field not in _VARINT_FIELDS:
        return flat.tobytes()
    if flat.dtype.itemsize == 2 and flat.dtype.kind not in "iu":
        flat = flat.view(np.uint16)
    return _encode_varints(flat.astype(np.int64).view(np.uint64))


def _decode_varints(data: wire.Buffer) -> NDArray[np.uint64]:
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if octets.size and (not ends.size or ends[-1] != octets.size - 1):
        raise ModelError("the file is corrupt", "a number in a tensor is cut off")
    starts = np.concatenate(([0], ends[:-1] + 1)) if ends.size else ends
    lengths = ends - starts + 1
    longest = int(lengths.max(initial=0))
    if longest > _MAX_VARINT:
        raise ModelError("the file is corrupt", "a number in a tensor is too long")
    values = np.zeros(ends.size, np.uint64)
    for position in range(longest):
        present = lengths > position
        septet = (octets[starts[present] + position] & 0x7F).astype(np.uint64)
        values[present] |= septet << np.uint64(7 * position)
    return values


def _encode_varints(values: NDArray[np.uint64]) -> bytes:
    septets = np.stack([(values >> np.uint64(7 * i)).astype(np.uint8) & 0x7F for i in range(_MAX_VARINT)], axis=1)
    lengths = 1 + sum((values >> np.uint64(7 * i) != 0).astype(np.int64) for i in range(1, _MAX_VARINT))
    position = np.arange(_MAX_VARINT)
    septets[position < lengths[:, None] - 1] |= 0x80
    return bytes(septets[position < lengths[:, None]])
