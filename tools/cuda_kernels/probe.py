"""Probes: which nodes the CUDA provider of the installed onnxruntime takes, asked one node at a time.

    python -m tools.cuda_kernels.probe    # prints JSON: {op: {since version: ["T=float", …]}}

A model of one node is opened on CUDA with `session.disable_cpu_ep_fallback`, which refuses a node that CUDA has no
kernel for. The versions and the type parameters are those of the ONNX schema. Only the operators and types that
sn-graph writes are asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tools.cuda_check.kernels import signature

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
B, I64 = TensorProto.BOOL, TensorProto.INT64
Value = tuple[int, tuple[int, ...]]
_LEVEL = "ORT_DISABLE_ALL"


@dataclass(frozen=True)
class Node:
    """One node to ask for: its inputs as (element type, shape) or as constants, and what it gives."""

    op: str
    inputs: tuple[Value | np.ndarray[Any, Any], ...]
    output: int
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1


def nodes(op: str, since: int) -> Iterator[Node]:
    """Yield the nodes of an operator in one version, a node for each combination of types that sn-graph may write."""
    square, one = (4, 4), (1, 1)
    for t in FLOATS:
        x, y, scalar = (t, square), (t, square), (t, one)
        if op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
            yield Node(op, (x, scalar if op not in ("Max", "Min") or since >= 8 else y), t)
        elif op in ("Sqrt", "Relu", "Identity", "ReduceL2"):
            yield Node(op, (x,), t)
        elif op == "Gemm":
            yield Node(op, (x, y) if since >= 11 else (x, y, (t, (1,))), t, {"transA": 1})
        elif op == "MatMul":
            yield Node(op, (x, y), t)
        elif op in ("Greater", "Less"):
            yield Node(op, (x, scalar), B)
        elif op == "Where":
            yield Node(op, ((B, one), x, y), t)
        elif op == "Transpose":
            yield Node(op, (x,), t, {"perm": [1, 0]})
        elif op == "Concat":
            yield Node(op, (x, y), t, {"axis": 0})
        elif op == "Split":
            lengths = np.array([1, 3], np.int64)
            yield Node(op, (x, lengths) if since >= 13 else (x,), t, {} if since >= 13 else {"split": [1, 3]}, 2)
        elif op == "Slice":
            bounds = [np.array([value], np.int64) for value in (0, 2, 1)]
            attributes = {"starts": [0], "ends": [2], "axes": [1]}
            yield Node(op, (x, *bounds) if since >= 10 else (x,), t, {} if since >= 10 else attributes)
        elif op in ("Conv", "ConvTranspose"):
            yield Node(op, ((t, (1, 2, 5, 5)), (t, (2, 2, 3, 3))), t, {"strides": [2, 2]})
        elif op == "Gather":
            yield Node(op, (x, (I64, (1,))), t, {"axis": 1})
        elif op == "DequantizeLinear":
            for quantized in (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32):
                if t == TensorProto.FLOAT or since >= 19:
                    yield Node(op, ((quantized, square), (t, ())), t)
        elif op == "Cast":
            for to in (*FLOATS, I64):
                yield Node(op, (x,), to, {"to": to})
        elif op != "Reshape":
            break
        if op == "Reshape":
            yield Node(op, (x, np.array([2, 8], np.int64)), t)
    if op == "Reshape":
        yield Node(op, ((B, one), np.array([1], np.int64)), B)
    if op == "Cast":
        yield Node(op, ((B, one),), I64, {"to": I64})
    if op == "And":
        yield Node(op, ((B, one), (B, one)), B)


OPERATORS = (
    *("Add", "And", "Cast", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Div", "Gather", "Gemm", "Greater"),
    *("Identity", "Less", "MatMul", "Max", "Min", "Mul", "ReduceL2", "Relu", "Reshape", "Slice", "Split", "Sqrt"),
    *("Sub", "Transpose", "Where"),
)


def model(node: Node, opset: int) -> onnx.ModelProto:
    """Return a model of one node."""
    inputs, constants, names = [], [], []
    for number, value in enumerate(node.inputs):
        names.append(f"x{number}")
        if isinstance(value, np.ndarray):
            constants.append(numpy_helper.from_array(value, names[-1]))
        else:
            inputs.append(helper.make_tensor_value_info(names[-1], *value))
    outputs = [f"y{number}" for number in range(node.outputs)]
    graph = helper.make_graph(
        [helper.make_node(node.op, names, outputs, name="node", **node.attributes)],
        "probe",
        inputs,
        [helper.make_tensor_value_info(name, node.output, None) for name in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def taken(proto: onnx.ModelProto) -> bool:
    """Say whether CUDA takes every node of a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVEL)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CUDAExecutionProvider"], enable_fallback=0
        )
    except Exception:  # onnxruntime's exceptions have no base of their own
        return False
    return True


def versions(op: str) -> list[int]:
    """Return the versions of an operator's schema that models of opset 7 and later use."""
    known = [
        one.since_version for one in onnx.defs.get_all_schemas_with_history() if (one.name, one.domain) == (op, "")
    ]
    first = max((version for version in known if version <= 7), default=0)
    return sorted(version for version in known if version >= first)


def kernels() -> dict[str, dict[str, list[str]]]:
    """Return the types that CUDA takes, by operator and version."""
    found: dict[str, dict[str, list[str]]] = {}
    for op in OPERATORS:
        for since in versions(op):
            for node in nodes(op, since):
                proto = model(node, max(7, since))
                try:
                    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
                except onnx.shape_inference.InferenceError:
                    continue  # no such types in this version
                if taken(proto):
                    found.setdefault(op, {}).setdefault(str(since), []).append(signature(proto.graph.node[0], proto)[2])
    return found


if __name__ == "__main__":
    json.dump({"version": onnxruntime.__version__, "kernels": kernels()}, sys.stdout)
