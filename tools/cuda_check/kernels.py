"""Kernels: which nodes of a model the CUDA provider has no kernel for, by a table of its kernels.

`kernels.json` lists them by onnxruntime version, operator, the version of the operator's schema, and types, as
`python -m tools.cuda_kernels` found them by asking onnxruntime-gpu. `published.tsv` is what onnxruntime writes of
itself, with its source. It gives ranges of versions: a kernel that is registered without an end ("11+") fits the very
version that it names, and no later one (VerifyVersion in onnxruntime's kernel_registry.cc).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

TABLE = Path(__file__).with_name("kernels.json")
PUBLISHED = Path(__file__).with_name("published.tsv")
_NO_KERNEL_NEEDED = {"Constant"}  # becomes an initializer when the model is loaded


class Missing(NamedTuple):
    """A node without a kernel: its name, operator, schema version and types."""

    node: str
    op: str
    since: int
    types: str


@cache
def table() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return the kernels: types by onnxruntime version, operator and schema version."""
    return dict(json.loads(TABLE.read_text(encoding="utf-8"))["versions"])


def published(op: str, since: int) -> set[str]:
    """Return the types of an operator's first parameter in one version, by onnxruntime's own documentation."""
    found: set[str] = set()
    for line in PUBLISHED.read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition("\t")
        if name == op:
            versions, types = rest.split("\t")
            first, _, last = versions.rstrip("+").partition("-")
            if int(first) <= since <= int(last or first):
                found |= set(types.split())
    return found


def missing(model: onnx.ModelProto, version: str, names: frozenset[str] | None = None) -> list[Missing]:
    """Return the nodes that CUDA has no kernel for.

    Args:
        model: The model; nodes in subgraphs are looked at too.
        version: Of onnxruntime, one of `table`.
        names: Look at the nodes of these names only.

    Raises:
        LookupError: The type of a value can't be told.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    found = []
    for node in walk(inferred.graph):
        if node.op_type in _NO_KERNEL_NEEDED or (names is not None and node.name not in names):
            continue
        op, since, types = signature(node, inferred)
        if types not in table()[version].get(op, {}).get(str(since), ()):
            found.append(Missing(node.name, op, since, types))
        elif op == "ConvTranspose" and not _has_same_pads(node):
            found.append(Missing(node.name, op, since, f"{types}, pads that differ at the two ends"))
    return found


def _has_same_pads(node: onnx.NodeProto) -> bool:
    """Whether a ConvTranspose is one that CUDA takes, as seen on a GPU: others it leaves to the CPU."""
    attributes = {one.name: one for one in node.attribute}
    if "auto_pad" in attributes and attributes["auto_pad"].s != b"NOTSET":
        return False
    pads = list(attributes["pads"].ints) if "pads" in attributes else []
    return pads[: len(pads) // 2] == pads[len(pads) // 2 :]


def walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from walk(attribute.g)


def signature(node: onnx.NodeProto, model: onnx.ModelProto) -> tuple[str, int, str]:
    """Return the operator, the version of its schema, and the types of its parameters, as in "T1=float T2=int64".

    Raises:
        LookupError: The type of a value can't be told.
    """
    opset = next(one.version for one in model.opset_import if one.domain == node.domain)
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    types = element_types(model.graph)
    bound: dict[str, str] = {}
    for formals, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for number, name in enumerate(names):
            formal = formals[min(number, len(formals) - 1)]
            if name and "(" not in formal.type_str:
                bound[formal.type_str] = _word(types, name)
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return name, schema.since_version, " ".join(f"{key}={bound[key]}" for key in sorted(bound))


def element_types(graph: onnx.GraphProto, outer: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the element type of each tensor of a graph and its subgraphs whose types were inferred."""
    found = dict(outer or {})
    for value in (*graph.input, *graph.output, *graph.value_info):
        found[value.name] = value.type.tensor_type.elem_type
    found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= element_types(attribute.g, found)
    return found


def _word(types: Mapping[str, int], name: str) -> str:
    element = types.get(name, TensorProto.UNDEFINED)
    if element == TensorProto.UNDEFINED:
        raise LookupError(f"the type of '{name}' is not known")
    return helper.tensor_dtype_to_string(element).removeprefix("TensorProto.").lower()
