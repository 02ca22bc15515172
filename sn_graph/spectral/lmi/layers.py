"""The Lipschitz constant of a chain of layers: one inequality if it is small, neighbour blocks if it is long or wide.

A long chain begins at ECLipsE-Fast's closed form (`chain`), is improved window by window (`windows`), solved as a whole
if it is not too large and time is left, and proven (`blocks`, or `proof` for the whole).
"""

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter

import numpy as np

from sn_graph.spectral.linalg import one_thread
from sn_graph.spectral.lmi.blocks import proven_chain
from sn_graph.spectral.lmi.bound import OUTSIDE, SMALL, UNPROVEN, lipschitz_bound
from sn_graph.spectral.lmi.chain import Chain, discounted, living, prepared
from sn_graph.spectral.lmi.problem import LmiBound, Real, SlopeProblem
from sn_graph.spectral.lmi.windows import SWEEPS, improved

# Up to so many rows a chain is solved as a whole at once, and up to so many after its windows.
SMALL_CHAIN = 320
WHOLE_CHAIN = 900
# How much of the bound is given up until there is a proof; the last resort is the closed form.
LOSSES = (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)
# A proof as close as this to what was found is not improved.
CLOSE = 1e-6


def chain_bound(
    weights: Sequence[Real],
    low: Sequence[float | Real],
    high: Sequence[float | Real],
    *,
    errors: Sequence[float | Real] | None = None,
    deadline: float | None = None,
) -> LmiBound:
    """Bound the Lipschitz constant of W_l φ(… φ(W_1 x)) from above, with a proof.

    Args:
        weights: W_1, …, W_l, of real floats, each with as many columns as the one before has rows.
        low, high: The slopes behind each layer but the last: a number, or one for every neuron.
        errors: Bounds of |exact − given| of each layer, as for `SlopeProblem`; None for exact weights.
        deadline: When the search for better multipliers ends, by time.monotonic; a proof takes a Cholesky factorization
            of each two neighbouring layers.

    Returns:
        The bound, at most that of ECLipsE-Fast but for rounding, or infinity with the reason.

    Raises:
        ValueError: Shapes or slopes don't fit.
    """
    if not all(weight.dtype.kind == "f" and weight.dtype.itemsize <= 8 for weight in weights):
        raise ValueError("a layer's weight is not of float64 or shorter floats")
    weights = [np.asarray(weight, dtype=np.float64) for weight in weights]
    sizes = [len(weight) for weight in weights[:-1]]
    lows, highs = ([_each(*pair) for pair in zip(ends, sizes, strict=True)] for ends in (low, high))
    given = _errors(weights, errors)
    _check(weights, lows, highs)
    total = sum(sizes)
    if not all(np.isfinite(weight).all() for weight in weights):
        return LmiBound(math.inf, np.zeros(total), 0, "none: a weight is NaN or infinite")
    rows, found = min(weights[0].shape) + total, []
    if rows > SMALL_CHAIN and sizes:
        found.append(_by_blocks(weights, lows, highs, given, deadline, sweeps=2 if rows <= WHOLE_CHAIN else SWEEPS))
    if not found or (rows <= WHOLE_CHAIN and not _is_over(deadline)):
        found.append(lipschitz_bound(_problem(weights, lows, highs, given), deadline=deadline))
    if len(found) == 1 and sizes and rows <= SMALL_CHAIN and (_is_over(deadline) or math.isinf(found[0].value)):
        # The closed form, in case that what was found in time is more.
        found.append(_by_blocks(weights, lows, highs, given, deadline, sweeps=0))
    return min(found, key=attrgetter("value"))


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def _by_blocks(
    weights: Sequence[Real],
    low: list[Real],
    high: list[Real],
    errors: list[Real | None],
    deadline: float | None,
    sweeps: int,
) -> LmiBound:
    total = sum(len(ends) for ends in low)
    alive = living(weights, errors, low, high)
    if not all(part.any() for part in alive):
        return LmiBound(0.0, np.zeros(total), 0, "nothing of the input reaches the output")
    with one_thread(), np.errstate(all="ignore"):
        try:
            found = prepared(weights, errors, low, high, alive)
        except np.linalg.LinAlgError:
            found = None
        if found is None:
            return LmiBound(math.inf, np.zeros(total), 0, OUTSIDE)
        chain, closed, rho = found
        multipliers, reached, windows = improved(chain, closed, rho, deadline, sweeps)
        proven, chosen = _proven(chain, closed, multipliers, reached)
    if proven is None:
        return LmiBound(math.inf, np.zeros(total), windows, UNPROVEN)
    value = math.sqrt(proven) * chain.scale * (1.0 + 2.0**-50)
    if not SMALL <= value < math.inf:
        return LmiBound(math.inf, np.zeros(total), windows, OUTSIDE)
    each = np.zeros(total)
    units = [np.ldexp(1.0, 2 * (chain.exponents[-1] - exponent)) for exponent in chain.exponents[:-1]]
    each[np.concatenate(alive[1:])] = np.concatenate(
        [proven * unit * part for unit, part in zip(units, chosen, strict=True)]
    )
    return LmiBound(value, each, windows, "Cholesky factorizations of neighbour blocks")


