"""A Keras model traced with its kernels as inputs, and converted.

As inputs no optimizer can merge equal kernels, fold zeros, or fuse a BatchNormalization into them, and each is known
by its name rather than by its values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from sn_graph.errors import ModelError
from sn_graph.frontends.keras.conversion import check_opset, convert
from sn_graph.frontends.keras.frameworks import functions_inlined, quiet, require, said
from sn_graph.frontends.keras.inference import Inference
from sn_graph.frontends.keras.recording import Kernel, Recorder, Slot


@dataclass(frozen=True, eq=False)
class Traced:
    """A converted model with its kernels as inputs.

    Attributes:
        proto: The graph; its own inputs and outputs have Keras's names.
        slots: Which input stands for which kernel, by the input's name.
        calls: The wrapped kernels in the order in which their layers are called, each as often as that happens.
        truncated: The paths of wrappers whose outputs Keras casts to the integers that they got as inputs.
    """

    proto: onnx.ModelProto
    slots: dict[str, Slot]
    calls: tuple[Slot, ...]
    truncated: tuple[str, ...]


def trace(inference: Inference, kernels: Sequence[Kernel], opset: int) -> Traced:
    """Trace a model in inference mode and convert it.

    Raises:
        ModelError: The model fails when it is called, a wrapper is called inside a loop or branch, or tf2onnx can't
            convert an operation.
        UsageError: tf2onnx has no such opset.
    """
    check_opset(opset)
    expected = [1 if kernel.wrapper else 0 for kernel in kernels]
    with quiet():
        while True:
            recorder = Recorder(kernels, expected)
            concrete = _traced(inference, kernels, recorder)
            counted = [
                max(1, count) if kernel.wrapper else 0 for kernel, count in zip(kernels, recorder.counts, strict=True)
            ]
            if counted == expected:
                break
            expected = counted  # a layer is called more than once: an input for each call
        proto = convert(concrete, opset, inference, recorder.outputs)
    return Traced(proto, {slot.name: slot for slot in recorder.slots}, tuple(recorder.calls), tuple(recorder.truncated))


def _traced(inference: Inference, kernels: Sequence[Kernel], recorder: Recorder) -> Any:
    """Return the concrete function of the kernels' slots and the model's inputs."""
    tf = require("tensorflow", "a Keras model")
    count = len(recorder.slots)

    def run(*tensors: Any) -> list[Any]:
        with recorder.substituted(inference.generation, tensors[:count]):
            outputs = inference.call(tensors[count:])
        recorder.outputs = list(outputs)
        return [tf.identity(value) for value in outputs.values()]

    variables = [kernels[slot.kernel].variable for slot in recorder.slots]
    specs = [
        tf.TensorSpec(variable.shape, variable.dtype, slot.name)
        for variable, slot in zip(variables, recorder.slots, strict=True)
    ]
    specs += [tf.TensorSpec(one.shape, one.dtype, f"sn_input_{place}") for place, one in enumerate(inference.specs)]
    try:
        with functions_inlined():
            return tf.function(run, autograph=False).get_concrete_function(*specs)
    except Exception as error:  # whatever a layer's own code raises
        if recorder.refusal is not None:
            raise recorder.refusal from None
        raise ModelError(
            f"model '{inference.model.name}' can't be traced",
            said(error),
            "it must run in a graph, as model.predict does it",
        ) from error
