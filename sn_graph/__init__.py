"""sn-graph: a compiler for spectral normalization on ONNX graphs.

>>> import sn_graph as sn
>>> result = sn.fold("models/keras_dcgan_discriminator.onnx")
>>> [site.status for site in result.sites]
['folded', 'folded', 'folded', 'folded']
"""

import sys
from types import ModuleType

from sn_graph.version import __version__

TYPE_CHECKING = False  # as typing has it, which takes milliseconds to import, in which Ctrl-C would show a traceback
if TYPE_CHECKING:
    from typing import Any

    from sn_graph.api import Source, apply, certify, fold, fold_checkpoint, insert, inspect, lift, strip
    from sn_graph.errors import EnvironmentUnavailable, ModelError, SnGraphError, UsageError, VerificationFailed
    from sn_graph.model import Model
    from sn_graph.passes import PassResult
    from sn_graph.plan import Plan, PlanOptions, load_plan, make_plan, save_plan
    from sn_graph.progress import Progress, on_rich, on_tqdm
    from sn_graph.report import Report, SiteRecord
    from sn_graph.runtime import Comparison, ParityResult, compare, verify
    from sn_graph.runtime.session import StatefulSession

# Imported when first used, so that `import sn_graph` and `sn-graph --version` cost next to nothing.
_HOMES = {
    "Comparison": "sn_graph.runtime",
    "EnvironmentUnavailable": "sn_graph.errors",
    "Model": "sn_graph.model",
    "ModelError": "sn_graph.errors",
    "ParityResult": "sn_graph.runtime",
    "PassResult": "sn_graph.passes",
    "Plan": "sn_graph.plan",
    "PlanOptions": "sn_graph.plan",
    "Progress": "sn_graph.progress",
    "Report": "sn_graph.report",
    "SiteRecord": "sn_graph.report",
    "SnGraphError": "sn_graph.errors",
    "Source": "sn_graph.api",
    "StatefulSession": "sn_graph.runtime.session",
    "UsageError": "sn_graph.errors",
    "VerificationFailed": "sn_graph.errors",
    "apply": "sn_graph.api",
    "certify": "sn_graph.api",
    "compare": "sn_graph.runtime",
    "fold": "sn_graph.api",
    "fold_checkpoint": "sn_graph.api",
    "insert": "sn_graph.api",
    "inspect": "sn_graph.api",
    "lift": "sn_graph.api",
    "load_plan": "sn_graph.plan",
    "make_plan": "sn_graph.plan",
    "on_rich": "sn_graph.progress",
    "on_tqdm": "sn_graph.progress",
    "save_plan": "sn_graph.plan",
    "strip": "sn_graph.api",
    "verify": "sn_graph.runtime",
}

__all__ = [
    "Comparison",
    "EnvironmentUnavailable",
    "Model",
    "ModelError",
    "ParityResult",
    "PassResult",
    "Plan",
    "PlanOptions",
    "Progress",
    "Report",
    "SiteRecord",
    "SnGraphError",
    "Source",
    "StatefulSession",
    "UsageError",
    "VerificationFailed",
    "__version__",
    "apply",
    "certify",
    "compare",
    "fold",
    "fold_checkpoint",
    "insert",
    "inspect",
    "lift",
    "load_plan",
    "make_plan",
    "on_rich",
    "on_tqdm",
    "save_plan",
    "strip",
    "verify",
]


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module 'sn_graph' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """The package, whose `certify` is the function: Python binds the subpackage of that name when it is imported."""

    def __setattr__(self, name: str, value: "Any") -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
