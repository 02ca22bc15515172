"""Level 1: the product over the graph.

    L(input) = 1,    L(value) = how its step joins the constants of what it is made of

so that for any two inputs each value changes by at most L(value) times as much as the inputs do, jointly: the
constant of a composition is at most the product of the constants (Szegedy et al., 2014, 1312.6199, §4.3), and sums add.
Every operation rounds upwards.
"""

import math
from dataclasses import dataclass

from sn_graph.certify.network import Network
from sn_graph.certify.steps import NoBound, Step, root_of_squares
from sn_graph.errors import ModelError


@dataclass(frozen=True, eq=False)
class Bound:
    """A step, and what is proven of it.

    Attributes:
        step: The step.
        factors: Lipschitz constants in each operand by itself.
        bound: A Lipschitz constant of the step's value in the network's inputs.
    """

    step: Step
    factors: tuple[float, ...]
    bound: float


def product_bounds(network: Network) -> list[Bound]:
    """Return the bound of each step's value, in order.

    Raises:
        ModelError: A size that is not known decides a constant; a weight holds NaN.
        NoBound: A bound exceeds the largest number.
    """
    # All sources changed at once; and each alone, whose constants join as √Σ cᵢ², because one may change after the
    # other: ‖δ‖ ≤ Σ cᵢ‖δᵢ‖.
    found: dict[str, list[float]] = {name: [1.0] for name in network.names}
    if len(network.names) > 1:
        found = {name: [1.0, *(float(name == one) for one in network.names)] for name in network.names}
    made = []
    for step in network.steps:
        factors = _factors(network, step)
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
            raise NoBound("the bound exceeds the largest float64")
        found[step.result] = each
        made.append(Bound(step, factors, bound))
    return made


def _factors(network: Network, step: Step) -> tuple[float, ...]:
    if not (step.result in network.dynamic or any(name in network.dynamic for name in step.operands)):
        return step.factors()
    known = step.suprema()
    found = tuple(one for one in known if one is not None)
    if len(found) < len(known):
        names = " ".join(f"--dim {name}=N" for name in network.open)
        raise ModelError(
            f"the size {', '.join(network.open)} of the input is not known",
            f"and node '{step.path}' ({step.rule}) has no constant that holds for every size",
            f"give it with {names}",
        )
    return found
