"""The Lipschitz constant of a network of convolutions: few frequencies are solved, all are proven.

Of many frequencies few decide. The inequality is solved for some, spread over all; those at which its multipliers need
the largest ρ are added, and so on until no frequency needs more than what was solved for. In the end each frequency is
proven with the same multipliers. Not more than a few dozen are in memory at a time.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import one_thread
from sn_graph.spectral.lmi.bound import bounded, proven_bound, taken
from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import FrequencyProblem, LmiBound, Real
from sn_graph.spectral.lmi.proof import least_of_each
from sn_graph.spectral.lmi.reduction import without_dead, without_linear

Places = NDArray[np.int64]
Make = Callable[[Places], FrequencyProblem]

# Up to so many are solved at once; of more, so many to begin with, and so many more each time.
AT_ONCE = 16
ADDED = 8
ROUNDS = 12
# Of an order beyond this, half as many to begin with.
LARGE = 128
# Numbers in the matrices that are solved at once: a dozen such arrays are in use.
TOGETHER = 1 << 23
# Numbers in the matrices of a chunk.
CHUNK = 2_000_000
# The solver's gap, relative to ρ, while frequencies are chosen, and in the end; a frequency that needs more than half
# of it above what was solved for is added.
GAPS = (1e-3, 4e-7)


def frequency_bound(problem: FrequencyProblem, *, start: Real | None = None, deadline: float | None = None) -> LmiBound:
    """Bound the Lipschitz constant of a network that acts on each frequency by itself but for its neurons.

    Args:
        problem: The network; of two frequencies whose matrices are conjugates of each other one will do.
        start: Multipliers [m] to begin with, if any are known.
        deadline: When the search for better multipliers ends, by time.monotonic.

    Returns:
        The bound, proven for every frequency with the same multipliers, or infinity with the reason.
    """
    count, _, order = problem.weights.shape
    return spread_bound(lambda places: _some(problem, places), count, order, start=start, deadline=deadline)


def spread_bound(
    make: Make, count: int, order: int, *, start: Real | None = None, deadline: float | None = None
) -> LmiBound:
    """Bound the same where the matrices of all frequencies don't fit the memory.

    Args:
        make: Returns the problem of some of the frequencies, by their numbers; all else is the same for all of them.
        count: How many frequencies there are.
        order: n + m, by which they are cut into chunks.
        start, deadline: As for `frequency_bound`.

    Returns:
        The bound, as of `frequency_bound`.
    """
    if count <= AT_ONCE:
        return bounded(make(np.arange(count)), start=start, deadline=deadline)
    spectrum = _Spectrum(make, count, order)
    most = max(1, TOGETHER // max(1, order) ** 2)
    first = min(most, AT_ONCE if order <= LARGE else AT_ONCE // 2)
    chosen = np.unique(np.linspace(0, count - 1, first).round().astype(np.int64))
    tried: list[tuple[float, int, Real]] = []
    steps, gaps = 0, list(GAPS)
    for _ in range(ROUNDS):
        # Begun anew each time: an interior point method gains nothing from multipliers near the boundary.
        found = bounded(make(chosen), start=start, deadline=deadline, alive=spectrum.alive, gap=gaps[0])
        steps += found.iterations
        if not found.multipliers.any():
            # Nothing to solve for, or nothing found: the answer for all is of the same kind.
            return spectrum.proven(found.multipliers, steps)
        needed = spectrum.needed(found.multipliers)
        tried.append((float(needed.max()), len(tried), found.multipliers))
        more = np.setdiff1d(np.argsort(-needed)[:ADDED], chosen)
        more = more[needed[more] > found.value * (1.0 + gaps[0] / 2.0)][: max(0, most - len(chosen))]
        over = deadline is not None and time.monotonic() > deadline
        if not len(more):
            gaps.pop(0)
        if not gaps or (over and math.isfinite(min(tried)[0])):
            break
        chosen = np.union1d(chosen, more)
    proven = [spectrum.proven(multipliers, steps) for _, _, multipliers in sorted(tried)[:2]]
    return min(proven, key=attrgetter("value"))


class _Spectrum:
    """All frequencies of a problem, a chunk at a time.

    Attributes:
        alive: The neurons that take part at any of them.
    """

    def __init__(self, make: Make, count: int, order: int) -> None:
        self._make, self._count = make, count
        self._step = max(1, CHUNK // max(1, order) ** 2)
        self.alive = self._alive()

    def _chunks(self) -> Iterator[tuple[Places, FrequencyProblem]]:
        for begin in range(0, self._count, self._step):
            places = np.arange(begin, min(self._count, begin + self._step))
            yield places, self._make(places)

    def _alive(self) -> NDArray[np.int64]:
        patterns = []
        for _, chunk in self._chunks():
            family = Family.of(chunk)
            weights = np.abs(family.weights).max(axis=0) + family.weights_error.max(axis=0)
            output = np.abs(family.output).max(axis=0) + family.output_error.max(axis=0)
            patterns.append((weights != 0.0, output != 0.0))
        weights, output = (np.logical_or.reduce(part)[None].astype(np.float64) for part in zip(*patterns, strict=True))
        plain = Family.of(FrequencyProblem(weights, chunk.low, chunk.high, output, chunk.tie))
        # All signs are alike, so that nothing cancels.
        positive = replace(plain, low=np.abs(plain.low), high=np.abs(plain.high))
        return without_dead(without_linear(positive, plain.low == plain.high)).neurons

    def needed(self, multipliers: Real) -> Real:
        """Find the least bound that the multipliers give for each frequency [F], about."""
        result = np.zeros(self._count)
        with one_thread(), np.errstate(all="ignore"):
            for places, chunk in self._chunks():
                family = taken(chunk, self.alive)
                if isinstance(family, LmiBound):
                    result[places] = family.value
                else:
                    least = least_of_each(Pencil.of(family), family.given(multipliers))
                    result[places] = np.sqrt(np.maximum(least, 0.0)) * family.scale
        return result

    def proven(self, multipliers: Real, steps: int) -> LmiBound:
        """Prove what the multipliers give for all of them."""
        value, reason = 0.0, "nothing of the input reaches the output"
        for _, chunk in self._chunks():
            found = proven_bound(chunk, multipliers, self.alive)
            if found.value >= value:
                value, reason = found.value, found.proven_by
            if value == math.inf:
                break
        return LmiBound(value, multipliers if value < math.inf else np.zeros(len(multipliers)), steps, reason)


def _some(problem: FrequencyProblem, chosen: Places) -> FrequencyProblem:
    count = len(problem.weights)

    def part(error: float | Real) -> float | Real:
        whole = np.asarray(error)
        return whole[chosen] if whole.ndim == 3 and len(whole) == count > 1 else error

    return replace(
        problem,
        weights=problem.weights[chosen],
        output=problem.output[chosen],
        weights_error=part(problem.weights_error),
        output_error=part(problem.output_error),
    )
