"""Conversion of a traced function to ONNX by tf2onnx: Keras's names, and nothing left that ONNX does not know."""

from collections.abc import Iterator, Sequence
from typing import Any

import onnx

from sn_graph.errors import ModelError, UsageError
from sn_graph.frontends.keras.frameworks import require, said
from sn_graph.frontends.keras.inference import Inference
from sn_graph.frontends.keras.repairs import expand_ellipses, in_one_order, mend_paddings
from sn_graph.model import subgraphs


def convert(concrete: Any, opset: int, inference: Inference, outputs: Sequence[str]) -> onnx.ModelProto:
    """Convert a traced function of kernels' slots and a model's inputs; Keras's names on its inputs and outputs.

    Raises:
        ModelError: tf2onnx fails, leaves an operation of TensorFlow behind, or would change bfloat16 to float16.
    """
    tf = require("tensorflow", "a Keras model")
    _refuse_bfloat16(concrete, inference)
    loader, tfonnx = require("tf2onnx.tf_loader", "the export"), require("tf2onnx.tfonnx", "the export")
    optimizer = require("tf2onnx.optimizer", "the export")
    ours = [tensor.name for tensor in concrete.inputs if tensor.dtype != tf.resource]
    theirs = [tensor.name for tensor in concrete.outputs]
    slots = len(ours) - len(inference.inputs)
    renamed = {name: name.split(":")[0] for name in ours[:slots]}
    renamed |= dict(zip(ours[slots:], inference.inputs, strict=True))
    renamed |= dict(zip(theirs, _apart(outputs, inference.inputs), strict=True))
    try:
        with tf.device("/cpu:0"), in_one_order():
            frozen = expand_ellipses(loader.from_function(concrete, ours, theirs))
            with tf.Graph().as_default() as graph:
                tf.import_graph_def(frozen, name="")
                converted = tfonnx.process_tf_graph(
                    graph,
                    opset=opset,
                    input_names=ours,
                    output_names=theirs,
                    tensors_to_rename=renamed,
                    continue_on_error=True,  # what is left over is named by `_require_known_operators`
                )
                proto: onnx.ModelProto = optimizer.optimize_graph(converted).make_model(inference.model.name)
    except Exception as error:
        raise ModelError(f"tf2onnx can't convert model '{inference.model.name}'", said(error)) from error
    _require_known_operators(proto, opset)
    for body in _graphs(proto.graph):
        mend_paddings(body)
    proto.graph.ClearField("doc_string")
    proto.graph.name = inference.model.name
    return proto


def _apart(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return output names of which none is an input's."""
    result = []
    for name in names:
        while name in others:
            name = f"{name}_output"
        result.append(name)
    return result


def check_opset(opset: int) -> None:
    """Raise UsageError for an operator set that tf2onnx does not write."""
    known = require("tf2onnx.constants", "the export").OPSET_TO_IR_VERSION
    if not _OLDEST_OPSET <= opset <= max(known):
        raise UsageError(f"tf2onnx has no opset {opset}", do=f"choose one from {_OLDEST_OPSET} to {max(known)}")


_OLDEST_OPSET = 9  # of those that the tests compare with Keras


def _require_known_operators(proto: onnx.ModelProto, opset: int) -> None:
    """Raise ModelError where an operation of TensorFlow was left as it is."""
    unknown = {
        node.op_type: node.name
        for graph in _graphs(proto.graph)
        for node in graph.node
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type, max_inclusive_version=opset)
    }
    if unknown:
        named = ", ".join(f"{operator} ('{node}')" for operator, node in unknown.items())
        raise ModelError(f"tf2onnx has no ONNX operator for {named}", do="replace the layer, or try a newer --opset")


def _refuse_bfloat16(concrete: Any, inference: Inference) -> None:
    """Raise ModelError where something is computed in bfloat16, which tf2onnx 1.17 writes as float16.

    That has another range, so values beyond 65504 would become infinite; and no Conv takes bfloat16 before opset 22.
    """
    tf = require("tensorflow", "a Keras model")
    for operation in concrete.graph.get_operations():
        if any(tensor.dtype.base_dtype == tf.bfloat16 for tensor in operation.outputs):
            raise ModelError(
                f"model '{inference.model.name}' computes in bfloat16 (at '{operation.name}')",
                "which tf2onnx would make float16 of",
                "build it with the dtype policy float32 or mixed_float16, load its weights, and export that",
            )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for _, body in subgraphs(node):
            yield from _graphs(body)
