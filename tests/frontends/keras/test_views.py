"""Keras's matrix as a view of whatever layout a kernel is stored in; no framework is needed for that."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sn_graph.frontends.keras.plan import is_keras_view, view_of
from sn_graph.sites import Layout, MatrixView

SHAPES = st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple)


@st.composite
def stored(draw: st.DrawFn) -> tuple[np.ndarray, Layout, int]:
    """A kernel's flat indices in some stored layout, that layout, and the kernel's last size.

    Axes are transposed, then neighbours joined: what exporters do to kernels.
    """
    shape = draw(SHAPES)
    perm = tuple(draw(st.permutations(range(len(shape)))))
    cuts = sorted({0, len(shape), *draw(st.sets(st.integers(1, len(shape) - 1)))})
    moved = tuple(shape[axis] for axis in perm)
    joined = tuple(math.prod(moved[start:end]) for start, end in pairwise(cuts))
    indices = np.arange(math.prod(shape)).reshape(shape).transpose(perm).reshape(joined)
    layout = Layout.stored(shape).transpose(perm).reshape(joined)
    assert layout is not None
    return indices, layout, shape[-1]


def is_keras_matrix(matrix: np.ndarray, side: str, length: int) -> bool:
    """Whether row (or column) i of M holds the kernel's elements whose last index is i, and all of them."""
    own = matrix if side == "rows" else matrix.T
    return own.shape[0] == length and bool((own % length == np.arange(length)[:, None]).all())


@given(stored())
def test_the_view_made_is_keras_matrix(case: tuple[np.ndarray, Layout, int]) -> None:
    indices, layout, length = case
    view = view_of(layout, length)
    assert view is not None
    assert view.fits(indices.shape)
    assert view.state_length == length
    assert is_keras_matrix(view.matrix(indices), view.side, length)
    assert is_keras_view(view, layout, length)


@given(stored(), st.data())
def test_a_view_is_accepted_just_where_it_is_keras_matrix(
    case: tuple[np.ndarray, Layout, int], data: st.DataObject
) -> None:
    indices, layout, length = case
    perm = tuple(data.draw(st.permutations(range(indices.ndim))))
    sizes = [indices.shape[axis] for axis in perm]
    row_axes = data.draw(st.integers(0, indices.ndim))
    rows, cols = math.prod(sizes[:row_axes]), math.prod(sizes[row_axes:])
    view = MatrixView(None, perm, rows, cols, data.draw(st.sampled_from(["rows", "cols"])))
    true = is_keras_matrix(view.matrix(indices), view.side, length)
    # Layouts that no Layout can describe are refused, so acceptance may only be narrower than truth.
    assert is_keras_view(view, layout, length) <= true
    if row_axes in (1, indices.ndim - 1):
        assert is_keras_view(view, layout, length) == true


def test_the_heads_of_an_einsum_are_split() -> None:
    """facts: `abc,cde->abde` of tf_keras is stored as (d·e, c), which does not hold the split."""
    kernel = np.arange(4 * 2 * 5).reshape(4, 2, 5)
    layout = Layout.stored((4, 2, 5)).transpose((1, 2, 0)).reshape((10, 4))
    assert layout is not None
    view = view_of(layout, 5)
    assert view == MatrixView((2, 5, 4), (1, 0, 2), 5, 8, "rows")
    assert is_keras_matrix(view.matrix(kernel.transpose(1, 2, 0).reshape(10, 4)), "rows", 5)
    whole = MatrixView(None, None, 10, 4, "rows")
    assert not is_keras_view(whole, layout, 5)


def test_no_view_where_the_last_axis_is_cut() -> None:
    """Axes of 3 and 4 over a kernel (2, 6): no axis ends where the kernel's last one does."""
    cut = Layout.stored((2, 6)).reshape((3, 4))
    assert cut is not None
    assert view_of(cut, 6) is None
