"""Parity: do two models, or one model run in two ways, give the same outputs?"""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.runtime.parity.compare import (
        Comparison,
        Inputs,
        ParityResult,
        compare,
        compare_sides,
        make_feeds,
        verify,
    )
    from sn_graph.runtime.parity.difference import difference, tolerances
    from sn_graph.runtime.parity.evidence import doubts
    from sn_graph.runtime.parity.given import lean_side, with_given_weights, with_overrides
    from sn_graph.runtime.parity.inputs import load_inputs, make_inputs
    from sn_graph.runtime.parity.rows import Rows, distance
    from sn_graph.runtime.parity.side import Side
    from sn_graph.runtime.parity.signature import signature

__all__ = [
    "Comparison",
    "Inputs",
    "ParityResult",
    "Rows",
    "Side",
    "compare",
    "compare_sides",
    "difference",
    "distance",
    "doubts",
    "lean_side",
    "load_inputs",
    "make_feeds",
    "make_inputs",
    "signature",
    "tolerances",
    "verify",
    "with_given_weights",
    "with_overrides",
]
