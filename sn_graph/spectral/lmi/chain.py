"""A chain of layers  y = W_l φ_{l−1}(… φ_1(W_1 x)),  scaled, with the closed form of ECLipsE-Fast from its input on.

With F_0 = I, neurons of slopes in [a, b] and multipliers Λ, the elimination of one layer after the other,

    F_i = 2Λ_i − (A + B)Λ_i W_i (F_{i−1} + 2 W_iᵀΛ_iAB W_i)⁻¹ W_iᵀΛ_i(A + B),                                      (1)

keeps |δx|² ≥ δz_iᵀ F_i δz_i, so that |δy|² ≤ ρ|δx|² with ρ = λ_max(W_l F_{l−1}⁻¹ W_lᵀ). ECLipsE-Fast (Xu & Sivaranjani,
2024, https://arxiv.org/abs/2404.04375) takes Λ_i = τI with τ = 1/λ_max(W_i F_{i−1}⁻¹ W_iᵀ), for slopes in [0, 1]. For
others 1/((b − a) max(|a|, |b|)) times that makes the most of the eigenvalue on which F_i is least.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh, solve_triangular

from sn_graph.spectral.lmi.family import TINY, without_nothing
from sn_graph.spectral.lmi.problem import Real
from sn_graph.spectral.lmi.reduction import shifted, short_factor

# An interval of slopes is widened to this part of its ends, and to the square of it: 1/(b − a) has to be a number.
NARROWEST = 2.0**-20
# Parts of the best τ to try until F_i is definite.
PARTS = (1.0, 0.999, 0.9, 0.5)
# For slopes in [−1, 1] what is inverted in (1) is singular at the best τ.
BELOW = 1.0 - 1e-6


@dataclass(frozen=True)
class Chain:
    """Layers in units in which nothing stands out.

    Attributes:
        weights: W_1, …, W_l.
        errors: Bounds of |exact − given|, element by element, of the weights' shapes, or None for exact ones.
        low, high: a and b of the neurons behind each layer but the last.
        exponents: The neurons of layer i are measured in units of 2^exponents[i], the outputs in the last.
    """

    weights: tuple[Real, ...]
    errors: tuple[Real | None, ...]
    low: tuple[Real, ...]
    high: tuple[Real, ...]
    exponents: tuple[int, ...]

    @property
    def depth(self) -> int:
        """How many layers have neurons behind them."""
        return len(self.low)

    @property
    def scale(self) -> float:
        """What the bound of the scaled chain is multiplied by; a power of 2."""
        return math.ldexp(1.0, self.exponents[-1]) if self.exponents[-1] < 1000 else math.inf

    @property
    def sizes(self) -> list[int]:
        """How many elements x has, and each layer but the last."""
        return [weight.shape[1] for weight in self.weights]


def living(
    weights: Sequence[Real], errors: Sequence[Real | None], low: Sequence[Real], high: Sequence[Real]
) -> list[NDArray[np.bool_]]:
    """Find which inputs, and which neurons of each layer, depend on the input and reach the output."""
    reads = [weight != 0.0 if error is None else (weight != 0.0) | (error != 0.0)
             for weight, error in zip(weights, errors, strict=True)]  # fmt: skip
    fed = [np.ones(weights[0].shape[1], dtype=np.bool_)]
    for index, (one, other) in enumerate(zip(low, high, strict=True)):
        fed.append((reads[index] & fed[-1]).any(axis=1) & ((one != 0.0) | (other != 0.0)))
    used = [reads[-1].any(axis=0)]
    for index in reversed(range(len(low))):
        used.append(reads[index][used[-1]].any(axis=0))
    return [one & other for one, other in zip(fed, used[::-1], strict=True)]


def prepared(
    weights: Sequence[Real],
    errors: Sequence[Real | None],
    low: Sequence[Real],
    high: Sequence[Real],
    alive: Sequence[NDArray[np.bool_]],
) -> tuple[Chain, list[Real], float] | None:
    """Scale a chain, and find its closed form.

    Args:
        weights: W_1, …, W_l, finite.
        errors: Their errors, or None.
        low, high: a and b of the neurons.
        alive: Which inputs and neurons count; the others are left out.

    Returns:
        The chain; Λ_i of (1); and ρ. None where a layer is 0, or nothing is definite.
    """
    layers, mistakes = [], []
    rows = [*alive[1:], np.ones(len(weights[-1]), dtype=np.bool_)]
    for weight, error, row, column in zip(weights, errors, rows, alive, strict=True):
        place = np.ix_(row, column)
        kept, mistake = without_nothing(weight[place], np.zeros((1, 1)) if error is None else error[place])
        layers.append(kept)
        mistakes.append(mistake if mistake.any() else None)
    slopes = [_widened(one[row], other[row]) for one, other, row in zip(low, high, rows[:-1], strict=True)]
    if layers[0].shape[1] > len(layers[0]):
        short = short_factor(layers[0][None], (np.zeros(layers[0].shape) if mistakes[0] is None else mistakes[0])[None])
        if short is not None:
            layers[0], mistakes[0] = short[0], None
    form = np.eye(layers[0].shape[1])
    multipliers, exponents, last = [], [], 0
    for index, ends in enumerate(slopes):
        found = _forward(form, layers[index], mistakes[index], ends, last)
        if found is None:
            return None
        form, layers[index], mistakes[index], each, last = found
        multipliers.append(each)
        exponents.append(last)
    root = np.linalg.cholesky(form)
    top = float(np.abs(layers[-1]).max(initial=0.0))
    if not 0.0 < top < np.inf:
        return None
    last_exponent = last + round(float(np.log2(top)))
    layers[-1], mistakes[-1] = _moved(layers[-1], mistakes[-1], last - last_exponent)
    half = solve_triangular(root, layers[-1].T, lower=True)
    rho = largest(half.T @ half if half.shape[1] <= half.shape[0] else half @ half.T)
    lows, highs = zip(*slopes, strict=True)
    chain = Chain(tuple(layers), tuple(mistakes), lows, highs, (*exponents, last_exponent))
    return chain, multipliers, rho


def forward(form: Real, weight: Real, ends: tuple[Real, Real], multipliers: Real) -> Real | None:
    """F_i of (1) from F_{i−1}; None where the elimination is not of a definite matrix."""
    low, high = ends
    inner = form
    products = 2.0 * multipliers * low * high
    if products.any():
        inner = form + weight.T @ (products[:, None] * weight)
    try:
        factor = cho_factor(inner, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    mixed = (multipliers * (low + high))[:, None] * weight
    result = -(mixed @ cho_solve(factor, mixed.T, check_finite=False))
    places = np.arange(len(weight))
    result[places, places] += 2.0 * multipliers
    return np.asarray((result + result.T) / 2.0)


def discounted(multipliers: Sequence[Real], loss: float) -> list[Real]:
    """Multiply each layer's M by a little less than the one before, so that errors of F die out.

    With c_i = q c_{i−1} and c_i M_i in place of M_i, (1) gives c_i (2M_i − q G_i) for F_i = 2M_i − G_i where F_{i−1}
    became c_{i−1} F_{i−1}: not less than c_i F_i even if F_{i−1} was too small by a part 1 − q. In all 1/ρ shrinks by
    c_{l−1}. (With ab ≠ 0 about so.)

    Args:
        multipliers: M_i.
        loss: 1 − c_{l−1}, about.

    Returns:
        c_i M_i.
    """
    part = 1.0 - loss / max(1, len(multipliers))
    return [part ** (index + 1) * each for index, each in enumerate(multipliers)]


def backward(form: Real, weight: Real, ends: tuple[Real, Real], multipliers: Real) -> Real | None:
    """The same from the output on: Y_{i−1} = (A + B)ΛW ᵀ(2Λ − Y_i)⁻¹(A + B)ΛW − 2WᵀΛABW, with |δy|² ≤ δz_iᵀY_iδz_i."""
    low, high = ends
    places = np.arange(len(weight))
    inner = -form
    inner[places, places] += 2.0 * multipliers
    try:
        factor = cho_factor(inner, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    mixed = (multipliers * (low + high))[:, None] * weight
    result = mixed.T @ cho_solve(factor, mixed, check_finite=False)
    products = 2.0 * multipliers * low * high
    if products.any():
        result -= weight.T @ (products[:, None] * weight)
    return np.asarray((result + result.T) / 2.0)


def largest(matrix: Real) -> float:
    """The largest eigenvalue of a symmetric matrix, as floating point finds it."""
    last = len(matrix) - 1
    return float(eigh(matrix, eigvals_only=True, subset_by_index=(last, last), check_finite=False)[0])


def _forward(
    form: Real, weight: Real, error: Real | None, ends: tuple[Real, Real], last: int
) -> tuple[Real, Real, Real | None, Real, int] | None:
    """F_i, the layer and its Λ, in units in which F_i is about 1, and the units' exponent."""
    top = float(np.abs(weight).max(initial=0.0))
    if not 0.0 < top < np.inf:
        return None
    # In units in which the layer's elements are at most about 1.
    exponent = last + round(float(np.log2(top)))
    layer, mistake = _moved(weight, error, last - exponent)
    half = solve_triangular(np.linalg.cholesky(form), layer.T, lower=True, check_finite=False)
    size = largest(half.T @ half)
    low, high = float(ends[0].min()), float(ends[1].max())
    best = (BELOW if low < 0.0 < high else 1.0) / ((high - low) * max(abs(low), abs(high)) * size)
    for part in PARTS:
        multipliers = np.full(len(layer), part * best)
        found = forward(form, layer, ends, multipliers)
        if found is not None and _is_positive(found):
            break
    else:
        return None
    more = -round(float(np.log2(found.diagonal().mean())) / 2.0)
    layer, mistake = _moved(layer, mistake, -more)
    return np.ldexp(found, 2 * more), layer, mistake, np.ldexp(multipliers, 2 * more), exponent + more


def _moved(weight: Real, error: Real | None, exponent: int) -> tuple[Real, Real | None]:
    by = np.array(exponent)
    moved = shifted(weight, by)
    lost = (np.abs(moved) < TINY) & (weight != 0.0)
    if error is None and not lost.any():
        return moved, None
    return moved, (0.0 if error is None else shifted(error, by)) + 2.0 * TINY * lost


def _is_positive(matrix: Real) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _widened(low: Real, high: Real) -> tuple[Real, Real]:
    room = np.maximum(NARROWEST * np.maximum(np.abs(low), np.abs(high)), NARROWEST**2)
    narrow = high - low < room
    return np.where(narrow, low - room, low), np.where(narrow, high + room, high)
