"""Matrix inequalities of segments: which kind a segment has, what it costs, and its bound."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sn_graph.certify.dense import LARGEST, Size, layers_of, slope_problem, widths
from sn_graph.certify.frequencies import Circle
from sn_graph.certify.lowered import lowered
from sn_graph.certify.segments import Segment
from sn_graph.certify.steps import Elementwise
from sn_graph.spectral.lmi import LmiBound, chain_bound, lipschitz_bound, spread_bound

# Seconds of one step of the solver, by the cube of the order; complex matrices take four times as long.
REAL, COMPLEX = 8e-10, 3.2e-9
# Steps that it takes to the end; to a first answer at frequencies, and how many of these are solved together.
STEPS, FIRST_STEPS, CHOSEN = 18, 12, 8
# What a proof at one frequency costs, in steps, and how many there are.
PROOFS = 1.5
# What costs less is not worth thinking about.
LITTLE = 2.0
# No step is as short as this, whatever the order.
LEAST = 2e-3
# Beyond this order the memory would be filled.
LARGEST_ORDER = 800
# The order of what is written out at most; rows up to which a chain is solved as a whole (`spectral.lmi.layers`).
LARGEST_DENSE = 4000
WHOLE_CHAIN = 900


@dataclass(frozen=True, eq=False)
class Inequality:
    """The matrix inequality of a segment, written out or for each frequency.

    Attributes:
        segment: The segment.
        seconds: About how long it takes; at frequencies to a first answer, which more time improves.
        circle: The segment on a circle; None where it is written out.
        is_chain: Whether it is written out layer by layer.
    """

    segment: Segment
    seconds: float
    circle: Circle | None = None
    is_chain: bool = False

    def bound(self, deadline: float) -> LmiBound:
        """Return what is proven until about a deadline, by time.monotonic."""
        if self.is_chain and (layers := layers_of(self.segment)) is not None:
            return chain_bound(layers.weights, layers.low, layers.high, errors=layers.errors, deadline=deadline)
        if self.circle is None:
            problem = slope_problem(self.segment)
            if problem is None:
                return LmiBound(math.inf, np.zeros(0), 0, "none: it is not written out")
            return lipschitz_bound(problem, deadline=deadline)
        circle = self.circle
        return spread_bound(
            lambda places: circle.problem(circle.frequencies[places]),
            len(circle.frequencies),
            circle.order,
            deadline=deadline,
        )


def inequality_of(segment: Segment) -> Inequality | None:
    """Choose the form of a segment's matrix inequality; None where it has none, or one that is too large."""
    whole = lowered(segment)
    if whole is None:
        return None
    written = _written(whole)
    if written is not None and written.seconds < LITTLE:
        return written
    circle = _on_circle(whole)
    if circle is None or (written is not None and written.seconds <= circle.seconds):
        return written
    return circle


def _written(segment: Segment) -> Inequality | None:
    size = Size.of(segment)
    if size is None:
        return None
    chain = widths(segment)
    if chain is not None and all(first * second <= LARGEST for first, second in pairwise(chain)):
        rows = sum(chain[1:-1])
        # A chain of more rows is improved a few layers at a time.
        orders = [rows + min(chain[0], chain[1])] if rows <= WHOLE_CHAIN else [sum(part) for part in _triples(chain)]
        return Inequality(segment, _seconds(orders), is_chain=True)
    if size.fits and size.order <= LARGEST_DENSE:
        return Inequality(segment, _seconds([size.order]))
    return None


def _triples(chain: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield each three neighbours of a list, or all of a shorter one."""
    for start in range(max(1, len(chain) - 2)):
        yield tuple(chain[start : start + 3])


def _seconds(orders: Iterable[int]) -> float:
    return math.fsum(STEPS * max(LEAST, REAL * float(order) ** 3) for order in orders)


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
    steps = FIRST_STEPS * min(CHOSEN, count) + PROOFS * count
    return Inequality(segment, steps * max(LEAST, COMPLEX * float(circle.order) ** 3), circle)
