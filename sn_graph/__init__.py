"""sn-graph: a compiler for spectral normalization on ONNX graphs.

>>> import sn_graph as sn
>>> result = sn.fold("models/keras_dcgan_discriminator.onnx")
>>> [site.status for site in result.sites]
['folded', 'folded', 'folded', 'folded']
"""

from sn_graph.lazy import lazily
from sn_graph.version import __version__

with lazily(__name__):  # so that `import sn_graph` and `sn-graph --version` cost next to nothing
    from sn_graph.api import Source, apply, certify, fold, fold_checkpoint, insert, inspect, lift, strip
    from sn_graph.errors import EnvironmentUnavailable, ModelError, SnGraphError, UsageError, VerificationFailed
    from sn_graph.model import Model
    from sn_graph.passes import PassResult
    from sn_graph.plan import Plan, PlanOptions, load_plan, make_plan, save_plan
    from sn_graph.progress import Progress, on_rich, on_tqdm
    from sn_graph.report import Report, SiteRecord
    from sn_graph.runtime import Comparison, ParityResult, compare, verify
    from sn_graph.runtime.session import StatefulSession

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
