"""The runtime: providers, sessions, inputs made from a signature, parity. onnxruntime is imported at the first run."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.runtime.engine import available_providers, open_session, parse_providers, run_named
    from sn_graph.runtime.parity import (
        Comparison,
        ParityResult,
        Side,
        compare,
        compare_sides,
        lean_side,
        load_inputs,
        make_feeds,
        make_inputs,
        verify,
        with_overrides,
    )

__all__ = [
    "Comparison",
    "ParityResult",
    "Side",
    "available_providers",
    "compare",
    "compare_sides",
    "lean_side",
    "load_inputs",
    "make_feeds",
    "make_inputs",
    "open_session",
    "parse_providers",
    "run_named",
    "verify",
    "with_overrides",
]
