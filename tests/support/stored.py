"""Stored models: written by onnx or byte by byte, and read back by onnx."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from sn_graph.model import Model, Storage
from sn_graph.model.skeleton import LARGE

BIG = 3 * LARGE  # bytes


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(model: Model, path: Path, storage: Storage = Storage.KEEP) -> bytes:
    model.save(path, storage)
    return path.read_bytes()


def array(tensor: onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor)


def simple(**weights: np.ndarray) -> onnx.ModelProto:
    """A model of Identity nodes over weights."""
    tensors = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}.out"]) for name in weights]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))


def random_weight(count: int = BIG // 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def external(path: Path, proto: onnx.ModelProto, one_file: bool = True) -> Path:
    """Write a model with external data by onnx itself."""
    convert_model_to_external_data(proto, all_tensors_to_one_file=one_file, location="weights" if one_file else None)
    onnx.save(proto, path)
    return path
