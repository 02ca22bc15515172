"""Layouts against numpy's own transposes and reshapes."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.sites import Layout, matrix_of


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_layouts_follow_numpy(data: st.DataObject) -> None:
    """Any mix of transposes and reshapes gives numpy's result, or none where numpy would have to copy irregularly."""
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4)))
    stored = np.arange(prod(shape)).reshape(shape)
    value, layout = stored, Layout.stored(shape)
    transposed = False
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()):
            perm = data.draw(st.permutations(range(value.ndim)))
            value, layout = value.transpose(perm), layout.transpose(perm)
            transposed = True
        else:
            target = data.draw(factorizations(value.size))
            moved = layout.reshape(target)
            if moved is None:
                assert transposed, "without a transpose every reshape is regular"
                return
            value, layout = value.reshape(target), moved
        assert layout.shape == value.shape
    for row_axes in range(value.ndim + 1):
        found = matrix_of(layout, row_axes, "rows", shape)
        expected = value.reshape(prod(value.shape[:row_axes]), -1)
        np.testing.assert_array_equal(found.view.matrix(stored), expected)
        assert found.view.fits(shape)
        turned = layout.transpose([*range(row_axes, value.ndim), *range(row_axes)])
        assert found.same_singular_values(matrix_of(turned, value.ndim - row_axes, "rows", shape))


@st.composite
def factorizations(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    sizes: list[int] = []
    while len(sizes) < 3:
        sizes.append(draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
        size //= sizes[-1]
    return (*sizes, size)