def _proven(
    chain: Chain, closed: list[Real], multipliers: list[Real], reached: float
) -> tuple[float | None, list[Real]]:
    best, chosen = math.inf, closed
    for loss in LOSSES:
        given_up = discounted(multipliers, loss)
        rho = proven_chain(chain, given_up)
        if rho is not None and rho < best:
            best, chosen = rho, given_up
        if best <= reached * (1.0 + loss + CLOSE):
            return best, chosen
    rho = proven_chain(chain, closed)
    if rho is not None and rho < best:
        best, chosen = rho, closed
    return (best if best < math.inf else None), chosen


def _problem(weights: Sequence[Real], low: list[Real], high: list[Real], errors: list[Real | None]) -> SlopeProblem:
    inputs, sizes = weights[0].shape[1], [len(weight) for weight in weights[:-1]]
    columns = inputs + sum(sizes)
    matrix, mistakes = np.zeros((sum(sizes), columns)), np.zeros((sum(sizes), columns))
    row, column = 0, 0
    for weight, error in zip(weights[:-1], errors, strict=False):
        place = slice(row, row + len(weight)), slice(column, column + weight.shape[1])
        matrix[place] = weight
        mistakes[place] = 0.0 if error is None else error
        row, column = row + len(weight), inputs + row
    output, wrong = np.zeros((len(weights[-1]), columns)), np.zeros((len(weights[-1]), columns))
    output[:, column:] = weights[-1]
    wrong[:, column:] = 0.0 if errors[-1] is None else errors[-1]
    low_ends, high_ends = (np.concatenate([np.zeros(0), *part]) for part in (low, high))
    return SlopeProblem(matrix, low_ends, high_ends, output, mistakes, wrong)


def _each(end: float | Real, size: int) -> Real:
    return np.broadcast_to(np.asarray(end, dtype=np.float64), size)


def _errors(weights: Sequence[Real], errors: Sequence[float | Real] | None) -> list[Real | None]:
    if errors is None:
        return [None] * len(weights)
    result: list[Real | None] = []
    for weight, error in zip(weights, errors, strict=True):
        whole = np.broadcast_to(np.asarray(error, dtype=np.float64), weight.shape)
        if not np.isfinite(whole).all() or (whole < 0.0).any():
            raise ValueError("an error is not a finite number from 0 on")
        result.append(whole if whole.any() else None)
    return result


def _check(weights: Sequence[Real], low: list[Real], high: list[Real]) -> None:
    for before, after in pairwise(weights):
        if before.ndim != 2 or after.ndim != 2 or after.shape[1] != before.shape[0]:
            raise ValueError(f"layers of shapes {before.shape} and {after.shape} do not follow each other")
    for one, other in zip(low, high, strict=True):
        if not (np.isfinite(one).all() and np.isfinite(other).all() and (one <= other).all()):
            raise ValueError("a neuron's slopes are not an interval of finite numbers")
