"""Waves to begin the search of a large convolution's norm with: those that its symbol lengthens most, under a window.

On a large map the leading singular vector is a wave at a maximum of ‖F(θ)‖ that falls off towards the border, as sin
does on an interval, and so are those next to it, each with a value smaller by O(1/n²) (as of Toeplitz matrices: Parter,
1961, On the extreme eigenvalues of Toeplitz matrices, Trans. AMS 100). From a random start hundreds of steps pass until
these can be told apart; the wave is within a few per cent of the norm at the first step, and settles within tens.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.convolution.correlation import Correlation
from sn_graph.spectral.convolution.symbol import Symbol

Array = NDArray[np.float64]


def wave_packet(
    correlation: Correlation, symbol: Symbol, angles: Sequence[Array], least: float, on_small: bool
) -> Array:
    """Add up the waves of some frequencies, as a vector on one side of a correlation of one group.

    Args:
        correlation: The convolution.
        symbol: Its symbol.
        angles: θ [rank], maxima of ‖F(θ)‖.
        least: The ‖F v‖² from which on eigenvectors v of a frequency take part.
        on_small: Whether the vector lives on the small side.

    Returns:
        [channels, places…] of that side, of length 1; zeros where the correlation takes all of them to 0.
    """
    _, _, small, phases = correlation.coefficients.shape
    if small <= phases:
        waves = _waves(symbol, angles, 1.0, least, correlation.small_shape[1:])
        packet = waves if on_small else correlation.adjoint(waves)
    else:
        # G(θ) is FᵀF̄ here, the conjugate of what acts on the inputs' waves, as is G(−θ) of itself.
        waves = _waves(symbol, angles, -1.0, least, correlation.extents)
        inputs = correlation.from_phases(waves.reshape(1, phases, -1))
        packet = correlation.forward(inputs) if on_small else inputs
    length = float(np.linalg.norm(packet))
    return packet / length if length else packet


def _waves(symbol: Symbol, angles: Sequence[Array], sign: float, least: float, sizes: Sequence[int]) -> Array:
    total = np.zeros((symbol.side, *sizes))
    for angle in angles:
        wave = np.ones((), np.complex128)
        for size, turn in zip(sizes, angle, strict=True):
            places = np.arange(size)
            wave = wave[..., None] * (np.sin(np.pi * (places + 1) / (size + 1)) * np.exp(1j * turn * places))
        values, vectors = np.linalg.eigh(symbol.grams(sign * angle[None])[0])
        for vector in vectors[:, values >= least].T:
            # Only the real part is taken: where a vector is real but for its phase, as at θ = 0, that is all of it.
            turned = vector * np.exp(-0.5j * np.angle((vector * vector).sum()))
            for channel, weight in zip(total, turned, strict=True):
                channel += (weight * wave).real
    return total
