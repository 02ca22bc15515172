"""State: the vectors u of a Keras model's SpectralNormalization layers, from a state file and to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.frontends.keras.files import load
from sn_graph.frontends.keras.wrappers import Wrapper, read, wrappers
from sn_graph.sites import Convention
from sn_graph.state import State, read_state
from sn_graph.state import save_state as write_state

_KERAS = str(Convention.KERAS)


def load_state(model: Any, path: str | os.PathLike[str]) -> None:
    """Put the vectors of a state file into the wrappers of a Keras model, so that its next training call goes on there.

    Kernels stay as they are: a training call divides the kernel that it finds, and u is that of any multiple of it.
    Nothing changes unless every vector fits.

    Args:
        model: A built Keras 3 or tf_keras model; the variables `vector_u` of its SpectralNormalization layers are
            assigned.
        path: A state file: `StatefulSession.save_state`, `sn_graph.frontends.keras.save_state`, or beside an export.

    Raises:
        ModelError: The model has no such layer or is not built, the file lacks a vector or holds one of another length,
            or the vectors are of another framework's matrices.
    """
    found = _require(model)
    state = read_state(Path(path), {one.weight: one.vector_u.size for one in found}, None, "the Keras model")
    if state.convention not in (None, _KERAS):
        raise ModelError(
            f"state {path} is of convention {state.convention}",
            "whose matrices and sides are not those of Keras's layers",
            "save the state of a model that came from Keras, such as one of `sn-graph export-keras`",
        )
    for one in found:
        now = read(one.layer.vector_u)
        one.layer.vector_u.assign(state.u[one.weight].astype(now.dtype).reshape(now.shape))


def save_state(model: Any, path: str | os.PathLike[str]) -> None:
    """Write the vectors that a Keras model's next training call starts from, as a state file.

    It fits what `export` makes of the model, before and after insertion. No σ is in it, because Keras stores none.

    Args:
        model: A built Keras 3 or tf_keras model, or the path of one.
        path: The file to come.

    Raises:
        ModelError: The model has no SpectralNormalization layer, or is not built.
        EnvironmentUnavailable: The folder can't be written.
    """
    if isinstance(model, (str, os.PathLike)):
        model = load(model)
    write_state(Path(path), State({one.weight: one.vector_u for one in _require(model)}, {}), None, _KERAS)


def _require(model: Any) -> tuple[Wrapper, ...]:
    found = wrappers(model)
    if not found:
        raise ModelError(
            "the model has no SpectralNormalization layer", do="wrap its layers in keras.layers.SpectralNormalization"
        )
    return found
