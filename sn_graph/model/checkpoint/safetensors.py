"""Safetensors: the header of a file, read so that what is not exactly right is refused.

    8 bytes N, little-endian; N bytes of JSON, {name: {dtype, shape, data_offsets: [begin, end]}}; the data

The data must be covered by the tensors from end to end, without holes or overlaps, as the format's own reader asks:
https://github.com/huggingface/safetensors, README, "Format".
"""

import math
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.model import RAW_DATA, Payload, Source
from sn_graph.model.checkpoint.bounded import HEADER_LIMIT, decode_object
from sn_graph.model.checkpoint.stored import StoredTensor, item_size, onnx_type

LENGTH_BYTES = 8
_RANK_LIMIT = 64
# What the format calls a type, and numpy (ml_dtypes).
TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
# Bits of the types that have no values here.
_OTHER_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "C64": 64}


def data_start(source: Source) -> int:
    """Return where a file's data begin. Raises ModelError where the file has no header."""
    size = len(source.buffer)
    if size < LENGTH_BYTES:
        raise ModelError("it is no safetensors file", f"because it has {size} bytes and the header's length has 8")
    length = int.from_bytes(source.buffer[:LENGTH_BYTES], "little")
    if length > size - LENGTH_BYTES:
        raise ModelError(
            "it is no whole safetensors file",
            f"because its header should have {length:,} bytes, of {size - LENGTH_BYTES:,} that follow",
            "download it again",
        )
    if length > HEADER_LIMIT:
        raise ModelError(f"its header has {length:,} bytes", f"where at most {HEADER_LIMIT:,} are read")
    if bytes(source.buffer[LENGTH_BYTES : LENGTH_BYTES + 1]) != b"{":
        raise ModelError("it is no safetensors file", "because its header does not begin with {", "download it again")
    return LENGTH_BYTES + length


def read_tensors(source: Source) -> tuple[StoredTensor, ...]:
    """Return the tensors of a mapped file, in the header's order.

    Raises:
        ModelError: The header is not exactly as the format says.
    """
    begin = data_start(source)
    header = decode_object(bytes(source.buffer[LENGTH_BYTES:begin]), "its header")
    _check_metadata(header.pop("__metadata__", {}))
    room = len(source.buffer) - begin
    found = {name: _entry(name, entry, room) for name, entry in header.items()}
    _require_covered({name: (start, end) for name, (_, _, start, end) in found.items()}, room)
    names = frozenset(found)
    return tuple(
        _tensor(name, kind, shape, source, begin + start, end - start, names)
        for name, (kind, shape, start, end) in found.items()
    )


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError("its metadata are not texts by name", do="download it again")


def _entry(name: str, entry: Any, room: int) -> tuple[str, tuple[int, ...], int, int]:
    """Return (type, shape, start, end) of a tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(name, "its entry does not have just dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or (kind not in TYPES and kind not in _OTHER_BITS):
        raise _corrupt(name, f"its type is {str(kind)[:40]!r}, which nobody knows")
    if not isinstance(shape, list) or len(shape) > _RANK_LIMIT or not all(map(_is_count, shape)):
        raise _corrupt(name, "its shape is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise _corrupt(name, "its data_offsets are not two positions")
    start, end = offsets
    bits = math.prod(shape) * (8 * item_size(TYPES[kind]) if kind in TYPES else _OTHER_BITS[kind])
    if end > room:
        raise _corrupt(name, f"its data end at byte {min(end, 2**63):,} of {room:,}")
    if end - start != -(-bits // 8):
        raise _corrupt(name, f"its shape and type do not take the {end - start:,} bytes that it has")
    return kind, tuple(shape), start, end


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _require_covered(places: dict[str, tuple[int, int]], room: int) -> None:
    """Raise ModelError where tensors overlap, or bytes belong to none."""
    position = 0
    for name, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        if start != position:
            how = "overlap those of another tensor" if start < position else "leave a hole before them"
            raise _corrupt(name, f"its data {how}")
        position = end
    if position != room:
        raise ModelError("its header is corrupt", f"{room - position:,} bytes belong to no tensor", "download it again")


def _tensor(
    name: str, kind: str, shape: tuple[int, ...], source: Source, start: int, size: int, names: frozenset[str]
) -> StoredTensor:
    if kind not in TYPES:
        payload = Payload(onnx_type("uint8"), RAW_DATA, source, start, size)
        return StoredTensor(name, kind, shape, payload, refusal=f"values of type {kind} have no norm here")
    dtype = TYPES[kind]
    payload = Payload(onnx_type(dtype), RAW_DATA, source, start, size)
    return StoredTensor(name, dtype, shape, payload, refusal=_refusal(name, dtype, names))


def _refusal(name: str, dtype: str, names: frozenset[str]) -> str | None:
    """Return why the numbers of a tensor are not a weight's values."""
    if not dtype.startswith(("float", "bfloat")):
        return f"its {dtype} numbers are codes or indices, whose values the file does not tell"
    scales = [other for suffix in ("_scale_inv", "_scale") if (other := name + suffix) in names]
    if dtype.startswith("float8") and scales:
        return f"its values are {dtype} times those of '{scales[0]}', in a way that the file does not tell"
    return None


def _corrupt(name: str, why: str) -> ModelError:
    return ModelError(f"tensor '{name[:200]}' of its header is corrupt", why, "download it again")
