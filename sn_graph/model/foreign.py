"""Foreign files: what a file that is not an ONNX model is, by its first bytes, and what to do with it.

Asked only when a file could not be read as a model, so that nothing that can be is refused.
"""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sn_graph.errors import ModelError
from sn_graph.model.reading import open_ordinary

_HEAD = 512  # bytes that are looked at; a tar's mark is at 257
_TO_ONNX = "export it with torch.onnx.export (docs/torch.md), then give the .onnx file"
_UNPACK = "unpack it and give the .onnx file"
_BACK = "give the ONNX model that it was made of"
_ITS_MODEL = "give the ONNX model; inspect and fold take checkpoints too, whose names end in .safetensors or .gguf"
_AGAIN = "download it again"


@dataclass(frozen=True)
class Foreign:
    """A kind of file, as a sentence goes on after "FILE is", and what its user may do."""

    what: str
    do: str


_KERAS = Foreign("a Keras model", "sn-graph export-keras makes an ONNX model of it")
_SAVED_MODEL = Foreign("a TensorFlow SavedModel", "give its folder to sn-graph export-keras, or to tf2onnx")
_TORCH = Foreign("a PyTorch file", f"load the module and {_TO_ONNX}")
_SAFETENSORS = Foreign("a safetensors checkpoint, weights without a graph", _ITS_MODEL)
_CORE_ML = Foreign("a Core ML model", _BACK)
_OPENVINO = Foreign("an OpenVINO model", _BACK)

