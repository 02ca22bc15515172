"""Normalizations by a deviation that depends on the input: LayerNorm, InstanceNorm, GroupNorm, RMSNorm, LRN.

With c = x, or x without its mean, of n elements, r = √(‖c‖²/n + ε), z = c/r:

    ∂z/∂c = (I − z zᵀ/n)/r        0 ≤ I − z zᵀ/n ≤ I, because ‖z‖² = n (r² − ε)/r² < n

so ‖∂z/∂c‖ ≤ 1/r ≤ 1/√ε, and taking the mean out is a projection. It is attained where all elements are the same, and
at 0: true, and large (ε = 1e-5 gives 316). Kim et al., 2021, 2006.04710, say as much of LayerNorm.

LRN, y_i = x_i d_i^(−β), d_i = bias + a Σ_{j in window i} x_j²: the diagonal part of the Jacobian is at most
bias^(−β); row i of the rest is −2aβ x_i d_i^(−β−1) x_window, whose length is at most 2β d_i^(−β), since
a |x_i| ‖x_window‖ ≤ d_i. Each x_j stands in `size` windows at most, so the rest is at most 2β √size bias^(−β).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from sn_graph.certify.steps import (
    UNIT,
    Array,
    Call,
    Made,
    NoBound,
    Operand,
    Reshaped,
    Scaled,
    Shape,
    Step,
    product,
    raised,
    root,
)

NO_EPSILON = "divides by a deviation that may be 0"
WITH_EPSILON = "give it an epsilon above 0"


class Normalized:
    """c/√(mean c² + ε) along axes of a view, c with or without its mean.

    Args:
        view: The shape in which the axes are.
        axes: The axes that are normalized together.
        epsilon: ε.
        centered: Whether the mean is taken out before.
    """

    def __init__(self, view: Shape, axes: tuple[int, ...], epsilon: float, centered: bool) -> None:
        self._view, self._axes, self._epsilon, self._centered = view, axes, epsilon, centered

    def _mean(self, x: Array) -> Array:
        return np.asarray(x.mean(axis=self._axes, keepdims=True))

    def _parts(self, x: Array) -> tuple[Array, Array]:
        c = x.reshape(self._view)
        c = c - self._mean(c) if self._centered else c
        r = np.sqrt(self._mean(np.square(c)) + self._epsilon)
        return c / r, r

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return self._parts(operands[0])[0].reshape(operands[0].shape)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        z, r = self._parts(operands[0])
        v = tangents[0].reshape(self._view)
        v = v - self._mean(v) if self._centered else v
        return np.asarray((v - z * self._mean(z * v)) / r).reshape(operands[0].shape)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        z, r = self._parts(operands[0])
        u = cotangent.reshape(self._view)
        u = (u - z * self._mean(z * u)) / r
        u = u - self._mean(u) if self._centered else u
        return (np.asarray(u).reshape(operands[0].shape),)


def normalized(
    call: Call,
    x: Operand,
    epsilon: float,
    *,
    axes: tuple[int, ...],
    view: Shape | None = None,
    centered: bool = True,
    mixed: frozenset[int] | None = None,
    scale: Array | None = None,
    bias: Array | None = None,
) -> list[Step]:
    """Make the steps of a normalization: the division, then γ and β where they are given.

    Args:
        call: The node.
        x: What is normalized.
        epsilon: ε.
        axes: The axes of `view` that are normalized together.
        view: The shape in which they are; None for that of x.
        centered: Whether the mean is taken out.
        mixed: The axes of x that are mixed; None for `axes`.
        scale, bias: γ and β as they broadcast to x.
    """
    if not epsilon > 0.0:
        raise NoBound(f"{call.node.op_type} {NO_EPSILON}", WITH_EPSILON)
    shape = x.shape if view is None else view
    count = math.prod(shape[axis] for axis in axes)
    constant = 0.0 if centered and count < 2 else raised(raised(1.0 / math.sqrt(epsilon)))
    function = Normalized(shape, axes, epsilon, centered)
    inner = call if scale is None and bias is None else call.renamed(0, f"{call.results[0]}~normalized")
    step = inner.bounded(
        [x],
        x.shape,
        function,
        [constant],
        over_all_sizes=[raised(raised(1.0 / math.sqrt(epsilon)))],
        mixed=frozenset(axes) if mixed is None else mixed,
        note=f"1/√ε with ε = {epsilon:g}: attained where all elements are the same",
    )
    if scale is None and bias is None:
        return [step]
    before = Operand(step.result, step.shape, dynamic=x.dynamic)
    made = Reshaped.identity(x.shape) if scale is None else Scaled.by(x.shape, scale)
    return [step, call.linear([(before, made)], offset=bias, rule=f"{call.node.op_type} scale")]


def _layer(call: Call) -> Made:
    return _of_last(call, call.varying(), centered=True, places=(1, 2))


def _rms(call: Call) -> Made:
    return _of_last(call, call.varying(), centered=False, places=(1, -1))


def _of_last(call: Call, x: Operand, centered: bool, places: tuple[int, int], epsilon: float = 1e-5) -> list[Step]:
    rank = len(x.shape)
    axis = call.node.integer("axis", -1) % rank
    scale, bias = (
        call.finite(place, name) if place > 0 and call.given(place) is not None else None
        for place, name in zip(places, ("scale", "bias"), strict=True)
    )
    return normalized(
        call,
        x,
        call.node.number("epsilon", float(np.float32(epsilon))),
        axes=tuple(range(axis, rank)),
        centered=centered,
        scale=scale,
        bias=bias,
    )


def _skip(centered: bool) -> Callable[[Call], Made]:
    """com.microsoft: the sum of two values and a bias, normalized."""

    def rule(call: Call) -> Made:
        parts, offset = [], None
        places = (0, 1, 4 if centered else 3)
        for place in places:
            operand = call.given(place)
            if operand is None:
                continue
            if operand.is_constant:
                own = call.offset(place)
                offset = own if offset is None else offset + own
            elif operand.shape == call.operand(0).shape:
                parts.append((operand, Reshaped.identity(operand.shape)))
            else:
                raise NoBound("a skip that is repeated over the batch has no rule")
        added = call.renamed(0, f"{call.results[0]}~sum").linear(parts, offset=offset, rule="sum")
        before = Operand(added.result, added.shape, dynamic=any(one.dynamic for one, _ in parts))
        made = _of_last(call, before, centered, (2, 3) if centered else (2, -1), 1e-12)
        total = len(call.results) > 3 and call.results[3]
        summed = [call.linear([(before, Reshaped.identity(before.shape))], output=3)] if total else []
        return [added, *made, *summed]

    return rule


def _channels(call: Call, place: int, name: str, rank: int) -> Array:
    return call.finite(place, name).reshape(-1, *(1,) * (rank - 2))


def _instance(call: Call) -> Made:
    x = call.varying()
    rank = len(x.shape)
    return normalized(
        call,
        x,
        call.node.number("epsilon", float(np.float32(1e-5))),
        axes=tuple(range(2, rank)),
        scale=_channels(call, 1, "scale", rank),
        bias=_channels(call, 2, "bias", rank),
    )


def _group(call: Call) -> Made:
    x, groups = call.varying(), call.node.integer("num_groups", 1)
    n, channels, *spatial = x.shape
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels in {groups} groups")
    scale, bias = call.finite(1, "scale"), call.finite(2, "bias")
    if scale.size != channels:  # one number a group, as below opset 21
        scale, bias = (np.repeat(one, channels // groups) for one in (scale, bias))
    ones = (1,) * len(spatial)
    return normalized(
        call,
        x,
        call.node.number("epsilon", float(np.float32(1e-5))),
        axes=tuple(range(2, 3 + len(spatial))),
        view=(n, groups, channels // groups, *spatial),
        mixed=frozenset(range(1, len(x.shape))),
        scale=scale.reshape(-1, *ones),
        bias=bias.reshape(-1, *ones),
    )


def _refused(why: str, do: str) -> Callable[[Call], Made]:
    def rule(call: Call) -> Made:
        raise NoBound(f"{call.node.op_type} {why}", do)

    return rule


class LocalResponse:
    """x d^(−β), d = bias + α/size · the sum of squares over neighbouring channels."""

    def __init__(self, size: int, alpha: float, beta: float, bias: float) -> None:
        self._before, self._behind = (size - 1) // 2, size - 1 - (size - 1) // 2
        self._a, self._beta, self._bias = alpha / size, beta, bias

    def _summed(self, x: Array, before: int, behind: int) -> Array:
        """Sum over channels from `before` below to `behind` above, of which the others are none."""
        before, behind = min(before, x.shape[1]), min(behind, x.shape[1])
        padded = np.pad(x, [(0, 0), (before, behind), *[(0, 0)] * (x.ndim - 2)])
        return np.asarray(sum(padded[:, i : i + x.shape[1]] for i in range(before + behind + 1)))

    def _denominator(self, x: Array) -> Array:
        return self._bias + self._a * self._summed(np.square(x), self._before, self._behind)

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        x = operands[0]
        return np.asarray(x * self._denominator(x) ** -self._beta)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        x, v = operands[0], tangents[0]
        d = self._denominator(x)
        moved = 2.0 * self._a * self._summed(x * v, self._before, self._behind)
        return np.asarray(v * d**-self._beta - self._beta * x * d ** (-self._beta - 1.0) * moved)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        x, u = operands[0], cotangent
        d = self._denominator(x)
        back = self._summed(self._beta * x * d ** (-self._beta - 1.0) * u, self._behind, self._before)
        return (np.asarray(u * d**-self._beta - 2.0 * self._a * x * back),)


def _local_response(call: Call) -> Made:
    x = call.varying()
    size, alpha = call.node.integer("size", 1), call.node.number("alpha", float(np.float32(1e-4)))
    beta, bias = call.node.number("beta", 0.75), call.node.number("bias", 1.0)
    if not (bias > 0.0 and alpha >= 0.0 and beta >= 0.0):
        raise NoBound("LRN with a bias of 0 or less divides by what may be 0", "give it a bias above 0")
    scale = math.pow(bias, -beta) * (1.0 + 8.0 * UNIT)
    constant = product(scale, raised(1.0 + product(2.0 * beta, root(float(size)))))
    function = LocalResponse(size, alpha, beta, bias)
    return call.bounded([x], x.shape, function, [constant], over_all_sizes=[constant], mixed=frozenset({1}))


RULES: dict[str, Callable[[Call], Made]] = {
    "LayerNormalization": _layer,
    "RMSNormalization": _rms,
    "SimplifiedLayerNormalization": _rms,
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "LRN": _local_response,
    "MeanVarianceNormalization": _refused(NO_EPSILON, "use InstanceNormalization with an epsilon"),
    "LpNormalization": _refused("divides by a length that may be 0", "scale by a constant instead"),
}
FUSED: dict[str, Callable[[Call], Made]] = {
    "LayerNormalization": _layer,
    "SimplifiedLayerNormalization": _rms,
    "SkipLayerNormalization": _skip(centered=True),
    "SkipSimplifiedLayerNormalization": _skip(centered=False),
}
