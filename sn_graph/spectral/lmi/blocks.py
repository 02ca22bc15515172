"""The proof of a chain's inequality by neighbour blocks, each alone; two layers are in memory at a time.

P(ρ, λ) of a chain is block tridiagonal. For Λ = ρM, F_0 = I and any symmetric F_1, …, F_{l−1} it is ρ times the sum of

    [[F_{i−1} + 2 W_iᵀM_iAB W_i,  −W_iᵀM_i(A + B)], [·,  2M_i − F_i]],  i = 1 … l − 1,  and  F_{l−1} − W_lᵀW_l/ρ,

so that P ≥ 0 if each of them is positive semi-definite (Xu & Sivaranjani, 2024; Agler, Helton, McCullough & Rodman,
1988, Linear Algebra Appl. 107: nothing is lost by it). The F_i are chosen from the input on as `chain.forward` computes
them, with a little less on the diagonal, and are exact as they are then: only what is computed of W_i is rounded, by
what `proof` tells of

    H = |F_{i−1}| + |F_i| + 2M + JᵀM(|A| + |B|)W + (·)ᵀ + 2 WᵀM|A||B|W.

From the input on, because little errors stay little there: with ECLipsE-Fast's M an F_i changes relatively by no more
than F_{i−1} did, and other M can be discounted (`chain.discounted`). The last one is [[F_{l−1}, W_lᵀ], [W_l, ρI]] ≥ 0.
"""

import math

import numpy as np
from scipy.linalg import solve_triangular

from sn_graph.spectral.linalg import gamma
from sn_graph.spectral.lmi.chain import Chain, forward, largest
from sn_graph.spectral.lmi.problem import Real
from sn_graph.spectral.lmi.proof import LARGEST, SMALLEST, Sums, is_definite, times

# What is taken from the diagonal of F, relative to it, until the block is proven; and what ρ is raised by.
WIDTHS = (1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def proven_chain(chain: Chain, multipliers: list[Real]) -> float | None:
    """Prove the least ρ that can be proven, or little more, for given multipliers.

    Args:
        chain: The layers, exact within their errors.
        multipliers: M_i, any numbers at all.

    Returns:
        ρ with P(ρ, ρM) ≥ 0, or None.
    """
    given = (*multipliers, *chain.weights, *chain.low, *chain.high, *(e for e in chain.errors if e is not None))
    if not all((np.abs(part) <= LARGEST).all() for part in given) or not all((e >= 0.0).all() for e in multipliers):
        return None
    form = np.eye(chain.sizes[0])
    with np.errstate(all="ignore"):
        for index, each in enumerate(multipliers):
            most = forward(form, chain.weights[index], (chain.low[index], chain.high[index]), each)
            if most is None or not np.isfinite(most).all():
                return None
            found = _proven(chain, index, form, each, most)
            if found is None:
                return None
            form = found
        try:
            return _last(chain, form)
        except np.linalg.LinAlgError:
            return None


def _proven(chain: Chain, index: int, before: Real, multipliers: Real, most: Real) -> Real | None:
    """F_i, little below the largest one, with which block i is proven."""
    places = np.arange(len(most))
    diagonal = most.diagonal()
    if not (diagonal > 0.0).all():
        return None
    for width in WIDTHS:
        behind = most.copy()
        behind[places, places] -= width * diagonal
        if (np.abs(behind) <= LARGEST).all() and _is_proven(chain, index, before, behind, multipliers):
            return behind
    return None


def _last(chain: Chain, form: Real) -> float | None:
    """ρ with F_{l−1} ≥ W_lᵀW_l/ρ: that F_{l−1} is definite enough for it is part of the proof."""
    weight, error = chain.weights[-1], chain.errors[-1]
    half = solve_triangular(np.linalg.cholesky(form), weight.T, lower=True, check_finite=False)
    least = largest(half.T @ half)
    if not math.isfinite(least):
        return None
    count, inputs = weight.shape
    wrong = np.zeros_like(weight) if error is None else error
    for width in WIDTHS:
        rho = least * (1.0 + width)
        if not 0.0 < rho <= LARGEST:
            return None
        matrix = np.zeros((1, inputs + count, inputs + count))
        matrix[0, :inputs, :inputs] = form
        matrix[0, inputs:, :inputs], matrix[0, :inputs, inputs:] = weight, weight.T
        matrix[0, inputs:, inputs:] = rho * np.eye(count)
        given = 1.0 / np.sqrt(np.maximum(matrix[0].diagonal(), SMALLEST))
        # Nothing is computed here, so nothing but the errors of W_l is missing.
        missing = np.concatenate([wrong.T @ given[inputs:], wrong @ given[:inputs]]) / given
        if is_definite(matrix, missing[None] * (1.0 + 2.0 * gamma(inputs + count))):
            return rho
    return None


def _is_proven(chain: Chain, index: int, before: Real, behind: Real, multipliers: Real) -> bool:
    weight, error = chain.weights[index], chain.errors[index]
    low, high = chain.low[index], chain.high[index]
    count, inputs = weight.shape
    matrix = np.zeros((1, inputs + count, inputs + count))
    matrix[0, :inputs, :inputs] = before
    products = 2.0 * multipliers * low * high
    if products.any():
        matrix[0, :inputs, :inputs] += weight.T @ (products[:, None] * weight)
    mixed = (multipliers * (low + high))[:, None] * weight
    matrix[0, inputs:, :inputs] = -mixed
    matrix[0, :inputs, inputs:] = -mixed.T
    matrix[0, inputs:, inputs:] = -behind
    places = np.arange(inputs, inputs + count)
    matrix[0, places, places] += 2.0 * multipliers
    diagonal = matrix[0].diagonal().copy()
    if not (diagonal > 0.0).all():
        return False
    return is_definite(
        matrix, _errors(weight, error, (low, high), before, behind, multipliers, 1.0 / np.sqrt(diagonal))
    )


def _errors(
    weight: Real,
    error: Real | None,
    ends: tuple[Real, Real],
    before: Real,
    behind: Real,
    multipliers: Real,
    given: Real,
) -> Real:
    """Bound the e [1, N] of `proof` for d = `given`."""
    low, high = np.abs(ends[0]), np.abs(ends[1])
    sums = Sums(multipliers * (low + high), 2.0 * multipliers * low * high)
    count, inputs = weight.shape
    weights = np.zeros((1, count, inputs + count))
    weights[0, :, :inputs] = np.abs(weight)
    scaled = given[None]
    total = np.concatenate(
        [
            times(np.abs(before)[None], scaled[:, :inputs]),
            times(np.abs(behind)[None], scaled[:, inputs:]) + 2.0 * multipliers * scaled[:, inputs:],
        ],
        axis=1,
    )
    terms = count + 16
    wrong = np.zeros_like(weights)
    if error is not None:
        wrong[0, :, :inputs] = error
    more = weights + wrong
    total = gamma(terms) * (total + sums.of(more, more, scaled))
    if error is not None:
        total += sums.linear(wrong, scaled) + sums.squares(wrong, more, scaled) + sums.squares(weights, wrong, scaled)
    return np.asarray(total / scaled * (1.0 + 2.0 * gamma(weights.shape[2] * terms)))
