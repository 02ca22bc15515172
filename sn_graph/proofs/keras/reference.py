"""A Keras model as the reference of a comparison: called with its normalization in training mode and the rest not.

A call with training=True would also draw Dropout's masks and move BatchNorm's statistics, which no exported model does.
Here each SpectralNormalization alone is called with training=True, at each of its calls, so a layer that is called
twice iterates twice; everything else runs with training=False. What the calls change is put back at the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from sn_graph.errors import ModelError
from sn_graph.frontends.keras import Wrapper, inference, read, require, said, wrappers
from sn_graph.runtime.engine import element_dtype
from sn_graph.spectral.matrix import spectral_norm

Arrays = Mapping[str, NDArray[Any]]


class KerasReference:
    """A Keras model that is called by the names of an ONNX model's inputs and outputs.

    Args:
        model: A built Keras 3 or tf_keras model. Calls change its kernels and u; see `unchanged`.
        inputs, outputs: The names in the ONNX model, in its order.

    Attributes:
        outputs: The names of the outputs.
        wrappers: The model's SpectralNormalization layers.

    Raises:
        ModelError: The model can't be called, or takes or gives another number of tensors.
    """

    def __init__(self, model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._inference = inference(model)
        self._inputs = _aligned("inputs", inputs, self._inference.inputs)
        self.outputs = tuple(outputs)
        self.wrappers: tuple[Wrapper, ...] = wrappers(model)

    @property
    def narrowest(self) -> np.dtype[Any] | None:
        """The coarsest 16-bit type that a SpectralNormalization layer computes in or stores; None for wider ones."""
        used = {str(name) for one in self.wrappers for name in (one.layer.compute_dtype, one.kernel.dtype)}
        name = next((name for name in ("bfloat16", "float16") if name in used), None)
        return None if name is None else element_dtype(_ONNX_TYPES[name])

    def train(self, feed: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs of a call in which every SpectralNormalization normalizes first."""
        return self._normalized(feed, calls=None)

    def normalize(self, feed: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs of inference after each kernel was normalized once, however often its layer is called."""
        return self._normalized(feed, calls=1)

    def divide_exactly(self) -> None:
        """Divide each kernel that is not all zeros by its exact spectral norm."""
        for wrapper in self.wrappers:
            kernel = wrapper.kernel
            sigma = spectral_norm(kernel.reshape(-1, kernel.shape[-1]).astype(np.float64))
            if sigma > 0.0:
                wrapper.variable.assign((kernel / sigma).astype(kernel.dtype))

    def infer(self, feed: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs of a call with training=False: the kernels as they are stored.

        Raises:
            ModelError: Keras fails in the call.
        """
        constant = require("tensorflow", "a Keras model").constant
        try:
            made = self._inference.call([constant(feed[name]) for name in self._inputs])
        except Exception as error:  # whatever a layer's own code raises
            shapes = ", ".join(f"{name} {list(feed[name].shape)}" for name in self._inputs)
            raise ModelError(
                f"the Keras model can't be called on {shapes}",
                said(error),
                "give others (--inputs, --dim)",
            ) from error
        return {name: np.asarray(made[own]) for own, name in zip(made, self._named(made), strict=True)}

    def _normalized(self, feed: Arrays, calls: int | None) -> dict[str, NDArray[Any]]:
        with ExitStack() as stack:
            for wrapper in self.wrappers:
                stack.enter_context(_normalizing(wrapper.layer, calls))
            return self.infer(feed)

    def _named(self, made: Mapping[str, Any]) -> Sequence[str]:
        return _aligned("outputs", self.outputs, tuple(made))


_ONNX_TYPES = {"bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16}


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Put every variable of a model that changed meanwhile back to what it was, bit for bit.

    The optimizer's are not the model's, and no call of a layer touches them.
    """
    before = [(variable, read(variable)) for variable in model.variables]
    try:
        yield
    finally:
        for variable, value in before:
            if read(variable).tobytes() != value.tobytes():
                variable.assign(value)


@contextmanager
def _normalizing(layer: Any, calls: int | None) -> Iterator[None]:
    """Let a SpectralNormalization layer take its first `calls` calls, or every one, for calls with training=True."""
    own, counter = layer.call, count()

    def call(inputs: Any, training: bool | None = False) -> Any:  # noqa: ARG001 - Keras looks for this name
        return own(inputs, training=calls is None or next(counter) < calls)

    layer.call = call  # of this object: other models' layers stay as they are
    try:
        yield
    finally:
        del layer.call


def _aligned(role: str, given: Sequence[str], own: Sequence[str]) -> Sequence[str]:
    """Return the ONNX model's names in Keras's order: Keras's own, or by place where another exporter chose them."""
    if len(given) != len(own):
        raise ModelError(
            f"the ONNX model has {len(given)} {role} ({', '.join(given)}), and the Keras model {len(own)} "
            f"({', '.join(own)})",
            do="give the model that it was exported from",
        )
    return own if set(own) == set(given) else given
