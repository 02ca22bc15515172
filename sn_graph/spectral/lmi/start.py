"""Multipliers to begin with: ECLipsE-Fast's closed form on any graph.

The closed form is Xu & Sivaranjani's (2024, https://arxiv.org/abs/2404.04375), there of layered ReLU networks. From the
output back, one level of neurons (which do not read each other) after the other is taken out of a quadratic form that
bounds ‖y‖² ≤ vᴴ Y v, v = [x; z]:

    Y ← Y_RR − 2 VᴴΛAB V + (Y_RI + VᴴΛ(A + B)) (2Λ − Y_II)⁻¹ (Y_RI + VᴴΛ(A + B))ᴴ

with I the level, R what is left, V the level's weights, and Λ = τ λ_max(Y_II): τ = (1 + |a + b|/(b − a))/2 is best
where Y_II is a multiple of the identity. In the end ρ = λ_max(Y_xx).
"""

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import Field, Real

# Above the least λ, so that P is well inside, or just so; the last is that of neurons without a say.
INSIDE = 1.25
JUST = 1.0 + 1e-6
LEAST = 1e-9


def closed_form(family: Family, pencil: Pencil, more: float) -> tuple[float, Real]:
    """Return ρ and λ [groups] for which P(ρ, λ) > 0."""
    form = pencil.gram.copy()
    multipliers = np.zeros(pencil.groups)
    best = (1.0 + np.abs(family.low + family.high) / (family.high - family.low)) / 2.0
    left = np.arange(pencil.order)
    for level in reversed(levels(family)):
        inside = np.isin(left, pencil.inputs + level)
        block = form[:, inside][:, :, inside]
        top = float(np.linalg.eigvalsh(block)[:, -1].max())
        size = max(top, LEAST * float(np.abs(form).max()), 1e-290)
        each = more * best[level] * size
        np.maximum.at(multipliers, family.tie[level], each)
        form = _without(form, block, family.weights[:, level][:, :, left[~inside]], inside, family, level, multipliers)
        left = left[~inside]
    rho = float(np.linalg.eigvalsh(form)[:, -1].max()) if len(left) else 0.0
    return more * max(rho, 1e-290), multipliers


def _without(
    form: Field,
    block: Field,
    weights: Field,
    inside: NDArray[np.bool_],
    family: Family,
    level: NDArray[np.int64],
    multipliers: Real,
) -> Field:
    each = multipliers[family.tie[level]]
    low, high = family.low[level], family.high[level]
    mixed = form[:, inside][:, :, ~inside] + (each * (low + high))[:, None] * weights
    inner = -block
    places = np.arange(len(level))
    inner[:, places, places] += 2.0 * each
    squares = weights.conj().transpose(0, 2, 1) @ ((2.0 * each * low * high)[:, None] * weights)
    result = form[:, ~inside][:, :, ~inside] - squares + mixed.conj().transpose(0, 2, 1) @ np.linalg.solve(inner, mixed)
    return np.asarray((result + result.conj().transpose(0, 2, 1)) / 2.0)


def levels(family: Family) -> list[NDArray[np.int64]]:
    """Sort the neurons by the longest way to them; those that share a multiplier stand in one level if they can."""
    count, inputs = len(family.low), family.inputs
    reads = (family.weights[:, :, inputs:] != 0.0).any(axis=0)
    depth = np.zeros(count, dtype=np.int64)
    for index in range(count):
        before = np.flatnonzero(reads[index, :index])
        if len(before):
            depth[index] = depth[before].max() + 1
    return [np.flatnonzero(depth == value) for value in range(int(depth.max(initial=-1)) + 1)]
