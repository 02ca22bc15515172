"""Gates: x times a function of x that is bounded: activations as exporters write them.

    x · σ(tx), x / (1 + exp(−tx))                               Swish
    ½x (1 + erf(x/√2)), ½x (1 + tanh(√(2/π)(x + 0.044715x³)))   Gelu
    x · clip(αx + β, 0, 1)                                      HardSwish
    x · tanh(log(1 + eˣ))                                       Mish

Every check is exact but for the two numbers of Gelu's tanh, which exporters round.
"""

import math
from dataclasses import replace

import numpy as np

from sn_graph.certify.rules import activations
from sn_graph.certify.rules.activations import Activation, applied
from sn_graph.certify.rules.formulas import Bent, Polynomial, View, anchors, formula, varying
from sn_graph.certify.steps import UNIT, Call, Made, Operand


def gated(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Find x · gate(x)."""
    names = list(call.node.proto.input)
    for anchor in anchors(view, names):
        x = varying(view, anchor)
        if x is None:
            continue
        left, right = (formula(view, name, anchor, len(x.shape)) for name in names)
        for one, gate in ((left, right), (right, left)):
            if isinstance(one, Polynomial) and one.slope and isinstance(gate, Bent):
                found = _activation(one.slope, gate)
                if found is not None:
                    name, activation = found
                    return x, applied(call, activation, x, rule=name)
    return None


def divided(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Find x / (1 + exp(−tx)), which is x σ(tx)."""
    names = list(call.node.proto.input)
    for anchor in anchors(view, names[:1]):
        x = varying(view, anchor)
        if x is None:
            continue
        top, bottom = (formula(view, name, anchor, len(x.shape)) for name in names)
        if not isinstance(top, Polynomial) or not top.slope or not isinstance(bottom, Bent):
            continue
        inner = bottom.inner
        if bottom.name != "Exp" or bottom.add != 1.0 or bottom.times != 1.0 or not isinstance(inner, Polynomial):
            continue
        if inner.slope:
            return x, applied(call, _times(activations.swish(-inner.slope), top.slope), x, rule="swish")
    return None


def _activation(factor: float, gate: Bent) -> tuple[str, Activation] | None:
    """Return x · gate(x) · factor as an activation."""
    inner = gate.inner
    if gate.name == "Sigmoid" and gate.add == 0.0 and isinstance(inner, Polynomial) and inner.slope:
        return "swish", _times(activations.swish(inner.slope), factor * gate.times)
    if gate.name == "Tanh" and gate.add == 0.0 and isinstance(inner, Bent):
        whole = inner.name == "Softplus" and inner.add == 0.0 and inner.times == 1.0
        if whole and inner.inner == Polynomial((0.0, 1.0)):
            return "mish", _times(activations.mish(), factor * gate.times)
    if gate.name == "Clip" and isinstance(inner, Polynomial) and gate.low == 0.0 and math.isfinite(gate.high):
        return _hard_swish(factor, gate, inner)
    if gate.add != gate.times or not isinstance(inner, Polynomial):
        return None
    if gate.name == "Erf" and inner.slope:
        return "gelu", _times(_gelu(inner.slope), 2.0 * factor * gate.times)
    if gate.name == "Tanh" and len(inner.coefficients) == 4 and inner.coefficients[0] == inner.coefficients[2] == 0.0:
        return _gelu_tanh(factor, gate, inner)
    return None


def _hard_swish(factor: float, gate: Bent, inner: Polynomial) -> tuple[str, Activation] | None:
    # factor · x · (a + b·clip(tx + w, 0, M)) with a = 0 is factor·b·M · x · clip((t/M)x + w/M, 0, 1).
    if gate.add != 0.0 or len(inner.coefficients) != 2 or not gate.high > 0.0:
        return None
    shift, slope = inner.coefficients
    made = activations.hard_swish(slope / gate.high, shift / gate.high)
    return "hardswish", _times(made, factor * gate.times * gate.high)


def _gelu(slope: float) -> Activation:
    """xΦ(ux) with u = √2·slope, whose derivative is that of Gelu at ux."""
    plain, u = activations.gelu(), math.sqrt(2.0) * slope
    return replace(plain, apply=lambda x: plain.apply(u * x) / u, derivative=lambda x: plain.derivative(u * x))


def _gelu_tanh(factor: float, gate: Bent, inner: Polynomial) -> tuple[str, Activation] | None:
    """Gelu's other form, whose numbers are rounded to float32 or float16.

    With p = c(x + kx³), t = tanh p, the slope is S = ½(1 + t) + ½x(1 − t²)p'. A relative change of c changes p by p and
    xp' by xp', one of k by no more, and |xp'| ≤ 3|p|, so |∂S| ≤ (1 − t²)(2|p| + 3p²) < 2.2 for each.
    """
    _, c, _, cubic = inner.coefficients
    off_c, off_k = c / math.sqrt(2.0 / math.pi) - 1.0, cubic / c / 0.044715 - 1.0
    if max(abs(off_c), abs(off_k)) > _ROUNDED:
        return None
    plain = activations.gelu_tanh()
    room = 2.5 * (abs(off_c) + abs(off_k)) + 1e-12
    wider = replace(plain, low=plain.low - room, high=plain.high + room)
    return "gelu tanh", _times(wider, 2.0 * factor * gate.times)


_ROUNDED = 1e-3


def _times(activation: Activation, factor: float) -> Activation:
    """Return factor · φ, its slopes rounded outwards."""
    ends = sorted((activation.low * factor, activation.high * factor))
    # The factor is a product of a few that were rounded.
    room = 16.0 * UNIT * max(abs(ends[0]), abs(ends[1]))
    return Activation(
        ends[0] - room,
        ends[1] + room,
        lambda x: np.asarray(factor * activation.apply(x)),
        lambda x: np.asarray(factor * activation.derivative(x)),
    )
