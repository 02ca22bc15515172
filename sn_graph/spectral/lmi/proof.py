"""The proof that P(ρ, λ) ≥ 0 for every network within the errors of the given one, whatever the λ ≥ 0 are.

P̂ is P(ρ, λ) as computed, P the exact one of an exact network. Element by element |P − P̂| ≤ D,

    D = γ H(|W| + E_W, |C| + E_C) + H(|W| + E_W, |C| + E_C) − H(|W|, |C|),   γ = γ_{c(m+k+16)},
    H(W, C) = ρE + 2Λ + JᵀΛ(|A| + |B|)W + (·)ᵀ + 2 WᵀΛ|A||B|W + CᵀC,   J = [0 I]                                (1)

with u = 2⁻⁵² in γ, twice the unit roundoff. For real matrices c = 1: an element is a sum of at most m + k + 4 products
of at most five factors, so no term meets more than m + k + 12 roundings (Higham, 2002, Accuracy and Stability of
Numerical Algorithms, §3.1). For complex ones c = 2: the real and the imaginary part are such sums of twice as many
terms, each bounded by |x||y|, and √2 of what bounds one bounds the modulus. For any d > 0, |P − P̂| ≤ D gives

    P ≥ P̂ − diag(e),   e_i = Σ_j D_ij d_j / d_i                                                                  (2)

because diag(e) ± (P − P̂) is dominated by its diagonal once it is scaled by d. Let B be P̂ with a smaller diagonal. If
Cholesky's algorithm runs to its end on B [N, N], then RᴴR = B + ΔB with |ΔB_ij| ≤ γ_{c(N+4)} ‖r_i‖‖r_j‖ and
‖r_i‖² ≤ B_ii / (1 − γ_{c(N+4)}) (Higham, theorem 10.3; for LAPACK's order of operations see `linalg.definite`), so

    B ≥ −N γ' diag(B),   γ' = γ_{c(N+4)}/(1 − γ_{c(N+4)}),   and   B_ii (1 + Nγ') ≤ P̂_ii − e_i  gives  P ≥ 0    (3)

The rows are scaled by powers of two first, so that B_ii lies in [1, 4), which rounds nothing. Both margins are relative
to each row's diagonal: no scale of a neuron spoils those of others.

Underflow: all factors are at most M = 2⁹⁰, so what is lost in one operation, at most 2⁻¹⁰²² even where subnormal
numbers are taken as 0, is multiplied by at most M⁴. The diagonal lies in [2⁻¹⁸⁰, (m+k) 2⁴⁵²], so d_j/d_i is at most
√(m+k) 2³¹⁶, and e_i lacks at most 10 N (m+k)² 2⁻³⁴⁶ < 2⁻¹⁸⁰u². What is left of P̂_ii is at least 2⁻¹⁸⁰u, and the last 8u
of (3) are parts of that. There is no overflow.
"""

import math

import numpy as np

from sn_graph.spectral.linalg import UNIT, gamma
from sn_graph.spectral.lmi.family import Family
from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import Field, Real

