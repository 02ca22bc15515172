"""Layers: which weights of a PyTorch module are spectrally normalized, by which of PyTorch's ways, and with what state.

    hook               torch.nn.utils.spectral_norm: weight_orig, weight_u, weight_v; v = n(Mᵀu), u = n(M v)
    parametrization    torch.nn.utils.parametrizations.spectral_norm: original, _u, _v; u = n(M v), v = n(Mᵀu)

M is the weight with its axis `dim` moved to the front, reshaped (torch/nn/utils/spectral_norm.py and
torch/nn/utils/parametrizations.py, 2.14). In training mode each forward of the hook, and each access of a parametrized
weight, makes k iterations; in evaluation σ = u·(M v) of the pair that is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError

Kind = Literal["hook", "parametrization"]


@dataclass(frozen=True, eq=False)
class Normalized:
    """A weight of a module that PyTorch normalizes spectrally.

    Attributes:
        layer: The module that holds it.
        path: The layer's qualified name in the whole module, "" for the module itself.
        parameter: The weight's name in its layer, such as "weight".
        kind: By which of PyTorch's ways.
        dim: The axis of W that becomes the rows of M.
        iterations: k.
        eps: The floor of a length.
    """

    layer: Any
    path: str
    parameter: str
    kind: Kind
    dim: int
    iterations: int
    eps: float

    @property
    def name(self) -> str:
        """The weight's name in a state dict of the module without the normalization."""
        return f"{self.path}.{self.parameter}" if self.path else self.parameter

    @property
    def original(self) -> Any:
        """W, the parameter that is trained."""
        if self.kind == "hook":
            return getattr(self.layer, f"{self.parameter}_orig")
        return self._parametrizations.original

    @property
    def u(self) -> Any:
        """The buffer u [rows of M]."""
        return getattr(self.layer, f"{self.parameter}_u") if self.kind == "hook" else self._own._u

    @property
    def v(self) -> Any:
        """The buffer v [columns of M]."""
        return getattr(self.layer, f"{self.parameter}_v") if self.kind == "hook" else self._own._v

    @property
    def _parametrizations(self) -> Any:
        return self.layer.parametrizations[self.parameter]

    @property
    def _own(self) -> Any:
        return self._parametrizations[0]

    def matrix(self) -> NDArray[np.float64]:
        """Return M [rows, columns] in float64."""
        weight = np.asarray(self.original.detach().cpu().double().numpy())
        return np.moveaxis(weight, self.dim, 0).reshape(weight.shape[self.dim], -1)

    def vectors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return u and v in float64."""
        return (
            np.asarray(self.u.detach().cpu().double().numpy()).reshape(-1),
            np.asarray(self.v.detach().cpu().double().numpy()).reshape(-1),
        )

    def train(self) -> None:
        """Put the normalization alone in training mode."""
        self.layer.training = True
        if self.kind == "parametrization":
            self._own.training = True

    def sigma(self) -> float:
        """Return u·(M v): what evaluation divides by."""
        u, v = self.vectors()
        return float(u @ (self.matrix() @ v))

    def state(self) -> NDArray[np.float64]:
        """Return the vector that the next iteration starts from: u of a hook, v of a parametrization."""
        u, v = self.vectors()
        return u if self.kind == "hook" else v


def normalized_layers(module: Any) -> tuple[Normalized, ...]:
    """Return every spectrally normalized weight of a module, in the order of `named_modules`, each layer once.

    Raises:
        ModelError: A weight has another parametrization besides, or a complex one.
    """
    found: list[Normalized] = []
    for path, layer in module.named_modules():
        found += [_hooked(layer, path, hook) for hook in layer._forward_pre_hooks.values() if _is_hook(hook)]
        for parameter, chain in (getattr(layer, "parametrizations", None) or {}).items():
            kinds = [type(one).__name__ for one in chain]
            if "_SpectralNorm" not in kinds:
                continue
            others = [other for other in layer.parametrizations if other != parameter]
            if len(kinds) > 1 or others:
                name = f"{path}.{parameter}" if path else parameter
                more = ", ".join(kinds) if len(kinds) > 1 else f"one of {', '.join(others)} besides"
                raise ModelError(
                    f"weight '{name}' has several parametrizations ({more})",
                    "and the spectral norm is that of what the others make",
                    "remove the others with torch.nn.utils.parametrize.remove_parametrizations first",
                )
            found.append(_parametrized(layer, path, parameter, chain[0]))
    return tuple(found)


def _is_hook(hook: Any) -> bool:
    return type(hook).__name__ == "SpectralNorm" and hasattr(hook, "n_power_iterations")


def _hooked(layer: Any, path: str, hook: Any) -> Normalized:
    rank = getattr(layer, f"{hook.name}_orig").ndim
    return Normalized(
        layer, path, hook.name, "hook", int(hook.dim) % rank, int(hook.n_power_iterations), float(hook.eps)
    )


def _parametrized(layer: Any, path: str, parameter: str, own: Any) -> Normalized:
    original = layer.parametrizations[parameter].original
    if original.ndim < 2 or not hasattr(own, "_u"):
        name = f"{path}.{parameter}" if path else parameter
        raise ModelError(f"weight '{name}' is a vector, which PyTorch divides by its length", do="leave it plain")
    return Normalized(
        layer,
        path,
        parameter,
        "parametrization",
        int(own.dim) % original.ndim,
        int(own.n_power_iterations),
        float(own.eps),
    )
