"""Starts: the vector u that the iteration of each weight begins with, and what that iteration goes through."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.norms.matrix import exact_triplet
from sn_graph.norms.operator import Enclosure, Operators, alpha, state_length
from sn_graph.plan import Plan, Target
from sn_graph.spectral.matrix import seeded_state, stable_rank
from sn_graph.state import State, load_state

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution

# A largest element below which eps itself could act, and make σ wrong.
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Start:
    """How the iteration of one weight begins.

    Attributes:
        target: The weight.
        u: Its first state [n], float32 or float64.
        largest: The largest |element| of the weight.
        stable_rank: ‖M‖_F²/σ², about; 1 of a matrix of rank 1. 0 where the iteration goes through a convolution.
        floor: What ‖x‖ is at least, as a divisor.
        through: The convolution that the iteration goes through; None where it is the matrix.
        factor: What the matrix is multiplied by in the norm that counts: Gemm's |alpha|, or 1.
        sigma: The matrix's norm, where u is its leading singular vector.
        enclosed: The norm of `through`, where u is its leading singular vector.
    """

    target: Target
    u: NDArray[np.floating]
    largest: float
    floor: float
    stable_rank: float = 0.0
    through: "Convolution | None" = None
    factor: float = 1.0
    sigma: float | None = None
    enclosed: Enclosure | None = None


class Starter:
    """Chooses the starts of one model's weights.

    Args:
        model, plan: The model, and what is planned for it.
        state: Where u starts; a site that it lacks starts at random.
        seed: Of the random ones.
        exact: Whether to start from the leading singular vectors in place of either.
    """

    def __init__(self, model: Model, plan: Plan, state: State, seed: int = 0, *, exact: bool = False) -> None:
        self._plan = plan
        self._state = state
        self._seed = seed
        self._exact = exact
        self.operators = Operators(model)

    def start(self, target: Target, matrix: NDArray[Any], largest: float) -> Start:
        """Return where a weight starts; its matrix [rows, cols] and the largest |element| of it, above 0, are given."""
        by_node = self._plan.norm == "operator"
        through = self.operators.iterated(target) if by_node else None
        factor = abs(alpha(target.uses[0])) if by_node else 1.0
        floor = self._plan.eps * (largest if largest < _TINY else 1.0)
        if not self._exact:
            u = self._state.u.get(target.id)
            drawn = seeded_state(self._seed, target.id, state_length(target, through)) if u is None else u
            rank = stable_rank(matrix) if through is None else 0.0
            return Start(target, drawn, largest, floor, rank, through, factor)
        if through is None:
            leading = exact_triplet(target, matrix)
            u = leading.left if target.view.side == "rows" else leading.right
            rank = stable_rank(matrix, leading.sigma)
            return Start(target, u, largest, floor, rank, None, factor, sigma=leading.sigma)
        from sn_graph.spectral.convolution import operator_norm

        found = operator_norm(through, vectors=True)
        assert found.left is not None, "a map of unknown size, which `Operators.refusal` refuses before"
        enclosed = Enclosure(found.lower, found.upper)
        u = found.left.reshape(-1)
        return Start(target, u, largest, floor, through=through, factor=factor, enclosed=enclosed)


def plan_state(plan: Plan, model: Model) -> State:
    """Return the state of a plan's file for its eligible sites; empty where it names none.

    Raises:
        ModelError: As `load_state`, or the file's header names another convention, whose u may be on the other side.
    """
    if plan.state is None:
        return State({}, {})
    operators = Operators(model)
    lengths = {target.id: operators.state_length(target, plan.norm) for target in plan.targets()}
    state = load_state(plan.state, model, lengths)
    if state.convention not in (None, str(plan.convention)):
        raise ModelError(
            f"state {plan.state} is of convention {state.convention}",
            f"and {plan.convention} is in force",
            f"give --convention {state.convention}",
        )
    return state
