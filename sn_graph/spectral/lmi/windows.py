"""Better multipliers for a long chain: a few neighbouring layers at a time, the others held.

With F_i from the input (`chain.forward`, of M = Λ/ρ) and Y_j from the output (`chain.backward`), the layers between i
and j are a network of their own, from u = F_i^{1/2} z_i to Y_j^{1/2} z_j. Its inequality is solved as any other; its ρ
is the whole chain's, the M before and the Λ behind being what they were. So ρ falls with every window. The way is from
the output on, because it is the Y_j, not the F_i, that magnify errors, unless the inequality was just solved.
"""

import math
import time
from collections.abc import Iterator

import numpy as np
from scipy.linalg import solve_triangular

from sn_graph.spectral.lmi.chain import Chain, backward, discounted, forward
from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.interior import Iterate, minimise
from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import Real, SlopeProblem
from sn_graph.spectral.lmi.reduction import reduced
from sn_graph.spectral.lmi.start import INSIDE, closed_form

# Neurons of a window, unless a layer alone has more: few in the first sweep, which gains most, and gains it soon.
FEW, NEURONS = 64, 240
# A layer whose window would have more rows than this is left as it is.
WIDEST = 1200
# Where a window ends, relative to ρ, in each sweep: P has to stay away from singular for the next ones.
GAPS = (1e-2, 1e-3, 1e-4)
# What each sweep gives up of ρ before it begins, so that the F_i are what they are taken for.
LOSS = 1e-4
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
    best = current, rho, solved
    for sweep in range(sweeps):
        before = rho
        current, rho = discounted(current, LOSS), rho / (1.0 - LOSS)
        forms = _forward_forms(chain, current)
        last = chain.weights[-1].T @ chain.weights[-1]
        for begin, end, following in _windows(chain, NEURONS if sweep else FEW):
            if forms is None or (deadline is not None and time.monotonic() > deadline):
                return best
            gap = GAPS[min(sweep, len(GAPS) - 1)]
            found = _solved(chain, begin, end, forms[begin], last, deadline, gap)
            solved += 1
            if found is not None and found[1] < rho:
                rho, change = found[1], rho / found[1]
                current[begin:end] = [each / rho for each in found[0]]
                current[end:] = [change * each for each in current[end:]]
            for index in reversed(range(following, end)):
                ends = chain.low[index], chain.high[index]
                moved = backward(last, chain.weights[index], ends, rho * current[index])
                if moved is None:
                    return best
                last = moved
            if rho < best[1]:
                best = list(current), rho, solved
        if sweep and rho > before * (1.0 - LEAST_GAIN):
            break
    return best


def _forward_forms(chain: Chain, multipliers: list[Real]) -> list[Real] | None:
    """F_0, …, F_{l−1}."""
    forms = [np.eye(chain.sizes[0])]
    for index, each in enumerate(multipliers):
        found = forward(forms[-1], chain.weights[index], (chain.low[index], chain.high[index]), each)
        if found is None:
            return None
        forms.append(found)
    return forms


def _windows(chain: Chain, neurons: int) -> Iterator[tuple[int, int, int]]:
    """First and last layer of each window, from the output on, and where the next ends: in the middle of it."""
    sizes, end = [len(low) for low in chain.low], chain.depth
    while end:
        begin = end - 1
        while begin and sum(sizes[begin - 1 : end]) <= neurons:
            begin -= 1
        following = min(end - 1, begin + (end - begin) // 2) if begin else 0
        yield begin, end, following
        end = following


def _solved(
    chain: Chain, begin: int, end: int, form: Real, last: Real, deadline: float | None, gap: float
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
        iterates = minimise(pencil, Iterate(rho, start, math.inf), deadline, gap)
    except np.linalg.LinAlgError:
        return None
    best = min(iterates, key=lambda one: one.rho)
    each = family.multipliers(best.multipliers, count)
    return np.split(each, np.cumsum(sizes)[:-1]), best.rho * family.scale**2
