"""Waves at the symbol's maxima: nearly the leading singular vectors of large maps, on either side."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.convolution.correlation import Correlation
from sn_graph.spectral.convolution.geometry import split_axis
from sn_graph.spectral.convolution.norm import highest_peaks
from sn_graph.spectral.convolution.supremum import peaks
from sn_graph.spectral.convolution.symbol import Symbol
from sn_graph.spectral.convolution.waves import wave_packet
from tests.support.convolutions import random_kernel


def correlation_of(
    shape: tuple[int, ...], stride: int, size: int, offset: int, non_negative: bool, seed: int = 0
) -> Correlation:
    kernel = random_kernel(np.random.default_rng(seed), shape, non_negative).astype(np.float64)[None]
    axes = [
        split_axis(size, (size + 2 * offset - taps) // stride + 1, stride, 1, offset, taps)[0] for taps in shape[2:]
    ]
    return Correlation.of(kernel, axes)


def reached(correlation: Correlation, vector: NDArray[Any], on_small: bool) -> float:
    return float(np.linalg.norm(correlation.adjoint(vector) if on_small else correlation.forward(vector)))


# More outputs than inputs, and the other way round: G(θ) lives on another side.
@pytest.mark.parametrize("shape", [(6, 2, 3, 3), (2, 6, 3, 3), (3, 3, 5), (9, 1, 2, 2, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("on_small", [False, True])
@pytest.mark.parametrize("non_negative", [False, True])
def test_a_wave_is_near_the_supremum(shape: tuple[int, ...], stride: int, on_small: bool, non_negative: bool) -> None:
    """Under a window of n places it loses some (πD/n)² of ‖F‖², and what the border cuts off."""
    size = 40 if len(shape) == 5 else 160
    correlation = correlation_of(shape, stride, size, 1, non_negative)
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    peak = peaks(symbol)[0]
    packet = wave_packet(correlation, symbol, [peak.angle], peak.value * (1 - 1e-9), on_small)
    assert packet.shape == (correlation.small_shape if on_small else correlation.large_shape)
    assert np.linalg.norm(packet) == pytest.approx(1.0, rel=1e-12)
    supremum = math.sqrt(peak.value)
    degree = max(correlation.degrees)
    lost = len(correlation.axes) * (math.pi * (degree + 1) * stride / size) ** 2
    assert supremum * (1 - lost) <= reached(correlation, packet, on_small) <= supremum * (1 + 1e-12)


def test_what_a_wave_loses_falls_with_the_square_of_the_size() -> None:
    lost = []
    for size in (100, 200, 400):
        correlation = correlation_of((1, 1, 4), 1, size, 0, True)
        symbol = Symbol.of(correlation.coefficients, correlation.shifts)
        peak = peaks(symbol)[0]
        packet = wave_packet(correlation, symbol, [peak.angle], 0.0, True)
        lost.append(1.0 - reached(correlation, packet, True) ** 2 / peak.value)
    assert lost[0] / lost[1] == pytest.approx(4.0, rel=0.2)
    assert lost[1] / lost[2] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(("size", "count"), [(60, 2), (600, 1)])
def test_peaks_that_may_lead(size: int, count: int) -> None:
    """cos θ + 0.0005 is 1.0005 at 0 and −0.9995 at π: on a small map the border decides which one leads."""
    kernel = np.array([0.5, 0.0005, 0.5])[None, None, None]
    correlation = Correlation.of(kernel, split_axis(size, size, 1, 1, 1, 3))
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    found, least = highest_peaks(correlation, symbol)
    assert [round(math.sqrt(peak.value), 6) for peak in found] == [1.0005, 0.9995][:count]
    assert least == pytest.approx(1.0005**2 * (1 - (math.pi / size) ** 2), rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_peaks_are_maxima_and_one_of_each_pair(seed: int) -> None:
    correlation = correlation_of((3, 2, 5, 4), 1, 30, 2, False, seed)
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    found = peaks(symbol)
    assert [peak.value for peak in found] == sorted((peak.value for peak in found), reverse=True)
    for index, peak in enumerate(found):
        assert np.linalg.eigvalsh(symbol.grams(peak.angle[None])[0])[-1] == pytest.approx(peak.value, rel=1e-12)
        for other in found[:index]:
            apart = (
                np.exp(1j * peak.angle) - np.exp(1j * other.angle),
                np.exp(1j * peak.angle) - np.exp(-1j * other.angle),
            )
            assert min(float(np.abs(part).max()) for part in apart) > 1e-2
    # The first is a maximum, no higher a little way off; others may have stopped on a slope.
    around = found[0].angle + 1e-2 * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
    assert np.linalg.eigvalsh(symbol.grams(around))[:, -1].max() <= found[0].value * (1 + 1e-9)
    grid = 2 * np.pi * np.stack(np.meshgrid(np.arange(64), np.arange(64)), axis=-1).reshape(-1, 2) / 64
    assert found[0].value >= np.linalg.eigvalsh(symbol.grams(grid))[:, -1].max() * (1 - 1e-9)


@pytest.mark.parametrize("phase", [1, -1, 1j, -1j, (1 + 1j) / 2**0.5])
def test_the_phase_of_an_eigenvector_does_not_matter(phase: complex, monkeypatch: pytest.MonkeyPatch) -> None:
    """At θ = 0 a phase of −i, which LAPACK may give as well as 1, would leave nothing of the wave's real part."""
    correlation = correlation_of((3, 4, 5), 1, 100, 2, True)
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    top = 0.999 * np.linalg.eigvalsh(symbol.grams(np.zeros((1, 1)))[0])[-1]
    plain = wave_packet(correlation, symbol, [np.zeros(1)], top, True)
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda gram: (eigh(gram)[0], phase * eigh(gram)[1]))
    found = wave_packet(correlation, symbol, [np.zeros(1)], top, True)
    assert abs(float(np.vdot(found, plain))) == pytest.approx(1.0, rel=1e-9)


