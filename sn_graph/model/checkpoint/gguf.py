"""GGUF: the header of a file, read so that what is not exactly right is refused.

    "GGUF", version, number of tensors, number of key-value pairs; the pairs; name, dimensions, type and offset of each
    tensor; the data, each tensor's aligned to `general.alignment` (32)

All little-endian. Dimensions are written the fastest first: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
Of the pairs only numbers that tell of the layout and of heads are kept, the vocabulary is passed over.
"""

import math
import struct
from dataclasses import dataclass

from sn_graph.errors import ModelError
from sn_graph.model import RAW_DATA, Payload, Source
from sn_graph.model.checkpoint.quantized import QUANTIZATIONS, packed_size
from sn_graph.model.checkpoint.stored import StoredTensor, item_size, onnx_type

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_TENSOR_LIMIT = 1_000_000
_TEXTS = 8_000_000  # of arrays of texts, each of which is stepped over; the largest vocabularies have a million
_DEPTH = 4
_RANK = 8
_PLAIN = {0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16"}
_TEXT, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_KEPT_NUMBERS = 4096  # of an array: a head count for each layer

Value = int | float | str | tuple[int | float, ...]


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        pairs: Its key-value pairs: numbers, short texts, and short arrays of numbers.
        tensors: Its tensors, in the header's order.
    """

    pairs: dict[str, Value]
    tensors: tuple[StoredTensor, ...]


def read_gguf(source: Source) -> GgufHeader:
    """Return the header of a mapped file.

    Raises:
        ModelError: It is not exactly as the format says.
    """
    return _Reader(source).header()


class _Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = source.buffer
        self._position = 0
        self._texts = 0

    def header(self) -> GgufHeader:
        if self._bytes(4) != MAGIC:
            raise ModelError("it is no GGUF file", "because it does not begin with GGUF", "download it again")
        version = self._number("I")
        if version not in _VERSIONS:
            swapped = int.from_bytes(int(version).to_bytes(4, "little"), "big") in _VERSIONS
            why = "its bytes are in big-endian order" if swapped else f"its version is {version}, not 2 or 3"
            raise ModelError("it is no GGUF file that can be read", why, "convert it again")
        tensors, pairs = int(self._number("Q")), int(self._number("Q"))
        left = len(self._buffer) - self._position
        if tensors > min(_TENSOR_LIMIT, left // 24) or pairs > left // 13:
            raise ModelError(
                "its header is corrupt", f"it announces {tensors:,} tensors and {pairs:,} pairs", "download it again"
            )
        known: dict[str, Value] = {}
        for _ in range(pairs):
            key = self._text()
            if key in known:
                raise ModelError(f"its header names '{key[:200]}' twice", "so nobody can tell which is meant")
            value = self._value(int(self._number("I")), 0)
            known[key] = value
        entries = [self._entry() for _ in range(tensors)]
        if len({name for name, *_ in entries}) < len(entries):
            raise ModelError("its header names a tensor twice", "so nobody can tell which is meant")
        alignment = known.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise ModelError("its header is corrupt", f"an alignment of {alignment} is none", "download it again")
        begin = -(-self._position // alignment) * alignment
        placed = tuple(self._tensor(*entry, begin, alignment) for entry in entries)
        _require_apart(placed)
        return GgufHeader(known, placed)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, rank = self._text(), int(self._number("I"))
        if rank > _RANK:
            raise ModelError(f"tensor '{name[:200]}' has {rank} dimensions", f"where at most {_RANK} are read")
        dims = tuple(int(self._number("Q")) for _ in range(rank))
        return name, dims[::-1], int(self._number("I")), int(self._number("Q"))

    def _tensor(
        self, name: str, shape: tuple[int, ...], kind: int, offset: int, begin: int, alignment: int
    ) -> StoredTensor:
        told = f"tensor '{name[:200]}' of its header is corrupt"
        if any(size >= 1 << 63 for size in shape) or offset % alignment:
            raise ModelError(told, "its dimensions or its offset are none", "download it again")
        if kind in _PLAIN:
            size = math.prod(shape) * item_size(_PLAIN[kind])
        elif kind in QUANTIZATIONS:
            try:
                size = packed_size(kind, shape)
            except ModelError as error:
                raise error.about(told) from None
        else:
            raise ModelError(told, f"GGML's type {kind} is not known", "update sn-graph, or convert the file again")
        start = begin + offset
        if start + size > len(self._buffer):
            raise ModelError(
                told, f"its data end at byte {start + size:,} of {len(self._buffer):,}", "download it again"
            )
        dtype = _PLAIN.get(kind)
        if dtype is None:
            payload = Payload(onnx_type("uint8"), RAW_DATA, self._source, start, size)
            return StoredTensor(name, QUANTIZATIONS[kind].name, shape, payload, quantization=kind)
        codes = None if dtype.startswith(("float", "bfloat")) else f"its {dtype} numbers are codes or indices"
        payload = Payload(onnx_type(dtype), RAW_DATA, self._source, start, size)
        return StoredTensor(name, dtype, shape, payload, refusal=codes)

    def _value(self, kind: int, depth: int) -> Value:
        """Read a value; return it where it is a number, a short text or a short array of numbers, else ""."""
        if kind == _TEXT:
            return self._text(keep=200)
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind != _ARRAY or depth >= _DEPTH:
            raise ModelError("its header is corrupt", f"it holds a value of type {kind}", "download it again")
        inner, count = int(self._number("I")), int(self._number("Q"))
        if inner in _SCALARS:
            code = _SCALARS[inner]
            data = self._bytes(count * struct.calcsize(f"<{code}"))
            return struct.unpack(f"<{count}{code}", data) if count <= _KEPT_NUMBERS else ""
        self._texts += count
        if self._texts > _TEXTS:
            raise ModelError("its header is corrupt", f"it announces more than {_TEXTS:,} texts", "download it again")
        for _ in range(count):
            if inner == _TEXT:
                self._skip(int(self._number("Q")))
            else:
                self._value(inner, depth + 1)
        return ""

    def _number(self, code: str) -> int | float:
        found: int | float = struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))[0]
        return found

    def _text(self, keep: int = 1 << 16) -> str:
        length = int(self._number("Q"))
        text = self._bytes(min(length, keep))
        self._skip(length - len(text))
        return text.decode("utf-8", errors="replace")

    def _bytes(self, count: int) -> bytes:
        start = self._position
        self._skip(count)
        return bytes(self._buffer[start : start + count])

    def _skip(self, count: int) -> None:
        if count > len(self._buffer) - self._position:
            raise ModelError("it is no whole GGUF file", "because its header is cut off", "download it again")
        self._position += count


def _require_apart(tensors: tuple[StoredTensor, ...]) -> None:
    """Raise ModelError where tensors overlap."""
    position = 0
    for tensor in sorted(tensors, key=lambda each: (each.payload.start, each.payload.size)):
        if tensor.payload.start < position and tensor.payload.size:
            raise ModelError(
                f"tensor '{tensor.name[:200]}' of its header is corrupt",
                "its data overlap those of another tensor",
                "download it again",
            )
        position = max(position, tensor.payload.start + tensor.payload.size)
