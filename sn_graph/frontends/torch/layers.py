"""Layers: which weights of a PyTorch module are spectrally normalized, by which way, and with what state.

    hook               torch.nn.utils.spectral_norm: weight_orig, weight_u, weight_v; v = n(Mᵀu), u = n(M v)
    parametrization    torch.nn.utils.parametrizations.spectral_norm: original, _u, _v; u = n(M v), v = n(Mᵀu)
    own                a class of another project, found by its buffers and by trial: see `own`

M is the weight with its axis `dim` moved to the front, reshaped (torch/nn/utils/spectral_norm.py and
torch/nn/utils/parametrizations.py, 2.14). In training mode each forward of the hook, and each access of a parametrized
weight, makes k iterations; in evaluation σ = u·(M v) of the pair that is stored. Own classes often iterate in
evaluation too, from the stored vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.frontends.torch.framework import require_torch
from sn_graph.sites import Side

Kind = Literal["hook", "parametrization", "own"]
Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor at its place: the object there may be another one after a step.

    Attributes:
        module: The module below which it is.
        name: Its dotted name there.
    """

    module: Any
    name: str

    @property
    def tensor(self) -> Any:
        """The tensor that is there now."""
        return reduce(getattr, self.name.split("."), self.module)

    @property
    def holder(self) -> Any:
        """The module that holds it."""
        return reduce(getattr, self.name.split(".")[:-1], self.module)

    def delete(self) -> None:
        """Take it out of its module."""
        delattr(self.holder, self.name.rpartition(".")[2])

    def array(self) -> Vector:
        """Return it in float64 (a copy)."""
        return np.array(self.tensor.detach().cpu().double().numpy())


@dataclass(frozen=True, eq=False)
class Replay:
    """A layer's forward as one function of its input, the weight and what else it holds.

    Attributes:
        function: Such as torch.conv2d.
        arguments, options: What it is called with; of these, `INPUT` is the layer's input, and a Name what the layer
            holds under it.
    """

    function: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def __call__(self, layer: Any, given: Any) -> Any:
        """Return what the layer computes of its input."""

        def value(one: Any) -> Any:
            if one is INPUT:
                return given
            return reduce(getattr, one.split("."), layer) if isinstance(one, Name) else one

        return self.function(*map(value, self.arguments), **{key: value(one) for key, one in self.options.items()})


class Name(str):
    """The dotted name under which a layer holds a tensor."""

    __slots__ = ()


INPUT = object()
"""The place of the input in a Replay."""


@dataclass(frozen=True, eq=False)
class Normalized:
    """A weight of a module that is normalized spectrally.

    Attributes:
        layer: The module that normalizes it.
        path: The layer's qualified name in the whole module, "" for the module itself.
        parameter: The weight's name in its layer without the normalization, such as "weight".
        kind: By which way.
        dim: The axis of W that becomes the rows of M.
        iterations: k in training mode.
        eps: The floor of a length.
        held: W, the parameter that is trained.
        start: The stored vector that an iteration begins with: u of a hook, v of a parametrization.
        other: The one of the other side, where it is stored.
        begins: The side of M that `start` is on: u [rows] or v [columns].
        evaluated: The iterations of a call in evaluation; 0 where it divides by σ = u·(M v) of the stored pair.
        bound: g of g·W/σ; with `clip`, c of W/max(1, σ/c).
        clip: Whether it is the latter.
        replay: What the layer computes with the weight, where it does nothing else; own classes only.
    """

    layer: Any
    path: str
    parameter: str
    kind: Kind
    dim: int
    iterations: int
    eps: float
    held: Held
    start: Held
    other: Held | None
    begins: Side
    evaluated: int = 0
    bound: float = 1.0
    clip: bool = False
    replay: Replay | None = None

    @property
    def name(self) -> str:
        """The weight's name in a state dict of the module without the normalization."""
        return f"{self.path}.{self.parameter}" if self.path else self.parameter

    @property
    def original(self) -> Any:
        """W, the parameter that is trained."""
        return self.held.tensor

    def matrix(self) -> Vector:
        """Return M [rows, columns] in float64."""
        return as_matrix(self.held.array(), self.dim)

    def train(self) -> None:
        """Put the normalization alone in training mode."""
        for module in (self.layer, *(one.holder for one in self.vectors())):
            module.training = True

    def vectors(self) -> tuple[Held, ...]:
        """Return the stored vectors: the one that an iteration begins with, and the other if there is one."""
        return (self.start,) if self.other is None else (self.start, self.other)

    def sigma(self) -> float:
        """Return the σ that the next call in evaluation divides by."""
        matrix = self.matrix()
        if self.evaluated == 0 and self.other is not None:
            pair = self.state(), self.other.array().reshape(-1)
            u, v = pair if self.begins == "rows" else pair[::-1]
            return float(u @ (matrix @ v))
        u, v = iterated(matrix, self.state(), self.begins, self.evaluated, self.eps)
        return float(u @ (matrix @ v))

    def state(self) -> Vector:
        """Return the vector that the next iteration begins with."""
        return self.start.array().reshape(-1)

    def put(self, state: NDArray[Any]) -> None:
        """Store the vector that the next iteration begins with, and the other that belongs to it."""
        torch = require_torch()
        matrix, given = self.matrix(), np.asarray(state, np.float64).reshape(-1)
        other = matrix.T @ given if self.begins == "rows" else matrix @ given
        other /= max(float(np.linalg.norm(other)), self.eps)
        with torch.no_grad():
            for held, vector in zip(self.vectors(), (given, other), strict=False):
                tensor = held.tensor
                tensor.copy_(torch.from_numpy(vector).reshape(tensor.shape).to(tensor.dtype))


def as_matrix(weight: Vector, dim: int) -> Vector:
    """Return M [rows, columns] of a weight."""
    return np.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)


def iterated(matrix: Vector, start: Vector, side: Side, count: int, eps: float) -> tuple[Vector, Vector]:
    """Return u and v after some iterations that begin with u (rows) or v (columns)."""

    def normalized(x: Vector) -> Vector:
        shortened: Vector = x / max(float(np.linalg.norm(x)), eps)
        return shortened

    u = v = start
    for _ in range(count):
        if side == "rows":
            v = normalized(matrix.T @ u)
            u = normalized(matrix @ v)
        else:
            u = normalized(matrix @ v)
            v = normalized(matrix.T @ u)
    return u, v


def torchs_layers(module: Any) -> tuple[Normalized, ...]:
    """Return the weights of a module that PyTorch's own ways normalize, in the order of `named_modules`.

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
    held = Held(layer, f"{hook.name}_orig")
    left, right = Held(layer, f"{hook.name}_u"), Held(layer, f"{hook.name}_v")
    dim, k = int(hook.dim) % held.tensor.ndim, int(hook.n_power_iterations)
    return Normalized(layer, path, hook.name, "hook", dim, k, float(hook.eps), held, left, right, "rows")


def _parametrized(layer: Any, path: str, parameter: str, own: Any) -> Normalized:
    held = Held(layer.parametrizations[parameter], "original")
    if held.tensor.ndim < 2 or not hasattr(own, "_u"):
        name = f"{path}.{parameter}" if path else parameter
        raise ModelError(f"weight '{name}' is a vector, which PyTorch divides by its length", do="leave it plain")
    left, right = Held(own, "_u"), Held(own, "_v")
    dim, k = int(own.dim) % held.tensor.ndim, int(own.n_power_iterations)
    return Normalized(layer, path, parameter, "parametrization", dim, k, float(own.eps), held, right, left, "cols")
