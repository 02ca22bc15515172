"""Comparisons with a base: the spectral norm of a weight there, and of the difference W − W_base.

The difference is rounded once, to float32 (float64 where either weight is), and stands in scratch space.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.model.checkpoint import scratch
from sn_graph.norms.matrix import require_finite_values
from sn_graph.plan import Plan
from sn_graph.report import SiteRecord
from sn_graph.spectral.matrix import spectral_norm

Base = Callable[[str], NDArray[Any] | None]
"""Returns the matrix [rows, columns] of the weight of an id in the base; None where it has none."""

_STEP = 1 << 20  # elements subtracted at a time


def base_of_model(model: Model, plan: Plan) -> Base:
    """Return the weights of a model, by the matrices of its own plan."""
    targets = {target.id: target for target in plan.targets()}

    def matrix(identity: str) -> NDArray[Any] | None:
        target = targets.get(identity)
        return None if target is None else target.matrix(model)

    return matrix


def compared_with(base: Base | None, record: SiteRecord, matrix: NDArray[Any]) -> dict[str, Any]:
    """Return the fields of a record that tell how a weight's matrix [rows, columns] differs from the base's.

    Raises:
        ModelError: The base's weight holds NaN or infinite values.
    """
    if base is None:
        return {}
    other = base(record.id)
    if other is None or other.shape != matrix.shape:
        why = (
            "the base has no weight of its name"
            if other is None
            else f"the base's is {other.shape[0]}×{other.shape[1]}"
        )
        return {"compared": True, "notes": (*record.notes, f"not compared: {why}")}
    try:
        require_finite_values(record.id, record.weight, other)
    except ModelError as error:
        raise error.about("--against") from None
    return {
        "compared": True,
        "sigma_base": spectral_norm(other),
        "sigma_delta": spectral_norm(difference(matrix, other)),
    }


def difference(matrix: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return matrix − other, both [rows, columns], of float32, or of float64 where either is."""
    kind = np.float64 if np.float64 in (matrix.dtype, other.dtype) else np.float32
    found = scratch(matrix.shape, kind)
    step = max(1, _STEP // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], step):
        rows = slice(start, start + step)
        np.subtract(matrix[rows].astype(kind), other[rows].astype(kind), out=found[rows])
    return found
