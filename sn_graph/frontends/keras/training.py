"""Layers that are never trained: no training call normalizes them, because their callers say training=False."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from sn_graph.frontends.keras.frameworks import Generation, quiet, require, takes_training
from sn_graph.frontends.keras.inference import Inference
from sn_graph.frontends.keras.recording import patched_call, training_of
from sn_graph.frontends.keras.wrappers import Wrapper, walk_layers


def untrained(inference: Inference, wrapped: Sequence[Wrapper]) -> tuple[str, ...]:
    """Return the paths of the wrappers that a call with training=True leaves alone.

    Keras's own models and layers pass `training` on. One with classes of the user's is traced once more to learn what
    they do; nothing is run. Of a model that can't be traced in training nothing is said.
    """
    if not wrapped or not takes_training(inference.model) or not _has_own_classes(inference.model):
        return ()
    tf = require("tensorflow", "a Keras model")
    normalized: set[str] = set()

    def watch(wrapper: Wrapper) -> Any:
        original = wrapper.layer.call

        def call(*args: Any, **kwargs: Any) -> Any:
            if training_of(args, kwargs) not in (None, False):
                normalized.add(wrapper.path)
            return original(args[0] if args else kwargs["inputs"])

        return tf.autograph.experimental.do_not_convert(call)

    def run(*tensors: Any) -> list[Any]:
        with ExitStack() as stack:
            if inference.generation is Generation.KERAS_3:
                stack.enter_context(require("keras", "a Keras model").StatelessScope())
            for wrapper in wrapped:
                stack.enter_context(patched_call(wrapper.layer, watch(wrapper)))
            return list(inference.call(tensors, training=True).values())

    try:
        with quiet():
            tf.function(run, autograph=False).get_concrete_function(*inference.specs)
    except Exception:  # whatever a layer's own code raises
        return ()
    return tuple(wrapper.path for wrapper in wrapped if wrapper.path not in normalized)


def _has_own_classes(model: Any) -> bool:
    kinds = (type(layer) for layer in (model, *(layer for _, layer in walk_layers(model))))
    return any(kind.__module__.split(".")[0] not in ("keras", "tf_keras") for kind in kinds)
