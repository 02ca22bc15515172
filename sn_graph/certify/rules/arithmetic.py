"""Sums, and products with constants, elementwise, as NumPy broadcasts.

x + y             ‖δ‖ ≤ Σ ‖δᵢ‖, each times √(how often broadcasting repeats it)
x · c             max |c|; an element of x that meets several c counts √Σ c²
concat(x, y, …)   ‖δ‖ = √Σ ‖δᵢ‖²
"""

from collections.abc import Callable, Sequence

import numpy as np

from sn_graph.certify.rules.products import TWO, broadcast
from sn_graph.certify.steps import (
    UNIT,
    Array,
    Call,
    Composed,
    LinearMap,
    Made,
    NoBound,
    Operand,
    Placed,
    Reshaped,
    Scaled,
    Shape,
)


def _result_shape(call: Call) -> Shape:
    shapes = [one.shape for one in call.operands if one is not None]
    if call.opset < 7 and len(shapes) == 2 and call.node.integer("broadcast", 0):
        return shapes[0]
    return np.broadcast_shapes(*shapes)


def aligned(call: Call, place: int, array: Array) -> Array:
    """Return a constant as opsets below 7 align it: its axes stand at `axis` of the first operand."""
    axis = call.node.attribute("axis", 2)
    if call.opset >= 7 or place == 0 or axis is None:
        return array
    behind = len(call.operand(0).shape) - int(axis) - array.ndim
    return array.reshape(*array.shape, *(1,) * max(0, behind))


def added(call: Call, signs: Sequence[float], rule: str = "") -> Made:
    """Make Σ ±operand."""
    shape = _result_shape(call)
    parts: list[tuple[Operand, LinearMap]] = []
    offset: Array | None = None
    for place, (operand, sign) in enumerate(zip(call.operands, signs, strict=True)):
        if operand is None:
            continue
        if operand.is_constant:
            own = sign * aligned(call, place, call.offset(place))
            offset = own if offset is None else offset + own
            continue
        if call.opset < 7 and place and len(operand.shape) != len(shape):
            raise NoBound("broadcasting by `axis` of a value that depends on the input has no rule")
        maps: list[LinearMap] = [broadcast(operand.shape, shape)]
        if sign != 1.0:
            maps.append(Scaled.by(shape, np.array(sign)))
        parts.append((operand, Composed.of(maps)))
    return call.linear(parts, offset=offset, rule=rule)


def _add(call: Call) -> Made:
    return added(call, (1.0, 1.0))


def _sub(call: Call) -> Made:
    return added(call, (1.0, -1.0))


def _sum(call: Call) -> Made:
    return added(call, (1.0,) * len(call.operands))


def _mean(call: Call) -> Made:
    count = len(call.operands)
    if count == 1:
        return call.varying(0)
    shape = _result_shape(call)
    parts: list[tuple[Operand, LinearMap]] = []
    offset = np.zeros(())
    scale = np.array(1.0 / count)
    for place, operand in enumerate(call.operands):
        if operand is None:
            continue
        if operand.is_constant:
            offset = offset + call.offset(place) / count
        else:
            maps = [broadcast(operand.shape, shape), Scaled.by(shape, scale, UNIT)]
            parts.append((operand, Composed.of(maps)))
    return call.linear(parts, offset=offset)


def _neg(call: Call) -> Made:
    x = call.varying()
    return call.linear([(x, Scaled.by(x.shape, np.array(-1.0)))])


def _mul(call: Call) -> Made:
    first, second = call.operand(0), call.operand(1)
    if not first.is_constant and not second.is_constant:
        raise NoBound(TWO, "replace the gate or the product by a sum, or certify the part of the network before it")
    place = 0 if first.is_constant else 1
    x = second if first.is_constant else first
    if place == 0 and call.opset < 7:
        raise NoBound("broadcasting by `axis` of a value that depends on the input has no rule")
    return scaled(call, x, aligned(call, place, call.finite(place, "factor")))


def scaled(call: Call, x: Operand, factor: Array, relative: float = 0.0, rule: str = "") -> Made:
    """Make x · factor."""
    return call.linear([(x, Scaled.by(x.shape, factor, relative))], rule=rule)


def _div(call: Call) -> Made:
    if not call.operand(1).is_constant:
        raise NoBound(
            "division by a value that depends on the input", "divide by a constant, or by something bounded away from 0"
        )
    divisor = aligned(call, 1, call.finite(1, "divisor"))
    if not np.all(divisor):
        raise NoBound("division by a constant 0")
    return scaled(call, call.varying(0), 1.0 / divisor, 2.0 * UNIT)


def _concat(call: Call) -> Made:
    operands = [one for one in call.operands if one is not None]
    axis = call.node.integer("axis", 1 if call.opset < 4 else 0)
    rank = len(operands[0].shape)
    axis %= rank
    rest = {(*one.shape[:axis], *one.shape[axis + 1 :]) for one in operands}
    if len(rest) > 1:
        raise ValueError("parts of different shapes")
    shape = list(operands[0].shape)
    shape[axis] = sum(one.shape[axis] for one in operands)
    parts: list[tuple[Operand, LinearMap]] = []
    call.require_room(shape)
    offset = np.zeros(tuple(shape)) if any(one.is_constant for one in operands) else None
    start = 0
    for place, operand in enumerate(operands):
        if operand.is_constant and offset is not None:
            part = (*(slice(None),) * axis, slice(start, start + operand.shape[axis]))
            offset[part] = call.offset(place)
        elif len(operands) == 1:
            parts.append((operand, Reshaped.identity(operand.shape)))
        else:
            parts.append((operand, Placed(operand.shape, tuple(shape), axis, start)))
        start += operand.shape[axis]
    return call.linear(parts, offset=offset, disjoint=True)


RULES: dict[str, Callable[[Call], Made]] = {
    "Add": _add,
    "Sub": _sub,
    "Sum": _sum,
    "Mean": _mean,
    "Neg": _neg,
    "Mul": _mul,
    "Div": _div,
    "Concat": _concat,
}
