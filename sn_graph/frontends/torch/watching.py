"""Watching: the functions that a module calls with a weight, and calling them with another one in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sn_graph.frontends.torch.framework import require_torch

_FUNCTIONS = frozenset(
    {
        "linear", "embedding", "conv1d", "conv2d", "conv3d",
        "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Call:
    """A function that was called with a weight.

    Attributes:
        function: Such as torch.conv2d.
        arguments, options: What it was called with; the weight is the second argument, or an option.
        output: What it gave.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    output: Any

    @property
    def weight(self) -> Any:
        """The weight."""
        return self.options["weight"] if "weight" in self.options else self.arguments[1]


def watched(module: Any, arguments: Sequence[Any]) -> tuple[Any, list[Call]]:
    """Call a module without gradients; return its output, and the functions that it called with a weight."""
    torch = require_torch()
    calls: list[Call] = []

    def handle(function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        output = function(*given, **options)
        if takes_weight(function) and (len(given) > 1 or "weight" in options):
            calls.append(Call(function, given, dict(options), output))
        return output

    with torch.no_grad(), _mode(handle):
        output = module(*arguments)
    return output, calls


def with_weight(module: Any, computed: Callable[..., Any], weight: Callable[[], Any], arguments: Sequence[Any]) -> Any:
    """Call `computed`, of which the function that takes a weight of this shape is given another one.

    Args:
        module: The first argument of `computed`.
        computed: A forward.
        weight: Returns what is taken in the weight's place.
        arguments: The others.
    """
    put = weight()

    def handle(function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if takes_weight(function):
            if "weight" in options and options["weight"].shape == put.shape:
                options = {**options, "weight": put}
            elif len(given) > 1 and given[1].shape == put.shape:
                given = (given[0], put, *given[2:])
        return function(*given, **options)

    with _mode(handle):
        return computed(module, *arguments)


def takes_weight(function: Callable[..., Any]) -> bool:
    """Say whether a function of torch multiplies with a weight, or looks its rows up."""
    return getattr(function, "__name__", "") in _FUNCTIONS


def _mode(handle: Callable[..., Any]) -> Any:
    """Return a mode in which torch's functions go through `handle`."""
    torch = require_torch()

    class Mode(torch.overrides.TorchFunctionMode):  # type: ignore[name-defined,misc]
        def __torch_function__(self, function: Any, _: Any, given: Any = (), options: Any = None) -> Any:
            return handle(function, given, options or {})

    return Mode()
