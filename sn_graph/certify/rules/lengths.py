"""Lengths: √(c Σ m x² + ε) of windows or slices: L2 norms, and the pooling by them that PyTorch writes out (LPPool2d).

With m ≥ 0 each element of the result is the length of a vector (√(c mᵢⱼ) xⱼ)ⱼ, with √ε as one more element. Two lengths
differ by no more than the length of the difference (the reverse triangle inequality), so

    ‖y(x) − y(x′)‖² ≤ c Σᵢ Σⱼ mᵢⱼ (xⱼ − x′ⱼ)² ≤ c · maxⱼ Σᵢ mᵢⱼ · ‖x − x′‖²

without a condition on ε: unlike x², and unlike √ by itself, their composition has a constant.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sn_graph.certify.rules import pools, reductions
from sn_graph.certify.rules.formulas import DEEPEST, View, number, varying
from sn_graph.certify.steps import (
    UNIT,
    Array,
    Call,
    Composed,
    Linear,
    LinearMap,
    Made,
    Operand,
    Separable,
    product,
    root,
)
from sn_graph.model import Node

_MEANS: dict[str, Callable[[Call], Made]] = {
    **{name: pools.RULES[name] for name in ("AveragePool", "GlobalAveragePool")},
    **{name: reductions.RULES[name] for name in ("ReduceSum", "ReduceMean")},
}


class Length:
    """√(c M x² + ε), M with coefficients that are not negative; its derivative is taken as 0 where it is 0.

    Args:
        means: M.
        times, add: c and ε.
    """

    def __init__(self, means: LinearMap, times: float, add: float) -> None:
        self._means, self._times, self._add = means, times, add

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return np.asarray(np.sqrt(self._times * self._means.forward(np.square(operands[0])) + self._add))

    def _by_length(self, x: Array, values: Array) -> Array:
        length = self.forward(x)
        return np.divide(self._times * values, length, out=np.zeros_like(length), where=length > 0.0)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        (x,), (tangent,) = operands, tangents
        return self._by_length(x, self._means.forward(x * tangent))

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        (x,) = operands
        return (x * self._means.adjoint(self._by_length(x, cotangent)),)


@dataclass(frozen=True)
class _Inside:
    """c · (mean of squares) + ε, as it stands under the root."""

    mean: Node
    times: float
    add: float


def length(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Find the root of a sum or mean of squares."""
    inputs = list(call.node.proto.input)
    if call.node.op_type == "Pow" and number(view, inputs[1], 1) != 0.5:
        return None
    inside = _inside(view, inputs[0])
    square = None if inside is None else view.node(inside.mean.proto.input[0])
    squared = None if square is None else _squared(view, square)
    x = None if squared is None else varying(view, squared)
    if inside is None or x is None or 0 in x.shape:
        return None
    others = [view.value(name) for name in inside.mean.proto.input[1:] if name]
    known = [value for value in others if isinstance(value, Operand) and value.array is not None]
    if len(known) < len(others):
        return None
    made = _MEANS[inside.mean.op_type](replace(call, node=inside.mean, operands=(x, *known)))
    if not isinstance(made, Linear) or len(made.parts) != 1:
        return None
    means = made.parts[0]
    separable = means.maps[0] if isinstance(means, Composed) else means
    if not isinstance(separable, Separable) or not means.output_shape:  # a constant of rank 1 would give it an axis
        return None
    room = 1.0 + 64.0 * UNIT + 4.0 * separable.relative
    constant = product(root(product(inside.times, _columns(separable))), room)
    function = Length(means, inside.times, inside.add)
    axes = frozenset(axis for axis, matrix in enumerate(separable.matrices) if matrix is not None)
    return x, call.bounded(
        [x],
        means.output_shape,
        function,
        [constant],
        over_all_sizes=[_over_all_sizes(inside, separable, room)],
        mixed=axes if means is separable else None,
        rule="length",
    )


def _columns(means: Separable) -> float:
    """Return maxⱼ Σᵢ mᵢⱼ, but for rounding."""
    found = [float(matrix.sum(axis=0).max(initial=0.0)) for matrix in means.matrices if matrix is not None]
    return math.prod(found)


def _over_all_sizes(inside: _Inside, means: Separable, room: float) -> float | None:
    """Return the constant whatever the sizes that are dynamic; None where it is not known."""
    own = product(root(inside.times), room)
    if inside.mean.op_type != "AveragePool":
        return own  # a sum counts every element once, and a mean 1/n times
    return None if means.over_all_sizes is None else product(own, means.over_all_sizes)


def _inside(view: View, name: str) -> _Inside | None:
    """Read what is under the root, from the root inwards."""
    times, add = 1.0, 0.0
    for _ in range(DEEPEST):
        node = view.node(name)
        if node is None or not node.is_standard:
            return None
        if node.op_type in _MEANS:
            return _Inside(node, times, add)
        found = _inwards(view, node)
        if found is None:
            return None
        name, factor, term = found
        add += times * term
        times *= factor
        if not (0.0 < times < math.inf and 0.0 <= add < math.inf):
            return None
    return None


def _inwards(view: View, node: Node) -> tuple[str, float, float] | None:
    """Return v, f and t where a node computes f·v + t of a value v ≥ 0; None where it computes something else."""
    inputs = list(node.proto.input)
    if node.op_type in ("Relu", "Abs", "Identity"):
        return inputs[0], 1.0, 0.0
    if node.op_type not in ("Mul", "Div", "Add") or len(inputs) != 2:
        return None
    for one, other in ((inputs[0], inputs[1]), (inputs[1], inputs[0])):
        given = number(view, other, 1)
        if given is not None and node.op_type == "Add":
            return one, 1.0, given
        if given is not None and node.op_type == "Mul":
            return one, given, 0.0
        if node.op_type == "Div":
            return (one, 1.0 / given, 0.0) if given else None
        sign = view.node(other)
        if node.op_type == "Mul" and sign is not None and sign.op_type == "Sign":
            return (one, 1.0, 0.0) if _without_sign(view, one) == sign.proto.input[0] else None
    return None


def _without_sign(view: View, name: str) -> str | None:
    """Return v where a value is |v|, whatever Relu does to that besides."""
    node = view.node(name)
    if node is not None and node.op_type == "Relu":
        node = view.node(node.proto.input[0])
    return node.proto.input[0] if node is not None and node.op_type == "Abs" else None


def _squared(view: View, node: Node) -> str | None:
    """Return v where a node computes v²."""
    inputs = list(node.proto.input)
    if node.op_type == "Mul" and inputs[0] == inputs[1]:
        return inputs[0]
    return inputs[0] if node.op_type == "Pow" and number(view, inputs[1], 1) == 2.0 else None
