"""Files that are cut, flipped, nested or no models at all: read as protobuf reads them, or refused in one line."""

import contextlib
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from sn_graph.errors import ModelError, SnGraphError
from sn_graph.model import Graph, Model
from tests.support.carriers import (
    field,
    find_tensors,
    make_model,
    make_tensor,
    tag,
)
from tests.support.stored import BIG, folder, random_weight, simple, write


@pytest.fixture(scope="module")
def small_model() -> bytes:
    places = [
        ("initializer", make_tensor("w", "FLOAT", 300, "raw", 1)),
        ("constant", make_tensor("c", "INT64", 9, "packed", 2)),
    ]
    return make_model(places, 4)


def open_bytes(content: bytes) -> Model:
    with folder() as place:
        model = Model.open(write(place / "m.onnx", content))
        Graph(model.proto)
        for tensor in find_tensors(model.proto):
            with contextlib.suppress(SnGraphError):
                model.array(tensor)
        model.save(place / "out.onnx")
        return model


def test_every_prefix_is_read_or_refused(small_model: bytes) -> None:
    refused = 0
    for length in range(len(small_model)):
        try:
            open_bytes(small_model[:length])
        except ModelError:
            refused += 1
    assert refused > 0.98 * len(small_model)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_flipped_bytes_are_read_or_refused(small_model: bytes, data: st.DataObject) -> None:
    content = bytearray(small_model)
    head = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(head, min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SnGraphError):
        open_bytes(bytes(content))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for attempt in (content, field(7, content), field(7, field(1, field(5, content))), field(7, field(5, content))):
        with contextlib.suppress(SnGraphError):
            open_bytes(attempt)


def nested(depth: int) -> bytes:
    """A model whose If nodes hold one another."""
    content = field(2, b"g")
    for _ in range(depth):
        content = field(1, field(5, field(1, b"then_branch") + field(6, content)) + field(2, b"y") + field(4, b"If"))
    return tag(1, 0) + b"\x08" + field(7, content)


@pytest.mark.parametrize("depth", [1, 10, 30, 32, 33, 34, 100, 5000])
def test_deep_nesting_is_read_as_protobuf_does_or_refused(depth: int) -> None:
    content = nested(depth)
    try:
        onnx.ModelProto.FromString(content)
    except Exception:  # whatever protobuf calls it
        with pytest.raises(ModelError):
            open_bytes(content)
    else:
        assert open_bytes(content).to_proto() == onnx.ModelProto.FromString(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\n", b"no model, just text\n" * 100, b"\x08\x08", b"PK\x03\x04" + bytes(300), bytes(5000)],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx(:| is) .*\w.*[;:] .*\w"):
        Model.open(write(tmp_path / "m.onnx", content))


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx can't be read: No such file"):
        Model.open(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is a folder, not an ONNX model; give"):
        Model.open(tmp_path)
    with pytest.raises(ModelError, match="can't be read: Not a directory"):
        Model.open(write(tmp_path / "file", b"x") / "m.onnx")


def test_a_model_in_two_parts_is_refused(tmp_path: Path) -> None:
    content = simple(w=random_weight()).SerializeToString()
    with pytest.raises(ModelError, match="GraphProto in it comes in two parts"):
        Model.open(write(tmp_path / "m.onnx", content + content))


@pytest.mark.parametrize("location", ["../w", "/w", "link", "absent", "short", "", "a\0b", "loop"])
def test_bad_data_files_are_refused_when_the_model_is_opened(tmp_path: Path, location: str) -> None:
    proto = simple(w=random_weight())
    (tensor,) = proto.graph.initializer
    (tmp_path / "short").write_bytes(bytes(10))
    (tmp_path / "link").symlink_to("short")
    (tmp_path / "loop").symlink_to("loop")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(BIG))):
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(ModelError, match=r"m\.onnx: .*; (put|copy) "):
        Model.open(write(tmp_path / "m.onnx", proto.SerializeToString()))
