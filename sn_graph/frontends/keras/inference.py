"""A Keras model as a function of tensors: its inputs and outputs by name, and a call in inference mode."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.frontends.keras.frameworks import Generation, generation_of, require, said, takes_training


@dataclass(frozen=True, eq=False)
class Inference:
    """A model with training=False.

    Attributes:
        model: The Keras model.
        generation: Whose it is.
        inputs: The names of its inputs, in the order in which `call` takes them.
        specs: A tf.TensorSpec for each.
    """

    model: Any
    generation: Generation
    inputs: tuple[str, ...]
    specs: tuple[Any, ...]
    _pack: Callable[[Sequence[Any]], tuple[Any, ...]]

    def call(self, tensors: Sequence[Any], *, training: bool = False) -> dict[str, Any]:
        """Run the model on tensors in the order of `inputs`; return its outputs by name, in Keras's order."""
        mode = {"training": training} if takes_training(self.model) else {}
        return _named_outputs(self.model, self.model(*self._pack(tensors), **mode))


def inference(model: Any) -> Inference:
    """Return how to call a model.

    Raises:
        ModelError: It is not a Keras model, or its inputs are not known yet.
    """
    generation = generation_of(model)
    make = _keras_3_inputs if generation is Generation.KERAS_3 else _legacy_inputs
    given, specs, pack = make(model)
    tf = require("tensorflow", "a Keras model")
    for spec in specs:
        if not isinstance(spec, tf.TensorSpec):
            raise ModelError(f"input '{spec.name}' is not a dense tensor, and ONNX has no other", do="make it dense")
    names = _distinct([name or f"input_{place}" for place, name in enumerate(given)])
    return Inference(model, generation, names, tuple(specs), pack)


_Inputs = tuple[list[str | None], list[Any], Callable[[Sequence[Any]], tuple[Any, ...]]]


def _keras_3_inputs(model: Any) -> _Inputs:
    keras, tf = require("keras", "a Keras model"), require("tensorflow", "a Keras model")
    if isinstance(model, (keras.Sequential, keras.Model)) and _has_inputs(model):
        flat = list(model.inputs)
        for tensor in flat:
            if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
                raise ModelError(
                    f"input '{tensor.name}' is not a dense tensor, and ONNX has no other", do="make it dense"
                )
        sequential = isinstance(model, keras.Sequential)
        struct = flat[0] if sequential else model.input
        free = sequential and not any(getattr(layer, "stateful", False) for layer in model.layers)
        # A Sequential that its first data built has the size of that batch, which only state across calls would need.
        shapes = [(None, *tensor.shape[1:]) if free else tensor.shape for tensor in flat]
        specs = [tf.TensorSpec(shape, tensor.dtype) for shape, tensor in zip(shapes, flat, strict=True)]
        return (
            [tensor.name for tensor in flat],
            specs,
            lambda given: (keras.tree.pack_sequence_as(struct, list(given)),),
        )
    signature = _subclass_signature(model)
    placed = keras.tree.flatten_with_path(signature)
    specs = [tf.TensorSpec(spec.shape, spec.dtype) for _, spec in placed]
    return (
        [next((key for key in reversed(path) if isinstance(key, str)), None) for path, _ in placed],
        specs,
        lambda given: tuple(keras.tree.pack_sequence_as(signature, list(given))),
    )


def _has_inputs(model: Any) -> bool:
    try:
        return bool(model.inputs)
    except (AttributeError, ValueError):  # a subclass, or a Sequential that has seen no data
        return False


def _subclass_signature(model: Any) -> list[Any]:
    """Return the InputSpecs of a model whose class is the user's: of the first call that it got."""
    try:
        export_utils = require("keras.src.export.export_utils", "the export")
        signature = list(export_utils.get_input_signature(model))
    except Exception as error:
        raise ModelError(
            f"the inputs of model '{model.name}' are not known ({said(error)})",
            do="call it on data first, or wrap it: x = keras.Input(shape); keras.Model(x, model(x))",
        ) from None
    needed = [
        one.name
        for one in inspect.signature(model.call).parameters.values()
        if one.default is one.empty
        and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        and one.name not in ("training", "mask")
    ]
    if len(needed) > len(signature):
        raise ModelError(
            f"model '{model.name}' is called on {', '.join(needed)}, and Keras 3 keeps the shape of the first alone",
            do="wrap it: x, y = keras.Input(…), keras.Input(…); keras.Model([x, y], model(x, y))",
        )
    return signature


def _legacy_inputs(model: Any) -> _Inputs:
    tf = require("tensorflow", "a Keras model")
    spec = model.save_spec(dynamic_batch=True) if model.built else None
    if spec is None:
        raise ModelError(
            f"the inputs of model '{model.name}' are not known",
            "because it has seen no data",
            "call it on data first",
        )
    positional = spec[0]
    flat = tf.nest.flatten(positional)
    specs = [tf.TensorSpec(one.shape, one.dtype) if isinstance(one, tf.TensorSpec) else one for one in flat]
    return (
        [one.name for one in flat],
        specs,
        lambda given: tuple(tf.nest.pack_sequence_as(positional, list(given))),
    )


def _named_outputs(model: Any, outputs: Any) -> dict[str, Any]:
    tf = require("tensorflow", "a Keras model")
    if isinstance(outputs, dict) and not any(tf.nest.is_nested(value) for value in outputs.values()):
        return {str(name): value for name, value in outputs.items()}
    flat = tf.nest.flatten(outputs)
    sequential = any(kind.__name__ == "Sequential" for kind in type(model).__mro__)
    known = [model.layers[-1].name] if sequential else getattr(model, "output_names", None) or []
    names = known if len(known) == len(flat) else [f"output_{place}" for place in range(len(flat))]
    return dict(zip(_distinct(names), flat, strict=True))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, with `_1`, `_2` … behind those that came before."""
    taken: list[str] = []
    for name in names:
        unique, number = name, 0
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.append(unique)
    return tuple(taken)
