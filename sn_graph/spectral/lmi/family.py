"""One form for both problems: a family of matrices over frequencies, with what it is measured in."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.lmi.problem import Field, FrequencyProblem, Real, SlopeProblem

# The smallest normal number: an element that leaves the exponents of float64 changes by less.
TINY = 2.0**-1022
# Elements below are taken as 0 with this as their error, so that nothing underflows where two of them are multiplied.
# Every number of float32 is larger.
NOTHING = 2.0**-500


@dataclass(frozen=True)
class Family:
    """W, C and the slopes, for every frequency; see `problem`.

    Attributes:
        weights: W [F, m, n + m].
        output: C [F, k, n + m].
        weights_error, output_error: Bounds of |exact − given| [F or 1, …], element by element.
        low, high: a and b [m].
        tie: [m], in 0 … groups − 1, by which neurons share a multiplier.
        neurons: [m], which of the problem's each one is.
        units: [m], what z_i is measured in, in the problem's units.
        output_unit: What y is measured in; λ_problem = λ_family · output_unit² / units².
        scale: What the family's Lipschitz constant is multiplied by.
    """

    weights: Field
    output: Field
    weights_error: Real
    output_error: Real
    low: Real
    high: Real
    tie: NDArray[np.int64]
    neurons: NDArray[np.int64]
    units: Real
    output_unit: float = 1.0
    scale: float = 1.0

    @classmethod
    def of(cls, problem: SlopeProblem | FrequencyProblem) -> "Family":
        """Take a problem as it is, but for elements and slopes that are next to nothing."""
        weights, output, tie = problem.weights, problem.output, None
        if isinstance(problem, SlopeProblem):
            weights, output = weights[None], output[None]
        else:
            tie = problem.tie
        count = len(problem.low)
        groups = np.arange(count) if tie is None else np.unique(tie, return_inverse=True)[1].reshape(-1)
        weights, weights_error = without_nothing(weights, _errors(problem.weights_error, weights, _earlier(weights)))
        output, output_error = without_nothing(output, _errors(problem.output_error, output, np.True_))
        return cls(
            weights,
            output,
            weights_error,
            output_error,
            np.where(np.abs(problem.low) < NOTHING, np.where(problem.low < 0.0, -NOTHING, 0.0), problem.low),
            np.where(np.abs(problem.high) < NOTHING, np.where(problem.high > 0.0, NOTHING, 0.0), problem.high),
            groups.astype(np.int64),
            np.arange(count),
            np.ones(count),
        )

    @property
    def inputs(self) -> int:
        """How many elements x has."""
        return int(self.weights.shape[2] - self.weights.shape[1])

    @property
    def groups(self) -> int:
        """How many multipliers there are."""
        return int(self.tie.max()) + 1 if len(self.tie) else 0

    def multipliers(self, values: Real, total: int) -> Real:
        """Give a value a group as the multipliers of the problem's neurons [total]."""
        result = np.zeros(total)
        result[self.neurons] = values[self.tie] * (self.output_unit / self.units) ** 2
        return result

    def given(self, multipliers: Real) -> Real:
        """Take multipliers of the problem's neurons as those of the groups: the largest where they differ."""
        result = np.full(self.groups, -np.inf)
        np.maximum.at(result, self.tie, multipliers[self.neurons] * (self.units / self.output_unit) ** 2)
        return result

    def of_neurons(self, kept: NDArray[np.int64]) -> "Family":
        """Leave out all other neurons' rows and columns."""
        columns = np.zeros(self.weights.shape[2], dtype=np.bool_)
        columns[: self.inputs] = True
        columns[self.inputs + kept] = True
        part = replace(
            self,
            weights=self.weights[:, kept],
            weights_error=self.weights_error[:, kept],
            low=self.low[kept],
            high=self.high[kept],
            tie=np.unique(self.tie[kept], return_inverse=True)[1].reshape(-1).astype(np.int64),
            neurons=self.neurons[kept],
            units=self.units[kept],
        )
        return part.of_columns(columns)

    def of_columns(self, columns: NDArray[np.bool_]) -> "Family":
        """Leave out all other columns."""
        return replace(
            self,
            weights=self.weights[:, :, columns],
            output=self.output[:, :, columns],
            weights_error=self.weights_error[:, :, columns],
            output_error=self.output_error[:, :, columns],
        )


def without_nothing(matrix: Field, error: Real) -> tuple[Field, Real]:
    """Take what is smaller than `NOTHING` as 0, and let the errors say so."""
    small = (np.abs(matrix) < NOTHING) & (matrix != 0.0)
    if small.any():
        matrix = np.where(small, 0.0, matrix)
        error = error + NOTHING * small
    faint = (error < NOTHING) & (error > 0.0)
    return matrix, np.where(faint, NOTHING, error) if faint.any() else error


def _errors(given: float | Real, matrix: Field, where: NDArray[np.bool_] | np.bool_) -> Real:
    error = np.asarray(given, dtype=np.float64)
    if not error.any():
        return np.zeros((1, *matrix.shape[1:]))
    if not np.isfinite(error).all() or (error < 0.0).any():
        raise ValueError("an error is not a finite number from 0 on")
    shape = matrix.shape if error.ndim == 3 and len(error) > 1 else (1, *matrix.shape[1:])
    return np.asarray(np.broadcast_to(error, shape) * where)


def _earlier(weights: Field) -> NDArray[np.bool_]:
    """Where a neuron may read at all [m, n + m]."""
    count, columns = weights.shape[1:]
    return np.tri(count, columns, columns - count - 1, dtype=np.bool_)
