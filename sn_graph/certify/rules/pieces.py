"""Pieces: functions of one number that are put together of two.

max(px + q, rx + s), x > 0 ? px : rx     slopes p and r: LeakyRelu
x > 0 ? px : b (exp(tx) − 1), t > 0      slopes p, and b·t times (0, 1]: Elu
"""

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.rules.activations import Activation, applied
from sn_graph.certify.rules.formulas import Bent, Formula, Polynomial, View, anchors, formula, number, varying
from sn_graph.certify.steps import UNIT, Array, Call, Made, Operand


def hinge(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Find the greater, or the less, of two lines."""
    names = list(call.node.proto.input)
    if len(names) != 2:
        return None
    for anchor in anchors(view, names):
        x = varying(view, anchor)
        lines = [_line(formula(view, name, anchor, len(x.shape))) if x is not None else None for name in names]
        if x is None or lines[0] is None or lines[1] is None or not (lines[0][1] and lines[1][1]):
            continue
        return x, applied(call, _pieces(lines[0], lines[1], call.node.op_type == "Max"), x, rule="hinge")
    return None


def _line(found: Formula | None) -> tuple[float, float] | None:
    """Return q and p where a formula is px + q."""
    if not isinstance(found, Polynomial) or len(found.coefficients) > 2:
        return None
    return found.coefficients[0], found.coefficients[1] if len(found.coefficients) == 2 else 0.0


def _pieces(first: tuple[float, float], second: tuple[float, float], greater: bool) -> Activation:
    (q, p), (s, r) = first, second

    def is_first(x: Array) -> NDArray[np.bool_]:
        return np.asarray((p * x + q >= r * x + s) == greater)

    low, high = _outwards(min(p, r), max(p, r))
    return Activation(
        low,
        high,
        lambda x: np.where(is_first(x), p * x + q, r * x + s),
        lambda x: np.where(is_first(x), p, r),
    )


def _outwards(low: float, high: float) -> tuple[float, float]:
    """Make room for slopes that are products of a few numbers; 0 and 1 are none."""
    room = [0.0 if end in (0.0, 1.0) else 8.0 * UNIT * abs(end) for end in (low, high)]
    return low - room[0], high + room[1]


_ABOVE = {"Greater": True, "GreaterOrEqual": True, "Less": False, "LessOrEqual": False}


def branches(view: View, call: Call) -> tuple[Operand, Made] | None:
    """X > c ? f(x) : g(x), continuous at c."""
    condition, *names = call.node.proto.input
    asked = view.node(condition)
    if asked is None or asked.op_type not in _ABOVE:
        return None
    anchor = asked.proto.input[0]
    x = varying(view, anchor)
    if x is None or number(view, asked.proto.input[1], len(x.shape)) != 0.0:
        return None
    found = [formula(view, name, anchor, len(x.shape)) for name in names]
    above, below = found if _ABOVE[asked.op_type] else reversed(found)
    line = _line(above)
    if line is None or line[0] != 0.0:
        return None
    p, other = line[1], _line(below)
    if other is not None:
        r = other[1]
        if other[0] != 0.0:
            return None
        ends = _outwards(min(p, r), max(p, r))
        made = Activation(*ends, lambda v: np.where(v > 0.0, p * v, r * v), lambda v: np.where(v > 0.0, p, r))
        return x, applied(call, made, x, rule="two lines")
    return _line_and_exponential(call, x, p, below)


def _line_and_exponential(call: Call, x: Operand, p: float, below: Formula | None) -> tuple[Operand, Made] | None:
    """A line above 0, and b (exp(tx) − 1) below, whose slopes there are b·t times (0, 1]."""
    inner = below.inner if isinstance(below, Bent) else None
    slope = inner.slope if isinstance(inner, Polynomial) else None
    if not isinstance(below, Bent) or below.name != "Exp" or slope is None or not slope > 0.0:
        return None
    times = below.times
    if below.add != -times:
        return None
    steepest = times * slope
    low, high = _outwards(min(p, steepest, 0.0), max(p, steepest, 0.0))
    made = Activation(
        low,
        high,
        lambda v: np.where(v > 0.0, p * v, times * np.expm1(slope * np.minimum(v, 0.0))),
        lambda v: np.where(v > 0.0, p, steepest * np.exp(slope * np.minimum(v, 0.0))),
    )
    return x, applied(call, made, x, rule="elu")
