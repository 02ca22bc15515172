"""Matrix inequalities of segments: which kind a segment has, what it costs, and its bound."""

import math
from dataclasses import dataclass

import numpy as np

from sn_graph.certify.dense import Size, slope_problem
from sn_graph.certify.frequencies import Circle
from sn_graph.certify.segments import Segment
from sn_graph.certify.steps import Elementwise
from sn_graph.spectral.lmi import LmiBound, frequency_bound, lipschitz_bound

# Seconds of one step of the solver, by the cube of the order; complex matrices take four times as long.
REAL, COMPLEX = 8e-10, 3.2e-9
# Steps that it takes to the end; to a first answer at frequencies, and how many of these are solved together.
STEPS, FIRST_STEPS, CHOSEN = 18, 12, 6
# What a proof at one frequency costs, in steps, and how many there are.
PROOFS = 1.5
# What costs less is not worth thinking about.
LITTLE = 2.0
# No step is as short as this, whatever the order.
LEAST = 2e-3
# Beyond these orders, and numbers of all frequencies' matrices, the memory would be filled.
LARGEST_ORDER = 800
LARGEST_MATRICES = 1 << 25
# The order of what is written out at most.
LARGEST_DENSE = 4000


@dataclass(frozen=True, eq=False)
class Inequality:
    """The matrix inequality of a segment, written out or for each frequency.

    Attributes:
        segment: The segment.
        seconds: About how long it takes; at frequencies to a first answer, which more time improves.
        circle: The segment on a circle; None where it is written out.
    """

    segment: Segment
    seconds: float
    circle: Circle | None = None

    def bound(self, deadline: float) -> LmiBound:
        """Return what is proven until about a deadline, by time.monotonic."""
        if self.circle is None:
            problem = slope_problem(self.segment)
            if problem is None:
                return LmiBound(math.inf, np.zeros(0), 0, "none: it is not written out")
            return lipschitz_bound(problem, deadline=deadline)
        return frequency_bound(self.circle.problem(self.circle.frequencies), deadline=deadline)


def inequality_of(segment: Segment) -> Inequality | None:
    """Choose the form of a segment's matrix inequality; None where it has none, or one that is too large."""
    size = Size.of(segment)
    written = None
    if size is not None and size.fits and size.order <= LARGEST_DENSE:
        written = Inequality(segment, STEPS * max(LEAST, REAL * float(size.order) ** 3))
        if written.seconds < LITTLE:
            return written
    circle = _on_circle(segment)
    if circle is None or (written is not None and written.seconds <= circle.seconds):
        return written
    return circle


def _on_circle(segment: Segment) -> Inequality | None:
    bent = [step for step in segment.steps if isinstance(step, Elementwise)]
    if not bent or any(len(step.shape) < 3 for step in bent):
        return None
    if sum(step.shape[1] for step in bent) > LARGEST_ORDER:
        return None
    circle = Circle.of(segment)
    if circle is None or circle.order > LARGEST_ORDER:
        return None
    count = len(circle.frequencies)
    if count * circle.order**2 > LARGEST_MATRICES:
        return None
    steps = FIRST_STEPS * min(CHOSEN, count) + PROOFS * count
    return Inequality(segment, steps * max(LEAST, COMPLEX * float(circle.order) ** 3), circle)
