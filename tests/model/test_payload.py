"""One tensor's data: read, scaled and encoded as onnx's numpy_helper and float64 arithmetic do it."""

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sn_graph.errors import ModelError
from sn_graph.model import Payload, wire
from sn_graph.model.payload import BLOCK_BYTES, Source, element_type
from tests.support.builders import Array
from tests.support.carriers import FLOATS, FORMS, TYPES, make_tensor, serialize, values


def in_memory(data: bytes, data_type: int, field: int = wire.RAW_DATA) -> Payload:
    return Payload(data_type, field, Source(memoryview(data)), 0, len(data))


def of_tensor(tensor: onnx.TensorProto) -> Payload:
    content = tensor.SerializeToString()
    found = wire.find_payload(memoryview(content), 0, len(content))
    assert found is not None
    return Payload(tensor.data_type, found.number, Source(memoryview(content)), found.value, found.end - found.value)


def written(payload: Payload, field: int) -> bytes:
    content = bytearray()
    for block in payload.blocks(field):
        content += block
    return bytes(content)


def spacing(exact: Array, dtype: np.dtype[Any]) -> Array:
    """The distance of neighbouring values of `dtype` at `exact`, subnormals counted; in float64."""
    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    _, exponent = np.frexp(np.abs(exact))
    return np.asarray(np.maximum(np.ldexp(1.0, exponent - 1 - info.nmant), float(info.smallest_subnormal)))


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("form", ["raw", "packed"])
def test_elements_are_numpy_helpers(data_type: str, form: str) -> None:
    tensor = make_tensor("t", data_type, 24, form, 5).proto
    del tensor.dims[:]
    tensor.dims.extend([2, 3, 4])
    array = of_tensor(tensor).elements((2, 3, 4))
    expected = numpy_helper.to_array(tensor)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = array[1]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1))
def test_32_bit_numbers_are_protobufs(numbers: list[int]) -> None:
    tensor = helper.make_tensor("t", TensorProto.INT32, [len(numbers)], numbers)
    payload = of_tensor(tensor)
    np.testing.assert_array_equal(payload.elements((len(numbers),)), numbers)
    assert Payload.of_array(np.array(numbers, np.int32), TensorProto.INT32, wire.INT32_DATA).data == payload.data


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_64_bit_numbers_are_protobufs(numbers: list[int]) -> None:
    tensor = helper.make_tensor("t", TensorProto.UINT64, [len(numbers)], numbers)
    payload = of_tensor(tensor)
    np.testing.assert_array_equal(payload.elements((len(numbers),)), np.array(numbers, np.uint64))
    assert Payload.of_array(np.array(numbers, np.uint64), TensorProto.UINT64, wire.UINT64_DATA).data == payload.data


@pytest.mark.parametrize("data_type", TYPES)
def test_typed_data_becomes_raw_data(data_type: str) -> None:
    payload = of_tensor(make_tensor("t", data_type, 33, "packed", 8).proto)
    raw = written(payload, wire.RAW_DATA)
    assert len(raw) == payload.encoded_size(wire.RAW_DATA)
    expected = numpy_helper.to_array(make_tensor("t", data_type, 33, "packed", 8).proto)
    number = TensorProto.DataType.Value(data_type)
    np.testing.assert_array_equal(in_memory(raw, number).elements((33,)), expected)


@pytest.mark.parametrize("data_type", [name for name in TYPES if "FLOAT8" not in name and "INT4" not in name])
def test_arrays_are_encoded_as_onnx_does(data_type: str) -> None:
    number = TensorProto.DataType.Value(data_type)
    array = values(number, 50, 1)
    tensor = helper.make_tensor("t", number, [50], array)
    payload = of_tensor(tensor)
    made = Payload.of_array(array, number, payload.field)
    assert made.data == payload.data
    assert made.encoded_size(payload.field) == len(payload.data)


