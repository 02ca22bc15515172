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
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sn_graph.spectral.linalg.compiled import LAPACK
from sn_graph.spectral.linalg.lanczos import Operator
from sn_graph.spectral.linalg.stopping import NEAR, NOISE, StoppingRule, is_blurred, largest_ritz_value, start_vector

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
        walk: The steps that led there.
        diagonal, offdiagonal: The tridiagonal matrix of which σ² is an eigenvalue.
        basis: The vectors [length] in float32, one a step; None where there was no room for them.
        blurred: Whether the products are too coarse to be certain: see `stopping.is_blurred`.
    """

    value: float
    certain: bool
    walk: "Walk"
    diagonal: tuple[float, ...]
    offdiagonal: tuple[float, ...]
    basis: tuple[NDArray[np.float32], ...] | None
    blurred: bool = False


@dataclass(frozen=True)
class Walk:
    """A start, and where others come from once there is nothing beyond what it reaches.

    Attributes:
        start: The first vector [length], of length 1.
        seed: Of the random ones that follow it; None: none do.
        dtype: float32 or float64, the type of the products.
    """

    start: Vector
    seed: int | None
    dtype: np.dtype[Any]


def leading_value(
    square: Operator, length: int, tolerance: float, limit: int, seed: int = 0, dtype: DTypeLike = np.float64
) -> LeadingValue:
    """Find the largest singular value of an operator A, to a relative error of `tolerance` but for a chance of 1e-9.

    Args:
        square: Returns AᵀA x for x [length], float64.
        length: That of x.
        tolerance: The relative error allowed.
        limit: The greatest number of steps.
        seed: Of the random starts, made of the operator.
        dtype: float32 or float64, the type of the products in `square`.
    """
    walk = Walk(start_vector(length, seed), seed, np.dtype(dtype))
    # A θ still on its way to λ₁ from an unlucky start has a large residual.
    return _searched(square, walk, StoppingRule(length, tolerance, dtype, orthogonal=False), NEAR, limit)


def settled_value(square: Operator, start: Vector, tolerance: float, limit: int) -> LeadingValue:
    """Follow the largest singular value that a start leads to, until it rises no more: a lower end, and no proof.

    Args:
        square: As for `leading_value`.
        start: The first vector [length], of length 1.
        tolerance: The relative rise over `WINDOW` steps that counts as none.
        limit: The greatest number of steps.
    """
    return _searched(square, Walk(start, None, np.dtype(np.float64)), _Settled(tolerance), math.inf, limit)


class _Rule(Protocol):
    def met(self, diagonal: list[float], offdiagonal: list[float]) -> bool: ...


class _Settled:
    def __init__(self, tolerance: float) -> None:
        self._rise = (1.0 + tolerance) ** 2
        self._values: list[float] = []

    def met(self, diagonal: list[float], offdiagonal: list[float]) -> bool:
        self._values.append(largest_ritz_value(diagonal, offdiagonal))
        if offdiagonal[-1] == 0.0:
            return True
        return len(self._values) > WINDOW and self._values[-1] <= self._rise * self._values[-1 - WINDOW]


def _searched(square: Operator, walk: Walk, rule: _Rule, near: float, limit: int) -> LeadingValue:
    """Take steps until the rule is met and the residual, relative to θ, is not above `near`."""
    diagonal: list[float] = []
    offdiagonal: list[float] = []
    basis: list[NDArray[np.float32]] | None = []
    for step, (vector, alpha, beta) in enumerate(_steps(square, walk), 1):
        diagonal.append(alpha)
        offdiagonal.append(beta)
        if basis is not None:
            basis.append(vector.astype(np.float32))
            basis = basis if step * len(vector) <= ROOM else None
        certain = rule.met(diagonal, offdiagonal)
        blurred = not certain and is_blurred(offdiagonal, walk.dtype)
        if certain or blurred or step == limit:
            theta = largest_ritz_value(diagonal, offdiagonal)
            kept = None if basis is None else tuple(basis)
            value = math.sqrt(max(theta, 0.0))
            found = LeadingValue(value, certain, walk, tuple(diagonal), tuple(offdiagonal), kept, blurred)
            ended = beta == 0.0 or step == limit or near == math.inf
            if ended or beta * abs(float(_ritz_weights(found)[-1])) <= near * theta:
                return found
    raise AssertionError("the recurrence does not end by itself")


def leading_vector(square: Operator, found: LeadingValue) -> Vector:
    """Return the singular vector [length], of length 1, on the side that A reads.

    Where the steps' vectors were not kept, the same steps are walked again. In float32 they give the vector to some
    1e-7, and so ‖A v‖ to the square of that.
    """
    vectors = (vector for vector, _, _ in _steps(square, found.walk)) if found.basis is None else found.basis
    total = np.zeros(len(found.walk.start))
    for weight, vector in zip(_ritz_weights(found), vectors, strict=False):
        total += weight * vector
    return total / math.sqrt(float(total @ total))


def _steps(square: Operator, walk: Walk) -> Iterator[tuple[Vector, float, float]]:
    """Yield q_k, α_k and β_k, the same at every call; β_k is 0 where a start reaches no further."""
    newest, noise = walk.start, NOISE[walk.dtype.char]
    before, beta, largest, stream = np.zeros(len(newest)), 0.0, 0.0, 0
    while True:
        # Taking off the last β q first keeps the vectors orthogonal for longer (Paige, 1972).
        image = square(newest) - beta * before
        alpha = float(newest @ image)
        image -= alpha * newest
        beta = math.sqrt(float(image @ image))
        largest = max(largest, alpha)
        if beta > noise * largest:
            yield newest, alpha, beta
            before, newest = newest, image / beta
            continue
        beta = 0.0
        yield newest, alpha, beta
        if walk.seed is None:
            return
        stream += 1
        before, newest = np.zeros(len(newest)), start_vector(len(newest), walk.seed, stream)


def _ritz_weights(found: LeadingValue) -> Vector:
    """The leading eigenvector of the tridiagonal matrix, by inverse iteration from just above the eigenvalue."""
    steps = len(found.diagonal)
    theta = found.value**2
    inner = -np.array(found.offdiagonal[:-1])
    diagonal = theta * (1.0 + 1e-12) + 1e-300 - np.array(found.diagonal)
    weights = np.ones(steps)
    for _ in range(3 if steps > 1 else 0):
        *_, weights, info = LAPACK.dptsv(diagonal, inner, weights)
        if info:
            raise np.linalg.LinAlgError(f"dptsv ended with {info}")
        weights /= math.sqrt(float(weights @ weights))
    return weights
