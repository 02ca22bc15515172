"""Level 1: the product over the graph.

    L(input) = 1,    L(value) = how its step joins the constants of what it is made of

so that for any two inputs each value changes by at most L(value) times as much as the inputs do, jointly: the
constant of a composition is at most the product of the constants (Szegedy et al., 2014, 1312.6199, §4.3), and sums add.
Every operation rounds upwards.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sn_graph.certify.network import Network
from sn_graph.certify.steps import Convolved, Linear, Step, Unbounded, root_of_squares
from sn_graph.errors import ModelError


@dataclass(frozen=True, eq=False)
class Bound:
    """A step, and what is proven of it.

    Attributes:
        step: The step.
        factors: Lipschitz constants in each operand by itself.
        bound: A Lipschitz constant of the step's value in the network's inputs.
        is_hurried: Whether there was no time for the norm of a convolution at its size.
    """

    step: Step
    factors: tuple[float, ...]
    bound: float
    is_hurried: bool = False


def product_bounds(
    network: Network, deadline: float = math.inf, known: Sequence[tuple[float, ...]] | None = None
) -> list[Bound] | Unbounded:
    """Return the bound of each step's value, in order, or the step whose bound exceeds all numbers.

    Args:
        network: The network.
        deadline: By time.monotonic, when to go over to coarser norms of convolutions.
        known: The factors of each step, where they are known.

    Raises:
        ModelError: A size that is not known decides a constant; a weight holds NaN.
    """
    # All sources changed at once; and each alone, whose constants join as √Σ cᵢ², because one may change after the
    # other: ‖δ‖ ≤ Σ cᵢ‖δᵢ‖.
    found: dict[str, list[float]] = {name: [1.0] for name in network.names}
    if len(network.names) > 1:
        found = {name: [1.0, *(float(name == one) for one in network.names)] for name in network.names}
    made = []
    hurried = _beyond(network, deadline) if known is None else set[str]()
    for place, step in enumerate(network.steps):
        factors = _factors(network, step, step.result in hurried) if known is None else known[place]
        operands = [found[name] for name in step.operands]
        each = [step.combined(factors, constants) for constants in zip(*operands, strict=True)]
        bound = each[0] if len(each) == 1 else min(each[0], root_of_squares(each[1:]))
        if math.isnan(bound):
            raise ModelError(
                f"node '{step.path}' reads a weight that holds NaN or infinite values",
                "so the network has no Lipschitz constant",
                "repair the model",
            )
        if math.isinf(bound):
            return Unbounded(step.node, step.path, "the bound up to it exceeds the largest float64")
        found[step.result] = each
        made.append(Bound(step, factors, bound, step.result in hurried))
    return made


def output_bound(network: Network, bounds: Sequence[Bound]) -> float:
    """Return what level 1 gives; of an input that leaves as it came 1, of a constant 0."""
    if network.constant is not None:
        return 0.0
    return next((one.bound for one in reversed(bounds) if one.step.result == network.output), 1.0)


def _beyond(network: Network, deadline: float) -> set[str]:
    """Take the norms of convolutions as far as there is time; return the values of the steps for which there was none.

    Each gets the cheaper of its norm at its size and its supremum over all sizes, which is little above it, the
    cheapest first; then those that got the second get the first.
    """
    steps = [step for step in network.steps if isinstance(step, Linear)]
    waiting = [
        (part, _is_open(network, step), step.result)
        for step in steps
        for one in step.parts
        for part in one.slow
        if isinstance(part, Convolved)
    ]
    clock = _Clock(deadline)
    lacking = []
    for part, dynamic, result in sorted(waiting, key=lambda one: min(one[0].seconds(True), one[0].seconds(one[1]))):
        supremum = dynamic or part.seconds(True) < part.seconds(False)
        done = clock.takes(part.seconds(supremum), part.supremum if supremum else part.norm)
        if not done or (supremum and not dynamic):
            lacking.append((part, result, dynamic))
    late = set()
    for part, result, dynamic in sorted(lacking, key=lambda one: one[0].seconds(False)):
        if dynamic or not clock.takes(part.seconds(False), part.norm):
            late.add(result)
    return late


class _Clock:
    """Does what there is time for, and learns how fast it is done."""

    def __init__(self, deadline: float) -> None:
        self._deadline, self._pace = deadline, 1.0

    def takes(self, seconds: float, work: Callable[[], object]) -> bool:
        """Do a work that is estimated to take so long, if there is time, and say whether there was."""
        begun = time.monotonic()
        if begun + self._pace * seconds > self._deadline:
            return False
        work()
        if seconds > _LONG:  # below, the time is mostly that of other things
            self._pace = max(self._pace, (time.monotonic() - begun) / seconds)
        return True


_LONG = 0.3


def _is_open(network: Network, step: Step) -> bool:
    return step.result in network.dynamic or any(name in network.dynamic for name in step.operands)


def _factors(network: Network, step: Step, hurried: bool) -> tuple[float, ...]:
    dynamic = _is_open(network, step)
    known: Sequence[float | None]
    if hurried and isinstance(step, Linear):
        known = [part.quick(dynamic) for part in step.parts]
    else:
        known = step.suprema() if dynamic else step.factors()
    found = tuple(one for one in known if one is not None)
    if len(found) < len(known):
        names = " ".join(f"--dim {name}=N" for name in network.open)
        raise ModelError(
            f"the size {', '.join(network.open)} of the input is not known",
            f"and node '{step.path}' ({step.rule}) has no constant that holds for every size",
            f"give it with {names}",
        )
    return found
