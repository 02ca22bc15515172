"""Finding the spectrally normalized weights of a PyTorch module, whoever normalizes them."""

from __future__ import annotations

from typing import Any

from sn_graph.frontends.torch.layers import Normalized, torchs_layers
from sn_graph.frontends.torch.own import own_layers


def normalized_layers(module: Any) -> tuple[Normalized, ...]:
    """Return every spectrally normalized weight of a module, in the order of `named_modules`, each layer once.

    Raises:
        ModelError: A weight has another parametrization besides, or a complex one.
    """
    return examined(module)[0]


def examined(module: Any) -> tuple[tuple[Normalized, ...], tuple[str, ...]]:
    """Return what `normalized_layers` does, and the names of weights that are divided by a norm in an unknown way."""
    torchs = torchs_layers(module)
    own, unknown = own_layers(module, {id(one.original) for one in torchs})
    order = {id(layer): place for place, (_, layer) in enumerate(module.named_modules())}
    return tuple(sorted((*torchs, *own), key=lambda one: order[id(one.layer)])), unknown
