"""Data files: which locations are refused, what of a tensor's place may be missing, how a new file is laid out."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from sn_graph.errors import ModelError
from sn_graph.model import Payload, set_location
from sn_graph.model.external import (
    ALIGNMENT,
    PAGE_ALIGNMENT,
    DataFile,
    external_location,
    external_payload,
    resolve_location,
)
from sn_graph.model.payload import Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with `data`, `sub/data` and links; behind it, `secret`."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "data", folder / "sub" / "data", tmp_path / "secret"):
        path.write_bytes(np.arange(16, dtype=np.float32).tobytes())
    (folder / "link").symlink_to("data")
    (folder / "out").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    return folder


def tensor(**entries: str) -> onnx.TensorProto:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        made.external_data.add(key=key, value=value)
    return made


@pytest.mark.parametrize("location", ["data", "./data", "sub/data", "sub//data", "absent"])
def test_locations_in_the_folder_are_taken(folder: Path, location: str) -> None:
    assert resolve_location(location, folder, "w") == folder.resolve() / os.path.normpath(location)


@pytest.mark.parametrize(
    "location",
    [
        "", ".", "..", "../secret", "sub/../../secret", "sub/../data", "../model/data", "/etc/passwd", "//data",
        "link", "out", "up/secret", "loop", "loop/x", "..\\secret", "sub\\data", "C:\\data", "\\\\host\\data", "a\0b",
        "x" * 5000 + "/../../secret",
    ],
)  # fmt: skip
def test_locations_that_lead_away_are_refused(folder: Path, location: str) -> None:
    with pytest.raises(ModelError, match="outside the model's folder or behind a link"):
        resolve_location(location, folder, "w")


def test_an_absolute_location_in_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="outside the model's folder"):
        resolve_location(str(folder / "data"), folder, "w")


def test_the_folder_itself_may_be_behind_a_link(folder: Path) -> None:
    (folder.parent / "alias").symlink_to("model")
    assert resolve_location("data", folder.parent / "alias", "w") == folder.resolve() / "data"


@given(st.text(max_size=20).map(lambda text: text.replace("s", "/").replace("t", "..")))
def test_no_location_leads_out(location: str) -> None:
    folder = Path("/nonexistent/model")
    try:
        path = resolve_location(location, folder, "w")
    except ModelError:
        return
    assert path.is_relative_to(folder)
    assert path != folder


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, np.arange(16)),
        ({"length": "8"}, [0, 1]),
        ({"offset": "56"}, [14, 15]),
        ({"offset": "4", "length": "4"}, [1]),
        ({"offset": "", "length": ""}, np.arange(16)),
        ({"offset": "64"}, []),
        ({"offset": "64", "length": "0"}, []),
        ({"checksum": "unread"}, np.arange(16)),
    ],
)
def test_missing_entries_mean_the_whole_file(folder: Path, entries: dict[str, str], expected: list[int]) -> None:
    payload = external_payload(tensor(location="data", **entries), folder / "m.onnx", {})
    np.testing.assert_array_equal(payload.elements((len(expected),)), np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"location": "absent"}, "the data file absent of tensor 'w' can't be read: No such file"),
        ({"location": "sub"}, "the data file sub of tensor 'w' can't be read: it is a folder"),
        ({"location": "data", "length": "65"}, "is cut off: tensor 'w' reaches to byte 65 of 64"),
        ({"location": "data", "offset": "60", "length": "8"}, "is cut off"),
        ({"location": "data", "offset": "65"}, "is cut off: tensor 'w' reaches to byte 65 of 64"),
        ({"location": "data", "offset": "-4", "length": "4"}, "has no valid place"),
        ({"location": "data", "length": "-4"}, "has no valid place"),
        ({"location": "data", "length": "many"}, "has no valid place"),
        ({"location": "data", "offset": "1.5"}, "has no valid place"),
        ({"location": "data", "length": "9" * 5000}, "has no valid place"),
        ({"offset": "0"}, "outside the model's folder"),
    ],
)
def test_a_place_that_is_not_there_is_refused(folder: Path, entries: dict[str, str], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        external_payload(tensor(**entries), folder / "m.onnx", {})


@pytest.mark.parametrize("swapped", ["data", "sub"])
def test_a_link_that_is_put_there_behind_the_check_is_not_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    def swap(location: str, model_folder: Path, name: str) -> Path:
        path = resolve_location(location, model_folder, name)
        (folder.parent / "sub").mkdir()
        (folder.parent / "sub" / "data").write_bytes(bytes(64))
        (folder / swapped).rename(folder / "away")
        (folder / swapped).symlink_to(f"../{'secret' if swapped == 'data' else 'sub'}")
        return path

    monkeypatch.setattr("sn_graph.model.external.resolve_location", swap)
    location = "data" if swapped == "data" else "sub/data"
    with pytest.raises(ModelError, match="outside the model's folder or behind a link"):
        external_payload(tensor(location=location), folder / "m.onnx", {})


def test_a_pipe_that_is_put_there_is_not_waited_for(folder: Path) -> None:
    (folder / "data").unlink()
    os.mkfifo(folder / "data")
    with pytest.raises(ModelError, match="it is not an ordinary file"):
        external_payload(tensor(location="data"), folder / "m.onnx", {})


def test_a_location_that_is_no_text_is_refused(folder: Path) -> None:
    content = tensor(location="XY").SerializeToString().replace(b"XY", b"\xff\xfe")
    with pytest.raises(ModelError):
        external_payload(TensorProto.FromString(content), folder / "m.onnx", {})


def test_a_model_in_memory_has_no_data_files() -> None:
    with pytest.raises(ModelError, match="a model in memory has no folder; open the model by its path"):
        external_payload(tensor(location="data"), None, {})


def test_a_file_is_mapped_once(folder: Path) -> None:
    files: dict[Path, Source] = {}
    first, second = (external_payload(tensor(location=name), folder / "m.onnx", files) for name in ("data", "./data"))
    assert first.source is second.source
    assert len(files) == 1


def test_the_last_entry_of_a_key_counts_as_in_onnx() -> None:
    made = tensor(location="absent")
    made.external_data.add(key="location", value="data")
    assert external_location(made) == "data" == onnx.external_data_helper.ExternalDataInfo(made).location


def test_setting_and_clearing_a_location() -> None:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], raw_data=b"12345678")
    made.external_data.add(key="note", value="kept")
    made.external_data.add(key="checksum", value="of the old data")
    set_location(made, "file", 64, 8)
    assert [(entry.key, entry.value) for entry in made.external_data] == [
        ("location", "file"),
        ("offset", "64"),
        ("length", "8"),
        ("note", "kept"),
    ]
    assert not made.HasField("raw_data")
    set_location(made, None)
    assert [(entry.key, entry.value) for entry in made.external_data] == [("note", "kept")]
    assert not made.HasField("data_location")


@given(st.lists(st.integers(0, 3000), max_size=8), st.booleans())
def test_a_data_file_is_aligned_and_holds_each_payload_once(sizes: list[int], twice: bool) -> None:
    payloads = [Payload.of_array(np.full(n, n % 251, np.uint8), TensorProto.UINT8) for n in sizes]
    layout = DataFile()
    assert not layout.used
    places = [layout.add(payload) for payload in payloads * (1 + twice)]
    content = b"".join(layout.chunks())
    assert len(content) == layout.size
    assert places == places[: len(sizes)] * (1 + twice)
    for payload, (offset, length) in zip(payloads, places, strict=False):
        assert offset % ALIGNMENT == 0
        assert content[offset : offset + length] == payload.data
    ends = sorted((offset, offset + length) for offset, length in places[: len(sizes)] if length)
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))


def test_large_payloads_start_on_a_page() -> None:
    layout = DataFile()
    layout.add(Payload.of_array(np.zeros(3, np.uint8), TensorProto.UINT8))
    offset, _ = layout.add(Payload.of_array(np.zeros(1 << 20, np.uint8), TensorProto.UINT8))
    assert offset == PAGE_ALIGNMENT