# What a file begins with, or has at a place; longer marks come before shorter ones that they begin with.
_MARKS = (
    (0, b"\x89HDF\r\n\x1a\n", Foreign("an HDF5 file, of Keras perhaps", _KERAS.do)),
    (0, b"GGUF", Foreign("a GGUF checkpoint, weights without a graph", _ITS_MODEL)),
    (0, b"version https://git-lfs", Foreign("a Git LFS pointer and not the file itself", "fetch it with git lfs pull")),
    (0, b"/annex/objects/", Foreign("a git-annex pointer and not the file itself", "fetch it with git annex get")),
    (0, b"ftrt", Foreign("a TensorRT engine", _BACK)),
    (0, b"ptrt", Foreign("a TensorRT engine", _BACK)),
    (4, b"ORTM", Foreign("a model in onnxruntime's ORT format", _BACK)),
    (4, b"TFL3", Foreign("a TensorFlow Lite model", _BACK)),
    (0, b"\x1f\x8b", Foreign("compressed by gzip", "unpack it with gunzip and give the .onnx file")),
    (0, b"BZh", Foreign("compressed by bzip2", _UNPACK)),
    (0, b"\xfd7zXZ\x00", Foreign("compressed by xz", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Foreign("compressed by zstd", _UNPACK)),
    (0, b"\x04\x22\x4d\x18", Foreign("compressed by lz4", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign("a 7z archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", Foreign("a rar archive", _UNPACK)),
    (257, b"ustar", Foreign("a tar archive", _UNPACK)),
    (0, b"\x93NUMPY", Foreign("a NumPy array", "give a model; verify --inputs takes arrays, as .npz")),
    (0, b"\x7fELF", Foreign("a program or a shared library", "give the path of an exported model")),
    (0, b"MZ", Foreign("a program of Windows", "give the path of an exported model")),
    (0, b"\x89PNG", Foreign("a picture", "give the path of an exported model")),
    (0, b"\xff\xd8\xff", Foreign("a picture", "give the path of an exported model")),
    (0, b"%PDF", Foreign("a PDF document", "give the path of an exported model")),
    *((0, b"\x80" + bytes([protocol]), Foreign("a pickle, of PyTorch perhaps", _TORCH.do)) for protocol in range(2, 6)),
)
_SUFFIXES = {
    ".engine": Foreign("a TensorRT engine, by its name", _BACK),
    ".plan": Foreign("a TensorRT engine, by its name", _BACK),
    ".trt": Foreign("a TensorRT engine, by its name", _BACK),
    ".pt": Foreign("a PyTorch file, by its name", _TORCH.do),
    ".pth": Foreign("a PyTorch file, by its name", _TORCH.do),
    ".ckpt": Foreign("a checkpoint, by its name", f"load the module and {_TO_ONNX}"),
    ".keras": Foreign("a Keras file, by its name", _KERAS.do),
    ".h5": Foreign("a Keras file, by its name", _KERAS.do),
    ".safetensors": Foreign("a safetensors file, by its name", _ITS_MODEL),
    ".gguf": Foreign("a GGUF file, by its name", _ITS_MODEL),
    ".tflite": Foreign("a TensorFlow Lite model, by its name", _BACK),
    ".ort": Foreign("a model in onnxruntime's ORT format, by its name", _BACK),
    ".mlmodel": _CORE_ML,
    ".pbtxt": Foreign("a protobuf as text", "write it in binary with onnx.save"),
}


def not_a_model(path: Path, error: ModelError) -> ModelError:
    """Return the error for a file that could not be read as a model: what it is, if that can be told, else `error`."""
    found = foreign(path)
    if found is None:
        return error.about(str(path))
    return ModelError(f"{path} is {found.what}, not an ONNX model", do=found.do)


def foreign(path: Path, by_name: bool = True) -> Foreign | None:
    """Return what a file or folder is that is not an ONNX model; None where that can't be told.

    Args:
        path: The file or folder.
        by_name: Whether the name counts where the bytes tell nothing.
    """
    try:
        if path.is_dir():
            return _folder(path)
        with open_ordinary(path) as file:
            head = file.read(_HEAD)
        size = path.stat().st_size
    except OSError:
        return None
    if not size:
        return Foreign("an empty file", f"export or {_AGAIN}")
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    for place, mark, kind in _MARKS:
        if head[place : place + len(mark)] == mark:
            return kind
    if len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return _SAFETENSORS
    if path.name == "saved_model.pb":
        return _SAVED_MODEL
    if not any(head):
        return Foreign("nothing but zeros", _AGAIN)
    if (text := _text(head)) is not None or not by_name:
        return text
    return _SUFFIXES.get(path.suffix.lower()) or _graph_of_tensorflow(path, head)


def _folder(path: Path) -> Foreign:
    """Return what a folder is; every folder is something that is not a file."""
    names = {entry.name for entry in os.scandir(path)}
    if "saved_model.pb" in names:
        return _SAVED_MODEL
    if {"metadata.json", "config.json"} <= names and any(name.endswith(".weights.h5") for name in names):
        return _KERAS
    if path.suffix == ".mlpackage" or "Manifest.json" in names:
        return _CORE_ML
    models = sorted(name for name in names if name.endswith(".onnx"))
    if models:
        return Foreign("a folder", f"give a file, such as {path / models[0]}")
    if any(name.endswith((".safetensors", ".gguf")) for name in names):
        return Foreign("a folder with a checkpoint", "give its .safetensors, .safetensors.index.json or .gguf file")
    return Foreign("a folder", "give the path of a model file")


def _archive(path: Path) -> Foreign:
    """Return what a zip archive holds: many a format is one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return _SUFFIXES.get(path.suffix.lower()) or Foreign("a zip archive that is cut off", _AGAIN)
    for belongs, kind in _ARCHIVES:
        if any(map(belongs, names)):
            return kind
    models = [name for name in names if name.endswith(".onnx")]
    return Foreign("a zip archive", f"unpack it and give {models[0]}" if models else _UNPACK)


_ARCHIVES: tuple[tuple[Callable[[str], bool], Foreign], ...] = (
    (lambda name: name.endswith(".weights.h5"), _KERAS),
    (
        lambda name: name.endswith(("/archive_format", "/serialized_exported_program.json")) or "/models/" in name,
        Foreign("a PyTorch program (torch.export)", f"load it and {_TO_ONNX}"),
    ),
    (lambda name: name.endswith("/constants.pkl"), Foreign("a TorchScript program", f"load it and {_TO_ONNX}")),
    (lambda name: name.endswith("data.pkl"), _TORCH),
    (lambda name: name.endswith(".npy"), Foreign("an archive of NumPy arrays", "give a model; --inputs takes arrays")),
    (lambda name: name.endswith("Manifest.json"), _CORE_ML),
)


def _text(head: bytes) -> Foreign | None:
    """Return what a text is; None where it is not one."""
    try:
        text = head.decode("utf-8").lstrip("\ufeff \t\r\n").lower()
    except UnicodeDecodeError as error:
        if error.end < len(head) - 3:  # not a character that the reading cut
            return None
        text = head[: error.start].decode("utf-8").lstrip("\ufeff \t\r\n").lower()
    if any(character < " " and character not in "\t\r\n\f" for character in text):
        return None
    if text.startswith(("<!doctype html", "<html", "<head", "<script")):
        return Foreign("a web page, perhaps what a server answered in place of the file", _AGAIN)
    if text.startswith(("<?xml", "<net ")):
        return _OPENVINO if "<net " in text else Foreign("an XML text", "give the path of an exported model")
    if text.startswith(("ir_version", "<\n", "<ir_version", "< ir_version")) or "opset_import" in text:
        return Foreign("ONNX as text", "write it in binary: onnx.save(onnx.load(…, format=…), …)")
    if text.startswith(("{", "[")):
        return _json(text)
    return Foreign("a text file", "give the path of an exported model")


def _json(text: str) -> Foreign:
    if '"weight_map"' in text:
        return Foreign("the index of a checkpoint in several files", _ITS_MODEL)
    if '"sites"' in text or '"convention"' in text:
        return Foreign("a plan or a report of sn-graph", "give the model here, and the plan behind --plan")
    return Foreign("a JSON text", "give the path of an exported model")


def _graph_of_tensorflow(path: Path, head: bytes) -> Foreign | None:
    """Return what a .pb file is whose first field is a list of nodes, as a GraphDef's is and no ONNX model's."""
    if path.suffix.lower() == ".pb" and head[:1] == b"\n":
        return Foreign("a graph of TensorFlow, perhaps", "convert it with tf2onnx")
    return None
