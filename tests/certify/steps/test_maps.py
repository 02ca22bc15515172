"""Linear maps: adjoints, proven norms against dense SVD, and the axes along which samples stand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sn_graph.certify.steps import (
    Composed,
    Convolved,
    LinearMap,
    Multiplied,
    Placed,
    Reshaped,
    Scaled,
    Selected,
    Separable,
    Sliced,
    Summed,
    Transposed,
)
from sn_graph.spectral.convolution import Convolution

Array = NDArray[np.float64]


def dense(one: LinearMap) -> Array:
    size = math.prod(one.input_shape)
    columns = [one.forward(row.reshape(one.input_shape)).reshape(-1) for row in np.eye(size)]
    return np.array(columns).T.reshape(math.prod(one.output_shape), size)


@st.composite
def maps(draw: Any) -> LinearMap:
    """A linear map of arrays with three axes, of any kind."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(3))
    kind = draw(st.sampled_from(KINDS))
    return made(kind, shape, rng)


KINDS = (
    "reshape",
    "transpose",
    "scale",
    "repeat",
    "select",
    "slice",
    "place",
    "multiply",
    "separate",
    "convolve",
    "sum",
)


def made(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> LinearMap:
    size = math.prod(shape)
    if kind == "reshape":
        return Reshaped(shape, (shape[0], math.prod(shape[1:])))
    if kind == "transpose":
        return Transposed.of(shape, [int(axis) for axis in rng.permutation(3)])
    if kind == "scale":
        return Scaled.by(shape, rng.standard_normal([side if rng.random() < 0.5 else 1 for side in shape]))
    if kind == "repeat":
        return Scaled.by(shape, rng.standard_normal((2, *[side if rng.random() < 0.5 else 1 for side in shape])))
    if kind == "select":
        return Selected.of(shape, rng.integers(-1, size, (3, 4)))
    if kind == "slice":
        return Sliced.by(shape, [slice(None) if rng.random() < 0.5 else slice(0, side, 2) for side in shape])
    if kind == "place":
        axis = int(rng.integers(3))
        longer = tuple(side + 3 if at == axis else side for at, side in enumerate(shape))
        return Placed(shape, longer, axis, int(rng.integers(4)))
    if kind == "multiply":
        lead = [(), (1,), (shape[0],), (3,)][int(rng.integers(4 if shape[0] == 1 else 3))]
        return Multiplied.by(shape, rng.standard_normal((*lead, shape[-1], 3)))
    if kind == "separate":
        matrices = [rng.standard_normal((2, side)) if rng.random() < 0.5 else None for side in shape]
        return Separable.along(shape, matrices)
    if kind == "convolve":
        kernel = rng.standard_normal((2, shape[1], 2))
        plain = Convolution(kernel, (1,), (1,), (1, 1), input_size=shape[2:])
        return Convolved.by(shape[0], plain)
    first = made("scale", shape, rng)
    return Summed.of([Composed.of([first, Scaled.by(shape, np.array(2.0))]), Reshaped.identity(shape)])


@settings(max_examples=200, deadline=None)
@given(maps())
def test_the_adjoint_is_the_transpose_and_the_norm_is_above_the_largest_singular_value(one: LinearMap) -> None:
    matrix = dense(one)
    size = math.prod(one.output_shape)
    rows = [one.adjoint(row.reshape(one.output_shape)).reshape(-1) for row in np.eye(size)]
    np.testing.assert_allclose(np.array(rows).reshape(matrix.shape), matrix, atol=1e-12)
    exact = float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0
    assert exact <= one.norm() * (1 + 1e-12) + 1e-300
    assert float(np.linalg.norm(np.abs(matrix), 2)) <= one.magnitude() * (1 + 1e-12) + 1e-300
    supremum = one.supremum()
    assert supremum is None or one.norm() <= supremum * (1 + 1e-4)
    quick = one.quick(dynamic=False)
    assert quick is not None
    assert exact <= quick * (1 + 1e-12) + 1e-300


@settings(max_examples=200, deadline=None)
@given(maps())
def test_the_norm_is_tight_where_it_is_no_sum(one: LinearMap) -> None:
    if isinstance(one, (Summed, Convolved)):
        return
    exact = float(np.linalg.norm(dense(one), 2))
    assert one.norm() <= exact * (1 + 1e-6) + 1e-12


@settings(max_examples=300, deadline=None)
@given(maps(), st.integers(0, 2), st.integers(0, 1 << 30))
def test_samples_that_are_carried_go_their_own_way(one: LinearMap, axis: int, seed: int) -> None:
    """Permuted samples give the permuted result, and a changed sample changes its own place alone."""
    found = one.carry(axis)
    if found is None:
        return
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(one.input_shape)
    count = x.shape[axis]
    assert one.output_shape[found] == count
    order = rng.permutation(count)
    np.testing.assert_allclose(one.forward(x.take(order, axis)), one.forward(x).take(order, found), atol=1e-12)
    other = x.copy()
    np.moveaxis(other, axis, 0)[0] += 1.0
    moved = np.moveaxis(one.forward(other) - one.forward(x), found, 0)
    np.testing.assert_allclose(moved[1:], 0.0, atol=1e-12)


def test_errors_of_rounded_coefficients_are_counted() -> None:
    factor = np.array([1.0, 3.0])
    assert Scaled.by((2,), factor, 1e-3).norm() >= 3.0 * 1.001
    assert Multiplied.by((1, 2), np.diag(factor), 1e-3).norm() >= 3.0 * 1.001
    chained = Composed.of([Scaled.by((2,), factor, 1e-3), Scaled.by((2,), factor, 1e-3)])
    assert chained.error >= 9.0 * (1.001**2 - 1.0)
