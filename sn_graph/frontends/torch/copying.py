"""Copies of PyTorch modules, whatever they computed before."""

from __future__ import annotations

import copy
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.frontends.torch.framework import require_torch


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