# By how much ρ is raised above the least that floating point finds for given multipliers.
WIDTHS = (1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
# M: beyond this nothing is proven.
LARGEST = 2.0**90
SMALLEST = 2.0**-180


def proven_rho(family: Family, pencil: Pencil, multipliers: Real) -> float | None:
    """Prove the least ρ that can be proven, or little more, for given multipliers.

    Args:
        family: The network, exact within its errors.
        pencil: That of the family.
        multipliers: λ [groups]; any numbers at all.

    Returns:
        ρ with P(ρ, λ) ≥ 0; None where a multiplier is negative or not finite, or there is no such ρ.
    """
    if not (np.isfinite(multipliers).all() and (multipliers >= 0.0).all()):
        return None
    with np.errstate(all="ignore"):
        least = _least_rho(pencil, multipliers)
        if least is None:
            return None
        for width in WIDTHS:
            rho = least * (1.0 + width)
            if is_proven(family, pencil, rho, multipliers):
                return rho
    return None


def is_proven(family: Family, pencil: Pencil, rho: float, multipliers: Real) -> bool:
    """Tell whether P(ρ, λ) ≥ 0 is proven for every network within the errors of the family."""
    if not (0.0 <= rho <= LARGEST and ((multipliers >= 0.0) & (multipliers <= LARGEST)).all() and in_range(family)):
        return False
    with np.errstate(all="ignore"):
        matrix = pencil.matrix(rho, multipliers)
        places = np.arange(pencil.order)
        diagonal = matrix[:, places, places].real
        if not (diagonal >= SMALLEST).all():
            return False
        return is_definite(matrix, _errors(family, rho, multipliers, 1.0 / np.sqrt(diagonal)))


def is_definite(matrix: Field, errors: Real) -> bool:
    """Tell whether (3) proves P ≥ 0 from P̂ [F, N, N], which is overwritten, and e [F, N]."""
    order = matrix.shape[1]
    places = np.arange(order)
    diagonal = matrix[:, places, places].real
    if not (diagonal >= SMALLEST).all():
        return False
    lost = gamma(_parts(matrix) * (order + 4))
    lost = lost / (1.0 - lost) if lost < 0.5 else math.inf
    lowered = (diagonal - errors) * (1.0 - order * lost * (1.0 + 1e-6) - 8.0 * UNIT)
    if not (lowered > 0.0).all():
        return False
    matrix[:, places, places] = lowered
    return _factorizes(matrix, lowered)


def in_range(family: Family) -> bool:
    """Tell whether no element and no slope is NaN, infinite, or larger than what a proof can take."""
    parts = (family.weights, family.output, family.weights_error, family.output_error, family.low, family.high)
    return all(bool((np.abs(part) <= LARGEST).all()) for part in parts)


def _parts(matrix: Field) -> int:
    """The c of (1)."""
    return 2 if np.iscomplexobj(matrix) else 1


def _factorizes(matrix: Field, diagonal: Real) -> bool:
    """Whether Cholesky's algorithm runs to its end on every one of the matrices, scaled; overwrites them."""
    # Not exp2, which is not exact everywhere.
    scale = np.ldexp(1.0, -np.floor(np.log2(diagonal) / 2.0).astype(np.int64))
    matrix *= scale[:, :, None]
    matrix *= scale[:, None, :]
    if not np.isfinite(matrix).all():
        return False
    try:
        return bool(np.isfinite(np.linalg.cholesky(matrix)).all())
    except np.linalg.LinAlgError:
        return False


def _errors(family: Family, rho: float, multipliers: Real, weight: Real) -> Real:
    """Bound the e of (2) [F, N], for d = `weight`."""
    each = multipliers[family.tie]
    low, high = np.abs(family.low), np.abs(family.high)
    sums = Sums(each * (low + high), 2.0 * each * low * high)
    weights, output = np.abs(family.weights), np.abs(family.output)
    plain = np.concatenate([np.full(family.inputs, rho), 2.0 * each]) * weight
    if family.weights_error.any() or family.output_error.any():
        wrong, wrong_output = family.weights_error, family.output_error
        more, more_output = weights + wrong, output + wrong_output
        total = plain + sums.of(more, more, weight) + product(more_output, more_output, weight)
        # H(W + E, C + E) − H(W, C), without the difference of two close numbers.
        given = sums.linear(wrong, weight) + sums.squares(wrong, more, weight) + sums.squares(weights, wrong, weight)
        given += product(wrong_output, more_output, weight) + product(output, wrong_output, weight)
    else:
        total = plain + sums.of(weights, weights, weight) + product(output, output, weight)
        given = np.zeros_like(total)
    terms = weights.shape[1] + output.shape[1] + 16
    # These sums are of positive terms, rounded less often than this.
    rounded = 1.0 + 2.0 * gamma(weights.shape[2] * terms)
    return np.asarray((gamma(_parts(family.weights) * terms) * total + given) / weight * rounded)


class Sums:
    """H(W, C) d, without C."""

    def __init__(self, mixed: Real, squared: Real) -> None:
        self.mixed, self.squared = mixed, squared

    def of(self, left: Real, right: Real, weight: Real) -> Real:
        """Apply what is linear and what is quadratic in W."""
        return self.linear(left, weight) + self.squares(left, right, weight)

    def linear(self, weights: Real, weight: Real) -> Real:
        """Apply JᵀΛ(|A| + |B|)W + (·)ᵀ."""
        inputs = weights.shape[2] - weights.shape[1]
        result = times(weights.transpose(0, 2, 1), self.mixed * weight[:, inputs:])
        result[:, inputs:] += self.mixed * times(weights, weight)
        return result

    def squares(self, left: Real, right: Real, weight: Real) -> Real:
        """Apply 2 WᵀΛ|A||B|W', W and W' being the two given."""
        if not self.squared.any():
            return np.zeros_like(weight)
        return times(left.transpose(0, 2, 1), self.squared * times(right, weight))


def product(left: Real, right: Real, weight: Real) -> Real:
    """Apply CᵀC', C and C' being the two given, to a vector a frequency."""
    return times(left.transpose(0, 2, 1), times(right, weight))


def times(matrix: Real, vector: Real) -> Real:
    """Multiply matrices by a vector each."""
    return np.asarray((matrix @ vector[..., None])[..., 0])


def _least_rho(pencil: Pencil, multipliers: Real) -> float | None:
    """The least ρ with P(ρ, λ) ≥ 0, as floating point finds it; None where the neurons' block is not definite."""
    matrix = pencil.matrix(0.0, multipliers)
    values = _least(matrix, pencil.inputs)
    if values is None:
        return None
    # A proof wants a little more than nothing.
    scale = float(np.abs(matrix[:, : pencil.inputs, : pencil.inputs]).max(initial=0.0)) + 1e-290
    return max(float(values.max()), 1e-14 * scale)


def least_of_each(pencil: Pencil, multipliers: Real) -> Real:
    """Find the least ρ with P(ρ, λ) ≥ 0 of every frequency [F], in floating point; infinity where there is none."""
    matrix = pencil.matrix(0.0, multipliers)
    values = _least(matrix, pencil.inputs)
    if values is not None:
        return values
    each = (_least(block[None], pencil.inputs) for block in matrix)
    return np.array([math.inf if value is None else float(value[0]) for value in each])


def _least(matrix: Field, inputs: int) -> Real | None:
    if not np.isfinite(matrix).all():
        return None
    try:
        factor = np.linalg.cholesky(matrix[:, inputs:, inputs:])
        half = np.linalg.solve(factor, matrix[:, inputs:, :inputs])
        rest = half.conj().transpose(0, 2, 1) @ half - matrix[:, :inputs, :inputs]
        if not np.isfinite(rest).all():
            return None
        return np.asarray(np.linalg.eigvalsh(rest)[:, -1]) if inputs else np.zeros(len(matrix))
    except np.linalg.LinAlgError:
        return None
