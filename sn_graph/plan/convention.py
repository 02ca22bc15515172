"""Conventions: which framework a model came from, and so whose matrices are taken."""

import re
from collections.abc import Iterable

from sn_graph.errors import UsageError
from sn_graph.model import Model
from sn_graph.sites import Convention, Site


def resolve_convention(name: str, model: Model, sites: Iterable[Site]) -> tuple[Convention, str]:
    """Return the convention of this name, or for "auto" the one that fits, and why. Raises UsageError."""
    if name == "auto":
        return choose_convention(model, sites)
    try:
        return Convention(name), "asked for"
    except ValueError:
        known = ", ".join(["auto", *Convention])
        raise UsageError(f"no convention '{name}'", do=f"choose one of {known}") from None


def choose_convention(model: Model, sites: Iterable[Site]) -> tuple[Convention, str]:
    """Return the convention that the model's origin suggests, and why."""
    producer = model.proto.producer_name
    if producer == "pytorch":
        return Convention.TORCH, "the producer is pytorch"
    named = next((site.weight for site in sites if _STATE_DICT_NAME.search(site.weight)), None)
    if named is not None:
        return Convention.TORCH, f"weights are named like PyTorch's ('{named}')"
    return Convention.KERAS, f"the producer is {producer or 'not named'} and no weight is named like PyTorch's"


_STATE_DICT_NAME = re.compile(r"\.(weight|weight_orig|parametrizations\.weight\.original)$")
