"""State: the vectors of a module's spectral normalization, from a state file and to one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.frontends.torch.finding import normalized_layers
from sn_graph.frontends.torch.layers import Normalized
from sn_graph.sites import Convention
from sn_graph.state import State, read_state
from sn_graph.state import save_state as write_state


def load_state(module: Any, path: str | os.PathLike[str]) -> None:
    """Put the vectors of a state file into the buffers of a module, so that its next step goes on from them.

    The other vector of each pair is computed from the one that the file holds, so that evaluation divides by their
    σ = u·(M v). Nothing changes unless every vector fits.

    Args:
        module: A torch.nn.Module with spectral normalization; its buffers are overwritten.
        path: A state file: `StatefulSession.save_state`, `sn_graph.frontends.torch.save_state`, or beside an export.

    Raises:
        ModelError: The module has no such layer, or the file lacks a vector or holds one of another length.
    """
    found = _require(module)
    state = read_state(Path(path), {one.name: one.state().size for one in found}, None, "the module")
    own = _convention(found)
    if state.convention in _TORCHS - {own}:
        raise ModelError(
            f"state {path} is of convention {state.convention}, and the module of {own}",
            "whose iterations begin with the other vector",
            "save the state of a model that came from this module",
        )
    for one in found:
        one.put(state.u[one.name])


_TORCHS = {str(Convention.TORCH), str(Convention.TORCH_PARAMETRIZATION)}


def _convention(found: Sequence[Normalized]) -> str:
    parametrized = {one.kind for one in found} == {"parametrization"}
    return str(Convention.TORCH_PARAMETRIZATION if parametrized else Convention.TORCH)


def save_state(module: Any, path: str | os.PathLike[str]) -> None:
    """Write the vectors that a module's next step starts from, and the σ of its stored pairs, as a state file.

    Args:
        module: A torch.nn.Module with spectral normalization.
        path: The file to come.

    Raises:
        ModelError: The module has no such layer.
        EnvironmentUnavailable: The folder can't be written.
    """
    found = _require(module)
    sigmas = {one.name: sigma for one in found if (sigma := one.sigma()) > 0.0}
    state = State({one.name: one.state() for one in found}, sigmas)
    write_state(Path(path), state, None, _convention(found))


def _require(module: Any) -> tuple[Normalized, ...]:
    found = normalized_layers(module)
    if not found:
        raise ModelError(
            "the module has no spectrally normalized weight",
            do="apply torch.nn.utils.spectral_norm, or the parametrization, to its layers first",
        )
    return found
