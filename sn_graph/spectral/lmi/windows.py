"""Better multipliers for a long chain: a few neighbouring layers at a time, the others held.

With F_i from the input (`chain.forward`, of M = Λ/ρ) and Y_j from the output (`chain.backward`), the layers between i
and j are a network of their own, from u = F_i^{1/2} z_i to Y_j^{1/2} z_j. Its inequality is solved as any other; its ρ
is the whole chain's, the M before and the Λ behind being what they were. So ρ falls with every window.
"""

import math
import time
from collections.abc import Iterator

import numpy as np
from scipy.linalg import solve_triangular

from sn_graph.spectral.lmi.chain import Chain, backward, forward
from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.interior import Iterate, minimise
from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import Real, SlopeProblem
from sn_graph.spectral.lmi.reduction import reduced
from sn_graph.spectral.lmi.start import INSIDE, closed_form

# Neurons of a window, unless a layer alone has more.
NEURONS = 240
# A layer whose window would have more rows than this is left as it is.
WIDEST = 1200
# Where a window ends, relative to ρ: P has to stay away from singular for the next ones.
GAP = 1e-4
# A sweep that gains less is the last.
LEAST_GAIN = 2e-3
SWEEPS = 8
# What Y has below this part of its largest eigenvalue is left out.
RANK = 1e-13


def improved(
    chain: Chain, multipliers: list[Real], rho: float, deadline: float | None, sweeps: int
) -> tuple[list[Real], float, int]:
    """Lower ρ window by window.

    Args:
        chain: The layers.
        multipliers: M_i = Λ_i/ρ, with P(ρ, ρM) ≥ 0.
        rho: ρ.
        deadline: When to stop, by time.monotonic.
        sweeps: How many times at most.

    Returns:
        The multipliers, their ρ, and how many windows were solved.
    """
    current, solved = list(multipliers), 0
    for _ in range(sweeps):
        before = rho
        forms = _backward_forms(chain, [rho * each for each in current])
        if forms is None:
            break
        form = np.eye(chain.sizes[0])
        for begin, end, following in _windows(chain):
            if deadline is not None and time.monotonic() > deadline:
                return current, rho, solved
            found = _solved(chain, begin, end, form, forms[end], deadline)
            solved += 1
            if found is not None and found[1] < rho:
                rho, change = found[1], rho / found[1]
                current[begin:end] = [each / rho for each in found[0]]
                current[end:] = [change * each for each in current[end:]]
            for index in range(begin, following):
                ends = chain.low[index], chain.high[index]
                moved = forward(form, chain.weights[index], ends, current[index])
                if moved is None:
                    return current, rho, solved
                form = moved
        if rho > before * (1.0 - LEAST_GAIN):
            break
    return current, rho, solved


def _backward_forms(chain: Chain, multipliers: list[Real]) -> list[Real] | None:
    """Y_0, …, Y_{l−1}."""
    forms = [chain.weights[-1].T @ chain.weights[-1]]
    for index in reversed(range(chain.depth)):
        found = backward(forms[-1], chain.weights[index], (chain.low[index], chain.high[index]), multipliers[index])
        if found is None:
            return None
        forms.append(found)
    return forms[::-1]


def _windows(chain: Chain) -> Iterator[tuple[int, int, int]]:
    """First and last layer of each window, and where the next begins: in the middle of it."""
    sizes, begin = [len(low) for low in chain.low], 0
    while begin < chain.depth:
        end = begin + 1
        while end < chain.depth and sum(sizes[begin : end + 1]) <= NEURONS:
            end += 1
        following = end if end == chain.depth else max(begin + 1, end - (end - begin) // 2)
        yield begin, end, following
        begin = following


def _solved(
    chain: Chain, begin: int, end: int, form: Real, last: Real, deadline: float | None
) -> tuple[list[Real], float] | None:
    sizes = [len(low) for low in chain.low[begin:end]]
    inputs, count = len(form), sum(sizes)
    if min(inputs, sizes[0]) + count > WIDEST:
        return None
    try:
        root = np.linalg.cholesky(form)
        values, vectors = np.linalg.eigh(last)
        kept = values > RANK * values[-1]
        weights = np.zeros((count, inputs + count))
        weights[: sizes[0], :inputs] = solve_triangular(root, chain.weights[begin].T, lower=True).T
        row, column = sizes[0], inputs
        for index, size in zip(range(begin + 1, end), sizes[1:], strict=True):
            width = chain.sizes[index]
            weights[row : row + size, column : column + width] = chain.weights[index]
            row, column = row + size, column + width
        output = np.zeros((int(kept.sum()), inputs + count))
        output[:, column:] = (vectors[:, kept] * np.sqrt(values[kept])).T
        low, high = np.concatenate(chain.low[begin:end]), np.concatenate(chain.high[begin:end])
        family = reduced(Family.of(SlopeProblem(weights, low, high, output)))
        if len(family.low) != count:
            return None  # a neuron without a say; its multiplier is good as it is
        pencil = Pencil.of(family)
        rho, start = closed_form(family, pencil, INSIDE)
        iterates = minimise(pencil, Iterate(rho, start, math.inf), deadline, GAP)
    except np.linalg.LinAlgError:
        return None
    best = min(iterates, key=lambda one: one.rho)
    each = family.multipliers(best.multipliers, count)
    return np.split(each, np.cumsum(sizes)[:-1]), best.rho * family.scale**2
