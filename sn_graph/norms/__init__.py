"""Norms: the spectral norms of a model's weights, measured, bounded and estimated."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.norms.against import Base, base_of_model
    from sn_graph.norms.checkpoint import (
        CHECKPOINT_CONVENTION,
        CHECKPOINT_REASON,
        base_of_checkpoint,
        checkpoint_records,
        inspect_checkpoint,
    )
    from sn_graph.norms.convolution import convolution_of, with_resolved_pads
    from sn_graph.norms.divisor import Divider, Divisors, SigmaMethod, require_divisor
    from sn_graph.norms.drawn import draw
    from sn_graph.norms.inspect import inspect, totals
    from sn_graph.norms.matrix import exact_sigma, recognised_sigma, require_finite, require_finite_values
    from sn_graph.norms.operator import MADE_ZERO, Enclosure, Operators
    from sn_graph.norms.remarks import KERAS_FLOOR, doubt, held, notes, readings
    from sn_graph.norms.start import Start, Starter, plan_state

__all__ = [
    "CHECKPOINT_CONVENTION",
    "CHECKPOINT_REASON",
    "KERAS_FLOOR",
    "MADE_ZERO",
    "Base",
    "Divider",
    "Divisors",
    "Enclosure",
    "Operators",
    "SigmaMethod",
    "Start",
    "Starter",
    "base_of_checkpoint",
    "base_of_model",
    "checkpoint_records",
    "convolution_of",
    "doubt",
    "draw",
    "exact_sigma",
    "held",
    "inspect",
    "inspect_checkpoint",
    "notes",
    "plan_state",
    "readings",
    "recognised_sigma",
    "require_divisor",
    "require_finite",
    "require_finite_values",
    "totals",
    "with_resolved_pads",
]