@pytest.mark.parametrize("data_type", FLOATS)
@pytest.mark.parametrize("form", ["raw", "packed"])
@settings(max_examples=40, deadline=None)
@given(
    bits=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=200),
    mantissa=st.floats(0.5, 2.0),
    exponent=st.integers(-30, 30),
    negative=st.booleans(),
)
def test_scaling_is_correct_to_an_ulp(
    data_type: str, form: str, bits: list[int], mantissa: float, exponent: int, negative: bool
) -> None:
    """Any bit pattern, subnormals among them, times a factor of up to 1e±30."""
    number = TensorProto.DataType.Value(data_type)
    dtype = element_type(number)
    factor = (-mantissa if negative else mantissa) * 10.0**exponent
    array = np.array(bits, np.uint64).astype(f"u{dtype.itemsize}").view(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        array[~np.isfinite(array.astype(np.float64))] = 0
        exact = array.astype(np.float64) * factor
    field = wire.RAW_DATA if form == "raw" else of_tensor(helper.make_tensor("t", number, [1], [1.0])).field
    payload = Payload.of_array(array, number, field).scaled(factor)
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    if (np.abs(exact) > largest * (1 + 2.0**-23)).any() or not np.isfinite(exact).all():
        with pytest.raises(ModelError, match=f"does not fit into {dtype.name}"):
            payload.elements((len(bits),))
        with pytest.raises(ModelError, match=f"does not fit into {dtype.name}"):
            written(payload, field)
        return
    if (np.abs(exact) > largest * (1 - 2.0**-9)).any():
        return  # whether it rounds to infinity hangs on the last bit
    got = payload.elements((len(bits),))
    assert got.dtype == dtype
    # float32: the factor and the product are rounded once each (half a spacing, and up to one where the factor's
    # rounding meets a mantissa near 2); 16 bits: once, after float32; float64: the same single rounding as `exact`.
    room = {"FLOAT": 1.51, "DOUBLE": 0.0, "FLOAT16": 0.51, "BFLOAT16": 0.51}[data_type]
    assert (np.abs(got.astype(np.float64) - exact) <= room * spacing(exact, dtype)).all()
    content = written(payload, field)
    assert len(content) == payload.encoded_size(field)
    np.testing.assert_array_equal(in_memory(content, number, field).elements((len(bits),)), got)


@pytest.mark.parametrize("data_type", FLOATS)
@pytest.mark.parametrize("extra", [-1, 0, 1, 12345])
def test_blocks_join_without_a_seam(data_type: str, extra: int) -> None:
    number = TensorProto.DataType.Value(data_type)
    count = 2 * BLOCK_BYTES // 4 + extra
    array = values(number, count, 4)
    payload = Payload.of_array(array, number).scaled(0.3)
    got = np.frombuffer(written(payload, wire.RAW_DATA), array.dtype)
    exact = array.astype(np.float64) * 0.3
    assert (np.abs(got.astype(np.float64) - exact) <= 1.51 * spacing(exact, array.dtype)).all()
    np.testing.assert_array_equal(got, payload.elements((count,)))


def test_an_empty_payload_scales() -> None:
    payload = Payload.empty(TensorProto.FLOAT).scaled(2.0)
    assert written(payload, wire.RAW_DATA) == b""
    assert payload.elements((3, 0)).shape == (3, 0)


def test_factors_multiply() -> None:
    payload = Payload.of_array(np.array([1, -2], np.float32), TensorProto.FLOAT).scaled(3.0).scaled(0.5)
    np.testing.assert_array_equal(payload.elements((2,)), np.array([1.5, -3], np.float32))


@pytest.mark.parametrize("factor", [np.inf, -np.inf, np.nan])
def test_a_factor_is_finite(factor: float) -> None:
    with pytest.raises(ModelError, match="can't be multiplied by"):
        Payload.of_array(np.array([1.0]), TensorProto.DOUBLE).scaled(factor)
    with pytest.raises(ModelError, match="can't be multiplied by"):
        Payload.of_array(np.array([1.0]), TensorProto.DOUBLE).scaled(1e200).scaled(1e200)


@pytest.mark.parametrize("dims", [(2,), (-1,), (-1, -3), (4,), (2**40, 2**40), (0, -1), (3, 1, 0)])
@pytest.mark.parametrize("data_type", [TensorProto.FLOAT, TensorProto.FLOAT8E5M2])
def test_a_shape_that_the_data_do_not_fill_is_refused(dims: tuple[int, ...], data_type: int) -> None:
    data = bytes(3 * element_type(data_type).itemsize)
    with pytest.raises(ModelError, match="the file is corrupt: a tensor of shape"):
        in_memory(data, data_type).elements(dims)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (in_memory(b"12345", TensorProto.FLOAT), "ends inside an element"),
        (in_memory(b"12345", TensorProto.FLOAT).scaled(2.0), "ends inside an element"),
        (in_memory(b"\x80", TensorProto.INT32, wire.INT32_DATA), "cut off"),
        (in_memory(b"\x80" * 10 + b"\x01", TensorProto.INT64, wire.INT64_DATA), "too long"),
        (in_memory(b"\x80", TensorProto.INT4, wire.INT32_DATA), "can't be read"),
        (in_memory(b"1234", TensorProto.FLOAT, wire.DOUBLE_DATA), "field of another type"),
        (in_memory(b"1234", TensorProto.DOUBLE, wire.INT32_DATA), "field of another type"),
        (in_memory(b"1234", 99), "element type 99"),
        (in_memory(b"1234", TensorProto.UNDEFINED), "element type 0"),
        (in_memory(b"1234", TensorProto.STRING), "can't be read"),
    ],
)
def test_corrupt_data_are_refused(payload: Payload, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        payload.elements((1,))


@pytest.mark.parametrize("field", [wire.RAW_DATA, wire.INT32_DATA])
def test_corrupt_data_are_not_written_scaled(field: int) -> None:
    payload = in_memory(b"\x80\x80\x80", TensorProto.FLOAT16, field).scaled(2.0)
    with pytest.raises(ModelError, match="the file is corrupt"):
        written(payload, field)


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=40),
    data_type=st.integers(-1, 40),
    field=st.sampled_from(sorted(wire.PAYLOAD_FIELDS)),
    dims=st.lists(st.integers(-3, 12), max_size=3),
)
def test_nothing_but_a_model_error_escapes(data: bytes, data_type: int, field: int, dims: list[int]) -> None:
    try:
        array = in_memory(data, data_type, field).elements(tuple(dims))
    except ModelError:
        return
    assert array.shape == tuple(dims)


