"""Segments: the parts of a network between its cuts, and the least product of their constants.

A cut is a value that every path from the sources to the output passes. With cuts c₀ (the sources), c₁, …, c_k (the
output) the network is f_k ∘ … ∘ f_1, f_i from c_{i−1} to c_i, because what lies behind a cut depends on the sources
through the cut alone. Let L(i, j) be any Lipschitz constant of f_j ∘ … ∘ f_{i+1}, however it was proven. Then

    L ≤ Π L(i_{s−1}, i_s)      for every 0 = i_0 < i_1 < … < i_r = k,

because constants multiply under composition. The least of these products is found as a shortest path is (Bellman, 1958,
On a routing problem, Quart. Appl. Math. 16): best(j) = min_i best(i) · L(i, j).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sn_graph.certify.network import Network
from sn_graph.certify.steps import Linear, Shape, Step, product

Run = tuple[int, int]
"""From one cut to a later one, by their numbers."""


@dataclass(frozen=True, eq=False)
class Segment:
    """What a network computes between two cuts.

    Attributes:
        starts: The shapes of the values that it begins with, by name: one, or the sources jointly.
        end: The value that it ends with.
        steps: Every step between, each behind those that it reads.
    """

    starts: Mapping[str, Shape]
    end: str
    steps: tuple[Step, ...]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each value, by name."""
        return {**self.starts, **{step.result: step.shape for step in self.steps}}

    @property
    def is_linear(self) -> bool:
        """Whether all steps are linear, but for their offsets."""
        return all(isinstance(step, Linear) for step in self.steps)


@dataclass(frozen=True, eq=False)
class Cuts:
    """The segments between consecutive cuts."""

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, network: Network) -> "Cuts":
        """Cut a network wherever one value carries all that comes later."""
        steps = network.steps
        starts: Mapping[str, Shape] = {source.name: source.shape for source in network.sources}
        segments, first = [], 0
        for last in _cut_places(network):
            segments.append(Segment(starts, steps[last].result, steps[first : last + 1]))
            starts, first = {steps[last].result: steps[last].shape}, last + 1
        return cls(tuple(segments))

    def run(self, first: int, last: int) -> Segment:
        """Return the run from one cut to a later one as one segment."""
        parts = self.segments[first:last]
        return Segment(parts[0].starts, parts[-1].end, tuple(step for part in parts for step in part.steps))


def _cut_places(network: Network) -> list[int]:
    """The places of the steps whose results are cuts; the last one is the output's.

    All steps are needed, so each lies on a path to the output. In the steps' order a value is a cut if and only if no
    step behind it reads one before it: such a step would lie on a path that misses it, and a path that misses it has
    such a step.
    """
    places = {step.result: place for place, step in enumerate(network.steps)}
    found: list[int] = []
    # How far back later steps read; sources lie before all.
    reach = len(network.steps)
    for place in reversed(range(len(network.steps))):
        if reach >= place:
            found.append(place)
        reach = min([reach, *(places.get(name, -1) for name in network.steps[place].operands)])
    return found[::-1]


@dataclass(frozen=True)
class Way:
    """A way from the sources to the output, and the product of the constants of its runs.

    Attributes:
        bound: The product, rounded upwards.
        runs: The runs, in order.
    """

    bound: float
    runs: tuple[Run, ...]


def least_product(constants: Mapping[Run, float], count: int) -> Way:
    """Find the least product over all ways.

    Args:
        constants: A Lipschitz constant of each run for which one is known; of each single segment, at least.
        count: How many segments there are.
    """
    best = [Way(1.0, ())]
    for last in range(1, count + 1):
        ways = [_longer(best[first], constants, (first, last)) for first in range(last)]
        best.append(min(ways, key=lambda way: way.bound))
    return best[count]


def _longer(way: Way, constants: Mapping[Run, float], run: Run) -> Way:
    return Way(product(way.bound, constants[run]) if run in constants else math.inf, (*way.runs, run))


def stretches(allowed: Sequence[bool]) -> list[Run]:
    """Return the longest runs of segments that are all allowed, given one by one."""
    found: list[Run] = []
    first = 0
    for place, fits in enumerate([*allowed, False]):
        if not fits:
            if place > first:
                found.append((first, place))
            first = place + 1
    return found
