"""Rounding: how quantizers make integers of steps, and where the steps lie that become an integer.

https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html (to the nearest, ties to even), and the modes of QONNX's
IntQuant: https://github.com/fastmachinelearning/qonnx/blob/main/docs/qonnx-custom-ops/intquant_v1.md. One that rounds
down or up has an integer at the end of the steps that become it, where the last digit of a division decides; their
middle is half a step away.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.floating]


class Rounding(NamedTuple):
    """A way to round.

    Attributes:
        of: Returns the integers of steps.
        middle: Returns for integers the middle of the steps that become them.
    """

    of: Callable[[_Floats], _Floats]
    middle: Callable[[_Floats], _Floats]


def _itself(integers: _Floats) -> _Floats:
    return integers


def _above(integers: _Floats) -> _Floats:
    return integers + integers.dtype.type(0.5)


def _below(integers: _Floats) -> _Floats:
    return integers - integers.dtype.type(0.5)


def _outside(integers: _Floats) -> _Floats:
    return integers + np.sign(integers) * integers.dtype.type(0.5)


def _inside(integers: _Floats) -> _Floats:
    return integers - np.sign(integers) * integers.dtype.type(0.5)


def _up(steps: _Floats) -> _Floats:
    return np.sign(steps) * np.ceil(np.abs(steps))


def _half_up(steps: _Floats) -> _Floats:
    return np.sign(steps) * np.floor(np.abs(steps) + steps.dtype.type(0.5))


def _half_down(steps: _Floats) -> _Floats:
    return np.sign(steps) * np.ceil(np.abs(steps) - steps.dtype.type(0.5))


def _signs(steps: _Floats) -> _Floats:
    return np.where(steps >= 0, steps.dtype.type(1), steps.dtype.type(-1))


NEAREST = Rounding(np.rint, _itself)
SIGNS = Rounding(_signs, _itself)
"""1 from 0 on, else -1."""

ROUNDINGS = {
    "ROUND": NEAREST,
    "HALF_EVEN": NEAREST,
    "CEIL": Rounding(np.ceil, _below),
    "FLOOR": Rounding(np.floor, _above),
    "UP": Rounding(_up, _inside),
    "DOWN": Rounding(np.trunc, _outside),
    "ROUND_TO_ZERO": Rounding(np.trunc, _outside),
    "HALF_UP": Rounding(_half_up, _itself),
    "HALF_DOWN": Rounding(_half_down, _itself),
}
"""By the names that QONNX gives them, and Brevitas before."""
