"""The largest singular value of an operator in three vectors, however many steps it takes, and its singular vectors.

`lanczos` keeps all its vectors and makes each orthogonal to the others, which costs as much memory as steps times
length: gigabytes for a convolution on a large image. This is the plain three-term recurrence on AᵀA, with the same
stopping rule. It holds without the orthogonality: the component c_k = v₁·q_k on the leading eigenvector obeys
β_k c_{k+1} = (λ₁ − α_k) c_k − β_{k−1} c_{k−1} up to roundings, so c_{k+1} = p_k(λ₁) c_1 as long as c_1 is above them
(the rule asks of it no more than some 1e-8 in a thousand dimensions, against 1e-16; in float32 products what they round
off points nowhere in particular). The c_k of unit vectors have Σ_{j ≤ k} c_{j+1}² ≤ k + 1, not ≤ 1 as orthonormal ones
have, which costs ½ ln(k + 1) of the growth. What is lost besides is that eigenvalues found come again, which delays the
others and moves none beyond the spectrum (Paige, 1980, https://doi.org/10.1016/0024-3795(80)90167-6).

From a start that is near the leading vector already, the value is there long before the rule could be certain of it:
`settled_value` stops when it no longer rises, for callers who have a bound from above.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

from sn_graph.spectral.linalg.lanczos import Operator
from sn_graph.spectral.linalg.stopping import NEAR, StoppingRule, largest_ritz_value, start_vector

# Elements of the vectors that are kept: 512 MB in float32.
ROOM = 1 << 27
# A value has settled when so many steps have not raised it.
WINDOW = 10

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class LeadingValue:
    """The largest singular value of A, from below.

    Attributes:
        value: σ.
        certain: Whether the stopping rule was met before the limit of steps.
        start: The first vector [length].
        diagonal, offdiagonal: The tridiagonal matrix of which σ² is an eigenvalue.
        basis: The vectors [length] in float32, one a step; None where there was no room for them.
    """

    value: float
    certain: bool
    start: Vector
    diagonal: tuple[float, ...]
    offdiagonal: tuple[float, ...]
    basis: tuple[NDArray[np.float32], ...] | None


def leading_value(square: Operator, length: int, tolerance: float, limit: int) -> LeadingValue:
    """Find the largest singular value of an operator A, to a relative error of `tolerance` but for a chance of 1e-3.

    Args:
        square: Returns AᵀA x for x [length], float64.
        length: That of x.
        tolerance: The relative error allowed.
        limit: The greatest number of steps.
    """
    # A θ still on its way to λ₁ from an unlucky start has a large residual.
    return _searched(square, start_vector(length), StoppingRule(length, tolerance, orthogonal=False), NEAR, limit)


def settled_value(square: Operator, start: Vector, tolerance: float, limit: int) -> LeadingValue:
    """Follow the largest singular value that a start leads to, until it rises no more: a lower end, and no proof.

    Args:
        square: As for `leading_value`.
        start: The first vector [length], of length 1.
        tolerance: The relative rise over `WINDOW` steps that counts as none.
        limit: The greatest number of steps.
    """
    return _searched(square, start, _Settled(tolerance), math.inf, limit)


class _Rule(Protocol):
    def met(self, diagonal: list[float], offdiagonal: list[float]) -> bool: ...


class _Settled:
    def __init__(self, tolerance: float) -> None:
        self._rise = (1.0 + tolerance) ** 2
        self._values: list[float] = []

    def met(self, diagonal: list[float], offdiagonal: list[float]) -> bool:
        self._values.append(largest_ritz_value(diagonal, offdiagonal))
        return len(self._values) > WINDOW and self._values[-1] <= self._rise * self._values[-1 - WINDOW]


def _searched(square: Operator, start: Vector, rule: _Rule, near: float, limit: int) -> LeadingValue:
    """Take steps until the rule is met and the residual, relative to θ, is not above `near`."""
    diagonal: list[float] = []
    offdiagonal: list[float] = []
    basis: list[NDArray[np.float32]] | None = []
    for step, (vector, alpha, beta) in enumerate(_steps(square, start), 1):
        diagonal.append(alpha)
        offdiagonal.append(beta)
        if basis is not None:
            basis.append(vector.astype(np.float32))
            basis = basis if step * len(start) <= ROOM else None
        exhausted = beta <= 1e-14 * max(diagonal)
        certain = exhausted or rule.met(diagonal, offdiagonal)
        if certain or step == limit:
            theta = largest_ritz_value(diagonal, offdiagonal)
            kept = None if basis is None else tuple(basis)
            value = math.sqrt(max(theta, 0.0))
            found = LeadingValue(value, certain, start, tuple(diagonal), tuple(offdiagonal), kept)
            ended = exhausted or step == limit or near == math.inf
            if ended or beta * abs(float(_ritz_weights(found)[-1])) <= near * theta:
                return found
    raise AssertionError("the recurrence does not end by itself")


def leading_vector(square: Operator, found: LeadingValue) -> Vector:
    """Return the singular vector [length], of length 1, on the side that A reads.

    Where the steps' vectors were not kept, the same steps are walked again. In float32 they give the vector to some
    1e-7, and so ‖A v‖ to the square of that.
    """
    vectors = (vector for vector, _, _ in _steps(square, found.start)) if found.basis is None else found.basis
    total = np.zeros(len(found.start))
    for weight, vector in zip(_ritz_weights(found), vectors, strict=False):
        total += weight * vector
    return total / math.sqrt(float(total @ total))


def _steps(square: Operator, start: Vector) -> Iterator[tuple[Vector, float, float]]:
    """Yield q_k, α_k and β_k, the same at every call. Once A sends a vector to 0, the q are no longer a basis."""
    newest = start
    before, beta = np.zeros(len(start)), 0.0
    while True:
        # Taking off the last β q first keeps the vectors orthogonal for longer (Paige, 1972).
        image = square(newest) - beta * before
        alpha = float(newest @ image)
        image -= alpha * newest
        beta = math.sqrt(float(image @ image))
        yield newest, alpha, beta
        before, newest = newest, image / (beta or 1.0)


def _ritz_weights(found: LeadingValue) -> Vector:
    """The leading eigenvector of the tridiagonal matrix, by inverse iteration from just above the eigenvalue."""
    steps = len(found.diagonal)
    theta = found.value**2
    band = np.zeros((2, steps))
    band[0, 1:] = -np.array(found.offdiagonal[:-1])
    band[1] = theta * (1.0 + 1e-12) + 1e-300 - np.array(found.diagonal)
    weights = np.ones(steps)
    for _ in range(3 if steps > 1 else 0):
        weights = solveh_banded(band, weights)
        weights /= math.sqrt(float(weights @ weights))
    return weights
