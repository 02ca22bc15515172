import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.model.checkpoint import Checkpoint
from tests.support.checkpoints import sigma

gguf = pytest.importorskip("gguf", reason="the package gguf, which writes the files compared with, is not installed")

QUANTIZED = [kind for kind in gguf.GGMLQuantizationType if kind in gguf.quants._type_traits and kind.name != "BF16"]


def values(rows: int = 8, columns: int = 512) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


def written(path: Path, add: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_quantized_values_are_those_of_the_package_bit_for_bit(tmp_path: Path, kind: Any) -> None:
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        packed = gguf.quants.quantize(values(), kind)
    except NotImplementedError:  # the package can only read it: any bits are some values
        packed = np.random.default_rng(1).integers(0, 60, (8, 512 // elements * size)).astype(np.uint8)
    path = written(tmp_path / "a.gguf", lambda writer: writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=kind))
    tensor = Checkpoint.open(path).weights[0]
    wanted = gguf.quants.dequantize(packed, kind)
    assert (tensor.dtype, tensor.shape) == (kind.name, wanted.shape)
    np.testing.assert_array_equal(tensor.values().view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64], ids=lambda dtype: np.dtype(dtype).name)
def test_floats_are_a_view_of_the_file(tmp_path: Path, dtype: Any) -> None:
    array = values().astype(dtype)
    path = written(tmp_path / "a.gguf", lambda writer: writer.add_tensor("output.weight", array))
    found = Checkpoint.open(path).weights[0].matrix()
    assert not found.flags.owndata
    np.testing.assert_array_equal(found, array)


def test_bfloat16_is_read_as_the_package_reads_it(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.BF16
    packed = gguf.quants.quantize(values(), kind)
    path = written(tmp_path / "a.gguf", lambda writer: writer.add_tensor("output.weight", packed, raw_dtype=kind))
    found = Checkpoint.open(path).weights[0].matrix()
    np.testing.assert_array_equal(found.astype(np.float32), gguf.quants.dequantize(packed, kind))


def test_every_tensor_of_a_file_is_where_the_packages_reader_finds_it(tmp_path: Path) -> None:
    def add(writer: Any) -> None:
        writer.add_array("tokenizer.ggml.tokens", [f"<{i}>" for i in range(1000)])
        writer.add_array("tokenizer.ggml.scores", [float(i) for i in range(1000)])
        writer.add_head_count([4, 8])
        writer.add_head_count_kv(2)
        for layer in range(2):
            writer.add_tensor(f"blk.{layer}.attn_q.weight", values(16, 24))
            writer.add_tensor(f"blk.{layer}.attn_norm.weight", values(1, 24)[0])

    path = written(tmp_path / "a.gguf", add)
    found = Checkpoint.open(path)
    for tensor, theirs in zip(found.tensors, gguf.GGUFReader(path).tensors, strict=True):
        assert (tensor.name, tensor.payload.start) == (theirs.name, theirs.data_offset)
        np.testing.assert_array_equal(tensor.values(), theirs.data)
    assert [found.heads.of(f"blk.{layer}.attn_q.weight", 16) for layer in range(2)] == [4, 8]
    assert found.heads.of("blk.1.attn_k.weight", 16) == 2


def test_sigma_of_quantized_weights_is_that_of_their_values(tmp_path: Path) -> None:
    import sn_graph as sn

    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quants.quantize(values(96, 256), kind)
    path = written(tmp_path / "a.gguf", lambda writer: writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=kind))
    record = sn.inspect(path).sites[0]
    assert record.sigma == pytest.approx(sigma(gguf.quants.dequantize(packed, kind)), rel=1e-6)
    assert (record.dtype, record.role, record.matrix) == ("Q8_0", "mlp.up", (96, 256))


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


def tensor(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(
    tensors: list[bytes], pairs: Sequence[bytes] = (), *, version: int = 3, data: int = 4096, counts: Any = None
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    body = head + b"".join(pairs) + b"".join(tensors)
    return body + bytes(-len(body) % 32 + data)


ONE = tensor("a", [4, 4], 0, 0)
HOSTILE = {
    "not GGUF": b"GGML" + bytes(100),
    "version 1": file([ONE], version=1),
    "big-endian": file([ONE], version=0x03000000),
    "cut off": file([ONE])[:30],
    "empty": b"",
    "more tensors than bytes": file([ONE], counts=(2**63, 0)),
    "more pairs than bytes": file([ONE], counts=(1, 2**63)),
    "beyond the file": file([tensor("a", [4, 4], 0, 4096)]),
    "far beyond the file": file([tensor("a", [4, 4], 0, 2**63)]),
    "too large": file([tensor("a", [2**40, 2**40], 0, 0)]),
    "overlap": file([ONE, tensor("b", [4, 4], 0, 32)]),
    "twice": file([ONE, tensor("a", [4, 4], 0, 64)]),
    "not aligned": file([tensor("a", [4, 4], 0, 3)]),
    "rows that are no blocks": file([tensor("a", [33, 4], 2, 0)]),
    "unknown type": file([tensor("a", [4, 4], 4, 0)]),
    "a hundred dimensions": file([tensor("a", [1] * 100, 0, 0)]),
    "name beyond the file": file([struct.pack("<Q", 2**62)]),
    "key twice": file([ONE], [text("k") + struct.pack("<IB", 0, 1)] * 2),
    "unknown value": file([ONE], [text("k") + struct.pack("<I", 99)]),
    "array beyond the file": file([ONE], [text("k") + struct.pack("<IIQ", 9, 10, 2**60)]),
    "texts beyond the file": file([ONE], [text("k") + struct.pack("<IIQ", 9, 8, 2**60)]),
    "arrays of arrays": file([ONE], [text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50 + bytes(20)]),
    "alignment 0": file([ONE], [text("general.alignment") + struct.pack("<II", 4, 0)]),
    "alignment 3": file([ONE], [text("general.alignment") + struct.pack("<II", 4, 3)]),
}


@pytest.mark.parametrize("case", HOSTILE, ids=HOSTILE)
def test_what_is_not_exactly_right_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "a.gguf").write_bytes(HOSTILE[case])
    with pytest.raises(ModelError, match=r"a\.gguf"):
        Checkpoint.open(tmp_path / "a.gguf")


def test_the_file_that_the_hostile_ones_are_made_of_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(file([ONE], [text("k") + struct.pack("<IB", 0, 1)]))
    assert Checkpoint.open(tmp_path / "a.gguf").weights[0].shape == (4, 4)


@settings(deadline=None)
@given(position=st.integers(0, 200), byte=st.integers(0, 255))
def test_no_changed_byte_leads_outside_the_file(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    content = bytearray(file([ONE, tensor("b.weight", [32, 2], 8, 64)], [text("key") + struct.pack("<II", 4, 7)]))
    content[position % len(content)] = byte
    path = tmp_path_factory.mktemp("mutated") / "a.gguf"
    path.write_bytes(content)
    try:
        found = Checkpoint.open(path)
    except ModelError:
        return
    for each in found.tensors:
        assert 0 <= each.payload.start <= each.payload.start + each.payload.size <= len(content)
