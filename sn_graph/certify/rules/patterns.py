"""Patterns: nodes that together are one function with a constant, where each by itself has none or a larger one.

The names of the values that are read back are those of one scope. One kind a file: `gates`, `pieces`, `moments`,
`pairs`, `lengths`.
"""

from collections.abc import Callable

from sn_graph.certify.rules import gates, lengths, moments, pairs, pieces
from sn_graph.certify.rules.formulas import View
from sn_graph.certify.steps import Call, Made, Operand


def pattern_of(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Return what a pattern that ends at a node reads, and its steps; None where there is none.

    Args:
        view: The node's scope.
        call: The node, with no operands: a pattern finds its own.
    """
    if not call.node.is_standard:
        return None
    for find in _PATTERNS.get(call.node.op_type, ()):
        found = find(view, call)
        if found is not None:
            return found
    return None


Finder = Callable[[View, Call], tuple[Operand, Made] | None]

_PATTERNS: dict[str, tuple[Finder, ...]] = {
    "Mul": (gates.gated, moments.standardized),
    "Div": (gates.divided, moments.standardized),
    "Sub": (moments.centered,),
    "Concat": (pairs.max_min, pairs.extremes),
    "Sqrt": (lengths.length,),
    "Pow": (lengths.length,),
    "Max": (pieces.hinge,),
    "Min": (pieces.hinge,),
    "Where": (pieces.branches,),
}
