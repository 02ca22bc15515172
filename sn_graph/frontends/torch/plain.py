"""Plain copies: a PyTorch module without its spectral normalization, W in place of W/σ, to be exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sn_graph.frontends.torch.copying import copied
from sn_graph.frontends.torch.framework import require_torch
from sn_graph.frontends.torch.layers import Held, Normalized
from sn_graph.frontends.torch.watching import with_weight


def without_normalization(module: Any, found: Sequence[Normalized]) -> Any:
    """Return a copy of a module in evaluation mode that computes with W itself.

    Args:
        module: A torch.nn.Module, which stays as it is.
        found: Its normalized weights.
    """
    plain = copied(module).eval()
    layers = dict(plain.named_modules())
    for one in found:
        layer = layers[one.path]
        if one.kind == "own":
            _take_off_own(one, layer)
        elif one.kind == "parametrization":
            _take_off_parametrization(one, layer)
        else:
            _take_off_hook(one, layer)
    return plain


def _weight(one: Normalized) -> Any:
    torch = require_torch()
    return torch.nn.Parameter(one.original.detach().clone())


def _take_off_parametrization(one: Normalized, layer: Any) -> None:
    # Not by remove_parametrizations, which takes the property off the class that the original shares.
    layer.__class__ = layer.__class__.__bases__[0]
    del layer._modules["parametrizations"]
    layer.register_parameter(one.parameter, _weight(one))


def _take_off_hook(one: Normalized, layer: Any) -> None:
    name, hooks = one.parameter, layer._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if getattr(hook, "name", None) == name]:
        del hooks[key]
    for part in (name, f"{name}_u", f"{name}_v", f"{name}_orig"):
        if hasattr(layer, part):
            delattr(layer, part)
    layer.register_parameter(name, _weight(one))


def _take_off_own(one: Normalized, layer: Any) -> None:
    """Let a layer of another project's class be the function that it is, or call its own forward with W."""
    held = Held(layer, one.held.name)
    holder, old, new = held.holder, held.name.rpartition(".")[2], one.parameter.rpartition(".")[2]
    replay = one.replay
    if replay is not None:
        del holder._parameters[old]
        for vector in one.vectors():
            Held(layer, vector.name).delete()
        layer._forward_pre_hooks.clear()
        layer._forward_hooks.clear()
    vars(holder).pop(new, None)  # W/σ of the last call
    if new not in holder._parameters:
        holder.register_parameter(new, _weight(one))
    kind = type(layer)

    def forward(self: Any, *given: Any) -> Any:
        if replay is not None:
            return replay(self, *given)
        return with_weight(self, kind.forward, lambda: Held(self, one.parameter).tensor, given)

    layer.__class__ = type(kind.__name__, (kind,), {"forward": forward})
