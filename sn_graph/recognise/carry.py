"""Carrying on: what the power iteration needs of a recognised chain: the weight, its matrix, its u and its target.

γ·N / σ(N)           N iterated, with target norm γ
g·N / max(1, σ/c)    g·N iterated, with the soft cap g·c
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sn_graph.model import Model
from sn_graph.recognise.evaluate import Evaluator
from sn_graph.recognise.explanation import Explanation
from sn_graph.recognise.forms import Form
from sn_graph.recognise.matrices import rows_as, view_as
from sn_graph.recognise.results import Multiple, result_of
from sn_graph.sites import MatrixView


@dataclass(frozen=True, eq=False)
class Carry:
    """A weight to iterate.

    Attributes:
        weight: What is to be stored, not normalized.
        view: Its matrix, and the side on which `u` lives.
        u: The vector that the iteration goes on from.
        bound, clip: The target norm; with `clip`, the soft cap.
    """

    weight: Multiple | NDArray[np.generic]
    view: MatrixView
    u: NDArray[np.float64]
    bound: float
    clip: bool


def carry(model: Model, found: Explanation) -> Carry | str:
    """Return how a spectral norm goes on as an iteration, or why it can't. Raises NotComputable."""
    chain, estimate, gain = found.chain, found.estimate, found.gain
    if chain is None or estimate is None or gain is None or found.form is Form.WEIGHT_NORM:
        return "no spectral norm, so there is nothing to iterate"
    if len(found.parts) > 1:
        return "joined of several weights, each with its own norm, which no insertion can iterate; lift it --to fold"
    if chain.by_channel:
        return "scaled by channel behind the division (BatchNorm?), which no insertion can keep; lift it --to fold"
    if gain <= 0.0:
        return f"its target norm {gain:g} is not above 0; lift it --to fold"
    scale = gain if found.cap is not None else 1.0
    weight = result_of(model, found, multipliers=[scale / chain.gain])
    evaluator = Evaluator(model)
    tensor = evaluator.value(chain.tensor.scope, chain.tensor.name)
    shape = found.shape or tensor.shape
    read = tensor.reshape(shape) if isinstance(weight, Multiple) else weight
    view = view_as(read, estimate.view.matrix(tensor), 1.0 if isinstance(weight, Multiple) else scale)
    order = None
    if view is None and scale == 1.0:
        view, order = rows_as(read, estimate.view.matrix(tensor)) or (None, None)
    if view is None:
        return "its elements are read in another order than its matrix has them; lift it --to fold"
    # The parametrization begins at v; where one vector alone is stored, the iteration begins there.
    begins_right = found.original is not None and "parametrizations." in found.original.name
    vector, on_rows = estimate.left, True
    if estimate.left is None or (begins_right and estimate.right is not None):
        vector, on_rows = estimate.right, False
    if vector is None:
        return "no vector is stored that the iteration could begin with; lift it --to fold"
    rows_first = view.side == "rows"
    side_view = MatrixView(view.split, view.perm, view.rows, view.cols, "rows" if on_rows == rows_first else "cols")
    bound = gain * found.cap if found.cap is not None else gain
    u = vector.elements if order is None or not on_rows else vector.elements[order]
    return Carry(weight, side_view, u, bound, found.cap is not None)
