"""Reductions along axes of n elements.

ReduceSum        √n, a row of ones
ReduceMean       1/√n
ReduceMax, Min   1: |max a − max b| ≤ max |a − b| ≤ ‖a − b‖
ReduceL2         1: the triangle inequality
ReduceL1         √n: ‖x‖₁ ≤ √n ‖x‖₂
ReduceLogSumExp  1: its gradient is softmax, whose length is at most 1
CumSum           the matrix of ones below the diagonal
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import logsumexp, softmax

from sn_graph.certify.rules.layout import axes_of
from sn_graph.certify.steps import (
    UNIT,
    Array,
    Call,
    Composed,
    Function,
    Made,
    NoBound,
    Reshaped,
    Separable,
    Shape,
    root,
)


def reduced_axes(call: Call) -> tuple[int, ...]:
    """Return the axes that a reduction goes over."""
    x = call.varying()
    axes = axes_of(call)
    if not axes:
        return () if call.node.integer("noop_with_empty_axes", 0) else tuple(range(len(x.shape)))
    return tuple(sorted({axis % len(x.shape) for axis in axes}))


def kept_shape(call: Call, axes: Sequence[int]) -> tuple[Shape, Shape]:
    """Return the result's shape with the axes 1 long, and as the node gives it."""
    shape = call.varying().shape
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    if call.node.integer("keepdims", 1):
        return kept, kept
    return kept, tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _linear(weighted: Callable[[int], float], relative: float, over_all: float | None) -> Callable[[Call], Made]:
    def rule(call: Call) -> Made:
        x, axes = call.varying(), reduced_axes(call)
        if not axes:
            return x
        _, shape = kept_shape(call, axes)
        if weighted(2) != 1.0 and 0 in (x.shape[axis] for axis in axes):
            raise NoBound("the mean of no elements")
        matrices = [np.full((1, size), weighted(size)) if axis in axes else None for axis, size in enumerate(x.shape)]
        made = Separable.along(x.shape, matrices, relative, over_all)
        whole = Composed.of([made, Reshaped(made.output_shape, shape)]) if shape != made.output_shape else made
        return call.linear([(x, whole)])

    return rule


class Reduced:
    """A reduction of axes by a function of slices, with its gradient in each.

    Args:
        apply: Returns the reduction of an array along axes, which are kept 1 long.
        gradient: Returns the gradient in each element, of the array's shape.
        axes: Which axes.
        shape: The result's shape.
    """

    def __init__(
        self,
        apply: Callable[[Array, tuple[int, ...]], Array],
        gradient: Callable[[Array, tuple[int, ...]], Array],
        axes: tuple[int, ...],
        shape: Shape,
    ) -> None:
        self._apply, self._gradient, self._axes, self._shape = apply, gradient, axes, shape

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return self._apply(operands[0], self._axes).reshape(self._shape)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        moved = self._gradient(operands[0], self._axes) * tangents[0]
        return np.asarray(moved.sum(axis=self._axes)).reshape(self._shape)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        x = operands[0]
        kept = tuple(1 if axis in self._axes else size for axis, size in enumerate(x.shape))
        return (self._gradient(x, self._axes) * cotangent.reshape(kept),)


def _largest(x: Array, axes: tuple[int, ...]) -> Array:
    """1 at the first of the largest elements of each slice, else 0."""
    front = np.moveaxis(x, axes, range(len(axes)))
    flat = front.reshape(math.prod(front.shape[: len(axes)]), -1)
    found = np.zeros(flat.shape)
    found[flat.argmax(axis=0), np.arange(flat.shape[1])] = 1.0
    return np.moveaxis(found.reshape(front.shape), range(len(axes)), axes)


def _length(x: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.sqrt(np.square(x).sum(axis=axes, keepdims=True)))


def _direction(x: Array, axes: tuple[int, ...]) -> Array:
    length = _length(x, axes)
    return np.asarray(np.divide(x, length, out=np.zeros_like(x), where=length > 0.0))


def _bounded(
    apply: Callable[[Array, tuple[int, ...]], Array],
    gradient: Callable[[Array, tuple[int, ...]], Array],
    constant: Callable[[int], float],
    needs_elements: bool = False,
) -> Callable[[Call], Made]:
    def rule(call: Call) -> Made:
        x, axes = call.varying(), reduced_axes(call)
        if not axes:
            axes = ()
        kept, shape = kept_shape(call, axes)
        count = math.prod(x.shape[axis] for axis in axes)
        if needs_elements and not count:
            raise NoBound("the largest of no elements")
        factor = constant(count)
        everywhere = factor if constant(2) == constant(3) else None
        function: Function = Reduced(apply, gradient, axes, shape)
        # With the axes left out, what stands behind them has another place.
        mixed = frozenset(axes) if kept == shape else frozenset(range(min(axes, default=0), len(x.shape)))
        return call.bounded([x], shape, function, [factor], over_all_sizes=[everywhere], mixed=mixed)

    return rule


def _steep(name: str, why: str) -> Callable[[Call], Made]:
    def rule(_: Call) -> Made:
        raise NoBound(f"{name} has no greatest slope: {why}", "use ReduceL2, or a mean of what is bounded")

    return rule


def _cumulative(call: Call) -> Made:
    x = call.varying()
    axis = int(np.asarray(call.constant(1, "axis")).reshape(-1)[0]) % len(x.shape)
    size = x.shape[axis]
    matrix = np.tril(np.ones((size, size)), -call.node.integer("exclusive", 0))
    if call.node.integer("reverse", 0):
        matrix = matrix.T.copy()
    matrices: list[Array | None] = [None] * len(x.shape)
    matrices[axis] = matrix
    return call.linear([(x, Separable.along(x.shape, matrices))])


def _one(_: int) -> float:
    return 1.0


RULES: dict[str, Callable[[Call], Made]] = {
    "ReduceSum": _linear(_one, 0.0, None),
    # 1/√n is greatest where there is one element.
    "ReduceMean": _linear(lambda size: 1.0 / size, 2.0 * UNIT, 1.0),
    "ReduceMax": _bounded(lambda x, axes: x.max(axis=axes, keepdims=True), _largest, _one, needs_elements=True),
    "ReduceMin": _bounded(
        lambda x, axes: x.min(axis=axes, keepdims=True), lambda x, axes: _largest(-x, axes), _one, needs_elements=True
    ),
    "ReduceL2": _bounded(_length, _direction, _one),
    "ReduceL1": _bounded(
        lambda x, axes: np.abs(x).sum(axis=axes, keepdims=True),
        lambda x, _: np.sign(x),
        lambda count: root(float(count)),
    ),
    "ReduceLogSumExp": _bounded(
        lambda x, axes: np.asarray(logsumexp(x, axis=axes, keepdims=True)),
        lambda x, axes: np.asarray(softmax(x, axis=axes)),
        _one,
        needs_elements=True,
    ),
    "ReduceSumSquare": _steep("ReduceSumSquare", "it grows with the input"),
    "ReduceProd": _steep("ReduceProd", "it is a product of values that depend on the input"),
    "ReduceLogSum": _steep("ReduceLogSum", "it is infinite where the sum is 0"),
    "CumSum": _cumulative,
}
