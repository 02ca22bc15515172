"""Foreign files: recognised by what they begin with, and never where a model can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from sn_graph.errors import ModelError
from sn_graph.model import Model, foreign
from tests.support.foreign_files import MODEL, foreign_files

FILES = foreign_files()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    content, said = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        Model.open(path)
    assert said in str(caught.value)
    assert caught.value.do
    assert str(path) in caught.value.what


FOLDERS = {
    "saved": (["saved_model.pb"], "a TensorFlow SavedModel"),
    "unpacked": (["metadata.json", "config.json", "model.weights.h5"], "a Keras model"),
    "a.mlpackage": (["Manifest.json"], "a Core ML model"),
    "models": (["b.onnx", "a.onnx"], "models/a.onnx"),
    "weights": (["model-00001-of-00002.safetensors"], "a folder with a checkpoint"),
    "nothing": ([], "a folder, not an ONNX model"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    files, said = FOLDERS[name]
    folder = tmp_path / name
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    with pytest.raises(ModelError) as caught:
        Model.open(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["a.pt", "a.keras", "model.engine", "saved_model.pb", "a.zip"])
def test_a_model_is_read_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(MODEL.read_bytes())
    assert Model.open(path).proto.graph.node


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert foreign(tmp_path / "nosuch") is None


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 100, 255, 256, 511, 512])
def test_a_text_is_told_wherever_the_reading_ends(length: int, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("é" * length, encoding="utf-8")
    found = foreign(path)
    assert found is not None
    assert found.what == "a text file"
