"""Trials: what a layer divides its weight by, learned by giving it weights and vectors and looking at what it reads.

A layer is called with drawn W and vectors; the weight that its function reads is W/d. The number d is explained if, for
every draw, it is the same multiple of one estimate:

    σ = uᵀ M v of the stored pair;    σ = ‖M v_k‖ after k iterations from the stored u;    the same from v

The draws are far from converged, so that no two of these agree. W of other sizes tell a cap from a gain:
d = σ/g, or max(1, σ/c). All is done on a copy in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sn_graph.frontends.torch.framework import require_torch
from sn_graph.frontends.torch.layers import Held, Vector, as_matrix, iterated
from sn_graph.frontends.torch.watching import Call, watched
from sn_graph.sites import Side

_SAME = 3e-6  # relative: layers that pass through float32 on the way differ by less
_DRAWS = 3
_MOST = 16  # iterations
_SMALL, _LARGE = 1e-4, 1e6  # sizes of W at which a cap, of any size that is used, acts never and always
_FLOORS = (1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
_TINY = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-9, 1e-11)


@dataclass(frozen=True)
class Estimate:
    """How σ comes of M and what is stored.

    Attributes:
        dim: The axis of W that becomes the rows of M.
        start: The name of the stored vector that an iteration begins with.
        other: That of the one beside it, if there is one.
        begins: The side of M that `start` is on: u [rows] or v [columns].
        count: The iterations; 0 of σ = uᵀ M v.
    """

    dim: int
    start: str
    other: str | None
    begins: Side
    count: int

    def of(self, weight: Vector, vectors: dict[str, Vector], eps: float) -> tuple[float, Vector, Vector]:
        """Return σ, u and v."""
        matrix = as_matrix(weight, self.dim)
        if self.count == 0 and self.other is not None:
            u, v = vectors[self.start], vectors[self.other]
        else:
            u, v = iterated(matrix, vectors[self.start], self.begins, self.count, eps)
        return float(u @ (matrix @ v)), u, v


@dataclass(frozen=True)
class Draw:
    """A call of the layer with a drawn weight: the vectors before and after it, and d."""

    weight: Vector
    before: dict[str, Vector]
    after: dict[str, Vector]
    divisor: float


@dataclass(frozen=True)
class Learned:
    """What a layer does with its weight.

    Attributes:
        training, evaluation: Its estimates.
        bound, clip, eps: As in `Normalized`.
    """

    training: Estimate
    evaluation: Estimate
    bound: float
    clip: bool
    eps: float


class Bench:
    """A copy of a layer to try.

    Args:
        layer: The layer, in float64; it is overwritten.
        weight: The name of its weight's parameter.
        vectors: The names of what may be its u or v.
        inputs: What it is called with.
    """

    def __init__(self, layer: Any, weight: str, vectors: Sequence[str], inputs: Sequence[Any]) -> None:
        self._layer, self._inputs = layer, inputs
        self._weight = Held(layer, weight)
        self._vectors = {name: Held(layer, name) for name in vectors}
        self._random = np.random.default_rng(0)

    def draw(self, size: float = 1.0, *, train: bool = False) -> Draw | None:
        """Call the layer with a drawn weight; None where what it reads is no multiple of that."""
        shape = tuple(self._weight.tensor.shape)
        weight = self._random.standard_normal(shape) * size / math.sqrt(max(1, math.prod(shape[1:])))
        vectors = {name: self._random.standard_normal(held.tensor.numel()) for name, held in self._vectors.items()}
        for dim, lefts, rights in _sides(weight, vectors):
            for left, right in ((a, b) for a in lefts for b in rights if a != b):
                if vectors[left] @ (as_matrix(weight, dim) @ vectors[right]) < 0.0:
                    vectors[right] = -vectors[right]  # a cap would not show below 0
        self._put(self._weight, weight)
        for name, held in self._vectors.items():
            self._put(held, vectors[name] / np.linalg.norm(vectors[name]))
        before = self._all()
        self._layer.train(train)
        _, calls = watched(self._layer, self._inputs)
        read = [call.weight for call in calls if tuple(call.weight.shape) == shape]
        if len(read) != 1 or read[0] is self._weight.tensor:
            return None
        found = np.array(read[0].detach().double().numpy())
        factor = float(np.vdot(weight, found) / np.vdot(weight, weight))
        near = np.linalg.norm(found - factor * weight) <= _SAME * np.linalg.norm(found)
        return Draw(weight, before, self._all(), 1.0 / factor) if factor and near else None

    def call(self, inputs: Sequence[Any]) -> tuple[Any, list[Call]]:
        """Call the layer in evaluation; see `watched`."""
        self._layer.eval()
        return watched(self._layer, inputs)

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Yield what the layer holds, by name."""
        yield from self._layer.named_parameters()
        yield from self._layer.named_buffers()

    def _put(self, held: Held, array: Vector) -> None:
        torch = require_torch()
        with torch.no_grad():
            held.tensor.copy_(torch.from_numpy(array).reshape(held.tensor.shape))

    def _all(self) -> dict[str, Vector]:
        return {name: held.array().reshape(-1) for name, held in self._vectors.items()}

    def learn(self, floors: Sequence[float]) -> Learned | None:
        """Return what the layer does with its weight; None where it is no spectral norm that goes on from a vector.

        Args:
            floors: Numbers, of which one may be eps.
        """
        evaluation, ratio = self._explained(train=False) or (None, 0.0)
        if evaluation is None:
            return None
        training, other = self._explained(train=True) or (None, 0.0)
        if training is None or training.count == 0 or abs(other - ratio) > _SAME * ratio:
            return None
        bound, clip = 1.0 / ratio, False
        large, small = (self._ratio(evaluation, size) for size in (_LARGE, _SMALL))
        if large is None or small is None:
            return None
        if abs(small / large - 1.0) > _CAPPED:
            idle = self.draw(_SMALL)
            # Between the two there is max(1, σ/c); a gain beside a cap has no place in a plan.
            if idle is None or abs(idle.divisor - 1.0) > _CAPPED or not self._is_cap(evaluation, 1.0 / large):
                return None
            bound, clip = 1.0 / large, True
        elif abs(bound - 1.0) <= _SAME:
            bound = 1.0
        eps = 1e-12 if clip else self._floor(training, bound, floors)
        return Learned(training, evaluation, bound, clip, eps)

    def _explained(self, *, train: bool) -> tuple[Estimate, float] | None:
        """Return the estimate that d is a multiple of, where W is large enough for any cap, and d/σ."""
        draws = [self.draw(_LARGE, train=train) for _ in range(_DRAWS)]
        whole = [one for one in draws if one is not None]
        if len(whole) < _DRAWS:
            return None
        first, *others = whole
        for estimate in self._estimates(first.weight, first.before):
            sigma, u, v = estimate.of(first.weight, first.before, _LEAST)
            if sigma <= 0.0:
                continue
            ratio = first.divisor / sigma
            if train and not self._persists(estimate, first, u, v):
                continue
            if all(self._agrees(estimate, one, ratio) for one in others):
                return estimate, ratio
        return None

    def _agrees(self, estimate: Estimate, draw: Draw, ratio: float) -> bool:
        return abs(draw.divisor / ratio - estimate.of(draw.weight, draw.before, _LEAST)[0]) <= _SAME * abs(
            draw.divisor / ratio
        )

    def _persists(self, estimate: Estimate, draw: Draw, u: Vector, v: Vector) -> bool:
        """Say whether the next call begins where this one ended."""
        vector = u if estimate.begins == "rows" else v
        return bool(np.abs(draw.after[estimate.start] - vector).max() <= _SAME)

    def _estimates(self, weight: Vector, vectors: dict[str, Vector]) -> Iterator[Estimate]:
        """Yield what σ may be: few iterations first."""
        found = _sides(weight, vectors)
        for dim, lefts, rights in found:
            yield from (Estimate(dim, a, b, "rows", 0) for a in lefts for b in rights if a != b)
        for count in range(1, _MOST + 1):
            for dim, lefts, rights in found:
                yield from (Estimate(dim, one, _paired(one, rights), "rows", count) for one in lefts)
                yield from (Estimate(dim, one, _paired(one, lefts), "cols", count) for one in rights)

    def _ratio(self, estimate: Estimate, size: float) -> float | None:
        draw = self.draw(size)
        return None if draw is None else draw.divisor / estimate.of(draw.weight, draw.before, _LEAST)[0]

    def _is_cap(self, estimate: Estimate, cap: float) -> bool:
        """Say whether d is max(1, σ/c) around c too."""
        for times in (0.5, 0.9, 1.1, 3.0):
            probe = self.draw(1.0)
            if probe is None:
                return False
            sigma = estimate.of(probe.weight, probe.before, _LEAST)[0]
            draw = self.draw(abs(cap * times / sigma))
            if draw is None:
                return False
            wanted = max(1.0, estimate.of(draw.weight, draw.before, _LEAST)[0] / cap)
            if abs(draw.divisor - wanted) > _CAPPED * wanted:
                return False
        return True

    def _floor(self, estimate: Estimate, bound: float, floors: Sequence[float]) -> float:
        """Return the eps by which all tiny weights are explained; the usual one where none is."""
        draws = [self.draw(size, train=True) for size in _TINY]
        whole = [one for one in draws if one is not None]
        for eps in dict.fromkeys((_FLOORS[0], *floors, *_FLOORS)):
            wanted = [estimate.of(one.weight, one.before, eps)[0] / bound for one in whole]
            if all(abs(one.divisor - d) <= _EPS * abs(one.divisor) for one, d in zip(whole, wanted, strict=True)):
                return eps
        return _FLOORS[0]


def _sides(weight: Vector, vectors: Mapping[str, Vector]) -> list[tuple[int, list[str], list[str]]]:
    """Return for each axis the vectors that may be u, and those that may be v."""
    found = []
    for dim, rows in enumerate(weight.shape):
        lefts = [name for name, one in vectors.items() if one.size == rows]
        rights = [name for name, one in vectors.items() if one.size * rows == weight.size]
        found.append((dim, lefts, rights))
    return found


def _paired(name: str, others: Sequence[str]) -> str | None:
    """Return the vector that is stored beside one, by its name: weight_v beside weight_u."""
    head, _, last = name.rpartition(".")
    for one in others:
        path, _, other = one.rpartition(".")
        if one != name and path == head and last.replace("u", "v") == other.replace("u", "v"):
            return one
    return None


_LEAST = 1e-300
_CAPPED = 3e-5  # DUE adds 1e-5 to its cap
_EPS = 1e-4
