"""Targets: the one bound of all folded weights by which a network's constant comes out at most as asked for.

The product over the graph (`product`) is made of sums, products and roots of sums of squares of the nodes' constants.
So it grows with the bound, and its logarithm is a convex function of the bound's, of a slope between 0 and the number
of folded nodes on a path. How the constant of a node follows the bound is seen from two folds, of bounds 1 and 1/2:
as bᵏ, with k = 0 where nothing of it is folded. That tells the bound; what counts is the product of the model that is
folded by it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sn_graph.certify.build import network_of
from sn_graph.certify.network import Network
from sn_graph.certify.product import output_bound, product_bounds
from sn_graph.certify.question import float_names
from sn_graph.certify.steps import Unbounded, root_of_squares
from sn_graph.errors import ModelError
from sn_graph.model import Model

# A bound is good where the constant lies within this part below the target.
NEAR = 1e-4
ROUNDS = 60
# Where not even weights of this norm help, or ones so large change nothing any more, the rest of the network decides.
LEAST, LARGEST = 1e-12, 1e12

Factors = tuple[tuple[float, ...], ...]
"""The constants of each step of a network in each operand."""


@dataclass(frozen=True, eq=False)
class Product:
    """The product over the graph of all float outputs of a model together, in some of its inputs together.

    Attributes:
        networks: One an output.
        factors: The constants of the steps of each.
    """

    networks: tuple[Network, ...]
    factors: tuple[Factors, ...]

    @classmethod
    def of(cls, model: Model, inputs: Sequence[str] = (), dims: Mapping[str, int] | None = None) -> "Product":
        """Find the constants of a model's nodes.

        Args:
            model: The model.
            inputs: Those whose changes count, jointly; none for all float inputs.
            dims: Sizes of dynamic dimensions by name.

        Raises:
            ModelError: The model has no constant, or a size must be known that is not.
        """
        floats, outputs = float_names(model)
        inputs = inputs or floats
        if not inputs or not outputs:
            raise ModelError(f"{model.name} has no float {'output' if inputs else 'input'}", "so it has no constant")
        networks = [_network(model, inputs, output, dims) for output in outputs]
        factors = []
        for network in networks:
            bounds = product_bounds(network)
            if isinstance(bounds, Unbounded):
                raise _unbounded(bounds)
            factors.append(tuple(one.factors for one in bounds))
        return cls(tuple(networks), tuple(factors))

    @property
    def constant(self) -> float:
        """The Lipschitz constant that is proven."""
        return self.with_factors(self.factors)

    def with_factors(self, factors: tuple[Factors, ...]) -> float:
        """Return the constant for others of the steps."""
        return root_of_squares([_constant(*pair) for pair in zip(self.networks, factors, strict=True)])

    def scaled(self, half: "Product", bound: float) -> float:
        """Return the constant for another bound, as this one, of the bound 1, and that of half of it tell it."""
        found = []
        for ours, theirs in zip(self.factors, half.factors, strict=True):
            pairs = zip(ours, theirs, strict=True)
            found.append(tuple(tuple(map(lambda a, b: a * bound ** _exponent(a, b), one, two)) for one, two in pairs))
        return self.with_factors(tuple(found))


def fold_to(
    target: float, folded: Callable[[float], Model], inputs: Sequence[str] = (), dims: Mapping[str, int] | None = None
) -> tuple[float, float]:
    """Find the largest bound whose product over the graph is at most a target, to `NEAR`.

    Args:
        target: The constant asked for, positive.
        folded: Returns the model whose weights are folded by a bound.
        inputs, dims: See `Product.of`.

    Returns:
        The bound, and the constant that is proven of the model folded by it.

    Raises:
        ModelError: What is not folded has a larger constant by itself; or there is no constant.
    """
    one, half = (Product.of(folded(bound), inputs, dims) for bound in (1.0, 0.5))
    guess = bound_for(target, lambda bound: one.scaled(half, bound))
    return bound_and_constant(target, lambda bound: Product.of(folded(bound), inputs, dims).constant, guess)


def bound_for(target: float, constant: Callable[[float], float], guess: float = 1.0) -> float:
    """Find the largest bound whose constant is at most a target, to `NEAR`; see `bound_and_constant`."""
    return bound_and_constant(target, constant, guess)[0]


def bound_and_constant(target: float, constant: Callable[[float], float], guess: float) -> tuple[float, float]:
    """Find the largest bound whose constant is at most a target, to `NEAR`, by secants between bounds that enclose it.

    Args:
        target: The constant asked for, positive.
        constant: Returns the constant for a bound; grows with it.
        guess: The bound to begin with.

    Returns:
        A bound that was tried, and its constant; those of the largest, where the constant stays below the target
        however large the bound.

    Raises:
        ModelError: The constant stays above the target however small the bound.
    """
    goal = math.log(target) + math.log1p(-NEAR / 2.0)
    best: tuple[float, float] | None = None
    below: tuple[float, float] | None = None
    above: tuple[float, float] | None = None
    last: tuple[float, float] | None = None
    bound, slope = guess, 1.0
    for _ in range(ROUNDS):
        value = constant(bound)
        point = (math.log(bound), math.log(value) if value > 0.0 else -math.inf)
        if value <= target:
            if best is None or bound > best[0]:
                best, below = (bound, value), point
            if value >= target * (1.0 - NEAR) or bound >= LARGEST:
                break
        else:
            above = point if above is None or point[0] < above[0] else above
            if bound <= LEAST:
                break
        if last is not None and last[0] != point[0] and math.isfinite(last[1]) and math.isfinite(point[1]):
            slope = (point[1] - last[1]) / (point[0] - last[0])
        last = point
        bound = math.exp(_next(goal, point, slope, below, above))
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


def _exponent(whole: float, half: float) -> int:
    """Return how often the bound is a factor of a constant that falls from one to the other as it is halved."""
    return round(math.log2(whole / half)) if whole > 0.0 and half > 0.0 else 0


def _network(model: Model, inputs: Sequence[str], output: str, dims: Mapping[str, int] | None) -> Network:
    found = network_of(model, inputs=inputs, output=output, dims=dims)
    if isinstance(found, Unbounded):
        raise _unbounded(found)
    return found


def _unbounded(found: Unbounded) -> ModelError:
    return ModelError(f"no bound helps: the network is unbounded at {found.path}", found.reason, found.do)


def _constant(network: Network, factors: Factors) -> float:
    bounds = product_bounds(network, known=factors)
    return math.inf if isinstance(bounds, Unbounded) else output_bound(network, bounds)
