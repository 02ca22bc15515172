"""Saved Keras models: .keras files, .h5 files and SavedModel folders, loaded by the generation that wrote them."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.frontends.keras.frameworks import Generation, import_keras, quiet, require, said
from sn_graph.model import foreign, open_ordinary

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"


def load(path: str | os.PathLike[str]) -> Any:
    """Load a Keras model from a .keras file, a .h5 file or a SavedModel folder, by the generation that wrote it.

    SpectralNormalization is passed as a custom object, which files of tf.keras 2.x need. Nothing is compiled. A Lambda
    layer of Python code is refused in a .keras file and in a .h5 file of Keras 3; in a .h5 file or SavedModel of
    tf.keras 2.x it runs, so load only files that you trust.

    Raises:
        ModelError: The file is missing, holds no Keras model, or Keras can't load it.
        EnvironmentUnavailable: The Keras that wrote it (Keras 3 or tf_keras) is not installed, or this process has
            decided for the other one.
    """
    path = Path(path)
    generation = written_by(path)
    keras = import_keras(generation)
    try:
        with quiet():
            objects = {"SpectralNormalization": keras.layers.SpectralNormalization}
            return keras.models.load_model(str(path), custom_objects=objects, compile=False)
    except Exception as error:  # whatever a layer's own code raises
        raise ModelError(f"{path}: {generation} can't load it", said(error), "load it in Python and export that") from (
            error
        )


def is_keras_file(path: str | os.PathLike[str]) -> bool:
    """Say whether a path looks like a saved Keras model, and not like an ONNX one; reads no more than its beginning."""
    path = Path(path)
    if os.path.isdir(path):
        return (path / "saved_model.pb").exists() or (path / "metadata.json").exists()
    try:
        with open_ordinary(path) as file:
            start = file.read(len(_HDF5))
    except OSError:
        return False
    return start == _HDF5 or start.startswith(_ZIP)


def written_by(path: Path) -> Generation:
    """Return which Keras wrote a saved model. Raises ModelError where it is none, or can't be read."""
    try:
        if os.path.isdir(path):
            return _of_folder(path)
        with open_ordinary(path) as file:
            start = file.read(len(_HDF5))
        if start == _HDF5:
            return _of_hdf5(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _of_metadata(path, archive.read("metadata.json"))
        if start.startswith(_ZIP):
            raise ModelError(
                f"{path} is not a whole .keras file", "the archive has no end", "save or copy the model again"
            )
    except OSError as error:
        raise ModelError(f"{path} can't be read", str(error.strerror or error), "give a saved Keras model") from None
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a whole .keras file", said(error), "save the model again") from None
    raise _other(path)


def _other(path: Path) -> ModelError:
    """Return the error for what is no Keras model: what it is, where that can be told."""
    if path.suffix.lower() == ".onnx":
        return ModelError(
            f"{path} is not a Keras model", "but an ONNX one, by its name", "fold and insert take it as it is"
        )
    found = foreign(path, by_name=False)
    what = f"{path} is {found.what}, not a Keras model" if found is not None else f"{path} is not a Keras model"
    return ModelError(what, do="give a .keras file, a .h5 file or a SavedModel folder")


def _of_folder(path: Path) -> Generation:
    if (path / "metadata.json").exists():  # a .keras file that was unpacked
        return _of_metadata(path, (path / "metadata.json").read_bytes())
    if not (path / "saved_model.pb").exists():
        raise ModelError(
            f"{path} is a folder without a SavedModel", do="give a .keras file, a .h5 file or a SavedModel"
        )
    if not (path / "keras_metadata.pb").exists():
        raise ModelError(
            f"{path} is a SavedModel without Keras's layers (as model.export writes it)",
            "so its SpectralNormalization can't be told",
            "save the model with model.save('….keras')",
        )
    return Generation.LEGACY  # Keras 3 writes none that can be loaded again


def _of_metadata(path: Path, content: bytes) -> Generation:
    try:
        version = json.loads(content)["keras_version"]
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{path}: its metadata.json names no Keras version", do="save the model again") from None
    return _of_version(version)


def _of_hdf5(path: Path) -> Generation:
    h5py = require("h5py", "a .h5 file")
    with h5py.File(path, "r") as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
    if config is None:
        raise ModelError(
            f"{path} holds weights without their model",
            do="save the whole model with model.save('….keras')",
        )
    return _of_version(version.decode() if isinstance(version, bytes) else version)


def _of_version(version: object) -> Generation:
    return Generation.KERAS_3 if str(version).split(".")[0] == "3" else Generation.LEGACY
