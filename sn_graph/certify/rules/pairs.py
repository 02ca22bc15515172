"""Pairs: sorted pairs, which come no further apart (GroupSort, MaxMin: Anil et al., 2019, 1811.05381).

concat(max(a, b), min(a, b))                                 of two parts of one value
concat(ReduceMin(x), ReduceMax(x))                           of an axis that is 2 long
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.rules.formulas import View, kept_axes, varying
from sn_graph.certify.steps import (
    Array,
    Call,
    Composed,
    LinearMap,
    Made,
    Operand,
    Reshaped,
    Selected,
    Shape,
    Sliced,
    Transposed,
)


class PairSort:
    """max(a, b) and min(a, b), concatenated, of two parts of x.

    Args:
        parts: What takes a and b out of x.
        axis: Along which they are put together.
        largest_first: Whether the maxima come first.
    """

    def __init__(self, parts: tuple[LinearMap, LinearMap], axis: int, largest_first: bool) -> None:
        self.parts, self.axis, self.largest_first = parts, axis, largest_first

    def _sorted(self, a: Array, b: Array, swap: NDArray[np.bool_]) -> Array:
        high, low = np.where(swap, b, a), np.where(swap, a, b)
        return np.concatenate([high, low] if self.largest_first else [low, high], axis=self.axis)

    def _swap(self, x: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        a, b = (part.forward(x) for part in self.parts)
        return a, b, b > a

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return self._sorted(*self._swap(operands[0]))

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        _, _, swap = self._swap(operands[0])
        a, b = (part.forward(tangents[0]) for part in self.parts)
        return self._sorted(a, b, swap)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        _, _, swap = self._swap(operands[0])
        first, second = np.split(cotangent, 2, axis=self.axis)
        high, low = (first, second) if self.largest_first else (second, first)
        a, b = np.where(swap, low, high), np.where(swap, high, low)
        return (self.parts[0].adjoint(a) + self.parts[1].adjoint(b),)


def max_min(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Find a concatenation of the greater and the less of two parts of one value."""
    names = list(call.node.proto.input)
    if len(names) != 2:
        return None
    nodes = [view.node(name) for name in names]
    kinds = [node.op_type if node is not None else "" for node in nodes]
    if sorted(kinds) != ["Max", "Min"] or nodes[0] is None or nodes[1] is None:
        return None
    pair = list(nodes[0].proto.input)
    if len(pair) != 2 or sorted(pair) != sorted(nodes[1].proto.input):
        return None
    taken = [view.part(name) for name in pair]
    first, second = taken
    if first is None or second is None or first[0].name != second[0].name:
        return None
    x, parts = first[0], (first[1], second[1])
    if parts[1].output_shape != parts[0].output_shape or not all(map(_only_moves, parts)):
        return None
    if not _disjoint(parts, x.shape):
        return None
    return x, _sorted(call, x, parts, largest_first=kinds[0] == "Max")


def extremes(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Find a concatenation of the least and the greatest along an axis that is 2 long."""
    nodes = [view.node(name) for name in call.node.proto.input]
    kinds = [node.op_type if node is not None else "" for node in nodes]
    if sorted(kinds) != ["ReduceMax", "ReduceMin"] or nodes[0] is None or nodes[1] is None:
        return None
    name = nodes[0].proto.input[0]
    x = varying(view, name)
    if x is None or nodes[1].proto.input[0] != name:
        return None
    axes = [kept_axes(view, node, len(x.shape)) for node in nodes if node is not None]
    if axes[0] is None or axes[0] != axes[1] or len(axes[0]) != 1 or x.shape[axes[0][0]] != 2 or x.dynamic:
        return None
    places = [[slice(None)] * len(x.shape) for _ in range(2)]
    places[0][axes[0][0]], places[1][axes[0][0]] = slice(0, 1), slice(1, 2)
    parts = Sliced.by(x.shape, places[0]), Sliced.by(x.shape, places[1])
    return x, _sorted(call, x, parts, largest_first=kinds[0] == "ReduceMax")


def _sorted(call: Call, x: Operand, parts: tuple[LinearMap, LinearMap], *, largest_first: bool) -> Made:
    shape = parts[0].output_shape
    axis = call.node.integer("axis", 0) % len(shape)
    result: Shape = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
    kept = {at for at in range(len(shape)) if at != axis and all(part.carry(at) == at for part in parts)}
    function = PairSort(parts, axis, largest_first)
    mixed = frozenset(range(len(shape))) - kept
    # At another size the parts may overlap.
    everywhere = None if x.dynamic else 1.0
    return call.bounded([x], result, function, [1.0], over_all_sizes=[everywhere], mixed=mixed, rule="maxmin")


def _only_moves(part: LinearMap) -> bool:
    maps = part.maps if isinstance(part, Composed) else (part,)
    return all(isinstance(one, Sliced | Selected | Reshaped | Transposed) for one in maps)


def _disjoint(parts: Sequence[LinearMap], shape: Shape) -> bool:
    """Say whether parts of a value have no element twice."""
    places = np.arange(1.0, math.prod(shape) + 1.0).reshape(shape)
    taken = np.concatenate([part.forward(places).reshape(-1) for part in parts])
    taken = taken[taken != 0.0]
    return len(np.unique(taken)) == len(taken)
