"""The SpectralNormalization layers of a Keras model: where they are, and what they hold.

`layer.kernel` is normalized as M = kernel.reshape(-1, kernel.shape[-1]) with u on the last axis
(keras/src/layers/normalization/spectral_normalization.py, 3.15).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.frontends.keras.frameworks import generation_of, loaded_frameworks


@dataclass(frozen=True, eq=False)
class Wrapper:
    """One SpectralNormalization layer of a Keras model.

    Attributes:
        layer: The SpectralNormalization layer itself, of Keras 3 or tf_keras.
        path: Its place in the model: the names of the nested models around it and its own, with slashes between.
        weight: `<path>/kernel` or `<path>/embeddings`: the id of its site in the exported model and plan.
        power_iterations: Its own.
    """

    layer: Any
    path: str
    weight: str
    power_iterations: int

    @property
    def variable(self) -> Any:
        """The framework's variable that holds the kernel."""
        return kernel_variable(self.layer)

    @property
    def kernel(self) -> NDArray[Any]:
        """The kernel as it is now, in Keras's layout and type (a copy)."""
        return read(self.variable)

    @property
    def vector_u(self) -> NDArray[np.float32]:
        """Its u as it is now, [n] float32 (a copy)."""
        return read(self.layer.vector_u).astype(np.float32).reshape(-1)


def wrappers(model: Any) -> tuple[Wrapper, ...]:
    """Return the SpectralNormalization layers of a model, each once, nested models included.

    Args:
        model: A Keras 3 or tf_keras model.

    Raises:
        ModelError: It is not a Keras model, one of the layers is not built yet, or two of them normalize one kernel.
    """
    generation_of(model)
    found: dict[int, tuple[str, Any]] = {}
    for path, layer in walk_layers(model):
        if is_wrapper(layer):
            found.setdefault(id(layer), (path, layer))
    made = tuple(_wrapper(path, layer) for path, layer in found.values())
    _refuse_shared(made)
    return made


def walk_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path, layer) of every layer below a model, depth first, each object once; no two paths are equal."""
    seen: set[int] = set()
    taken: set[str] = set()

    def below(parent: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path, number = prefix + layer.name, 0
            while path in taken:  # names are unique within a Functional model, not within a class of the user's
                number += 1
                path = f"{prefix}{layer.name}_{number}"
            taken.add(path)
            yield path, layer
            yield from below(layer, f"{path}/")

    yield from below(model, "")


def is_wrapper(layer: object) -> bool:
    """Say whether a layer is a SpectralNormalization, of either generation."""
    kinds = (getattr(module.layers, "SpectralNormalization", None) for _, module in loaded_frameworks())
    return any(kind is not None and isinstance(layer, kind) for kind in kinds)


def kernel_variable(layer: Any) -> Any:
    """Return the variable that a SpectralNormalization layer normalizes; None before it is built."""
    return getattr(layer, "kernel", getattr(layer, "w", None))  # `w` in Keras 2.15 and before


def read(variable: Any) -> NDArray[Any]:
    """Return a variable's value (a copy), in its own type."""
    return np.array(variable.numpy())


def _wrapper(path: str, layer: Any) -> Wrapper:
    if kernel_variable(layer) is None or getattr(layer, "vector_u", None) is None:
        raise ModelError(
            f"the SpectralNormalization layer '{path}' is not built",
            "so it has no kernel",
            "call the model on data first",
        )
    if layer.power_iterations <= 0:  # as the layer's own constructor refuses it
        raise ModelError(
            f"layer '{path}': `power_iterations` should be greater than zero. "
            f"Received: `power_iterations={layer.power_iterations}`"
        )
    kind = "kernel" if hasattr(layer.layer, "kernel") else "embeddings"
    return Wrapper(layer, path, f"{path}/{kind}", int(layer.power_iterations))


def _refuse_shared(found: tuple[Wrapper, ...]) -> None:
    first: dict[int, Wrapper] = {}
    for wrapper in found:
        other = first.setdefault(id(wrapper.variable), wrapper)
        if other is not wrapper:
            raise ModelError(
                f"the layers '{other.path}' and '{wrapper.path}' normalize one kernel, each by its own u, and no "
                "plan can say that",
                do="wrap the layer once",
            )
