"""Spectra, against numpy's SVD and the iteration itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sn_graph.spectral.matrix import Spectrum, power_iteration, seeded_state
from sn_graph.spectral.matrix.power import Side


@given(rows=st.integers(1, 24), cols=st.integers(1, 24), seed=st.integers(0, 99), columns=st.booleans())
def test_values_and_estimates(rows: int, cols: int, seed: int, columns: bool) -> None:
    matrix = np.random.default_rng(seed).standard_normal((rows, cols))
    spectrum = Spectrum.of(matrix)
    values = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(spectrum.values, values, atol=1e-7 * values[0])  # the Gram matrix halves the digits
    side: Side = "cols" if columns else "rows"
    state = seeded_state(seed, "w", cols if columns else rows)
    calls = np.array([1, 2, 7, 40])
    expected = np.array([power_iteration(matrix, state, int(k), side).sigma for k in calls])
    np.testing.assert_allclose(spectrum.estimates(state, side, calls), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing(scale: float) -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 7))
    state = seeded_state(0, "w", 5)
    small, plain = Spectrum.of(matrix * scale), Spectrum.of(matrix)
    calls = np.array([1, 10])
    np.testing.assert_allclose(small.values, plain.values * scale, rtol=1e-7)
    np.testing.assert_allclose(small.estimates(state, "rows", calls), plain.estimates(state, "rows", calls) * scale)


def test_zero_matrix_and_blind_state() -> None:
    assert Spectrum.of(np.zeros((3, 4))).values.tolist() == [0.0, 0.0, 0.0]
    assert Spectrum.of(np.zeros((3, 4))).estimates(np.ones(3), "rows", np.array([1, 5])).tolist() == [0.0, 0.0]
    blind = Spectrum.of(np.diag([2.0, 0.0])).estimates(np.array([0.0, 1.0]), "rows", np.array([1]))
    assert blind.tolist() == [0.0]
