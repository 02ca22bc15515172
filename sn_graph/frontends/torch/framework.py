"""PyTorch itself: imported when first needed."""

from importlib import import_module
from typing import Any

from sn_graph.errors import EnvironmentUnavailable


def require_torch(*others: str) -> Any:
    """Return the module torch; others are packages that must be there besides.

    Raises:
        EnvironmentUnavailable: One of them is missing.
    """
    try:
        for name in others:
            import_module(name)
        return import_module("torch")
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"{error.name} can't be imported, and working with PyTorch modules needs it",
            do="pip install 'sn-graph[torch]'",
        ) from None
