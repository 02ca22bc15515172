"""Export: a Keras model with SpectralNormalization layers becomes ONNX, a plan and the model's own u.

Works with Keras 3 and tf_keras models, which are never changed. tensorflow, keras and tf2onnx are imported when first
needed; a missing one raises EnvironmentUnavailable.
"""

import os
from typing import Any

from sn_graph.errors import leave_out
from sn_graph.frontends.exported import Exported
from sn_graph.frontends.keras.files import load
from sn_graph.frontends.keras.inference import inference
from sn_graph.frontends.keras.placing import place_kernels
from sn_graph.frontends.keras.plan import keras_plan
from sn_graph.frontends.keras.recording import kernels_of
from sn_graph.frontends.keras.tracing import trace
from sn_graph.frontends.keras.training import untrained
from sn_graph.frontends.keras.wrappers import Wrapper, wrappers
from sn_graph.model import Model
from sn_graph.progress import Progress, silent
from sn_graph.state import State

DEFAULT_OPSET = 17
_STAGES = 4


class KerasExport(Exported):
    """What came out of a Keras model: inference as stored (training=False), real kernels.

    Each wrapped kernel is an initializer of its own, in Keras's order of inputs and outputs, under Keras's names; the
    plan's convention is keras, and `<id>.u` comes from each wrapper's own vector_u, float32 [n]. Notes tell of half
    precision, integer ids and layers that never train.
    """


def export(model: Any, *, opset: int | None = None, progress: Progress = silent) -> KerasExport:
    """Export a Keras model in inference mode, with a plan of its SpectralNormalization layers and their own u.

    BatchNormalization, Dropout and the like are exported as they are in inference, and stay so in a model that
    `sn_graph.insert` makes of the result: only the normalization trains. Weights of convolutions and of wrapped layers
    are in the file as they are in the model; nothing is fused into them, and no two are merged.

    Args:
        model: A built Keras 3 or tf_keras model, or the path of one; it is not changed.
        opset: The ONNX operator set; 17 by default.
        progress: Told the stages.

    Raises:
        ModelError: The model is not built or can't be converted, or a wrapped kernel can't be followed to what reads
            it: inside a loop, outside of its wrapper, by an operator that is not a product.
        EnvironmentUnavailable: tensorflow, keras or tf2onnx is missing.
        UsageError: tf2onnx has no such opset.

    Source: keras/src/layers/normalization/spectral_normalization.py, Keras 3.15; tf_keras 2.21.
    """
    progress("exporting", 0, _STAGES)
    if isinstance(model, (str, os.PathLike)):
        model = load(model)
    progress("exporting", 1, _STAGES)
    found = wrappers(model)
    kernels = kernels_of(model, found)
    called = inference(model)
    traced = trace(called, kernels, DEFAULT_OPSET if opset is None else opset)
    progress("exporting", 2, _STAGES)
    placed = place_kernels(traced, kernels)
    exported = Model.open(traced.proto)
    plan = keras_plan(exported, placed)
    progress("exporting", _STAGES, _STAGES)
    vectors = {wrapper.weight: wrapper.vector_u for wrapper in found}
    notes = _notes(found, traced.truncated, untrained(called, found))
    return KerasExport(exported, plan, State(vectors, {}, 0, str(plan.convention)), tuple(notes))


def _notes(found: tuple[Wrapper, ...], truncated: tuple[str, ...], frozen: tuple[str, ...]) -> list[str]:
    """Return where Keras does what a user may not expect of it."""
    notes = [
        f"{path}: Keras 3 casts the output of SpectralNormalization to its input's type, which truncates it to "
        "integers here, and so does the exported model; feed ids as floats"
        for path in dict.fromkeys(truncated)
    ]
    notes += [
        f"{wrapper.path}: the model calls it with training=False in training too, so Keras never normalizes it, and "
        f"insert would; {leave_out(wrapper.weight)}"
        for wrapper in found
        if wrapper.path in frozen
    ]
    for wrapper in found:
        dtype = wrapper.variable.dtype
        variable, compute = str(getattr(dtype, "name", dtype)), str(wrapper.layer.compute_dtype)
        if "float16" in (compute, variable):
            notes.append(
                f"{wrapper.path}: Keras iterates in float16 and rounds the kernel to it at each call, the exported "
                f"iteration in float32, so kernels differ by up to {_HALF_ERROR} of their largest value, u by more"
            )
    return notes


_HALF_ERROR = "1 %"  # measured over 100 calls of three layers, four seeds: kernels 0.97 %, u 2.9 %, outputs 0.88 %