def test_equal_channels_both_get_their_wave() -> None:
    """Two channels that know nothing of each other have the same supremum at θ = 0; the flatter one leads."""
    sharp, flat = np.ones(5) / 5, np.array([0, 1, 4, 1, 0]) / 6
    kernel = np.zeros((2, 2, 5))
    kernel[0, 0], kernel[1, 1] = sharp, 0.99999 * flat
    correlation = Correlation.of(kernel[None], split_axis(300, 300, 1, 1, 2, 5))
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    found, least = highest_peaks(correlation, symbol)
    packet = wave_packet(correlation, symbol, [peak.angle for peak in found], least, True)
    np.testing.assert_allclose(np.linalg.norm(packet, axis=1), math.sqrt(0.5), rtol=1e-6)


def test_a_wave_that_is_taken_to_nothing() -> None:
    """Subnormal taps have products of 0: zeros, not NaN."""
    correlation = Correlation.of(np.full((1, 1, 1, 3), 1e-310), split_axis(50, 50, 1, 1, 1, 3))
    symbol = Symbol.of(correlation.coefficients, correlation.shifts)
    assert not np.isnan(wave_packet(correlation, symbol, [np.zeros(1)], 0.0, False)).any()


def test_mirrored_peaks_are_one() -> None:
    """(0.02, 1) and (−0.02, −1) are both climbed to, because boxes end at θ = 0."""
    row, column = np.mgrid[:9, :9]
    kernel = np.cos(0.02 * row + column)[None, None, None]
    axes = [split_axis(30, 30, 1, 1, 4, 9)[0] for _ in range(2)]
    correlation = Correlation.of(kernel, axes)
    found = peaks(Symbol.of(correlation.coefficients, correlation.shifts))
    assert [peak.value for peak in found[1:] if peak.value >= found[0].value * (1 - 1e-6)] == []
