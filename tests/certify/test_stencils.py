"""Stencils against the steps that they stand for, element by element, and where they do not compose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.certify.stencils import Stencil, Stencils, shifted_taps
from sn_graph.certify.steps import Composed, Convolved, Linear, LinearMap, Placed, Scaled, Separable, Sliced
from sn_graph.spectral.convolution import Convolution, forward
from tests.support.certified import network, nodes


def applied(stencil: Stencil, x: np.ndarray) -> np.ndarray:
    """A stencil's map, tap by tap."""
    result = np.zeros((len(stencil.kernel), *stencil.output_size))
    for place in np.ndindex(*stencil.output_size):
        for tap in np.ndindex(*stencil.taps):
            at = tuple(s * j + r + t for s, j, r, t in zip(stencil.strides, place, stencil.offsets, tap, strict=True))
            if all(0 <= a < n for a, n in zip(at, stencil.input_size, strict=True)):
                result[(slice(None), *place)] += (
                    stencil.kernel[(slice(None), slice(None), *tap)] @ x[(slice(None), *at)]
                )
    return result


def conv(rng: np.random.Generator, shape: tuple[int, ...]) -> LinearMap | None:
    channels, size = shape[1], shape[2:]
    group = int(rng.choice([1, channels]))
    taps = tuple(int(rng.integers(1, 4)) for _ in size)
    transposed = bool(rng.random() < 0.3)
    outputs = int(rng.integers(1, 3))
    kernel = rng.standard_normal(
        (channels, outputs, *taps) if transposed else (outputs * group, channels // group, *taps)
    )
    plain = (1,) * len(size)
    made = Convolution(
        kernel,
        strides=plain if transposed else tuple(int(rng.integers(1, 3)) for _ in size),
        dilations=tuple(int(rng.integers(1, 3)) for _ in size),
        pads=tuple(int(rng.integers(0, 2)) for _ in range(2 * len(size))),
        group=group,
        input_size=size,
        transposed=transposed,
    )
    result = Convolved.by(1, made)
    return result if all(n > 0 for n in result.output_shape) else None


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> LinearMap | None:
    kind = rng.integers(0, 5)
    if kind < 2:
        return conv(rng, shape)
    if kind == 2:
        return Scaled.by(shape, rng.standard_normal((shape[1], *(1,) * (len(shape) - 2))))
    if kind == 3:
        start = int(rng.integers(0, 2))
        return Placed(shape, (1, shape[1] + 2, *shape[2:]), 1, start)
    begins = [int(rng.integers(0, max(1, size - 1))) for size in shape[2:]]
    return Sliced.by(shape, (slice(None), slice(None), *(slice(b, None, int(rng.integers(1, 3))) for b in begins)))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6))
def test_what_composes_is_what_the_steps_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, int(rng.integers(1, 3)), *(int(rng.integers(3, 7)) for _ in range(int(rng.integers(1, 3)))))
    forms = Stencils()
    form = forms.identity(shape)
    assert form is not None
    x = y = rng.standard_normal(shape)
    for _ in range(3):
        part = drawn(rng, y.shape)
        after = None if part is None else forms.through(part, form)
        if part is None or after is None:
            continue
        form, y = after, part.forward(y)
        assert np.allclose(applied(form, x[0]), y[0], atol=1e-12)
    exact = forms.added(form, form)
    assert exact is not None
    assert np.allclose(applied(exact, x[0]), 2.0 * y[0], atol=1e-12)
    length = float(np.linalg.norm(y)) / float(np.linalg.norm(x))
    assert length <= form.norm() * (1.0 + 1e-12)


def test_what_is_padded_in_between_does_not_compose() -> None:
    """A shift to the right and one back drops the last place at the nodes; as a sequence it is the identity."""
    right = Convolved.by(1, Convolution(np.array([[[1.0, 0.0]]]), (1,), (1,), (1, 0), input_size=(4,)))
    left = Convolved.by(1, Convolution(np.array([[[0.0, 1.0]]]), (1,), (1,), (0, 1), input_size=(4,)))
    forms = Stencils()
    form = forms.identity((1, 1, 4))
    assert form is not None
    shifted = forms.through(right, form)
    assert shifted is not None
    assert forms.through(left, shifted) is None
    assert left.forward(right.forward(np.ones((1, 1, 4)))).sum() == 3.0


def test_pools_and_what_is_none() -> None:
    made = network(
        nodes(
            ("AveragePool", ["x"], "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("AveragePool", ["p"], "y", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
            x=(1, 2, 8, 8),
        )
    )
    first, second = (step.parts[0] for step in made.steps if isinstance(step, Linear))
    assert isinstance(first, Separable)
    forms = Stencils()
    form = forms.identity((1, 2, 8, 8))
    assert form is not None
    pooled = forms.through(first, form)
    assert pooled is not None
    assert pooled.strides == (2, 2)
    assert pooled.norm() == pytest.approx(0.5)
    # Its windows at the borders hold fewer elements, so that the shares differ.
    assert forms.through(second, form) is None


def test_shifted_taps() -> None:
    matrix = np.zeros((3, 7))
    for row in range(3):
        matrix[row, 2 * row + 1 : 2 * row + 3] = 0.5, 2.0
    found = shifted_taps(matrix)
    assert found is not None
    assert found[:2] == (2, 1)
    assert found[2].tolist() == [0.5, 2.0]
    matrix[2, 6] = 3.0
    assert shifted_taps(matrix) is None
    assert shifted_taps(np.zeros((2, 2))) is None


def test_a_composed_kernel_is_within_its_error() -> None:
    """The bound of rounding covers the difference to the same kernel in twice the precision."""
    rng = np.random.default_rng(0)
    first, second = (
        Convolution(rng.standard_normal((4, 4, 3)), (1,), (1,), (0, 0), input_size=(size,)) for size in (12, 10)
    )
    forms = Stencils()
    form = forms.identity((1, 4, 12))
    assert form is not None
    made = forms.through(Composed.of([Convolved.by(1, first), Convolved.by(1, second)]), form)
    assert made is not None
    wide = np.zeros((4, 4, 5), np.longdouble)
    for tap in range(3):
        wide[:, :, tap : tap + 3] += np.einsum(
            "om,mit->oit", second.kernel[:, :, tap].astype(np.longdouble), first.kernel.astype(np.longdouble)
        )
    off = np.abs(wide - made.kernel).sum(axis=2)
    assert (off <= made.error).all()
    assert made.error.max() < 1e-12
    assert np.allclose(forward(second, forward(first, np.ones((4, 12)))), applied(made, np.ones((4, 12))))
