"""Choices: each element of the result is an element of one of the operands.

    Max, Min    |max(a, b) − max(a', b')| ≤ max(|a − a'|, |b − b'|) for each element, so ‖δ‖ ≤ √Σ ‖δᵢ‖²
    Where       the same, by a condition that does not depend on the input; else its value jumps
    Scatter     the same, at indices that are constants
    TopK        sorting changes no distance for the worse: Σ (a_(i) − b_(i))² ≤ Σ (aᵢ − bᵢ)² (rearrangement inequality);
                taking some of the sorted is at most that

An element that broadcasting repeats k times counts √k.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.rules.layout import places_of
from sn_graph.certify.rules.products import broadcast
from sn_graph.certify.steps import (
    Array,
    Bounded,
    Call,
    Composed,
    Joined,
    LinearMap,
    Made,
    NoBound,
    Operand,
    Scaled,
    Selected,
    Shape,
    repeated,
    unbroadcast,
)

Pick = Callable[[Sequence[Array]], NDArray[np.int64]]
"""Returns for each element of the result which of the values, broadcast to its shape, it is."""


class Chosen:
    """Elementwise choice among values, some of them constants.

    Args:
        given: The constants in their places, None for operands.
        shape: The result's shape.
        pick: See `Pick`.
    """

    def __init__(self, given: Sequence[Array | None], shape: Shape, pick: Pick) -> None:
        self._given, self._shape, self._pick = given, shape, pick

    def _all(self, arrays: Sequence[Array], zeros: bool = False) -> list[Array]:
        waiting = iter(arrays)
        return [
            np.broadcast_to(next(waiting) if one is None else np.zeros(()) if zeros else one, self._shape)
            for one in self._given
        ]

    def _taken(self, values: Sequence[Array], which: NDArray[np.int64]) -> Array:
        return np.asarray(np.take_along_axis(np.stack(values), which[None], 0)[0])

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        values = self._all(operands)
        return self._taken(values, self._pick(values))

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        return self._taken(self._all(tangents, zeros=True), self._pick(self._all(operands)))

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        which = self._pick(self._all(operands))
        places = [place for place, one in enumerate(self._given) if one is None]
        return tuple(
            unbroadcast(np.where(which == place, cotangent, 0.0), operand.shape)
            for place, operand in zip(places, operands, strict=True)
        )


def _choice(call: Call, places: Sequence[int], pick: Pick, shape: Shape, note: str = "") -> Bounded:
    operands = [call.operand(place) for place in places]
    varying = [one for one in operands if not one.is_constant]
    given = [call.offset(place) if one.is_constant else None for place, one in zip(places, operands, strict=True)]
    factors = [repeated(one.shape, shape) for one in varying]
    everywhere = [
        None if one.dynamic and one.shape != shape else factor for one, factor in zip(varying, factors, strict=True)
    ]
    return call.bounded(
        varying,
        shape,
        Chosen(given, shape, pick),
        factors,
        over_all_sizes=everywhere,
        join=Joined.ROOT,
        mixed=_uneven(varying, [one for one in given if one is not None], shape),
        note=note,
    )


def _uneven(varying: Sequence[Operand], given: Sequence[Array], shape: Shape) -> frozenset[int]:
    """Return the axes along which constants differ, or operands are not aligned with the result."""
    rank = len(shape)
    if any(len(one.shape) != rank for one in varying):
        return frozenset(range(rank))
    found = {axis for axis, size in enumerate(shape) for one in varying if one.shape[axis] != size}
    for array in given:
        for axis in range(array.ndim):
            if array.shape[axis] > 1 and bool((array != array.take([0], axis=axis)).any()):
                found.add(axis + rank - array.ndim)
    return frozenset(found)


def _extreme(largest: bool) -> Callable[[Call], Made]:
    combine: Callable[[Array, Array], Array] = np.maximum if largest else np.minimum
    pick = np.argmax if largest else np.argmin

    def which(values: Sequence[Array]) -> NDArray[np.int64]:
        return np.asarray(pick(np.stack(values), axis=0))

    def rule(call: Call) -> Made:
        places = [place for place, one in enumerate(call.operands) if one is not None]
        operands = [call.operand(place) for place in places]
        shape = np.broadcast_shapes(*(one.shape for one in operands))
        varying = [one for one in operands if not one.is_constant]
        if len(varying) == 1 and varying[0].shape == shape:
            if len(places) == 1:
                return varying[0]
            # Infinite bounds are none.
            given = [np.asarray(one.array, np.float64) for one in operands if one.is_constant]
            bound = reduce(combine, given)
            if np.isnan(bound).any():
                raise NoBound("it compares with NaN")
            return call.elementwise(
                0.0,
                1.0,
                lambda x: np.asarray(combine(x, bound)),
                lambda x: ((x > bound) if largest else (x < bound)).astype(np.float64),
                x=varying[0],
                parameters=[bound],
            )
        return _choice(call, places, which, shape)

    return rule


def _where(call: Call) -> Made:
    condition = call.operand(0)
    if condition.array is None:
        raise NoBound("its condition depends on the network's input, so its value may jump", "use Relu or Clip")
    operands = [call.operand(1), call.operand(2)]
    shape = np.broadcast_shapes(condition.shape, *(one.shape for one in operands))
    chosen = np.asarray(condition.array, bool)
    if not condition.depends:
        return _masked(call, operands, chosen, shape)
    which = np.where(np.broadcast_to(chosen, shape), 0, 1)
    # The condition may differ from sample to sample, and the bound holds for each.
    return _choice(call, (1, 2), lambda _: which, shape, note="whatever the condition is")


def _masked(call: Call, operands: Sequence[Operand], chosen: NDArray[np.bool_], shape: Shape) -> Made:
    """A choice that is known: the parts of the operands that are taken."""
    parts: list[tuple[Operand, LinearMap]] = []
    offset: Array | None = None
    for operand, taken in zip(operands, (chosen, ~chosen), strict=True):
        if operand.is_constant:
            offset = np.where(taken, np.asarray(operand.array, np.float64), 0.0)
            if not np.isfinite(offset).all():
                raise NoBound("it puts infinite elements in", "mask by a large number")
            continue
        mask = Scaled.by(shape, taken.astype(np.float64))
        parts.append((operand, Composed.of([broadcast(operand.shape, shape), mask])))
    return call.linear(parts, offset=offset, disjoint=True)


def _scatter(call: Call) -> Made:
    """ScatterND and ScatterElements: the operator itself is asked where each element comes from."""
    if call.node.text("reduction", "none") != "none":
        raise NoBound("Scatter with a reduction has no rule")
    data, updates = call.operand(0), call.operand(2)
    indices = call.constant(1, "indices")
    first = int(np.prod(data.shape))
    sources = [places_of(data.shape), places_of(updates.shape) + first]
    (places,) = call.evaluate(call.node, [sources[0], indices, sources[1]])
    parts: list[tuple[Operand, LinearMap]] = []
    offset: Array | None = None
    for operand, low, high, place in ((data, 0, first, 0), (updates, first, first + int(np.prod(updates.shape)), 2)):
        own = np.where((places >= low) & (places < high), places - low, -1)
        chosen = Selected.of(operand.shape, own)
        if operand.is_constant:
            moved = chosen.forward(call.offset(place))
            offset = moved if offset is None else offset + moved
        else:
            parts.append((operand, chosen))
    return call.linear(parts, offset=offset, disjoint=True)


class Sorted:
    """The k largest or smallest of each line, in their order."""

    def __init__(self, axis: int, count: int, largest: bool) -> None:
        self.axis, self.count, self.largest = axis, count, largest

    def _order(self, x: Array) -> NDArray[np.int64]:
        order = np.argsort(-x if self.largest else x, axis=self.axis, kind="stable")
        return np.asarray(order.take(range(self.count), axis=self.axis))

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return np.take_along_axis(operands[0], self._order(operands[0]), self.axis)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        return np.take_along_axis(tangents[0], self._order(operands[0]), self.axis)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        found = np.zeros(operands[0].shape)
        np.put_along_axis(found, self._order(operands[0]), cotangent, self.axis)
        return (found,)


def _top(call: Call) -> Made:
    x = call.varying()
    axis = call.node.integer("axis", -1) % len(x.shape)
    count = call.node.integer("k", 0)
    if call.given(1) is not None:
        operand = call.operand(1)
        if operand.array is None:
            raise NoBound("its k depends on the network's input")
        count = int(operand.array.reshape(-1)[0])
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"{count} of {x.shape[axis]}")
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if not call.results[0]:
        raise NoBound("its second output, the places of the largest elements, jumps")
    function = Sorted(axis, count, bool(call.node.integer("largest", 1)))
    return call.bounded(
        [x], shape, function, [1.0 if count else 0.0], over_all_sizes=[1.0], mixed=frozenset({axis}), rule="TopK"
    )


RULES: dict[str, Callable[[Call], Made]] = {
    "Max": _extreme(largest=True),
    "Min": _extreme(largest=False),
    "Where": _where,
    "ScatterND": _scatter,
    "ScatterElements": _scatter,
    "Scatter": _scatter,
    "TopK": _top,
}
