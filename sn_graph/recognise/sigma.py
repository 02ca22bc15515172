"""Sigmas: which estimate of a matrix's norm a number is, from the vectors that are stored beside it.

    eval:      σ = uᵀ M v,  u and v stored
    iterated:  x₀ stored, x_{i+1} = n(A_i x_i) with A_i = M and Mᵀ in turn,  σ = ‖A x_h₋₁‖, h half-steps in all

with n(x) = x / max(‖x‖, eps) or x / (‖x‖ + eps). torch.nn.utils.spectral_norm begins at u: v = n(Mᵀu), u = n(Mv),
σ = uᵀMv, which is ‖Mv‖: two half-steps an iteration; torch's parametrization, at v; BigGAN-PyTorch, at a row u, in
eval too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.recognise.operations import Array, product
from sn_graph.sites import MatrixView, Side

Vector = NDArray[np.float64]

_AGREE = 1e-7  # both sides are computed in float64
_FLOOR = 1e-9  # below, an eps acts on no vector that a network has
_LONGEST = 64  # half-steps


@dataclass(frozen=True, eq=False)
class Stored:
    """A stored vector: its name, and its elements."""

    name: str
    elements: Vector


@dataclass(frozen=True, eq=False)
class Estimate:
    """How a number comes of a matrix.

    Attributes:
        view: The matrix; its rows are where `left` is, or the side that is first.
        sigma: The number.
        left, right: The stored vectors on the side of the rows and of the columns, as far as they were used.
        half_steps: How many products with normalization lie between the stored vector and σ; 0 of σ = uᵀMv.
        eps: What lengths are at least, or what is added to them.
    """

    view: MatrixView
    sigma: float
    left: Stored | None
    right: Stored | None
    half_steps: int
    eps: float = 1e-12


class Matcher:
    """Compares numbers with the estimates of one tensor's matrices.

    Args:
        tensor: The tensor.
        views: Its matrices.
        vectors: The stored vectors that the arithmetic reads.
        small: The small constants that the arithmetic reads, of which one may be an eps.
        depth: How many norms follow each other in it.
    """

    def __init__(
        self, tensor: Array, views: Sequence[MatrixView], vectors: Sequence[Stored], small: Sequence[float], depth: int
    ) -> None:
        self._tensor, self._views, self._vectors = tensor, views, vectors
        self._floors = dict.fromkeys((0.0, *(eps for eps in small if eps >= _FLOOR)))
        self._depth = depth
        self._steps = min(depth + 1, _LONGEST)
        self._found: list[Estimate] | None = None

    def match(self, number: float) -> Estimate | None:
        """Return the estimate that a number is; None where it is none."""
        if self._found is None:
            self._found = list(self._estimates())
        fitting = [one for one in self._found if abs(one.sigma - number) <= _AGREE * abs(number)]
        # A converged vector gives the same number after each step; how many there are, the graph says.
        return min(fitting, key=lambda one: (abs(one.half_steps - self._depth), one.half_steps), default=None)

    def _estimates(self) -> Iterator[Estimate]:
        for view in self._views:
            matrix = view.matrix(self._tensor)
            lefts = [one for one in self._vectors if one.elements.size == view.rows]
            rights = [one for one in self._vectors if one.elements.size == view.cols]
            for left in lefts:
                for right in rights:
                    if left is not right:
                        sigma = float(left.elements @ product(matrix, right.elements))
                        yield Estimate(view, sigma, left, right, 0)
            if self._depth == 0:  # nothing in the graph normalizes a vector
                continue
            sides: list[tuple[Side, list[Stored]]] = [("rows", lefts), ("cols", rights)]
            for side, vectors in sides:
                for vector in vectors:
                    for eps in self._floors:
                        for added in (False, True) if eps else (False,):
                            yield from self._iterated(view, matrix, side, vector, eps, added)

    def _iterated(
        self, view: MatrixView, matrix: Array, side: Side, vector: Stored, eps: float, added: bool
    ) -> Iterator[Estimate]:
        x, rows = vector.elements, side == "rows"
        left, right = (vector, None) if rows else (None, vector)
        with np.errstate(all="ignore"):
            for step in range(1, self._steps + 1):
                y: Vector = product(matrix.T, x) if rows else product(matrix, x)
                length = float(np.linalg.norm(y))
                x = y / (length + eps if added else max(length, eps) or 1.0)
                # With an eps, the dot with the shortened vector is the estimate; without, both are the length.
                for sigma in dict.fromkeys((length, float(x @ y))):
                    yield Estimate(view, sigma, left, right, step, eps)
                rows = not rows


def is_leading(matrix: Array, estimate: Estimate) -> bool:
    """Say whether an estimate is not that of another singular value than the largest, to which it has converged."""
    left, right = estimate.left, estimate.right
    if right is not None:
        image = product(matrix, right.elements)
        back = product(matrix.T, image)
        start = right.elements
    elif left is not None:
        image = product(matrix.T, left.elements)
        back = product(matrix, image)
        start = left.elements
    else:
        return True
    square = float(start @ back) / max(float(start @ start), 1e-300)
    residual = float(np.linalg.norm(back - square * start))
    if residual > _CONVERGED * max(square, 1e-300) * float(np.linalg.norm(start)):
        return True
    # Products of float32 need no wider copy of it, and are off by far less than is asked.
    rough = matrix if matrix.dtype == np.float32 else matrix.astype(np.float64)
    x: NDArray[Any] = np.random.default_rng(0).standard_normal((matrix.shape[1],))
    for _ in range(_LOOKED):
        further = rough.T @ (rough @ (x / np.linalg.norm(x)).astype(rough.dtype))
        if float(np.linalg.norm(further)) > square * (1.0 + _ABOVE):
            return False
        x = further
    return True


_CONVERGED = 1e-3
_ABOVE = 2e-3
_LOOKED = 12
