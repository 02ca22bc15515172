"""Norms: the spectral norms of a model's weights, measured, bounded and estimated."""

from sn_graph.norms.divisor import Divider, Divisors, SigmaMethod, require_divisor
from sn_graph.norms.inspect import inspect
from sn_graph.norms.matrix import exact_sigma, recognised_sigma, require_finite
from sn_graph.norms.operator import MADE_ZERO, Enclosure, Operators
from sn_graph.norms.remarks import KERAS_FLOOR, notes, readings
from sn_graph.norms.start import Start, Starter, plan_state

__all__ = [
    "KERAS_FLOOR",
    "MADE_ZERO",
    "Divider",
    "Divisors",
    "Enclosure",
    "Operators",
    "SigmaMethod",
    "Start",
    "Starter",
    "exact_sigma",
    "inspect",
    "notes",
    "plan_state",
    "readings",
    "recognised_sigma",
    "require_divisor",
    "require_finite",
]
