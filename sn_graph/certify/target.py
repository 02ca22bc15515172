"""Targets: the one bound of all folded weights by which a network's constant comes out at most as asked for."""

import math
from collections.abc import Callable

from sn_graph.errors import ModelError

# A bound is good where the constant lies within this part below the target.
NEAR = 1e-4
ROUNDS = 40
# Where not even weights of this norm help, or ones so large change nothing any more, the rest of the network decides.
LEAST, LARGEST = 1e-12, 1e12


def bound_for(target: float, constant: Callable[[float], float], layers: int) -> float:
    """Find the largest bound whose constant is at most a target, to `NEAR`.

    The product over a graph is made of sums, products and roots of sums of squares of norms, so it grows with the
    bound, and its logarithm is a convex function of the bound's, of a slope between 0 and the number of scaled nodes on
    a path. The secant through the last two points is followed, within the points that enclose the answer. Nothing
    rests on that: the bound returned is one that was tried.

    Args:
        target: The constant asked for, positive.
        constant: Returns the proven constant where every folded weight has the norm `bound`.
        layers: How many weights are folded: the first guess of the slope.

    Returns:
        The bound; where the constant stays below the target however large the bound, the largest that was tried.

    Raises:
        ModelError: What is not folded has a larger constant by itself.
    """
    below: tuple[float, float] | None = None
    above: tuple[float, float] | None = None
    last: tuple[float, float] | None = None
    best: float | None = None
    bound, slope = 1.0, float(max(1, layers))
    for _ in range(ROUNDS):
        value = constant(bound)
        point = (math.log(bound), math.log(value) if value > 0.0 else -math.inf)
        if value <= target:
            if best is None or bound > best:
                best, below = bound, point
            if value >= target * (1.0 - NEAR) or bound >= LARGEST:
                break
        else:
            above = point if above is None or point[0] < above[0] else above
            if bound <= LEAST:
                break
        if last is not None and last[0] != point[0] and math.isfinite(last[1]) and math.isfinite(point[1]):
            slope = (point[1] - last[1]) / (point[0] - last[0])
        last = point
        bound = math.exp(_next(math.log(target) + math.log1p(-NEAR / 2.0), point, slope, below, above))
    if best is None:
        raise ModelError(
            f"no bound of the folded weights gives a constant of {target:g}",
            f"because what is not folded has {value:g} by itself",
            "ask for a larger constant, or fold the other weights too",
        )
    return best


def _next(
    goal: float,
    point: tuple[float, float],
    slope: float,
    below: tuple[float, float] | None,
    above: tuple[float, float] | None,
) -> float:
    """Return the logarithm of the bound to try next."""
    step = (goal - point[1]) / slope if slope > 1e-3 and math.isfinite(point[1]) else math.inf
    if below is not None and above is not None:
        tried = point[0] + step
        inside = below[0] < tried < above[0]
        return tried if inside else (below[0] + above[0]) / 2.0
    longest = math.log(1e4)
    step = min(step, longest) if below is not None else max(-longest, step if math.isfinite(step) else -longest)
    return min(math.log(LARGEST), max(math.log(LEAST), point[0] + step))
