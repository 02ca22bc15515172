"""Moments: means and deviations that exporters take by single operators.

c / √(mean c² + ε), c · (mean c² + ε)^(−1/2)   RMSNorm of c; LayerNorm, where c = x − mean x
x − mean x                                     a projection, of norm 1
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from sn_graph.certify.rules.formulas import View, kept_axes, number, varying
from sn_graph.certify.rules.normalizations import normalized
from sn_graph.certify.steps import Array, Call, LinearMap, Made, Operand


@dataclass(frozen=True)
class _Spread:
    """mean c² + ε along axes."""

    of: str
    axes: tuple[int, ...]
    epsilon: float


def standardized(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Find c / √(mean c² + ε), as a quotient or as a product."""
    left, right = call.node.proto.input
    for top, bottom in ((left, right), (right, left)) if call.node.op_type == "Mul" else ((left, right),):
        x = varying(view, top)
        spread = None if x is None else _spread(view, bottom, inverse=call.node.op_type == "Mul", rank=len(x.shape))
        if x is not None and spread is not None and spread.of == top and spread.epsilon > 0.0:
            made = normalized(call, x, spread.epsilon, axes=spread.axes, centered=False, mixed=frozenset(spread.axes))
            return x, [replace(one, rule="standardize") for one in made]
    return None


def _spread(view: View, name: str, inverse: bool, rank: int) -> _Spread | None:
    """Read √(mean c² + ε), or its inverse."""
    node = view.node(name)
    if node is None:
        return None
    inputs = list(node.proto.input)
    if inverse and node.op_type == "Reciprocal":
        return _spread(view, inputs[0], inverse=False, rank=rank)
    if inverse and node.op_type == "Div" and number(view, inputs[0], rank) == 1.0:
        return _spread(view, inputs[1], inverse=False, rank=rank)
    power = number(view, inputs[1], rank) if node.op_type == "Pow" else None
    if power == (-0.5 if inverse else 0.5) or (node.op_type == "Sqrt" and not inverse):
        return _variance(view, inputs[0], rank)
    return None


def _variance(view: View, name: str, rank: int) -> _Spread | None:
    node = view.node(name)
    if node is None or node.op_type != "Add":
        return None
    for mean, epsilon in (tuple(node.proto.input), tuple(reversed(node.proto.input))):
        added, inner = number(view, epsilon, rank), view.node(mean)
        if added is None or inner is None or inner.op_type != "ReduceMean":
            continue
        axes, square = kept_axes(view, inner, rank), view.node(inner.proto.input[0])
        if axes is None or square is None:
            continue
        squared = list(square.proto.input)
        if (square.op_type == "Pow" and number(view, squared[1], rank) == 2.0) or (
            square.op_type == "Mul" and squared[0] == squared[1]
        ):
            return _Spread(squared[0], axes, added)
    return None


@dataclass(frozen=True, eq=False)
class Centered(LinearMap):
    """x − mean x along axes: a projection, of norm 1, or 0 where a mean is of one element."""

    axes: tuple[int, ...]

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        return np.asarray(x - x.mean(axis=self.axes, keepdims=True))

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        return self.forward(y)

    def norm(self) -> float:
        """See `LinearMap`."""
        return 1.0 if math.prod(self.input_shape[axis] for axis in self.axes) > 1 else 0.0

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return 1.0

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        return None if axis in self.axes else axis

    def magnitude(self) -> float:
        """See `LinearMap`."""
        return 2.0

    @property
    def terms(self) -> int:
        """See `LinearMap`."""
        return 2 + math.prod(self.input_shape[axis] for axis in self.axes)


def centered(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Find x − mean x."""
    left, right = call.node.proto.input
    mean, x = view.node(right), varying(view, left)
    if mean is None or x is None or mean.op_type != "ReduceMean" or mean.proto.input[0] != left:
        return None
    axes = kept_axes(view, mean, len(x.shape))
    if axes is None or 0 in x.shape:
        return None
    return x, call.linear([(x, Centered(x.shape, x.shape, axes))], rule="centre")
