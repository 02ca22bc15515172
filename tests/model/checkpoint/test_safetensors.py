from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from sn_graph.errors import ModelError
from sn_graph.model.checkpoint import Checkpoint
from tests.support.checkpoints import entry, llama, raw

TYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int8, np.uint16, np.bool_]


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_tensors_are_those_of_the_formats_own_reader(tmp_path: Path, dtype: Any) -> None:
    values = np.random.default_rng(0).integers(0, 100, (7, 3, 2)).astype(dtype)
    save_file(
        {"one": values, "none": np.zeros((0, 4), dtype), "scalar": np.asarray(values[0, 0, 0])},
        tmp_path / "a.safetensors",
    )
    found = {tensor.name: tensor for tensor in Checkpoint.open(tmp_path / "a.safetensors").tensors}
    with safe_open(tmp_path / "a.safetensors", "np") as reader:
        assert set(reader.keys()) == set(found)
    assert (found["one"].dtype, found["one"].shape) == (np.dtype(dtype).name, (7, 3, 2))
    assert (found["none"].shape, found["scalar"].shape) == ((0, 4), ())
    read = found["one"].payload.elements((7, 3, 2))
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, values)


def test_values_are_a_view_of_the_file(tmp_path: Path) -> None:
    save_file(llama(), tmp_path / "a.safetensors")
    tensor = Checkpoint.open(tmp_path / "a.safetensors").weights[0]
    matrix = tensor.matrix()
    assert not matrix.flags.owndata
    assert not matrix.flags.writeable


def test_eight_bit_floats_become_float32_exactly(tmp_path: Path) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for kind, dtype in (("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)):
        path = raw(tmp_path / f"{kind}.safetensors", {"w": entry(kind, [16, 16], 0, 256)}, every.tobytes())
        found = Checkpoint.open(path).weights[0].matrix()
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, every.view(dtype).astype(np.float32))


def test_scaled_eight_bit_floats_are_not_taken_for_values(tmp_path: Path) -> None:
    header = {"w": entry("F8_E4M3", [2, 2], 0, 4), "w_scale_inv": entry("F32", [1, 1], 4, 8)}
    path = raw(tmp_path / "a.safetensors", header, bytes(8))
    assert "w_scale_inv" in (Checkpoint.open(path).weights[0].refusal or "")


def test_codes_are_not_taken_for_values(tmp_path: Path) -> None:
    save_file({"layer.qweight": np.zeros((4, 4), np.int32)}, tmp_path / "a.safetensors")
    assert "codes" in (Checkpoint.open(tmp_path / "a.safetensors").weights[0].refusal or "")


TWO = entry("F32", [2], 0, 8)
HOSTILE: dict[str, tuple[object, bytes]] = {
    "hole": ({"a": TWO, "b": entry("F32", [2], 12, 20)}, bytes(20)),
    "hole before the first": ({"a": entry("F32", [2], 4, 12)}, bytes(12)),
    "overlap": ({"a": TWO, "b": entry("F32", [2], 4, 12)}, bytes(12)),
    "the same place": ({"a": TWO, "b": TWO}, bytes(8)),
    "bytes behind": ({"a": TWO}, bytes(9)),
    "cut off": ({"a": TWO}, bytes(7)),
    "end before start": ({"a": entry("F32", [2], 8, 0)}, bytes(8)),
    "wrong size": ({"a": entry("F32", [3], 0, 8)}, bytes(8)),
    "negative": ({"a": entry("F32", [-2], 0, 8)}, bytes(8)),
    "overflowing shape": ({"a": entry("F32", [2**32, 2**32, 4], 0, 8)}, bytes(8)),
    "beyond 64 bits": ({"a": entry("F32", [2**200], 0, 8)}, bytes(8)),
    "true as a size": ({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, bytes(8)),
    "float as a size": ({"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, bytes(8)),
    "text as a size": ({"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}, bytes(8)),
    "unknown type": ({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "type of a type": ({"a": {"dtype": {}, "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "three offsets": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, bytes(8)),
    "more than it should": ({"a": {**TWO, "more": 1}}, bytes(8)),
    "no object": ({"a": 1}, b""),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": TWO}, bytes(8)),
    "a hundred dimensions": ({"a": entry("F32", [1] * 99 + [2], 0, 8)}, bytes(8)),
    "twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "twice inside": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "many": (b'{"a":[' + b"[]," * 2_000_000 + b"1]}", b""),
    "NaN": (b'{"a":NaN}', b""),
    "long number": (b'{"a":' + b"9" * 100_000 + b"}", b""),
    "an array": (b"[]", b""),
    "not UTF-8": (b'{"\xff":1}', b""),
    "not JSON": (b"{", b""),
    "empty header": (b"", b""),
}


@pytest.mark.parametrize("case", HOSTILE, ids=HOSTILE)
def test_what_is_not_exactly_right_is_refused(tmp_path: Path, case: str) -> None:
    path = raw(tmp_path / "a.safetensors", *HOSTILE[case])
    with pytest.raises(ModelError, match=r"a\.safetensors"):
        Checkpoint.open(path)


@pytest.mark.parametrize("length", [1, 2**31, 2**63, 2**64 - 1])
def test_a_length_that_the_file_does_not_have_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelError):
        Checkpoint.open(raw(tmp_path / "a.safetensors", {"a": TWO}, bytes(8), length=length))


def test_a_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.safetensors", b"{", length=1 << 30)
    with open(path, "r+b") as file:
        file.truncate(8 + (1 << 30))  # sparse
    with pytest.raises(ModelError, match="at most"):
        Checkpoint.open(path)


@pytest.mark.parametrize("size", [0, 7, 8])
def test_short_files_are_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(bytes(size))
    with pytest.raises(ModelError):
        Checkpoint.open(tmp_path / "a.safetensors")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        with pytest.raises(ModelError, match="can't be read"):
            Checkpoint.open(tmp_path / name)


@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_no_changed_byte_does_more_than_the_formats_own_reader_allows(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, folder / "a.safetensors")
    content = bytearray((folder / "a.safetensors").read_bytes())
    content[position % len(content)] = byte
    (folder / "a.safetensors").write_bytes(content)
    try:
        mine = {tensor.name: tensor.shape for tensor in Checkpoint.open(folder / "a.safetensors").tensors}
    except ModelError:
        return
    try:
        theirs = load_file(folder / "a.safetensors")
    except (SafetensorError, KeyError, AttributeError):  # a type that numpy lacks is no fault of the header
        with safe_open(folder / "a.safetensors", "np") as reader:
            assert set(mine) == set(reader.keys())
        return
    assert mine == {name: value.shape for name, value in theirs.items()}
