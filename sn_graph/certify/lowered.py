"""Lowering: steps that choose the larger of values, as neurons.

    max(a, b) = b + relu(a − b),    min(a, b) = a − relu(a − b)

exactly, so that a slope-restricted neuron takes the place of a step that has only a constant. The largest of a window
is that of the larger of its halves; the maxima and the minima of pairs share their neurons.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.rules import Largest, PairSort, Sorted, relu
from sn_graph.certify.segments import Segment
from sn_graph.certify.steps import (
    Bounded,
    Composed,
    Elementwise,
    Linear,
    LinearMap,
    Placed,
    Reshaped,
    Scaled,
    Selected,
    Shape,
    Sliced,
    Step,
    Summed,
)

# Elements of a window up to which they are compared.
WINDOW = 9

Value = Mapping[str, LinearMap]
"""A sum of linear maps of values, by their names."""


def lowered(segment: Segment) -> Segment | None:
    """Return a segment whose steps are linear or elementwise; None where one is neither, nor can be lowered."""
    if not any(isinstance(step, Bounded) for step in segment.steps):
        return segment
    steps: list[Step] = []
    for step in segment.steps:
        made = _Lowering(step, segment.shapes[step.operands[0]]).steps() if isinstance(step, Bounded) else [step]
        if made is None:
            return None
        steps += made
    return replace(segment, steps=tuple(steps))


class _Lowering:
    """The steps that one which chooses stands for; its operand has a shape."""

    def __init__(self, step: Bounded, shape: Shape) -> None:
        self._step, self._shape = step, shape
        self._made: list[Step] = []

    def steps(self) -> list[Step] | None:
        function, x = self._step.function, self._step.operands[0]
        if isinstance(function, PairSort):
            self._pairs({x: function.parts[0]}, {x: function.parts[1]}, function.axis, function.largest_first)
        elif isinstance(function, Sorted) and self._shape == self._step.shape and self._shape[function.axis] == 2:
            first, second = (self._slice(function.axis, place) for place in (0, 1))
            self._pairs({x: first}, {x: second}, function.axis, function.largest)
        elif isinstance(function, Largest) and function.windows.places.shape[1] <= WINDOW:
            self._windows(function.windows.places)
        else:
            return None
        return self._made

    def _slice(self, axis: int, place: int) -> LinearMap:
        rank = len(self._shape)
        return Sliced.by(self._shape, [slice(place, place + 1) if at == axis else slice(None) for at in range(rank)])

    def _pairs(self, a: Value, b: Value, axis: int, largest_first: bool) -> None:
        """(max, min) of a and b, along an axis: (b + r, a − r), r = relu(a − b)."""
        half = _shape(a)[axis]
        bent = self._relu(_minus(a, b))
        highs, lows = (0, half) if largest_first else (half, 0)
        high, low = _plus(b, bent), _minus(a, bent)
        self._linear(_plus(self._at(high, axis, highs), self._at(low, axis, lows)), self._step.result)

    def _at(self, value: Value, axis: int, start: int) -> Value:
        placed = Placed(_shape(value), self._step.shape, axis, start)
        return {name: Composed.of([part, placed]) for name, part in value.items()}

    def _windows(self, places: NDArray[np.int64]) -> None:
        """The largest of each window: of neighbours, then of what is left, until one is."""
        x = self._step.operands[0]
        # What lies in the padding is replaced by the first that does not, which changes no maximum.
        first = np.take_along_axis(places, (places >= 0).argmax(axis=1)[:, None], 1)
        filled = np.where(places < 0, first, places)
        planes = np.arange(math.prod(self._shape[:2]))[:, None] * math.prod(self._shape[2:])
        left: list[Value] = [
            {x: Selected.of(self._shape, (planes + filled[:, tap]).reshape(self._step.shape))}
            for tap in range(places.shape[1])
        ]
        while len(left) > 1:
            pairs = [left[place : place + 2] for place in range(0, len(left), 2)]
            left = [self._larger(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
        self._linear(left[0], self._step.result)

    def _larger(self, a: Value, b: Value) -> Value:
        return _plus(b, self._relu(_minus(a, b)))

    def _relu(self, value: Value) -> Value:
        """A neuron that reads a value, as a value."""
        number, shape = len(self._made), _shape(value)
        argument, result = f"{self._step.result}~argument{number}", f"{self._step.result}~relu{number}"
        self._linear(value, argument)
        bent = relu()
        self._made.append(
            Elementwise(
                node=self._step.node,
                rule=self._step.rule,
                operands=(argument,),
                result=result,
                shape=shape,
                path=self._step.path,
                low=bent.low,
                high=bent.high,
                apply=bent.apply,
                derivative=bent.derivative,
            )
        )
        return {result: Reshaped.identity(shape)}

    def _linear(self, value: Value, result: str) -> None:
        self._made.append(
            Linear(
                node=self._step.node,
                rule=self._step.rule,
                operands=tuple(value),
                result=result,
                shape=_shape(value),
                path=self._step.path,
                parts=tuple(value.values()),
            )
        )


def _shape(value: Value) -> Shape:
    return next(iter(value.values())).output_shape


def _plus(first: Value, second: Value) -> Value:
    total = dict(first)
    for name, part in second.items():
        total[name] = Summed.of([total[name], part]) if name in total else part
    return total


def _minus(first: Value, second: Value) -> Value:
    sign = Scaled.by(_shape(second), np.array(-1.0))
    return _plus(first, {name: Composed.of([part, sign]) for name, part in second.items()})
