"""Take an exporter's model to the form kept in models/: nothing of the machine in it, checked, one file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

MAX_BYTES = 3_000_000

Arrays = Mapping[str, NDArray[np.generic]]


def write_model(model: onnx.ModelProto, path: Path, inputs: Arrays, outputs: Arrays) -> None:
    """Strip, check and write `model`; `outputs` are what the framework itself gave for `inputs`.

    Raises:
        ValueError: if the file would be too large, name a folder of this machine, or disagree with the framework.
    """
    strip_provenance(model)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path.name} has {len(data)} bytes, more than {MAX_BYTES}; make the network narrower")
    for folder in machine_folders():
        if folder.encode() in data:
            raise ValueError(f"{path.name} names the folder {folder!r}; remove the field that holds it")
    _check_outputs(data, path.name, inputs, outputs)
    path.write_bytes(data)


def strip_provenance(model: onnx.ModelProto) -> None:
    """Remove doc strings and metadata: torch's default exporter writes stack traces with file paths there."""
    del model.metadata_props[:]
    model.ClearField("doc_string")
    for function in model.functions:
        _clear([function, *function.value_info])
        for node in function.node:
            _strip_node(node)
    _strip_graph(model.graph)


def machine_folders() -> Iterator[str]:
    """Yield the folders that must not be named in a file that others get."""
    candidates = (Path.cwd(), Path.home(), Path(tempfile.gettempdir()), Path(onnx.__file__).parents[1])
    yield from sorted({str(folder) for folder in candidates if len(folder.parts) > 1})


def _strip_graph(graph: onnx.GraphProto) -> None:
    _clear([graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer])
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    _clear([node])
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _strip_graph(graph)


def _clear(
    messages: Iterable[onnx.FunctionProto | onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto],
) -> None:
    for message in messages:
        message.ClearField("doc_string")
        message.ClearField("metadata_props")


def _check_outputs(data: bytes, name: str, inputs: Arrays, outputs: Arrays) -> None:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for (key, expected), actual in zip(outputs.items(), session.run(list(outputs), dict(inputs)), strict=True):
        worst = np.abs(actual - expected).max() / np.abs(expected).max()
        if not worst <= 1e-4:
            raise ValueError(f"{name}: output {key!r} is off by {worst:.1e} of its largest value from the framework's")
