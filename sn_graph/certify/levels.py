"""Levels: how a network's constant is bounded, and which of the bounds is the least.

    product   the steps' own constants along the graph
    fused     the least product over runs between cuts, their linear steps composed
    fast      the same, with closed-form multipliers on runs that are written out (ECLipsE-Fast: Xu & Sivaranjani, 2024,
              2404.04375), proven as others are
    lmi       the same, with the matrix inequality of slope-restricted neurons on runs for which there is time

Each level knows all that those before it found, so that none is above another. Which runs get a matrix inequality:
those of the partition into the longest runs that takes a tenth of the time, by estimate, then of coarser ones as long
as they fit what is left of it, because the inequality of a run gives at most the product of those of its parts; within
a partition the run with the largest expected gain a second comes first. When a partition gains next to nothing over
the one before it, the search ends.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sn_graph.certify.fused import Factors, fused_bound
from sn_graph.certify.inequalities import Inequality, inequality_of
from sn_graph.certify.lowered import lowered
from sn_graph.certify.mirrored import mirrored_bound
from sn_graph.certify.network import Network
from sn_graph.certify.product import Bound
from sn_graph.certify.segments import Cuts, Run, Segment, Way, least_product, stretches
from sn_graph.certify.steps import Elementwise, Linear, Reshaped, Transposed

# Parts of the time that is left which the partitions may take, one after the other.
PARTS = (0.1, 0.4, 1.0)
# The part of the time that may go by while runs are looked at.
PLANNING = 0.1
# How many times longer the search for multipliers takes than the proof of closed-form ones.
CLOSED = 6.0
# A partition that gains less, as a part of the bound, is the last.
GAIN = 1e-3


@dataclass(frozen=True)
class Levels:
    """What each level gives.

    Attributes:
        bounds: By the level's name, each at most the one before.
        way: The runs whose product the last one is.
        how: For each run of the way, what proved its constant.
    """

    bounds: Mapping[str, float]
    way: Way
    how: Mapping[Run, str] = field(default_factory=dict)


def higher_levels(network: Network, bounds: Sequence[Bound], *, lmi: bool = True, deadline: float) -> Levels:
    """Bound a network's constant by the levels above the product.

    Args:
        network: The network, whose output depends on its sources.
        bounds: Those of level 1.
        lmi: Whether level 3 is wanted.
        deadline: When to stop, by time.monotonic.
    """
    return _Search(network, bounds, deadline).levels(lmi)


class _Search:
    def __init__(self, network: Network, bounds: Sequence[Bound], deadline: float) -> None:
        self._cuts = Cuts.of(network)
        self._count = len(self._cuts.segments)
        self._factors: Factors = {bound.step.result: bound.factors for bound in bounds}
        self._deadline = deadline
        self._product = bounds[-1].bound
        # What is composed at one size says nothing of others.
        self._known = [not any(name in network.dynamic for name in segment.shapes) for segment in self._cuts.segments]
        self._constants: dict[Run, float] = {}
        self._how: dict[Run, str] = {}
        # Runs that took all of their time.
        self._stopped: dict[Run, Inequality] = {}
        self._planned: dict[Run, Inequality | None] = {}
        # How much longer than estimated things took.
        self._pace = 1.0

    def levels(self, lmi: bool) -> Levels:
        found = {"product": self._product}
        for place, segment in enumerate(self._cuts.segments):
            self._take((place, place + 1), _level_one(segment, self._factors), "product")
        self._fuse()
        found["fused"] = self._least(found)
        if lmi:
            bent = stretches([self._known[i] and _bends(one) for i, one in enumerate(self._cuts.segments)])
            for stretch in bent:
                self._prove_closed_forms(stretch)
            found["fast"] = self._least(found)
            self._mirror()
            for stretch in bent:
                self._prove_partitions(stretch)
            self._prove_again()
            found["lmi"] = self._least(found)
        way = least_product(self._constants, self._count)
        return Levels(found, way, {run: self._how[run] for run in way.runs})

    def _least(self, found: Mapping[str, float]) -> float:
        # Level 1 multiplies in another order, and may round less.
        return min(least_product(self._constants, self._count).bound, *found.values())

    def _take(self, run: Run, value: float, how: str) -> None:
        if run not in self._constants or value < self._constants[run]:
            self._constants[run], self._how[run] = value, how

    # Level 2

    def _fuse(self) -> None:
        """Compose the longest linear runs, and the linear steps within segments of several branches."""
        linear = [segment.is_linear and self._known[i] for i, segment in enumerate(self._cuts.segments)]
        runs = [run for run in stretches(linear) if run[1] - run[0] > 1]
        single = [(i, i + 1) for i, segment in enumerate(self._cuts.segments) if len(segment.steps) > 1]
        for run in [*runs, *(run for run in single if self._known[run[0]])]:
            if time.monotonic() > self._deadline:
                break
            self._take(run, fused_bound(self._cuts.run(*run), self._factors, self._deadline), "fused")

    # Level 3

    def _mirror(self) -> None:
        """Bound residual steps that go back as they came, for which no multipliers have to be sought."""
        for place, segment in enumerate(self._cuts.segments):
            if time.monotonic() > self._deadline:
                return
            if self._known[place] and len(segment.steps) > 1 and not segment.is_linear:
                found = mirrored_bound(segment)
                if found is not None:
                    self._take((place, place + 1), found, "lmi")

    def _prove_closed_forms(self, stretch: Run) -> None:
        """Prove the multipliers that need no search, of the longest runs that are written out."""
        places, left = self._places(stretch), self._deadline - time.monotonic()
        if left <= 0.0:
            return
        written = {run: one for run, one in self._inequalities(places, left).items() if one.circle is None}
        seconds = {run: self._seconds(one) / CLOSED for run, one in written.items()}
        for run in _coarsest(places, seconds, set(), PARTS[0] * left):
            inner = self._trimmed(run)
            now = time.monotonic()
            if inner is None or now > self._deadline:
                continue
            try:
                self._take(inner, written[run].bound(now).value, "closed form")
            except (np.linalg.LinAlgError, MemoryError):
                continue  # what LAPACK can't do, and what does not fit, proves nothing

    def _prove_partitions(self, stretch: Run) -> None:
        places = self._places(stretch)
        tried: set[Run] = set()
        for part in PARTS:
            left = self._deadline - time.monotonic()
            if left <= 0.0:
                return
            inequalities = self._inequalities(places, left)
            seconds = {run: self._seconds(one) for run, one in inequalities.items()}
            runs = _coarsest(places, seconds, tried, part * left)
            before = least_product(self._constants, self._count).bound
            new = {run: inequalities[run] for run in runs if run not in tried}
            self._prove_all(new, part * left)
            tried.update(runs)
            after = least_product(self._constants, self._count).bound
            is_whole = len(runs) == 1 and runs[0] == stretch
            if is_whole or (new and after > before * (1.0 - GAIN)):
                return

    def _prove_all(self, inequalities: Mapping[Run, Inequality], seconds: float) -> None:
        """Prove runs, each in its share of a time; what one leaves of it goes to the others."""
        end = time.monotonic() + seconds
        waiting = sorted(inequalities, key=lambda run: self._cost(run, inequalities[run]))
        while waiting:
            now = time.monotonic()
            if now > self._deadline:
                return
            run = waiting[0]
            share = inequalities[run].seconds / math.fsum(inequalities[one].seconds for one in waiting)
            limit = now + max(share * (end - now), 1.25 * self._seconds(inequalities[run]))
            self._prove(run, inequalities[run], min(limit, self._deadline))
            waiting = waiting[1:]

    def _prove_again(self) -> None:
        """Give the runs of the way that were stopped by their share of the time what is left of all of it."""
        way = least_product(self._constants, self._count).runs
        stopped = {run: one for run, one in self._stopped.items() if self._trimmed(run) in way}
        self._prove_all(stopped, self._deadline - time.monotonic())

    def _places(self, stretch: Run) -> list[int]:
        """The cuts of a stretch at which a run may begin or end: those that part no two linear segments.

        An activation stands at the end of the run before it.
        """
        segments = self._cuts.segments
        inner = [
            place
            for place in range(stretch[0] + 1, stretch[1])
            if not _is_activation(segments[place]) and not (segments[place - 1].is_linear and segments[place].is_linear)
        ]
        return [stretch[0], *inner, stretch[1]]

    def _inequalities(self, places: Sequence[int], limit: float) -> dict[Run, Inequality]:
        """The inequalities of runs between places that fit a time; longer runs take longer."""
        found: dict[Run, Inequality] = {}
        end = time.monotonic() + PLANNING * limit
        for at, first in enumerate(places):
            for last in places[at + 1 :]:
                one = self._inequality((first, last)) if time.monotonic() < end or last == places[at + 1] else None
                if one is None:
                    continue
                if self._seconds(one) > limit:
                    break
                found[first, last] = one
        return found

    def _inequality(self, run: Run) -> Inequality | None:
        if run not in self._planned:
            inner = self._trimmed(run)
            self._planned[run] = None if inner is None else inequality_of(self._cuts.run(*inner))
        return self._planned[run]

    def _seconds(self, one: Inequality) -> float:
        return one.seconds * self._pace

    def _cost(self, run: Run, one: Inequality) -> float:
        """Seconds for what may be gained: a run of branches gains what they add up to, a chain some of each layer."""
        segments = self._cuts.segments[run[0] : run[1]]
        layers = sum(not isinstance(step, Linear) for segment in segments for step in segment.steps)
        branches = sum(not segment.is_linear and len(segment.steps) > 1 for segment in segments)
        return one.seconds / (layers + 2.0 * branches)

    def _trimmed(self, run: Run) -> Run | None:
        """Leave out what stands at the ends and gains nothing there: activations, and moves of elements."""
        first, last = run
        while first < last and _is_free(self._cuts.segments[first]):
            first += 1
        while last > first and _is_free(self._cuts.segments[last - 1]):
            last -= 1
        inside = self._cuts.segments[first:last]
        return (first, last) if any(not segment.is_linear for segment in inside) else None

    def _prove(self, run: Run, one: Inequality, deadline: float) -> None:
        inner = self._trimmed(run)
        if inner is None:
            return
        begun = time.monotonic()
        try:
            found = one.bound(deadline)
        except (np.linalg.LinAlgError, MemoryError):
            return  # what LAPACK can't do, and what does not fit, proves nothing
        self._take(inner, found.value, "lmi" if one.circle is None else "lmi of each frequency")
        if time.monotonic() > deadline:
            self._stopped[run] = one
        # What is solved at frequencies goes on as long as it may.
        spent = time.monotonic() - begun
        if one.circle is None and spent > 1.0:
            self._pace = max(1.0, spent / one.seconds)


def _coarsest(places: Sequence[int], seconds: Mapping[Run, float], tried: set[Run], limit: float) -> list[Run]:
    """Return the runs of the coarsest partition that fits a time: the longest ones of up to some cost each."""
    for most in sorted(set(seconds.values()), reverse=True):
        runs, at = [], 0
        while at < len(places) - 1:
            ends = [
                end for end in range(at + 1, len(places)) if seconds.get((places[at], places[end]), math.inf) <= most
            ]
            end = max(ends, default=at + 1)
            if ends:
                runs.append((places[at], places[end]))
            at = end
        if math.fsum(seconds[run] for run in runs if run not in tried) <= limit:
            return runs
    return []


def _bends(segment: Segment) -> bool:
    """Whether it may be a part of a matrix inequality."""
    return lowered(segment) is not None


def _is_free(segment: Segment) -> bool:
    """Whether it is one activation, or moves elements."""
    if len(segment.steps) != 1 or not isinstance(segment.steps[0], Linear):
        return _is_activation(segment)
    parts = segment.steps[0].parts
    return len(parts) == 1 and isinstance(parts[0], (Reshaped, Transposed))


def _is_activation(segment: Segment) -> bool:
    return len(segment.steps) == 1 and isinstance(segment.steps[0], Elementwise)


def _level_one(segment: Segment, factors: Factors) -> float:
    constants = dict.fromkeys(segment.starts, 1.0)
    for step in segment.steps:
        constants[step.result] = step.combined(factors[step.result], [constants[name] for name in step.operands])
    return constants[segment.end]
