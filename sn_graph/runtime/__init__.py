"""Run models: providers, inputs made from a graph's signature, parity. onnxruntime is imported at the first run."""

from sn_graph.runtime.inputs import load_inputs, make_inputs
from sn_graph.runtime.parity import Comparison, ParityResult, compare, compare_sides, make_feeds, verify
from sn_graph.runtime.providers import available_providers, open_session, parse_providers
from sn_graph.runtime.running import run_named, run_session
from sn_graph.runtime.side import Side

__all__ = [
    "Comparison",
    "ParityResult",
    "Side",
    "available_providers",
    "compare",
    "compare_sides",
    "load_inputs",
    "make_feeds",
    "make_inputs",
    "open_session",
    "parse_providers",
    "run_named",
    "run_session",
    "verify",
]
