"""The attained end: two inputs of a network whose outputs lie as far apart, in proportion, as a search finds.

    q(x, v, ε) = ‖f(x + εv) − f(x − εv)‖ / 2ε,    ‖v‖ = 1

Every such pair is a lower end of the Lipschitz constant, so nothing rests on how it was found. With u the direction of
the difference, and J₊, J₋ the Jacobians at the two ends,

    ∂q/∂v = (J₊ᵀu + J₋ᵀu)/2          v takes this direction: at ε → 0 that is power iteration on the Jacobian
    ∂q/∂x = (J₊ᵀu − J₋ᵀu)/2ε         x goes up along it, by strides that grow while they help and shrink where not

from several starts: standard normal inputs at several scales, since networks bend at the scale of their biases. A
finite ε carries the search across the kinks of piecewise linear networks, where the gradient of ‖J(x)v‖ is 0 almost
everywhere.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sn_graph.progress import Progress, silent

Array = NDArray[np.float64]

# Scales of the inputs that the search starts from first, then drawn between the least and the largest.
SCALES = (1.0, 0.1, 10.0, 100.0, 0.01)
# Half the distance of the two ends, in parts of the length of an input of that scale.
REACHES = (0.3, 0.03, 0.003, 1.0)
# Steps of a start, and how many in a row may bring nothing.
ROUNDS = 40
PATIENCE = 8
# How many of the best are kept to start from again, and when to stop: starts in a row that brought less than this.
KEPT = 8
STARTS = 200
GAIN = 1e-4


class Evaluated(Protocol):
    """A function at a point: its value, and the transpose of its Jacobian there."""

    @property
    def output(self) -> Array:
        """The value, of any shape."""

    def pull(self, cotangent: Array) -> Array:
        """Return Jᵀ times an array of the output's shape: one of the input's length."""


Function = Callable[[Array], Evaluated]
"""Evaluates a network at an input, as a vector [n]."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Two inputs x ± εv, and what the search knows of them.

    Attributes:
        x: The point between, [n].
        v: The direction, [n], of length 1.
        reach: ε.
        quotient: How far the outputs lie apart in proportion; 0 where it was not measured.
        stride: How far x goes in the next step.
    """

    x: Array
    v: Array
    reach: float
    quotient: float = 0.0
    stride: float = 0.0

    @property
    def ends(self) -> tuple[Array, Array]:
        """The two inputs."""
        return self.x - self.reach * self.v, self.x + self.reach * self.v


def search(
    function: Function, length: int, seconds: float, *, seed: int = 0, progress: Progress = silent
) -> list[Segment]:
    """Look for inputs whose outputs lie far apart, for so long, and from one start at least.

    Args:
        function: Evaluates the network.
        length: n, the number of elements of its input.
        seconds: When to stop.
        seed: Of the starts.
        progress: Told the starts made.

    Returns:
        What was found, the best first; nothing where no start gave a finite difference.
    """
    begun, seconds = time.monotonic(), max(seconds, 1e-3)
    end = begun + seconds
    rng = np.random.default_rng(seed)
    best: list[Segment] = []
    waited, number = 0, 0
    while waited < STARTS and (number == 0 or time.monotonic() < end):
        before = best[0].quotient if best else 0.0
        start = _fresh(length, rng, number) if number < 2 * len(SCALES) or rng.random() < 0.3 else _moved(best, rng)
        best = sorted([*best, _climb(function, start, end)], key=lambda one: -one.quotient)[:KEPT]
        waited = 0 if best[0].quotient > before * (1.0 + GAIN) else waited + 1
        number += 1
        progress("attained", min(999, round(1000 * (time.monotonic() - begun) / max(seconds, 1e-9))), 1000)
    progress("attained", 1000, 1000)
    return [one for one in best if one.quotient > 0.0]


def _fresh(length: int, rng: np.random.Generator, number: int) -> Segment:
    """Return a start at one of the scales, of which the first starts take each."""
    scale = SCALES[number] if number < len(SCALES) else 10.0 ** rng.uniform(-2.0, 2.0)
    reach = REACHES[0 if number < len(SCALES) else rng.integers(len(REACHES))] * scale * math.sqrt(length)
    return Segment(scale * rng.standard_normal(length), _unit(rng, length), reach, stride=reach)


def _moved(best: Sequence[Segment], rng: np.random.Generator) -> Segment:
    """Return a start beside one of the best, near or far, with the ends closer together or further apart."""
    one = best[int(rng.integers(len(best)))]
    size = float(np.linalg.norm(one.x)) or one.reach
    step = size * 10.0 ** rng.uniform(-3.0, 0.5)
    along = one.v if rng.random() < 0.3 else _unit(rng, len(one.v))
    reach = size * 10.0 ** rng.uniform(-3.0, 0.0)
    return Segment(one.x + rng.choice((-1.0, 1.0)) * step * along, one.v, reach, stride=step)


def _unit(rng: np.random.Generator, length: int) -> Array:
    drawn = rng.standard_normal(length)
    return drawn / np.linalg.norm(drawn)


def _climb(function: Function, start: Segment, end: float) -> Segment:
    """Return the best that alternating steps of v and x lead to."""
    best, at = replace(start, quotient=0.0), start
    slopes: tuple[Array, Array] | None = None
    waited = 0
    for number in range(ROUNDS):
        if (number and time.monotonic() > end) or waited > PATIENCE:
            break
        quotient, along, up = _slopes(function, at)
        if math.isfinite(quotient) and quotient > best.quotient:
            waited = 0 if quotient > best.quotient * (1.0 + 1e-4) else waited + 1
            best, slopes = replace(at, quotient=quotient, stride=at.stride * 1.5), (along, up)
        elif slopes is None:
            break
        else:
            waited += 1
            best, (along, up) = replace(best, stride=best.stride * 0.4), slopes
        length, rise = float(np.linalg.norm(along)), float(np.linalg.norm(up))
        if length == 0.0:
            break
        x = best.x + (best.stride / rise) * up if rise > 0.0 else best.x
        at = Segment(x, along / length, best.reach, stride=best.stride)
    return best


def _slopes(function: Function, at: Segment) -> tuple[float, Array, Array]:
    """Return the quotient, and its derivatives by v and by x."""
    with np.errstate(all="ignore"):
        behind, ahead = (function(end) for end in at.ends)
        difference = ahead.output - behind.output
        distance = float(np.linalg.norm(difference))
        nothing = np.zeros_like(at.x)
        if not (distance > 0.0 and math.isfinite(distance)):
            return distance, nothing, nothing
        direction = difference / distance
        forth, back = ahead.pull(direction), behind.pull(direction)
        return distance / (2.0 * at.reach), (forth + back) / 2.0, (forth - back) / (2.0 * at.reach)
