"""Softmax and LogSoftmax of n elements, s = softmax(x).

Softmax      J = diag(s) − s sᵀ. For v of length 1, vᵀJv is the variance of v under s, at most ((max v − min v)/2)²
(Popoviciu, 1935), and (a − b)² ≤ 2(a² + b²) ≤ 2: ‖J‖ ≤ 1/2, attained at s = (1/2, 1/2, 0, …)
LogSoftmax   J = I − 1 sᵀ, a projection, since sᵀ1 = 1; neither 0 nor I for n > 1, so ‖J‖ = ‖1 sᵀ‖ = √n ‖s‖ ≤ √n
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import log_softmax, softmax

from sn_graph.certify.steps import Array, Call, Made, NoBound, root


class Softmax:
    """Softmax along axes."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        self._axes = axes

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return np.asarray(softmax(operands[0], axis=self._axes))

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        share, v = self.forward(operands[0]), tangents[0]
        return np.asarray(share * (v - (share * v).sum(axis=self._axes, keepdims=True)))

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        return (self.push(operands, [cotangent]),)


class LogSoftmax(Softmax):
    """Its logarithm."""

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return np.asarray(log_softmax(operands[0], axis=self._axes))

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        share, v = np.asarray(softmax(operands[0], axis=self._axes)), tangents[0]
        return np.asarray(v - (share * v).sum(axis=self._axes, keepdims=True))

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        share = np.asarray(softmax(operands[0], axis=self._axes))
        return (np.asarray(cotangent - share * cotangent.sum(axis=self._axes, keepdims=True)),)


def _axes(call: Call) -> tuple[int, ...]:
    rank = len(call.varying().shape)
    axis = call.node.integer("axis", -1 if call.opset >= 13 else 1)
    axis = axis + rank if axis < 0 else axis
    # Below opset 13 all that stands from the axis on is one.
    return (axis,) if call.opset >= 13 else tuple(range(axis, rank))


def _softmax(call: Call) -> Made:
    x, axes = call.varying(), _axes(call)
    count = math.prod(x.shape[axis] for axis in axes)
    factor = 0.5 if count > 1 else 0.0
    return call.bounded([x], x.shape, Softmax(axes), [factor], over_all_sizes=[0.5], mixed=frozenset(axes))


def _log_softmax(call: Call) -> Made:
    x, axes = call.varying(), _axes(call)
    count = math.prod(x.shape[axis] for axis in axes)
    factor = root(float(count)) if count > 1 else 0.0
    return call.bounded([x], x.shape, LogSoftmax(axes), [factor], mixed=frozenset(axes))


def _hardmax(_: Call) -> Made:
    raise NoBound("Hardmax is a step function, whose value jumps", "use Softmax")


RULES: dict[str, Callable[[Call], Made]] = {"Softmax": _softmax, "LogSoftmax": _log_softmax, "Hardmax": _hardmax}
