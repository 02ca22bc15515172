"""Trials of random large convolutions, their norm begun with waves and at random: what waves miss, and what they save.

    python tools/wave_trials.py --count 500

Maps of 45 to 390 places an axis, 1 to 15 channels, 2 to 7 taps, strides 1 to 3, any pads, as Conv and ConvTranspose;
Gaussian, non-negative, smooth and low-rank kernels. The certain rule from a random start is the judge. Prints how many
were proven by the bound from above, the greatest error of those, and both times; ends with 1 if an error passes 1e-5 or
a bound lies below an attained value.
"""

import argparse
import importlib
import itertools
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.convolution import Bracket, Convolution, operator_norm

# Reached by name: the trials set what no caller sets.
correlation_norm: Any = importlib.import_module("sn_graph.spectral.convolution.norm")

PROMISED = 1e-5
NEVER = 1 << 62


def random_kernel(generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw a kernel [outputs, inputs, taps, taps]: Gaussian, non-negative, smooth or of low rank."""
    outputs, inputs = generator.integers(1, 16, 2)
    taps = int(generator.integers(2, 8))
    kernel = generator.standard_normal((outputs, inputs, taps, taps))
    match generator.integers(4):
        case 1:
            kernel = np.abs(kernel)
        case 2:
            kernel += 2.0 * generator.standard_normal((outputs, inputs, 1, 1))
        case 3:
            kernel = generator.standard_normal((outputs, 1, taps, taps)) * generator.standard_normal(
                (1, inputs, 1, taps)
            )
    return kernel.astype(np.float32)


def random_convolution(generator: np.random.Generator) -> Convolution:
    """Draw a Conv or ConvTranspose on a large map, with any stride and pads."""
    kernel = random_kernel(generator)
    stride = int(generator.choice([1, 1, 1, 2, 3]))
    transposed = bool(generator.integers(2))
    size = int(generator.integers(45, 131)) * (1 if transposed else stride)
    pads = tuple(int(pad) for pad in generator.integers(0, kernel.shape[2] + 1, 4))
    return Convolution(kernel, (stride, stride), (1, 1), pads, 1, (size, size), transposed)


def timed(convolution: Convolution, waves: bool) -> tuple[Bracket, float]:
    """Return the bracket, begun with waves or at random, and the seconds that it took."""
    correlation_norm.WAVE_LENGTH = 0 if waves else NEVER
    start = time.perf_counter()
    return operator_norm(convolution), time.perf_counter() - start


def main() -> int:
    """Run the trials; return 1 if an error or a bound is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="how many convolutions (500)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    many = (random_convolution(generator) for _ in itertools.count())
    # A wave needs a tap that two outputs share.
    chosen = (convolution for convolution in many if convolution.kernel.shape[2] > convolution.strides[0])
    # No map's matrix is written out: all of them go the way of the large ones.
    correlation_norm.DENSE_SIDE = 0
    proven, worst, wrong, took = 0, 0.0, 0, [0.0, 0.0]
    for convolution in itertools.islice(chosen, options.count):
        (found, fast), (judge, slow) = timed(convolution, waves=True), timed(convolution, waves=False)
        wrong += max(found.lower, judge.lower) > min(found.upper, judge.upper) * (1.0 + 1e-12)
        if found.upper <= found.lower * (1.0 + correlation_norm.ACCEPTED):
            proven += 1
            worst = max(worst, 1.0 - found.lower / judge.lower)
            took = [took[0] + fast, took[1] + slow]
    print(f"{proven} of {options.count} proven; the furthest {worst:.1e} below; {wrong} bounds below an attained value")
    print(f"seconds for those: {took[0]:.1f} with waves, {took[1]:.1f} from a random start")
    return int(wrong > 0 or worst > PROMISED)


if __name__ == "__main__":
    raise SystemExit(main())
