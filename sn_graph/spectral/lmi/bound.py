"""The Lipschitz constant of a network of slope-restricted neurons, bounded by a linear matrix inequality.

Any ρ and λ ≥ 0 with

    P(ρ, λ) = ρ E_x E_xᵀ + Σ λ_i (p_i q_iᵀ + q_i p_iᵀ) − CᵀC ≥ 0,   p_i = e_i − a_i w_i,   q_i = e_i − b_i w_i

give L ≤ √ρ, because for the difference δ of two runs (p_iᵀδ)(q_iᵀδ) = (δz_i − a_i δs_i)(δz_i − b_i δs_i) ≤ 0, so that
0 ≤ δᵀPδ ≤ ρ|δx|² − |δy|² (Fazlyab, Robey, Hassani, Morari & Pappas, 2019, https://arxiv.org/abs/1906.04893, there for
layered networks as LipSDP-Neuron). In a family over frequencies δ is the transform of a difference over space, and the
sums of the inequality over all frequencies are those over all places (Parseval).

The multipliers come from `interior`, begun at `start`; `proof` proves them. Where rounding stands against the proof,
they are mixed with those of an earlier iterate, at which P is further from singular, and in the end with the start.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import one_thread
from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.interior import GAP, Iterate, minimise
from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import FrequencyProblem, LmiBound, Real, SlopeProblem
from sn_graph.spectral.lmi.proof import in_range, proven_rho
from sn_graph.spectral.lmi.reduction import reduced
from sn_graph.spectral.lmi.start import INSIDE, JUST, closed_form
from sn_graph.spectral.matrix import upper_bound

# Parts of an earlier iterate that are mixed into the last one until there is a proof.
PARTS = (0.0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# A proof as close as this to what the solver found is not improved.
CLOSE = 1e-8
# How far the iterate that is mixed in has to be from the end.
EARLIER = 1e-3
# Below, a rounding is not relative to the number.
SMALL = 2.0**-1000
UNPROVEN = "none: rounding errors are larger than what is left of P"
OUTSIDE = "none: the numbers are outside the range of float64"


def lipschitz_bound(problem: SlopeProblem, *, start: Real | None = None, deadline: float | None = None) -> LmiBound:
    """Bound the Lipschitz constant from above, with a proof.

    Args:
        problem: The network.
        start: Multipliers [m] to begin with, if any are known; they are used if P > 0 for some ρ.
        deadline: When the search for better multipliers ends, by time.monotonic; a proof takes about as long as a step.

    Returns:
        The bound, at most that of ECLipsE-Fast but for rounding, or infinity with the reason.

    >>> relu = SlopeProblem(np.array([[2.0, 0.0]]), np.zeros(1), np.ones(1), np.array([[1.0, -1.0]]))
    >>> round(lipschitz_bound(relu).value, 6)  # x − relu(2x) has slopes 1 and −1
    1.0
    """
    return bounded(problem, start=start, deadline=deadline)


def proven_bound(
    problem: SlopeProblem | FrequencyProblem, multipliers: Real, alive: NDArray[np.int64] | None = None
) -> LmiBound:
    """Prove the bound that given multipliers give, without looking for better ones.

    Args:
        problem: The network.
        multipliers: λ [m], any numbers; of those that share one, the largest counts.
        alive: As for `reduction.reduced`, for some of a problem's frequencies.

    Returns:
        The bound; infinity where the multipliers prove none.
    """
    with one_thread(), np.errstate(all="ignore"):
        family = taken(problem, alive)
        if isinstance(family, LmiBound):
            return family
        own = family.given(multipliers)
        rho = proven_rho(family, Pencil.of(family), own)
    return _answer(family, len(problem.low), rho, own, 0)


def bounded(
    problem: SlopeProblem | FrequencyProblem,
    *,
    start: Real | None = None,
    deadline: float | None = None,
    alive: NDArray[np.int64] | None = None,
    gap: float = GAP,
) -> LmiBound:
    """Bound the Lipschitz constant of either kind of problem, all frequencies at once, to a gap relative to ρ."""
    total = len(problem.low)
    with one_thread(), np.errstate(all="ignore"):
        family = taken(problem, alive)
        if isinstance(family, LmiBound):
            return family
        pencil = Pencil.of(family)
        iterates = _searched(family, pencil, None if start is None else family.given(start), deadline, gap)
        if not iterates:
            return LmiBound(math.inf, np.zeros(total), 0, "none: no multipliers to begin with were found")
        rho, multipliers = best_proof(family, pencil, iterates)
    return _answer(family, total, rho, multipliers, len(iterates) - 1)


def taken(problem: SlopeProblem | FrequencyProblem, alive: NDArray[np.int64] | None = None) -> Family | LmiBound:
    """Reduce a problem to what is left to be solved, or answer where there is nothing."""
    none = np.zeros(len(problem.low))
    if not all(np.isfinite(part).all() for part in (problem.weights, problem.output)):
        return LmiBound(math.inf, none, 0, "none: a weight is NaN or infinite")
    family = reduced(Family.of(problem), alive)
    if not in_range(family):
        return LmiBound(math.inf, none, 0, OUTSIDE)
    if len(family.low):
        return family  # even without inputs: at some frequencies there may be none
    if not family.inputs or not family.output.size:
        return LmiBound(0.0, none, 0, "nothing of the input reaches the output")
    return LmiBound(_linear(family), none, 0, "the norm of a linear map")


def _answer(family: Family, total: int, rho: float | None, multipliers: Real, steps: int) -> LmiBound:
    if rho is None:
        return LmiBound(math.inf, np.zeros(total), steps, UNPROVEN)
    value = math.sqrt(rho) * family.scale * (1.0 + 2.0**-50)
    if not SMALL <= value < math.inf:
        return LmiBound(math.inf, np.zeros(total), steps, OUTSIDE)
    return LmiBound(value, family.multipliers(multipliers, total), steps, "Cholesky factorization")


def _linear(family: Family) -> float:
    """‖C‖ over all frequencies."""
    error = float(np.sqrt(np.square(family.output_error).sum(axis=(1, 2)).max()))
    values = []
    for matrix in family.output:
        whole = matrix
        if np.iscomplexobj(matrix):  # of the same norm
            whole = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
        values.append(upper_bound(np.ascontiguousarray(whole)))
    return (max(values) + error * (1.0 + 1e-9)) * family.scale * (1.0 + 2.0**-50)


def _searched(family: Family, pencil: Pencil, given: Real | None, deadline: float | None, gap: float) -> list[Iterate]:
    try:
        inside, just = (Iterate(*closed_form(family, pencil, more), math.inf) for more in (INSIDE, JUST))
    except np.linalg.LinAlgError:
        return []
    known = []
    if given is not None and (given > 0.0).all():
        rho = proven_rho(family, pencil, given)
        if rho is not None and rho < just.rho:
            known = [Iterate(1.01 * rho, given, math.inf)]
    for begin in (*known, inside):
        iterates = minimise(pencil, begin, deadline, gap)
        if len(iterates) > 1:
            return iterates
    return [inside, just, *known]


def best_proof(family: Family, pencil: Pencil, iterates: Sequence[Iterate]) -> tuple[float | None, Real]:
    """Prove the last of a solver's iterates, or what is nearest to it."""
    best: float | None = None
    chosen = iterates[-1].multipliers
    for multipliers in _mixtures(iterates):
        rho = proven_rho(family, pencil, multipliers)
        if rho is not None and (best is None or rho < best):
            best, chosen = rho, multipliers
        if best is not None and best <= iterates[-1].rho * (1.0 + CLOSE):
            break
    return best, chosen


def _mixtures(iterates: Sequence[Iterate]) -> Iterator[Real]:
    last = iterates[-1].multipliers
    earlier = next((one for one in reversed(iterates[:-1]) if one.gap > EARLIER), iterates[0])
    for part in PARTS:
        yield (1.0 - part) * last + part * earlier.multipliers
    yield 2.0 * iterates[0].multipliers
