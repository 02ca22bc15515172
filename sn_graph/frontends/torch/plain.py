"""Plain copies: a PyTorch module without its spectral normalization, W in place of W/σ, to be exported."""

from __future__ import annotations

import copy
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.frontends.torch.framework import require_torch
from sn_graph.frontends.torch.layers import Normalized, normalized_layers


def copied(module: Any) -> Any:
    """Return a deep copy of a module; what its hooks computed at the last call is copied as a constant.

    Raises:
        ModelError: Something in the module can't be copied.
    """
    torch = require_torch()
    memo: dict[int, Any] = {}
    for layer in module.modules():
        for value in vars(layer).values():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:  # W/σ, an attribute beside weight_orig
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            "the module can't be copied", str(error).splitlines()[0], "export it from a fresh one"
        ) from None


def without_normalization(module: Any) -> tuple[Any, tuple[Normalized, ...]]:
    """Return a copy of a module in evaluation mode that computes with W itself, and the layers that were changed.

    Args:
        module: A torch.nn.Module, which stays as it is.

    Returns:
        The copy, and the normalized weights of the original.
    """
    found = normalized_layers(module)
    plain = copied(module).eval()
    for one in normalized_layers(plain):
        _take_off(one)
    return plain, found


def _take_off(one: Normalized) -> None:
    torch = require_torch()
    layer, name, weight = one.layer, one.parameter, one.original.detach().clone()
    if one.kind == "parametrization":
        # Not by remove_parametrizations, which takes the property off the class that the original shares.
        layer.__class__ = layer.__class__.__bases__[0]
        del layer._modules["parametrizations"]
        layer.register_parameter(name, torch.nn.Parameter(weight))
        return
    hooks = layer._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if getattr(hook, "name", None) == name]:
        del hooks[key]
    for part in (name, f"{name}_u", f"{name}_v", f"{name}_orig"):
        if hasattr(layer, part):
            delattr(layer, part)
    layer.register_parameter(name, torch.nn.Parameter(weight))
