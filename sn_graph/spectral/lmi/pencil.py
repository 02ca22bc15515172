"""The matrix of the inequality, P(ρ, λ) = ρ E + Σ λ_i (p_i q_iᴴ + q_i p_iᴴ) − CᴴC, and its derivatives.

p_iᴴ = e_iᵀ − a_i w_iᵀ and q_iᴴ = e_iᵀ − b_i w_iᵀ, so every term has rank 2, and what a solver needs of them,

    ⟨A_i, M⟩ = 2 Re q_iᴴ M p_i,  tr A_i X A_j Z, with tr (p_i q_iᴴ X p_j q_jᴴ Z) = (q_iᴴ X p_j)(q_jᴴ Z p_i) and so on,

comes from the matrices M, W M and W M Wᴴ.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.problem import Field, Real


@dataclass(frozen=True)
class Pencil:
    """P(ρ, λ) of a family, one block a frequency; λ [groups].

    Attributes:
        weights: W [F, m, N].
        gram: CᴴC [F, N, N].
        low, high: a and b [m].
        tie: [m].
        groups: How many multipliers there are.
    """

    weights: Field
    gram: Field
    low: Real
    high: Real
    tie: NDArray[np.int64]
    groups: int

    @classmethod
    def of(cls, family: Family) -> "Pencil":
        """Form CᴴC."""
        gram = family.output.conj().transpose(0, 2, 1) @ family.output
        return cls(family.weights, gram, family.low, family.high, family.tie, family.groups)

    @property
    def inputs(self) -> int:
        """How many elements x has."""
        return int(self.weights.shape[2] - self.weights.shape[1])

    @property
    def order(self) -> int:
        """How many rows a block has."""
        return int(self.weights.shape[2])

    def matrix(self, rho: float, multipliers: Real) -> Field:
        """P(ρ, λ) [F, N, N]."""
        return self.derivative(rho, multipliers) - self.gram

    def derivative(self, rho: float, multipliers: Real) -> Field:
        """ρ E + Σ λ_i A_i [F, N, N]; the λ may have any sign."""
        each = multipliers[self.tie]
        inputs, order = self.inputs, self.order
        squares = 2.0 * each * self.low * self.high
        if squares.any():
            result = self.weights.conj().transpose(0, 2, 1) @ (squares[:, None] * self.weights)
        else:
            result = np.zeros((len(self.weights), order, order), dtype=self.weights.dtype)
        mixed = (each * (self.low + self.high))[:, None] * self.weights
        result[:, inputs:, :] -= mixed
        result[:, :, inputs:] -= mixed.conj().transpose(0, 2, 1)
        places = np.arange(order)
        result[:, places[:inputs], places[:inputs]] += rho
        result[:, places[inputs:], places[inputs:]] += 2.0 * each
        return result

    def inner(self, matrix: Field) -> Real:
        """⟨E, M⟩ and ⟨A_t, M⟩ [1 + groups] for Hermitian M [F, N, N], summed over frequencies."""
        inputs = self.inputs
        places = np.arange(self.order)
        diagonal = matrix[:, places, places].real
        product = self.weights @ matrix
        crossed = product[:, places[: self.order - inputs], places[inputs:]].real
        values = diagonal[:, inputs:] - (self.low + self.high) * crossed
        if (self.low * self.high).any():
            values = values + self.low * self.high * (product * self.weights.conj()).sum(axis=2).real
        return self._gathered(float(diagonal[:, :inputs].sum()), 2.0 * values.sum(axis=0))

    def schur(self, primal: Field, inverse: Field) -> Real:
        """Evaluate tr A_i X A_j Z [1 + groups, 1 + groups], E being the first."""
        inputs, groups = self.inputs, self.groups
        first, second = self._forms(primal), self._forms(inverse)
        total = np.zeros((len(self.low), len(self.low)))
        for (one, other), (three, four) in (
            ((1, 0), (0, 1)),
            ((1, 1), (0, 0)),
            ((0, 0), (1, 1)),
            ((0, 1), (1, 0)),
        ):
            left, right = first(one, other), second(three, four)
            total += _summed_product(left, right)
        result = np.empty((1 + groups, 1 + groups))
        result[1:, 1:] = self._tied(total)
        # tr E X A_j Z = ⟨A_j, Z E X⟩, whose Hermitian part is what counts.
        between = inverse[:, :, :inputs] @ primal[:, :inputs, :]
        row = self.inner((between + between.conj().transpose(0, 2, 1)) / 2.0)
        result[0, 1:] = result[1:, 0] = row[1:]
        result[0, 0] = float((primal[:, :inputs, :inputs] * inverse[:, :inputs, :inputs].conj()).sum().real)
        return result

    def _forms(self, matrix: Field) -> "_Forms":
        inputs = self.inputs
        product = self.weights @ matrix
        return _Forms(
            matrix[:, inputs:, inputs:],
            product[:, :, inputs:],
            product @ self.weights.conj().transpose(0, 2, 1),
            (self.low, self.high),
        )

    def _gathered(self, first: float, values: Real) -> Real:
        return np.concatenate([[first], np.bincount(self.tie, values, self.groups)])

    def _tied(self, total: Real) -> Real:
        if self.groups == len(self.tie):
            return total[np.ix_(order := np.argsort(self.tie), order)]
        chosen = np.zeros((self.groups, len(self.tie)))
        chosen[self.tie, np.arange(len(self.tie))] = 1.0
        return np.asarray(chosen @ total @ chosen.T)


@dataclass(frozen=True)
class _Forms:
    """u_iᴴ M v_j for u and v one of p and q, from M, W M and W M Wᴴ on the neurons."""

    plain: Field
    once: Field
    twice: Field
    slopes: tuple[Real, Real]

    def __call__(self, left: int, right: int) -> Field:
        alpha, beta = self.slopes[left][:, None], self.slopes[right]
        result = self.plain
        if alpha.any():
            result = result - alpha * self.once
        if beta.any():
            result = result - self.once.conj().transpose(0, 2, 1) * beta
        if alpha.any() and beta.any():
            result = result + alpha * beta * self.twice
        return result


def _summed_product(left: Field, right: Field) -> Real:
    """Re Σ_f left ∘ conj(right)."""
    if np.iscomplexobj(left) or np.iscomplexobj(right):
        return np.asarray((left.real * right.real).sum(axis=0) + (left.imag * right.imag).sum(axis=0))
    return np.asarray((left * right).sum(axis=0))
