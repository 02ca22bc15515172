"""Divisors: a scalar that a tensor is divided by, as a function of the σ inside it.

d(σ) = … Max(1, σ/c) …, with eps added, a gain γ, and rearrangements between: DUE's soft cap, σReparam, `_bar`
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sn_graph.model import Model, Node
from sn_graph.recognise.evaluate import Evaluator
from sn_graph.recognise.trace import Tracer, Value

_HANDED_ON = frozenset({"Identity", "Cast", "CastLike", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Flatten"})
_ARITHMETIC = frozenset({"Max", "Min", "Clip", "Add", "Sub", "Mul", "Div", "Abs", "Reciprocal", "Neg"})
_FLOORS = frozenset({"Max", "Clip"})
_LARGE = 1e6


@dataclass(frozen=True, eq=False)
class Level:
    """A scalar on the way from the divisor to σ, and the node that makes it of the next."""

    value: Value
    number: float
    node: Node | None


def levels(tracer: Tracer, scalar: Value) -> Iterator[Level]:
    """Yield the scalar, then what it is made of by scalar arithmetic with constants, as far down as there is such."""
    value: Value | None = scalar
    while value is not None:
        number = tracer.number(value)
        if number is None:
            return
        node = tracer.producer(value)
        yield Level(value, number, node)
        value = None if node is None else _inside(tracer, node)


def _inside(tracer: Tracer, node: Node) -> Value | None:
    if not node.is_standard:
        return None
    inputs = tracer.inputs(node)
    if node.op_type in _HANDED_ON:
        return inputs[0]
    if node.op_type not in _ARITHMETIC:
        return None
    open_ones = [one for one in inputs if not tracer.is_fixed(one)]
    scalars = [one for one in inputs if tracer.is_fixed(one) and tracer.number(one) is not None]
    return open_ones[0] if len(open_ones) == 1 and len(scalars) == len(inputs) - 1 else None


@dataclass(frozen=True, eq=False)
class Divisor:
    """A tensor's multiplier as a function of σ.

    Attributes:
        model: The model.
        scalar: The scalar that the tensor is divided by, or multiplied with.
        inverse: Whether it is divided.
        core: The value in it that is σ.
        passed: The levels from `scalar` down to `core`, that one not among them.
    """

    model: Model
    scalar: Value
    inverse: bool
    core: Value
    core_shape: tuple[int, ...]
    passed: tuple[Level, ...]

    def multiplier(self, sigma: float) -> float:
        """Return what the tensor is multiplied by where σ is this."""
        number = self._at(self.scalar, sigma)
        return 1.0 / number if self.inverse else number

    def _at(self, value: Value, sigma: float) -> float:
        known = {self.core.place: np.full(self.core_shape, sigma, np.float64)}
        found = Evaluator(self.model, known=known).value(value.scope, value.name)
        return float(found[(0,) * found.ndim])

    def cap_and_gain(self) -> tuple[float | None, float]:
        """Return c and g of the multiplier g / max(1, σ/c), or None and g of g / σ. Raises NotComputable."""
        for place, level in enumerate(self.passed):
            if level.node is None or level.node.op_type not in _FLOORS:
                continue
            inner = self.passed[place + 1].value if place + 1 < len(self.passed) else self.core
            slope = self._at(inner, _LARGE) / _LARGE
            least = self._at(level.value, 0.0)
            if slope > 0 and least / slope > _FLOOR:
                return least / slope, self.multiplier(0.0)
        return None, self.multiplier(_LARGE) * _LARGE


_FLOOR = 1e-3  # of a σ: below, a floor guards against a division by 0
