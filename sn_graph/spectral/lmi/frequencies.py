"""The Lipschitz constant of a network of convolutions: few frequencies are solved, all are proven.

Of many frequencies few decide. The inequality is solved for some, spread over all; those at which its multipliers need
the largest ρ are added, and so on until no frequency needs more than what was solved for. In the end each frequency is
proven with the same multipliers. Not more than a few dozen are in memory at a time.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import one_thread
from sn_graph.spectral.lmi.bound import bounded, proven_bound, taken
from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import FrequencyProblem, LmiBound, Real
from sn_graph.spectral.lmi.proof import least_of_each
from sn_graph.spectral.lmi.reduction import without_dead, without_linear

Indices = NDArray[np.int64]

# Up to so many are solved at once; of more, so many to begin with, and so many more each time.
AT_ONCE = 16
ADDED = 8
ROUNDS = 12
# Numbers in the matrices of a chunk.
CHUNK = 2_000_000
# A frequency that needs no more than this above what was solved for is not added.
CLOSE = 2e-7


def frequency_bound(problem: FrequencyProblem, *, start: Real | None = None, deadline: float | None = None) -> LmiBound:
    """Bound the Lipschitz constant of a network that acts on each frequency by itself but for its neurons.

    Args:
        problem: The network; of two frequencies whose matrices are conjugates of each other one will do.
        start: Multipliers [m] to begin with, if any are known.
        deadline: When the search for better multipliers ends, by time.monotonic.

    Returns:
        The bound, proven for every frequency with the same multipliers, or infinity with the reason.
    """
    if len(problem.weights) <= AT_ONCE:
        return bounded(problem, start=start, deadline=deadline)
    alive = _alive(problem)
    chosen = np.unique(np.linspace(0, len(problem.weights) - 1, AT_ONCE).round().astype(np.int64))
    best = LmiBound(math.inf, np.zeros(len(problem.low)), 0, "none: no multipliers to begin with were found")
    tried: list[tuple[float, int, Real]] = []
    steps = 0
    for _ in range(ROUNDS):
        found = bounded(_some(problem, chosen), start=start, deadline=deadline, alive=alive)
        steps += found.iterations
        if not found.multipliers.any():
            # Nothing to solve for, or nothing found: the answer for all is of the same kind.
            return _proven(problem, found.multipliers, alive, steps)
        needed = _needed(problem, found.multipliers, alive)
        tried.append((float(needed.max()), len(tried), found.multipliers))
        more = np.setdiff1d(np.argsort(-needed)[:ADDED], chosen)
        more = more[needed[more] > found.value * (1.0 + CLOSE)]
        over = deadline is not None and time.monotonic() > deadline
        if not len(more) or (over and math.isfinite(min(tried)[0])):
            break
        chosen, start = np.union1d(chosen, more), found.multipliers
    for _, _, multipliers in sorted(tried)[:2]:
        proven = _proven(problem, multipliers, alive, steps)
        best = min(best, proven, key=lambda one: one.value)
    return best


def _some(problem: FrequencyProblem, chosen: Indices | slice) -> FrequencyProblem:
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


def _chunks(problem: FrequencyProblem) -> Iterator[tuple[slice, FrequencyProblem]]:
    size = max(1, CHUNK // max(1, problem.weights.shape[2] ** 2))
    for begin in range(0, len(problem.weights), size):
        place = slice(begin, begin + size)
        yield place, _some(problem, place)


def _alive(problem: FrequencyProblem) -> Indices:
    """The neurons that take part at any frequency."""
    patterns = []
    for _, chunk in _chunks(problem):
        family = Family.of(chunk)
        weights = np.abs(family.weights).max(axis=0) + family.weights_error.max(axis=0)
        output = np.abs(family.output).max(axis=0) + family.output_error.max(axis=0)
        patterns.append((weights != 0.0, output != 0.0))
    weights, output = (np.logical_or.reduce(part)[None].astype(np.float64) for part in zip(*patterns, strict=True))
    plain = Family.of(FrequencyProblem(weights, problem.low, problem.high, output, problem.tie))
    # All signs are alike, so that nothing cancels.
    return without_dead(without_linear(replace(plain, low=np.abs(plain.low), high=np.abs(plain.high)))).neurons


def _needed(problem: FrequencyProblem, multipliers: Real, alive: Indices) -> Real:
    """The least bound that the multipliers give for each frequency [F], about."""
    result = np.zeros(len(problem.weights))
    with one_thread(), np.errstate(all="ignore"):
        for place, chunk in _chunks(problem):
            family = taken(chunk, alive)
            if isinstance(family, LmiBound):
                result[place] = family.value
            else:
                least = least_of_each(Pencil.of(family), family.given(multipliers))
                result[place] = np.sqrt(np.maximum(least, 0.0)) * family.scale
    return result


def _proven(problem: FrequencyProblem, multipliers: Real, alive: Indices, steps: int) -> LmiBound:
    value, reason = 0.0, "nothing of the input reaches the output"
    for _, chunk in _chunks(problem):
        found = proven_bound(chunk, multipliers, alive)
        if found.value >= value:
            value, reason = found.value, found.proven_by
        if value == math.inf:
            break
    return LmiBound(value, multipliers if value < math.inf else np.zeros(len(multipliers)), steps, reason)
