"""Looking into a model: its graphs, nodes, values and tensors, and what to put there, all drawn."""

import random
import struct
from collections.abc import Iterator
from typing import Any

import onnx
from onnx import TensorProto

WHOLE = (0, 1, -1, 2, 3, 5, 64, 255, 1025, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
REAL = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"), float("-inf"))
NAMES = ("", "x", "y", "w", "sn_u", "sn_sigma", "sn/w/weight", "a b", "../w", "If#0", "w\n", "w\x1b[0m", "é", "\u202e")


def graphs(model: onnx.ModelProto) -> Iterator[Any]:
    """Yield the main graph and every subgraph of it; a hundred at most."""
    waiting, count = [model.graph], 0
    while waiting and count < 100:
        graph = waiting.pop()
        count += 1
        yield graph
        for one in graph.node:
            for attribute in one.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return all nodes, those of bodies and functions too."""
    bodies = [*graphs(model), *model.functions]
    return [one for body in bodies for one in body.node]


def node(model: onnx.ModelProto, draw: random.Random) -> onnx.NodeProto | None:
    """Return a node; None where there is none."""
    found = nodes(model)
    return draw.choice(found) if found else None


def values(model: onnx.ModelProto) -> list[str]:
    """Return the names of all values, in a fixed order."""
    made = [name for one in nodes(model) for name in (*one.output, *one.input)]
    return list(dict.fromkeys(filter(None, made)))


def tensor(model: onnx.ModelProto, draw: random.Random, kind: int | None = None) -> onnx.TensorProto | None:
    """Return a tensor of any graph or Constant, of one type where that is given."""
    held = [tensor for graph in graphs(model) for tensor in graph.initializer]
    held += [sparse.values for sparse in model.graph.sparse_initializer]
    held += [sparse.indices for sparse in model.graph.sparse_initializer]
    held += [attribute.t for one in nodes(model) for attribute in one.attribute if attribute.HasField("t")]
    held = [tensor for tensor in held if kind is None or tensor.data_type == kind]
    return draw.choice(held) if held else None


def small(draw: random.Random) -> onnx.TensorProto:
    """Return a small tensor of a type and shape that are drawn: what a node may take as sizes, axes, scales, limits."""
    shape = draw.choice([[], [1], [2], [3], [4], [2, 1], [1, 4], [4, 4], [0], [1, 1, 1]])
    count = 1
    for size in shape:
        count *= size
    if draw.random() < 0.6:
        numbers = [draw.choice([0, 1, -1, 1, 2, 3, 4, *WHOLE]) for _ in range(count)]
        return TensorProto(data_type=TensorProto.INT64, dims=shape, raw_data=struct.pack(f"<{count}q", *numbers))
    reals = [draw.choice([0.5, 2.0, *REAL]) for _ in range(count)]
    return TensorProto(data_type=TensorProto.FLOAT, dims=shape, raw_data=struct.pack(f"<{count}f", *reals))


def copied(one: onnx.NodeProto) -> onnx.NodeProto:
    """Return a copy of a node."""
    copy = onnx.NodeProto()
    copy.CopyFrom(one)
    return copy
