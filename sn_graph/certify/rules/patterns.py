"""Patterns: nodes that together are one function with a constant, where each by itself has none or a larger one.

    x · σ(tx), x / (1 + exp(−tx))                           Swish
    ½x (1 + erf(x/√2)), ½x (1 + tanh(√(2/π)(x + 0.044715x³)))   Gelu
    x · clip(αx + β, 0, 1)                                  HardSwish
    x · tanh(log(1 + eˣ))                                   Mish
    c / √(mean c² + ε), c · (mean c² + ε)^(−1/2)            RMSNorm of c; LayerNorm, since c = x − mean x is one too
    x − mean x                                              a projection, of norm 1
    max(px + q, rx + s), x > 0 ? px : rx                    LeakyRelu
    x > 0 ? px : b (exp(tx) − 1), t > 0                     Elu
    concat(max(a, b), min(a, b))                            MaxMin, where a and b are parts of one value: a sorted pair

The names of the values that are read back are those of one scope; every check is exact but for the two numbers of
Gelu's tanh, which exporters round.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.rules import activations
from sn_graph.certify.rules.activations import Activation, applied
from sn_graph.certify.rules.formulas import Bent, Formula, Polynomial, View, formula, number
from sn_graph.certify.rules.normalizations import normalized
from sn_graph.certify.steps import (
    UNIT,
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
from sn_graph.model import Node


def pattern_of(view: View, call: Call) -> tuple[Operand, Made] | None:
    """Return what a pattern that ends at a node reads, and its steps; None where there is none.

    Args:
        view: The node's scope.
        call: The node, with no operands: a pattern finds its own.
    """
    if not call.node.is_standard:
        return None
    for find in _PATTERNS.get(call.node.op_type, ()):
        found = find(view, call)
        if found is not None:
            return found
    return None


def _varying(view: View, name: str) -> Operand | None:
    value = view.value(name) if name else None
    return value if isinstance(value, Operand) and not value.is_constant else None


def _anchors(view: View, names: Sequence[str]) -> Iterator[str]:
    """Yield the values of which a product's factors may be made: the factors, and what they are multiples of."""
    for first in names:
        name: str | None = first
        for _ in range(3):
            if name is None:
                break
            if _varying(view, name) is not None:
                yield name
            name = _multiple_of(view, name)


def _multiple_of(view: View, name: str) -> str | None:
    node = view.node(name)
    if node is None or node.op_type not in ("Mul", "Div") or len(node.proto.input) != 2:
        return None
    left, right = node.proto.input
    if number(view, right, _ANY) is not None:
        return str(left)
    return str(right) if node.op_type == "Mul" and number(view, left, _ANY) is not None else None


# More axes than a value has; where an anchor is only looked for.
_ANY = 64


# Activations


def _gated(view: View, call: Call) -> tuple[Operand, Made] | None:
    """X · gate(x)."""
    names = list(call.node.proto.input)
    for anchor in _anchors(view, names):
        x = _varying(view, anchor)
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


def _divided(view: View, call: Call) -> tuple[Operand, Made] | None:
    """X / (1 + exp(−tx)), which is x σ(tx)."""
    names = list(call.node.proto.input)
    for anchor in _anchors(view, names[:1]):
        x = _varying(view, anchor)
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


# Two pieces


def _hinge(view: View, call: Call) -> tuple[Operand, Made] | None:
    """The greater, or the less, of two lines."""
    names = list(call.node.proto.input)
    if len(names) != 2:
        return None
    for anchor in _anchors(view, names):
        x = _varying(view, anchor)
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


def _branches(view: View, call: Call) -> tuple[Operand, Made] | None:
    """X > c ? f(x) : g(x), continuous at c."""
    condition, *names = call.node.proto.input
    asked = view.node(condition)
    if asked is None or asked.op_type not in _ABOVE:
        return None
    anchor = asked.proto.input[0]
    x = _varying(view, anchor)
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


# Normalizations


@dataclass(frozen=True)
class _Spread:
    """mean c² + ε along axes."""

    of: str
    axes: tuple[int, ...]
    epsilon: float


def _standardized(view: View, call: Call) -> tuple[Operand, Made] | None:
    """C / √(mean c² + ε), as a quotient or as a product."""
    left, right = call.node.proto.input
    for top, bottom in ((left, right), (right, left)) if call.node.op_type == "Mul" else ((left, right),):
        x = _varying(view, top)
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
        axes, square = _axes(view, inner, rank), view.node(inner.proto.input[0])
        if axes is None or square is None:
            continue
        squared = list(square.proto.input)
        if (square.op_type == "Pow" and number(view, squared[1], rank) == 2.0) or (
            square.op_type == "Mul" and squared[0] == squared[1]
        ):
            return _Spread(squared[0], axes, added)
    return None


