"""The symbol's Gram matrices, against sums over plane waves and differences."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.convolution import symbol as module
from sn_graph.spectral.convolution.correlation import Correlation
from sn_graph.spectral.convolution.geometry import split_axis
from sn_graph.spectral.convolution.symbol import Symbol


@pytest.mark.parametrize("shape", [(1, 2, 3, 5), (2, 4, 2, 3), (1, 3, 3, 4)])
def test_symbol_is_the_operator_on_plane_waves(shape: tuple[int, int, int, int]) -> None:
    """G(θ) has the squared singular values of Σ_u B_u e^{iu·θ}, summed directly, for tall and wide blocks."""
    rng = np.random.default_rng(4)
    groups, small, large, taps = shape
    kernel = rng.standard_normal((groups, small, large, taps, 3))
    axes = [split_axis(taps + 2, 2, 2, 1, 0, taps)[0], split_axis(5, 2, 1, 1, 0, 3)[0]]
    correlation = Correlation.of(kernel, axes)
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    angles = rng.uniform(-4, 4, (5, 2))
    grams = symbol.grams(angles).reshape(5, groups, symbol.side, symbol.side)
    for index, angle in enumerate(angles):
        waves = np.exp(1j * (correlation.shifts @ angle))
        for group in range(groups):
            block = np.tensordot(waves, correlation.coefficients[:, group], 1)
            expected = np.linalg.svd(block, compute_uv=False) ** 2
            found = np.linalg.eigvalsh(grams[index, group])[::-1]
            np.testing.assert_allclose(found, expected[: symbol.side], atol=1e-12 * expected[0])
            assert abs(found[0] - expected[0]) <= symbol.error


@pytest.mark.parametrize("shape", [(1, 2, 3, 5), (2, 3, 3, 4)])
def test_slope(shape: tuple[int, int, int, int]) -> None:
    """vᴴ ∂G/∂θ v against central differences."""
    rng = np.random.default_rng(5)
    axes = [split_axis(taps + 1, 2, 1, 1, 0, taps)[0] for taps in (shape[3], 3)]
    correlation = Correlation.of(rng.standard_normal((*shape, 3)), axes)
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    angle = rng.uniform(-3, 3, 2)
    vector = rng.standard_normal(symbol.side) + 1j * rng.standard_normal(symbol.side)
    for group in range(shape[0]):

        def form(at: NDArray[np.float64], group: int = group) -> float:
            return float((vector.conj() @ symbol.grams(at[None])[group] @ vector).real)

        # Central differences are off by h² and by 1e-16/h, here 1e-10 each, of values of some 1e3.
        differences = [(form(angle + step) - form(angle - step)) / 2e-5 for step in 1e-5 * np.eye(2)]
        np.testing.assert_allclose(symbol.slope(angle, group, vector), differences, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 40, 1 << 21])
def test_parts_are_all_frequencies(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    correlation = Correlation.of(np.ones((2, 2, 3, 3)), split_axis(9, 9, 1, 1, 1, 3))
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    angles = np.arange(12.0)[:, None]
    parts = list(symbol.parts(angles))
    np.testing.assert_array_equal(np.concatenate(parts), angles)
    # Two groups of order 2 are eight numbers a frequency.
    assert max(map(len, parts)) == min(12, max(1, chunk // 8))