def test_raw_data_do_not_become_typed_data_of_an_exotic_type() -> None:
    with pytest.raises(ModelError, match="keep the model's storage"):
        written(in_memory(b"12", TensorProto.FLOAT8E5M2), wire.INT32_DATA)


def test_an_elements_view_copies_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(np.arange(8, dtype=np.float32).tobytes())
    source = Source.map(path)
    array = Payload(TensorProto.FLOAT, wire.RAW_DATA, source, 4, 12).elements((3,))
    np.testing.assert_array_equal(array, [1, 2, 3])
    assert np.shares_memory(array, np.frombuffer(source.buffer, np.uint8))


def test_only_ordinary_files_are_mapped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    assert len(Source.map(tmp_path / "empty").buffer) == 0
    for path, reason in ((tmp_path, "it is a folder"), (tmp_path / "pipe", "it is not an ordinary file")):
        with pytest.raises(OSError, match=reason):
            Source.map(path)


@pytest.mark.parametrize("form", FORMS[1:])
def test_the_helpers_here_write_what_onnx_reads(form: str) -> None:
    tensor = helper.make_tensor("t", TensorProto.INT32, [4], [1, -1, 2**31 - 1, -(2**31)])
    np.testing.assert_array_equal(
        numpy_helper.to_array(serialize(tensor, form, 1).proto), numpy_helper.to_array(tensor)
    )
