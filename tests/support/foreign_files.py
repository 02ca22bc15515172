"""Files that are not ONNX models, as far as their formats are told by: each with a word of what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MODEL = Path(__file__).parents[2] / "models" / "keras_dcgan_discriminator.onnx"


def archive(entries: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def foreign_files() -> dict[str, tuple[bytes, str]]:
    """Return contents by file name, each with what the message must say."""
    onnx = MODEL.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    keras = {
        "metadata.json": b'{"keras_version": "3.15.0"}',
        "config.json": b"{}",
        "model.weights.h5": b"\x89HDF\r\n\x1a\n",
    }
    torch = {"archive/data.pkl": b"\x80\x02}q\x00.", "archive/version": b"3\n"}
    return {
        "a.pt": (archive(torch), "a PyTorch file"),
        "script.pt": (archive({**torch, "archive/constants.pkl": b""}), "a TorchScript program"),
        "a.pt2": (archive({"a/archive_format": b"pt2", "a/models/model.json": b"{}"}), "a PyTorch program"),
        "old.pth": (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), "a pickle"),
        "cut.pt": (archive(torch)[:90], "a PyTorch file, by its name"),
        "as_onnx.onnx": (safetensors(), "a safetensors checkpoint"),
        "a.keras": (archive(keras), "a Keras model"),
        "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(500), "an HDF5 file"),
        "saved_model.pb": (b"\x08\x01\x12\x10\n\x0eserve_graph_xx", "a TensorFlow SavedModel"),
        "gguf.onnx": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "a GGUF checkpoint"),
        "a.zip": (archive({"inner/model.onnx": onnx}), "unpack it and give inner/model.onnx"),
        "cut.zip": (archive({"inner/model.onnx": onnx})[:900], "a zip archive that is cut off"),
        "a.onnx.gz": (gzip.compress(onnx), "compressed by gzip"),
        "a.bz2": (bz2.compress(onnx), "compressed by bzip2"),
        "a.xz": (lzma.compress(onnx), "compressed by xz"),
        "a.tar": (tar(), "a tar archive"),
        "lfs.onnx": (pointer, "git lfs pull"),
        "annex.onnx": (b"/annex/objects/SHA256E-s1--a.onnx\n", "git annex get"),
        "a.engine": (b"ftrt" + bytes(300), "a TensorRT engine, not"),
        "strange.plan": (b"\x01\x02\x03\x04" + bytes(300), "a TensorRT engine, by its name"),
        "a.ort": (struct.pack("<I", 24) + b"ORTM" + bytes(300), "onnxruntime's ORT format"),
        "a.tflite": (struct.pack("<I", 24) + b"TFL3" + bytes(300), "a TensorFlow Lite model"),
        "a.npy": (array(), "a NumPy array"),
        "a.npz": (archive({"a.npy": array()}), "an archive of NumPy arrays"),
        "page.onnx": (b"\n<!DOCTYPE html><html>404 \xc3\xbc</html>", "a web page"),
        "a.xml": (b'<?xml version="1.0"?>\n<net name="x" version="11"></net>', "an OpenVINO model"),
        "a.mlmodel": (b"\x08\x05\x12\x10\n\x04test\x12\x00", "a Core ML model"),
        "plan.json": (b'{"version": 1, "model": "a.onnx", "sites": []}', "behind --plan"),
        "a.index.onnx": (b'{"metadata": {}, "weight_map": {}}', "the index of a checkpoint"),
        "a.textproto": (b"ir_version: 8\ngraph {\n}\n", "ONNX as text"),
        "text.onnx": ("größer als alles\n".encode(), "a text file"),
        "a.so": (b"\x7fELF\x02\x01\x01" + bytes(100), "a shared library"),
        "a.png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "a picture"),
        "graph.pb": (b"\n\x1d\n\x01x\x12\x0bPlaceholder*\x0b\n\x05dtype\x12\x020\x01", "convert it with tf2onnx"),
        "zeros.onnx": (bytes(1000), "nothing but zeros"),
        "empty.onnx": (b"", "an empty file"),
        "cut.onnx": (onnx[: len(onnx) // 2], "corrupt or cut off"),
        "noise.onnx": (np.random.default_rng(0).bytes(500), "corrupt or not an ONNX model"),
    }
