"""A proven upper bound of the spectral norm: no rounding error, cluster or unlucky start takes σ above it.

    τ = σ(1 + δ);  τ²I − MᵀM has a Cholesky factor  ⟹  ‖M‖₂ < τ, up to the rounding errors that `definite` counts

σ is any estimate; δ starts at 9e-9 and grows tenfold until the factorization succeeds, so that a poor estimate never
makes the bound wrong. Where it fails at 9e-7, σ is low, and a better one is looked for: that of Lanczos in place of a
given one, that of LAPACK in place of Lanczos's.

The Gram matrix is on the shorter side n, in float64, in which products of narrower types are exact; it is the only copy
made, 8n² bytes, whatever the length of the other side. Its rounding errors are about (mr + n²)·1e-16 of σ²,
r = ‖M‖_F²/σ², which is 2e-9 on a random 4096 × 4096.

Where n passes `GRAM_LIMIT`, the bound is min(‖M‖_F, √(‖M‖₁‖M‖_∞)) from one pass: true, and wide (a random matrix
passes it by about √n/2).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import (
    FAILURE,
    SAFE_RANGE,
    UNIT,
    BlockedMatrix,
    GramProof,
    dense_eigenpair,
    flushes_subnormals,
    gamma,
    threads_for,
)
from sn_graph.spectral.matrix.exact import spectral_norm
from sn_graph.spectral.matrix.routes import DENSE_SIDE, ESTIMATED, lanczos_on_gram

# 8,192² float64 are 512 MB; the factorization takes seconds, and grows by the cube.
GRAM_LIMIT = 8192
# The first is above the rounding errors of all sizes that have a Gram matrix here; the last is above the error of σ.
WIDTHS = (9e-9, 9e-8, 9e-7)
# The error that σ may have.
PROMISED = 1e-6


@dataclass(frozen=True)
class Bracket:
    """What is known of the spectral norm of a matrix.

    Attributes:
        lower: σ, computed to 1e-6.
        upper: A number that the norm does not exceed, proven.
        frobenius: One that ‖M‖_F does not exceed; it tells what rounding the elements may do to the norm.
    """

    lower: float
    upper: float
    frobenius: float


def upper_bound(matrix: NDArray[Any], sigma: float | None = None) -> float:
    """Compute a number that the spectral norm of a matrix does not exceed, rounding errors included.

    Args:
        matrix: M [rows, columns], float16, bfloat16, float32 or float64, of any scale; may be a memory map, which is
            read in blocks, once.
        sigma: The norm as far as it is known, best from `spectral_norm`; the nearer, the narrower the bound. None: it
            is computed from the same Gram matrix, which is cheaper than computing it before.

    Returns:
        The bound: above the norm by 1e-8 of it if `sigma` was that near, by 1e-6 at most if it was below, because it is
        computed anew then, and by about the error of a `sigma` that was above. 0 for a zero or empty matrix, NaN for
        one with NaN or infinity, infinity where float64 ends.

    >>> 4.0 <= upper_bound(np.array([[3.0, 0.0], [0.0, -4.0]])) <= 4.0 * (1 + 1e-8)
    True
    """
    return _bracket(matrix, sigma).upper


def bracket(matrix: NDArray[Any]) -> Bracket:
    """Compute the spectral norm and a proven upper bound of it, reading the matrix once where a Gram matrix is held.

    Args:
        matrix: As for `upper_bound`.

    Returns:
        All three; they are 0 for a zero or empty matrix, NaN for a non-finite one.

    >>> found = bracket(np.array([[3.0, 0.0], [0.0, -4.0]]))
    >>> found.lower <= 4.0 * (1 + 1e-12), found.upper >= 4.0
    (True, True)
    """
    return _bracket(matrix, None)


def is_within(matrix: NDArray[Any], limit: float) -> bool:
    """Prove ‖M‖₂ ≤ limit by one factorization, without an estimate of the norm.

    Args:
        matrix: As for `upper_bound`.
        limit: Above 0.

    Returns:
        Whether it is proven; False where it is not true, or true too narrowly (by less than about 1e-9 of it), and for
        a non-finite matrix. Beyond `GRAM_LIMIT`, where there is no factorization, σ itself is computed, and that it is
        within by 1e-6 is certain but for a chance of 1e-9.
    """
    if matrix.size == 0:
        return True
    operand = BlockedMatrix.of(matrix)
    limit -= _flushed(matrix)
    if not limit > 0.0:
        return False
    with np.errstate(all="ignore"), threads_for(matrix):
        if min(operand.shape) > GRAM_LIMIT:
            return one_pass_bounds(operand)[0] <= limit or spectral_norm(matrix) <= limit * (1.0 - PROMISED)
        proof = _gram_proof(operand)
        low, high = SAFE_RANGE["d"]
        if not low <= proof.trace <= high:
            largest = operand.largest()
            if largest == 0.0 or not math.isfinite(largest):
                return largest == 0.0
            operand = operand.rescaled(largest)
            proof = _gram_proof(operand)
        if proof.frobenius_squared <= _square(operand, limit) * (1.0 - 2.0 * UNIT):
            return True
        # A square rounds once, and the scale is a power of two.
        return proof.below(_square(operand, limit) * (1.0 - 2.0 * UNIT))


def _bracket(matrix: NDArray[Any], sigma: float | None) -> Bracket:
    found, lost = _bracket_of_normal(matrix, sigma), _flushed(matrix)
    return replace(found, upper=found.upper + lost, frobenius=found.frobenius + lost) if lost else found


def _flushed(matrix: NDArray[Any]) -> float:
    """Bound the norm of the elements that this thread takes for 0; 0 where it takes none."""
    if not flushes_subnormals() or matrix.dtype == np.float16 or not matrix.size:
        return 0.0
    bits = matrix.view(f"u{matrix.dtype.itemsize}") << 1  # without the sign
    least = 2.0**-1022 if matrix.dtype == np.float64 else 2.0**-126
    # A subnormal number has none of the bits from the exponent's lowest on, and is not 0.
    smallest = np.array(least).astype(matrix.dtype).view(bits.dtype) << 1
    return math.sqrt(np.count_nonzero((bits < smallest) & (bits != 0))) * least * (1.0 + 4.0 * UNIT)


def _bracket_of_normal(matrix: NDArray[Any], sigma: float | None) -> Bracket:
    if matrix.size == 0:
        return Bracket(0.0, 0.0, 0.0)
    operand = BlockedMatrix.of(matrix)
    known = sigma if sigma is not None and sigma > 0.0 and math.isfinite(sigma) else None
    with np.errstate(all="ignore"), threads_for(matrix):
        if min(operand.shape) > GRAM_LIMIT:
            bound, frobenius = one_pass_bounds(operand)
            return Bracket(spectral_norm(matrix) if known is None else known, bound, frobenius)
        proof = _gram_proof(operand)
        low, high = SAFE_RANGE["d"]
        if not low <= proof.trace <= high:
            largest = operand.largest()
            if largest == 0.0 or not math.isfinite(largest):
                value = math.nan if largest else 0.0
                return Bracket(value, value, value)
            operand = operand.rescaled(largest)
            proof = _gram_proof(operand)
        value, upper = _proven(proof, _estimates(proof, operand, known))
    frobenius = math.sqrt(proof.frobenius_squared) * (1.0 + 2.0 * UNIT)
    lower, upper, frobenius = (operand.restored(norm) for norm in (math.sqrt(value), upper, frobenius))
    return Bracket(lower, _raised(upper), _raised(frobenius))


def _gram_proof(operand: BlockedMatrix) -> GramProof:
    return GramProof(operand.gram, max(operand.shape))


def _square(operand: BlockedMatrix, sigma: float) -> float:
    with np.errstate(over="ignore"):
        scaled = float(np.ldexp(sigma, -operand.exponent))
    return scaled * scaled


def _estimates(proof: GramProof, operand: BlockedMatrix, known: float | None) -> Iterator[float]:
    """Yield λ_max(A), to twice the error that σ may have, each better or dearer than the one before."""
    if known is not None:
        yield _square(operand, known)
    if len(proof.diagonal) > DENSE_SIDE:
        for failure in (ESTIMATED, FAILURE):
            pair = lanczos_on_gram(proof.gram, operand.seed, failure=failure)
            if not pair.certain:
                break
            yield pair.value
    yield dense_eigenpair(proof.gram).value


def _proven(proof: GramProof, estimates: Iterator[float]) -> tuple[float, float]:
    """An estimate of ‖M‖₂² and a bound of ‖M‖₂ from the first one that is not low; after a refusal A is made again."""
    value = math.nan
    for value in estimates:
        for width in WIDTHS:
            threshold = value * (1.0 + width) ** 2
            bound = proof.bound(threshold) if math.isfinite(threshold) else None
            if bound is not None:
                return value, math.sqrt(bound) * (1.0 + 2.0 * UNIT)
    return value, math.sqrt(proof.frobenius_squared) * (1.0 + 2.0 * UNIT)


def one_pass_bounds(operand: BlockedMatrix) -> tuple[float, float]:
    """Compute min(‖S‖_F, √(‖S‖₁‖S‖_∞)) and ‖S‖_F of the storage, rounded upwards.

    Both are 0 for a zero matrix and NaN for a non-finite one.

    Horn and Johnson, Matrix Analysis, 2nd ed., 5.6.P: ‖S‖₂² = ρ(SᵀS) ≤ ‖SᵀS‖₁ ≤ ‖S‖_∞‖S‖₁.
    """
    largest = operand.largest()
    if largest == 0.0 or not math.isfinite(largest):
        value = math.nan if largest else 0.0
        return value, value
    scaled = operand.rescaled(largest) if operand.storage.dtype == np.float64 else operand
    rows, columns = scaled.shape
    squares, tallest = 0.0, 0.0
    down = np.zeros(columns)
    for _, block in scaled.blocks():
        magnitudes = np.abs(block)
        tallest = max(tallest, float(magnitudes.sum(axis=1).max()))
        down += magnitudes.sum(axis=0)
        squares += float(np.vdot(magnitudes, magnitudes))
    # Sums of rows · columns positive numbers at most; the roots and the product round a few times more.
    raised = 1.0 + gamma(rows * columns + 8)
    frobenius = math.sqrt(squares) * raised
    least = min(frobenius, math.sqrt(tallest * float(down.max())) * raised)
    return _raised(scaled.restored(least)), _raised(scaled.restored(frobenius))


def _raised(value: float) -> float:
    """The next number above where the power of two put back may have rounded downwards: among the subnormals."""
    return math.nextafter(value, math.inf) if 0.0 < value < 2.0**-1000 else value
