"""The slopes of activations, against extrema that mpmath finds of their derivatives."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from sn_graph.certify.rules import activations
from sn_graph.certify.rules.activations import Activation

Function = Callable[[mpmath.mpf], mpmath.mpf]


def _gelu_tanh(x: mpmath.mpf) -> mpmath.mpf:
    return x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))


KNOWN: dict[str, tuple[Activation, Function]] = {
    "swish": (activations.swish(1.0), lambda x: x / (1 + mpmath.exp(-x))),
    "gelu": (activations.gelu(), lambda x: x * mpmath.ncdf(x)),
    "gelu tanh": (activations.gelu_tanh(), _gelu_tanh),
    "mish": (activations.mish(), lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))),
    "erf": (activations.PLAIN["Erf"], mpmath.erf),
    "sigmoid": (activations.PLAIN["Sigmoid"], lambda x: 1 / (1 + mpmath.exp(-x))),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_slopes_are_the_extrema_of_the_derivative_rounded_outwards(name: str) -> None:
    activation, function = KNOWN[name]
    grid = np.linspace(-12.0, 12.0, 4801)
    slopes = activation.derivative(grid)
    with mpmath.workdps(40):
        for extreme, end, outside in (
            (slopes.argmax(), activation.high, 1),
            (slopes.argmin(), activation.low, -1),
        ):
            place = grid[extreme]
            # Between the neighbours of the grid's extremum the second derivative has one zero, or the slope goes to an
            # end that it never reaches.
            exact = mpmath.diff(function, place)
            if 0 < extreme < len(grid) - 1:
                root = mpmath.findroot(lambda x: mpmath.diff(function, x, 2), place)
                assert abs(root - place) < 0.01
                exact = mpmath.diff(function, root)
            assert outside * (mpmath.mpf(float(end)) - exact) >= 0
            # An end that is only approached is not an extremum.
            assert end == 0.0 or abs(mpmath.mpf(float(end)) - exact) < 2e-7


@pytest.mark.parametrize("name", KNOWN)
def test_functions_and_derivatives_are_exact(name: str) -> None:
    activation, function = KNOWN[name]
    for x in np.linspace(-9.0, 9.0, 37):
        with mpmath.workdps(40):
            value, slope = float(function(mpmath.mpf(float(x)))), float(mpmath.diff(function, mpmath.mpf(float(x))))
        np.testing.assert_allclose(activation.apply(np.array([x])), [value], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(activation.derivative(np.array([x])), [slope], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("c", [-1e-3, 0.0, 1e-3])
@pytest.mark.parametrize("k", [-1e-3, 0.0, 1e-3])
def test_the_rounded_numbers_of_gelu_move_its_slopes_by_less_than_is_added(c: float, k: float) -> None:
    x = np.linspace(-8.0, 8.0, 160_001)
    inner = np.sqrt(2.0 / np.pi) * (1.0 + c)
    cubic = 0.044715 * (1.0 + k)
    bent = np.tanh(inner * (x + cubic * x**3))
    slopes = 0.5 * (1.0 + bent) + 0.5 * x * (1.0 - bent**2) * inner * (1.0 + 3.0 * cubic * x**2)
    room = 2.5 * (abs(c) + abs(k)) + 1e-8
    assert activations.gelu_tanh().low - room <= slopes.min()
    assert slopes.max() <= activations.gelu_tanh().high + room