def _axes(view: View, node: Node, rank: int) -> tuple[int, ...] | None:
    """Return the axes of a reduction that keeps its dimensions; None where it does not, or they are not known."""
    if not node.integer("keepdims", 1):
        return None
    axes = node.integers("axes")
    if axes is None and len(node.proto.input) > 1:
        value = view.value(node.proto.input[1])
        if not isinstance(value, Operand) or value.array is None or value.depends:
            return None
        axes = tuple(int(axis) for axis in value.array.reshape(-1))
    return tuple(sorted({axis % rank for axis in axes})) if axes else None


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


def _centered(view: View, call: Call) -> tuple[Operand, Made] | None:
    left, right = call.node.proto.input
    mean, x = view.node(right), _varying(view, left)
    if mean is None or x is None or mean.op_type != "ReduceMean" or mean.proto.input[0] != left:
        return None
    axes = _axes(view, mean, len(x.shape))
    if axes is None or 0 in x.shape:
        return None
    return x, call.linear([(x, Centered(x.shape, x.shape, axes))], rule="centre")


# MaxMin


class PairSort:
    """max(a, b) and min(a, b), concatenated, of two parts of x.

    Args:
        parts: What takes a and b out of x.
        axis: Along which they are put together.
        largest_first: Whether the maxima come first.
    """

    def __init__(self, parts: tuple[LinearMap, LinearMap], axis: int, largest_first: bool) -> None:
        self._parts, self._axis, self._largest_first = parts, axis, largest_first

    def _sorted(self, a: Array, b: Array, swap: NDArray[np.bool_]) -> Array:
        high, low = np.where(swap, b, a), np.where(swap, a, b)
        return np.concatenate([high, low] if self._largest_first else [low, high], axis=self._axis)

    def _swap(self, x: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        a, b = (part.forward(x) for part in self._parts)
        return a, b, b > a

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return self._sorted(*self._swap(operands[0]))

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        _, _, swap = self._swap(operands[0])
        a, b = (part.forward(tangents[0]) for part in self._parts)
        return self._sorted(a, b, swap)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        _, _, swap = self._swap(operands[0])
        first, second = np.split(cotangent, 2, axis=self._axis)
        high, low = (first, second) if self._largest_first else (second, first)
        a, b = np.where(swap, low, high), np.where(swap, high, low)
        return (self._parts[0].adjoint(a) + self._parts[1].adjoint(b),)


def _max_min(view: View, call: Call) -> tuple[Operand, Made] | None:
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
    shape = parts[0].output_shape
    if parts[1].output_shape != shape or not all(map(_only_moves, parts)) or not _disjoint(parts, x.shape):
        return None
    axis = call.node.integer("axis", 0) % len(shape)
    result: Shape = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
    kept = {at for at in range(len(shape)) if at != axis and all(part.carry(at) == at for part in parts)}
    function = PairSort(parts, axis, kinds[0] == "Max")
    mixed = frozenset(range(len(shape))) - kept
    # At another size the parts may overlap.
    everywhere = None if x.dynamic else 1.0
    return x, call.bounded([x], result, function, [1.0], over_all_sizes=[everywhere], mixed=mixed, rule="maxmin")


def _only_moves(part: LinearMap) -> bool:
    maps = part.maps if isinstance(part, Composed) else (part,)
    return all(isinstance(one, Sliced | Selected | Reshaped | Transposed) for one in maps)


def _disjoint(parts: Sequence[LinearMap], shape: Shape) -> bool:
    """Say whether parts of a value have no element twice."""
    places = np.arange(1.0, math.prod(shape) + 1.0).reshape(shape)
    taken = np.concatenate([part.forward(places).reshape(-1) for part in parts])
    taken = taken[taken != 0.0]
    return len(np.unique(taken)) == len(taken)


Finder = Callable[[View, Call], tuple[Operand, Made] | None]

_PATTERNS: dict[str, tuple[Finder, ...]] = {
    "Mul": (_gated, _standardized),
    "Div": (_divided, _standardized),
    "Sub": (_centered,),
    "Concat": (_max_min,),
    "Max": (_hinge,),
    "Min": (_hinge,),
    "Where": (_branches,),
}
