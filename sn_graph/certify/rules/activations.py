"""Activations: functions of one number, with the least and the greatest slope between any two points.

A function that is absolutely continuous has the slopes of its derivative. Extrema of derivatives, with their equations:

    Sigmoid   σ(1 − σ) ≤ 1/4                      at 0
    Swish     σ(u) + uσ(u)(1 − σ(u)), u = αx      ≤ 1.0998393201… where u tanh(u/2) = 2; least: 1 − that
    Gelu      Φ(x) + xφ(x)                        ≤ Φ(√2) + √2φ(√2) = 1.1289041… (derivative (2 − x²)φ); least: 1 − that
    Gelu tanh ½(1 + tanh p) + ½x(1 − tanh² p)p'   ≤ 1.1289930…, p = √(2/π)(x + 0.044715x³)
    Mish      tanh s + x(1 − tanh² s)σ(x)         in [−0.1125261…, 1.0884981…], s = log(1 + eˣ)
    HardSwish x·clip(αx + β, 0, 1)                in [min(0, −β), max(1, 2 − β)]: 2αx + β, αx in [−β, 1 − β], inside
    Erf       2/√π exp(−x²)                       ≤ 2/√π = 1.1283791…

The literals below are these, rounded outwards; the tests enclose each derivative by mpmath.
Sources: Ramachandran et al., 2017, 1710.05941 (Swish); Hendrycks and Gimpel, 2016, 1606.08415 (Gelu); Misra, 2019,
1908.08681 (Mish); https://onnx.ai/onnx/operators/ for the rest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto
from scipy.special import erf, expit

from sn_graph.certify.steps import Array, Call, Elementwise, Linear, Made, NoBound, Operand, Univariate

SWISH = 1.09983933
GELU = 1.12890415
GELU_TANH = 1.12899307
MISH_LOW, MISH_HIGH = -0.11252613, 1.08849817
ERF = 1.12837917

# Φ is used by its error function.
_ROOT_HALF = math.sqrt(0.5)
_TANH_INNER = math.sqrt(2.0 / math.pi)
_TANH_CUBIC = 0.044715


@dataclass(frozen=True)
class Activation:
    """A function of one number: its slopes, itself, and its derivative."""

    low: float
    high: float
    apply: Univariate
    derivative: Univariate


def _step(name: str) -> Callable[[Call], Made]:
    def rule(_: Call) -> Made:
        raise NoBound(
            f"{name} is a step function, whose value jumps",
            "leave it out, or certify the part of the network before it",
        )

    return rule


def _steep(name: str, where: str) -> Callable[[Call], Made]:
    def rule(_: Call) -> Made:
        raise NoBound(f"{name} has no greatest slope: {where}", "bound what reaches it another way, or replace it")

    return rule


def _gauss(x: Array) -> Array:
    return np.asarray(np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi))


def _cdf(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + erf(x * _ROOT_HALF)))


def swish(alpha: float) -> Activation:
    """X σ(αx); its derivative is a function of αx alone."""
    return Activation(
        1.0 - SWISH,
        SWISH,
        lambda x: np.asarray(x * expit(alpha * x)),
        lambda x: np.asarray(expit(alpha * x) + alpha * x * expit(alpha * x) * expit(-alpha * x)),
    )


def gelu() -> Activation:
    """X Φ(x)."""
    return Activation(1.0 - GELU, GELU, lambda x: x * _cdf(x), lambda x: _cdf(x) + x * _gauss(x))


def gelu_tanh() -> Activation:
    """½x(1 + tanh(√(2/π)(x + 0.044715x³)))."""

    def inner(x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(np.tanh(_TANH_INNER * (x + _TANH_CUBIC * x**3)))

    def derivative(x: Array) -> Array:
        bent = inner(x)
        with np.errstate(over="ignore", invalid="ignore"):
            slope = 0.5 * x * (1.0 - bent * bent) * _TANH_INNER * (1.0 + 3.0 * _TANH_CUBIC * x * x)
        return np.asarray(0.5 * (1.0 + bent) + np.where(np.abs(x) < 40.0, slope, 0.0))

    return Activation(1.0 - GELU_TANH, GELU_TANH, lambda x: 0.5 * x * (1.0 + inner(x)), derivative)


def mish() -> Activation:
    """X tanh(log(1 + eˣ))."""

    def bent(x: Array) -> Array:
        return np.asarray(np.tanh(np.logaddexp(0.0, x)))

    return Activation(
        MISH_LOW,
        MISH_HIGH,
        lambda x: x * bent(x),
        lambda x: np.asarray(bent(x) + x * (1.0 - bent(x) ** 2) * expit(x)),
    )


def hard_swish(alpha: float, beta: float) -> Activation:
    """X · clip(αx + β, 0, 1)."""

    def derivative(x: Array) -> Array:
        gate = alpha * x + beta
        return np.where(gate <= 0.0, 0.0, np.where(gate >= 1.0, 1.0, 2.0 * alpha * x + beta))

    if alpha == 0.0:  # then it is linear
        slope = min(max(beta, 0.0), 1.0)
        return Activation(slope, slope, lambda x: slope * x, lambda x: np.full_like(x, slope))
    return Activation(
        math.nextafter(min(0.0, -beta), -math.inf),
        math.nextafter(max(1.0, 2.0 - beta), math.inf),
        lambda x: x * np.clip(alpha * x + beta, 0.0, 1.0),
        derivative,
    )


def relu() -> Activation:
    """max(x, 0)."""
    return Activation(0.0, 1.0, lambda x: np.maximum(x, 0.0), lambda x: (x > 0.0).astype(np.float64))


def leaky(alpha: float) -> Activation:
    """X where x ≥ 0, αx below."""
    return Activation(
        min(1.0, alpha),
        max(1.0, alpha),
        lambda x: np.where(x >= 0.0, x, alpha * x),
        lambda x: np.where(x >= 0.0, 1.0, alpha),
    )


def elu(alpha: float) -> Activation:
    """X where x ≥ 0, α(eˣ − 1) below, whose slopes are α times (0, 1]."""
    return Activation(
        min(0.0, alpha),
        max(1.0, alpha),
        lambda x: np.where(x >= 0.0, x, alpha * np.expm1(np.minimum(x, 0.0))),
        lambda x: np.where(x >= 0.0, 1.0, alpha * np.exp(np.minimum(x, 0.0))),
    )


def selu(alpha: float, gamma: float) -> Activation:
    """γ times Elu."""
    inner = elu(alpha)
    ends = sorted((gamma * inner.low, gamma * inner.high))
    return Activation(
        math.nextafter(ends[0], -math.inf),
        math.nextafter(ends[1], math.inf),
        lambda x: gamma * inner.apply(x),
        lambda x: gamma * inner.derivative(x),
    )


def celu(alpha: float) -> Activation:
    """X where x ≥ 0, α(exp(x/α) − 1) below, whose slopes are (0, 1] for α > 0."""
    if not alpha > 0.0:
        raise NoBound("Celu with an alpha of 0 or less grows without bound")
    return Activation(
        0.0,
        1.0,
        lambda x: np.where(x >= 0.0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha)),
        lambda x: np.where(x >= 0.0, 1.0, np.exp(np.minimum(x, 0.0) / alpha)),
    )


def hard_sigmoid(alpha: float, beta: float) -> Activation:
    """clip(αx + β, 0, 1)."""
    return Activation(
        min(0.0, alpha),
        max(0.0, alpha),
        lambda x: np.clip(alpha * x + beta, 0.0, 1.0),
        lambda x: np.where((alpha * x + beta > 0.0) & (alpha * x + beta < 1.0), alpha, 0.0),
    )


def clip(low: float, high: float) -> Activation:
    """min(max(x, low), high)."""
    return Activation(
        0.0,
        1.0,
        lambda x: np.minimum(np.maximum(x, low), high),
        lambda x: ((x > low) & (x < high)).astype(np.float64),
    )


def sigmoid() -> Activation:
    """1/(1 + e⁻ˣ)."""
    return Activation(0.0, 0.25, lambda x: np.asarray(expit(x)), lambda x: np.asarray(expit(x) * expit(-x)))


def tanh() -> Activation:
    """Tanh x."""
    return Activation(0.0, 1.0, np.tanh, lambda x: np.asarray(1.0 - np.tanh(x) ** 2))


def softplus() -> Activation:
    """log(1 + eˣ)."""
    return Activation(0.0, 1.0, lambda x: np.logaddexp(0.0, x), lambda x: np.asarray(expit(x)))


def absolute() -> Activation:
    """|x|."""
    return Activation(-1.0, 1.0, np.abs, np.sign)


PLAIN: dict[str, Activation] = {
    "Relu": relu(),
    "Sigmoid": sigmoid(),
    "Tanh": tanh(),
    "Softplus": softplus(),
    "Softsign": Activation(
        0.0, 1.0, lambda x: x / (1.0 + np.abs(x)), lambda x: np.asarray(1.0 / (1.0 + np.abs(x)) ** 2)
    ),
    "Abs": absolute(),
    "Mish": mish(),
    "HardSwish": hard_swish(1.0 / 6.0, 0.5),
    "Erf": Activation(
        0.0, ERF, lambda x: np.asarray(erf(x)), lambda x: np.asarray(2.0 / math.sqrt(math.pi) * np.exp(-x * x))
    ),
    "Sin": Activation(-1.0, 1.0, np.sin, np.cos),
    "Cos": Activation(-1.0, 1.0, np.cos, lambda x: -np.sin(x)),
    "Atan": Activation(0.0, 1.0, np.arctan, lambda x: 1.0 / (1.0 + x * x)),
    "Asinh": Activation(0.0, 1.0, np.arcsinh, lambda x: 1.0 / np.sqrt(1.0 + x * x)),
}
"""The activations without attributes."""


def applied(
    call: Call, activation: Activation, x: Operand | None = None, rule: str = "", note: str = ""
) -> Elementwise:
    """Make the step of an activation."""
    return call.elementwise(
        activation.low, activation.high, activation.apply, activation.derivative, x=x, rule=rule, note=note
    )


def _plain(activation: Activation) -> Callable[[Call], Made]:
    return lambda call: applied(call, activation)


def _leaky_relu(call: Call) -> Made:
    return applied(call, leaky(call.node.number("alpha", 0.01)))


def _prelu(call: Call) -> Made:
    x, slope = call.varying(0), call.finite(1, "slope")
    if call.opset < 7 and slope.ndim == 1:
        slope = slope.reshape(-1, *(1,) * max(0, len(x.shape) - 2))
    if np.broadcast_shapes(slope.shape, x.shape) != x.shape:
        raise NoBound(f"its slope of shape {list(slope.shape)} does not broadcast to {list(x.shape)}")
    return call.elementwise(
        np.minimum(slope, 1.0),
        np.maximum(slope, 1.0),
        lambda value: np.where(value >= 0.0, value, slope * value),
        lambda value: np.where(value >= 0.0, 1.0, slope),
        parameters=(slope,),
    )


def _clip_rule(call: Call) -> Made:
    low: float | None = call.node.attribute("min", AttributeProto.FLOAT)
    high: float | None = call.node.attribute("max", AttributeProto.FLOAT)
    for place in (1, 2):
        given = call.given(place)
        if given is not None and not given.is_constant:
            raise NoBound("its bounds depend on the network's input")
    if (given := call.given(1)) is not None and given.array is not None:
        low = float(given.array.reshape(-1)[0])
    if (given := call.given(2)) is not None and given.array is not None:
        high = float(given.array.reshape(-1)[0])
    return applied(call, clip(-math.inf if low is None else low, math.inf if high is None else high))


def _gelu_rule(call: Call) -> Made:
    approximate = call.node.text("approximate", "none")
    return applied(call, gelu_tanh() if approximate == "tanh" else gelu(), rule="Gelu")


def _thresholded(call: Call) -> Made:
    alpha = call.node.number("alpha", 1.0)
    if alpha != 0.0:
        raise NoBound(f"ThresholdedRelu jumps from 0 to {alpha:g}", "use Relu, which has no jump")
    return applied(call, relu())


def _shrink(call: Call) -> Made:
    bias, limit = call.node.number("bias", 0.0), call.node.number("lambd", 0.5)
    if limit < 0.0 or bias != limit:
        raise NoBound(
            f"Shrink jumps where |x| is lambd = {limit:g}, because its bias is {bias:g}", "use the same for both"
        )
    return call.elementwise(
        0.0,
        1.0,
        lambda x: np.sign(x) * np.maximum(np.abs(x) - limit, 0.0),
        lambda x: (np.abs(x) > limit).astype(np.float64),
    )


def _power(call: Call) -> Made:
    exponent = call.operand(1)
    if not exponent.is_constant:
        raise NoBound("its exponent depends on the network's input")
    power = call.finite(1, "exponent")
    if (power == 1.0).all() and np.broadcast_shapes(power.shape, call.varying(0).shape) == call.varying(0).shape:
        return call.varying(0)
    shown = f"{power.reshape(-1)[0]:g}" if power.size == 1 else "other exponents than 1"
    raise NoBound(f"Pow by {shown} has no greatest slope", "bound what reaches it another way, or replace it")


def fused_activation(call: Call, before: Linear) -> Elementwise:
    """Make the step of the activation that a fused node ends with; `before` is what it acts on.

    Its attributes are `activation`, and `activation_params` of FusedConv or `activation_alpha` … of FusedGemm.
    """
    name = call.node.text("activation", "")
    listed = call.node.attribute("activation_params", AttributeProto.FLOATS) or ()
    numbers = [float(one) for one in listed]
    named = {key: call.node.number(f"activation_{key}", math.nan) for key in ("alpha", "beta", "gamma")}
    numbers = numbers or [value for value in named.values() if not math.isnan(value)]
    makers: dict[str, tuple[Callable[..., Activation], tuple[float, ...]]] = {
        "LeakyRelu": (leaky, (0.01,)),
        "Elu": (elu, (1.0,)),
        "HardSigmoid": (hard_sigmoid, (0.2, 0.5)),
        "Clip": (clip, (-math.inf, math.inf)),
        "Selu": (selu, (1.67326319217681884765625, 1.05070102214813232421875)),
        "Celu": (celu, (1.0,)),
    }
    if name in PLAIN:
        found = PLAIN[name]
    elif name in makers:
        make, defaults = makers[name]
        found = make(*(numbers + list(defaults[len(numbers) :]))[: len(defaults)])
    else:
        raise NoBound(f"its activation '{name}' has no rule")
    return applied(call, found, Operand(before.result, before.shape), rule=f"{call.node.op_type} {name}")


RULES: dict[str, Callable[[Call], Made]] = {
    **{name: _plain(activation) for name, activation in PLAIN.items()},
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": lambda call: applied(call, elu(call.node.number("alpha", 1.0))),
    "Selu": lambda call: applied(
        call,
        selu(
            call.node.number("alpha", 1.67326319217681884765625),
            call.node.number("gamma", 1.05070102214813232421875),
        ),
    ),
    "Celu": lambda call: applied(call, celu(call.node.number("alpha", 1.0))),
    "HardSigmoid": lambda call: applied(
        call, hard_sigmoid(call.node.number("alpha", float(np.float32(0.2))), call.node.number("beta", 0.5))
    ),
    "Swish": lambda call: applied(call, swish(call.node.number("alpha", 1.0))),
    "Gelu": _gelu_rule,
    "Clip": _clip_rule,
    "Pow": _power,
    "ThresholdedRelu": _thresholded,
    "Shrink": _shrink,
    **{name: _step(name) for name in ("Sign", "Floor", "Ceil", "Round")},
    "Exp": _steep("Exp", "it grows with the input"),
    "Log": _steep("Log", "it is infinite at 0"),
    "Sqrt": _steep("Sqrt", "it is infinite at 0"),
    "Reciprocal": _steep("Reciprocal", "it is infinite at 0"),
    "Sinh": _steep("Sinh", "it grows with the input"),
    "Cosh": _steep("Cosh", "it grows with the input"),
    "Tan": _steep("Tan", "it is infinite at π/2"),
    "Asin": _steep("Asin", "it is infinite at 1"),
    "Acos": _steep("Acos", "it is infinite at 1"),
    "Acosh": _steep("Acosh", "it is infinite at 1"),
    "Atanh": _steep("Atanh", "it is infinite at 1"),
}
FUSED: dict[str, Callable[[Call], Made]] = {
    "Gelu": lambda call: applied(call, gelu()),
    "QuickGelu": lambda call: applied(call, swish(call.node.number("alpha", float(np.float32(1.702))))),
}
