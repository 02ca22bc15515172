"""One form for both problems: a family of matrices over frequencies, reduced and scaled before it is solved.

Each step here gives a family whose Lipschitz constant, times `scale`, is at least the constant of the one it was made of:

    dead neurons     those that no output depends on, and those that depend on nothing, are left out: both are exact
    linear neurons   a = b: z_i = a w_iᵀ[x; z] is put in where z_i is read; its rounding is added to the errors
    inputs           rows S = [W_x; C_x] of more columns than rows: with S Sᵀ ≤ R Rᵀ there is a K, ‖K‖ ≤ 1, S = R K
                     (Douglas's lemma), so S x = R u with ‖u‖ ≤ ‖x‖, and R [rows, rows] takes the place of S
    scales           x, y and each z_i are multiplied by powers of two, which keeps every slope and rounds nothing
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import UNIT, gamma
from sn_graph.spectral.lmi.problem import Field, FrequencyProblem, Real, SlopeProblem

# The smallest number: an element that scaling takes below the exponents of float64 is rounded by less.
TINY = 2.0**-1022


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
        """Take a problem as it is."""
        weights, output, tie = problem.weights, problem.output, None
        if isinstance(problem, SlopeProblem):
            weights, output = weights[None], output[None]
        else:
            tie = problem.tie
        count = len(problem.low)
        groups = np.arange(count) if tie is None else np.unique(tie, return_inverse=True)[1].reshape(-1)
        return cls(
            weights,
            output,
            _errors(problem.weights_error, weights, _earlier(weights)),
            _errors(problem.output_error, output, True),
            problem.low,
            problem.high,
            groups.astype(np.int64),
            np.arange(count),
            np.ones(count),
        )

    @property
    def inputs(self) -> int:
        """n."""
        return int(self.weights.shape[2] - self.weights.shape[1])

    @property
    def groups(self) -> int:
        """How many multipliers there are."""
        return int(self.tie.max()) + 1 if len(self.tie) else 0

    def reduced(self) -> "Family":
        """Leave out what takes no part, put linear neurons in, shorten long inputs, and scale."""
        return self.without_linear().without_dead().with_short_input().balanced()

    def without_linear(self) -> "Family":
        """Put every neuron with a = b in where it is read."""
        linear = np.flatnonzero(self.low == self.high)
        if not len(linear):
            return self
        weights, output = self.weights.copy(), self.output.copy()
        weights_error = np.broadcast_to(self.weights_error, weights.shape).copy()
        output_error = np.broadcast_to(self.output_error, output.shape).copy()
        for index in linear:
            row = self.low[index] * weights[:, index]
            size = abs(self.low[index]) * np.abs(weights[:, index])
            row_error = abs(self.low[index]) * weights_error[:, index]
            for matrix, error in ((weights, weights_error), (output, output_error)):
                column, column_error = (_taken(values, self.inputs + index)[..., None] for values in (matrix, error))
                product = np.abs(column) * size[:, None]
                touched = (column != 0.0) & (size[:, None] != 0.0)
                error += np.abs(column) * row_error[:, None] + column_error * (size + row_error)[:, None]
                error += (8.0 * UNIT * (product + np.abs(matrix)) + TINY) * touched
                error *= 1.0 + 16.0 * UNIT
                matrix += column * row[:, None]
        keep = np.setdiff1d(np.arange(len(self.low)), linear)
        return replace(
            self, weights=weights, output=output, weights_error=weights_error, output_error=output_error
        )._of_neurons(keep)

    def without_dead(self) -> "Family":
        """Leave out the neurons and inputs that nothing depends on, and neurons that depend on nothing."""
        reads = ((self.weights != 0.0) | (self.weights_error != 0.0)).any(axis=0)
        read = ((self.output != 0.0) | (self.output_error != 0.0)).any(axis=(0, 1))
        count, inputs = len(self.low), self.inputs
        fed = np.zeros(count, dtype=np.bool_)
        for index in range(count):
            fed[index] = reads[index, :inputs].any() or (reads[index, inputs:] & fed).any()
        used = read[inputs:].copy()
        for index in reversed(range(count)):
            if used[index]:
                used |= reads[index, inputs:]
        kept = self._of_neurons(np.flatnonzero(fed & used))
        seen = read[:inputs] | reads[fed & used, :inputs].any(axis=0)
        return kept._of_columns(np.concatenate([seen, np.ones(len(kept.low), dtype=np.bool_)]))

    def with_short_input(self) -> "Family":
        """Replace an input of more elements than there are rows which read it by one of as many as those."""
        inputs, count = self.inputs, self.weights.shape[1]
        rows = np.concatenate([self.weights[:, :, :inputs], self.output[:, :, :inputs]], axis=1)
        errors = np.concatenate(
            [
                np.broadcast_to(self.weights_error, self.weights.shape)[:, :, :inputs],
                np.broadcast_to(self.output_error, self.output.shape)[:, :, :inputs],
            ],
            axis=1,
        )
        reading = ((rows != 0.0) | (errors != 0.0)).any(axis=(0, 2))
        if reading.sum() >= inputs:
            return self
        factor = _short(rows[:, reading], errors[:, reading])
        if factor is None:
            return self
        short = np.zeros((len(rows), rows.shape[1], factor.shape[2]), dtype=factor.dtype)
        short[:, reading] = factor
        return replace(
            self,
            weights=np.concatenate([short[:, :count], self.weights[:, :, inputs:]], axis=2),
            output=np.concatenate([short[:, count:], self.output[:, :, inputs:]], axis=2),
            weights_error=_beside(self.weights_error, inputs, factor.shape[2]),
            output_error=_beside(self.output_error, inputs, factor.shape[2]),
        )

    def balanced(self) -> "Family":
        """Scale x, y and the neurons by powers of two, so that none of them stands out.

        A neuron is measured in units between what x makes of it, and what y makes of it.
       """
        inputs, count = self.inputs, len(self.low)
        if not count or not inputs:
            return self
        slope = np.maximum(np.abs(self.low), np.abs(self.high))
        with np.errstate(divide="ignore"):
            reads = np.log2(np.abs(self.weights).max(axis=0) * slope[:, None])
            written = np.log2(np.abs(self.output).max(axis=(0, 1), initial=0.0))
        x = -_finite(reads[:, :inputs].max(initial=-np.inf))
        size = np.concatenate([np.full(inputs, x), np.zeros(count)])
        for index in range(count):
            size[inputs + index] = _finite((reads[index] + size)[: inputs + index].max(initial=-np.inf))
        counts = written[inputs:].copy()
        for index in reversed(range(count)):
            counts[index] = _finite(counts[index])
            counts = np.maximum(counts, reads[index, inputs:] + counts[index])
        exponent = _grouped_mean((size[inputs:] - counts) / 2.0, self.tie)
        size[inputs:] = exponent
        y = _finite((written + size).max())
        return self._scaled(*(float(np.exp2(np.round(end))) for end in (x, y)), np.exp2(np.round(exponent)))

    def _scaled(self, x: float, y: float, units: Real) -> "Family":
        """Measure x in units of `x`, y in units of `y` and neuron i in `units[i]` of what they are now."""
        columns = np.concatenate([np.full(self.inputs, x), units])
        weights = self.weights * columns / units[:, None]
        output = self.output * columns / y
        weights_error = self.weights_error * columns / units[:, None]
        output_error = self.output_error * columns / y
        return replace(
            self,
            weights=weights,
            output=output,
            weights_error=weights_error + TINY * (weights * units[:, None] / columns != self.weights),
            output_error=output_error + TINY * (output * y / columns != self.output),
            units=self.units * units,
            output_unit=self.output_unit * y,
            scale=self.scale * (y / x),
        )

    def multipliers(self, values: Real, total: int) -> Real:
        """Give a value a group as the multipliers of the problem's neurons [total]."""
        result = np.zeros(total)
        result[self.neurons] = values[self.tie] * (self.output_unit / self.units) ** 2
        return result

    def given(self, multipliers: Real) -> Real:
        """Take multipliers of the problem's neurons as those of the groups: the mean where they differ."""
        own = multipliers[self.neurons] * (self.units / self.output_unit) ** 2
        return np.bincount(self.tie, own, self.groups) / np.maximum(np.bincount(self.tie, minlength=self.groups), 1)

    def _of_neurons(self, kept: NDArray[np.int64]) -> "Family":
        columns = np.zeros(self.weights.shape[2], dtype=np.bool_)
        columns[: self.inputs] = True
        columns[self.inputs + kept] = True
        error = np.broadcast_to(self.weights_error, self.weights.shape) if self.weights_error.any() else None
        part = replace(
            self,
            weights=self.weights[:, kept],
            weights_error=np.zeros((1, len(kept), len(columns))) if error is None else error[:, kept],
            low=self.low[kept],
            high=self.high[kept],
            tie=np.unique(self.tie[kept], return_inverse=True)[1].reshape(-1).astype(np.int64),
            neurons=self.neurons[kept],
            units=self.units[kept],
        )
        return part._of_columns(columns)

    def _of_columns(self, columns: NDArray[np.bool_]) -> "Family":
        return replace(
            self,
            weights=self.weights[:, :, columns],
            output=self.output[:, :, columns],
            weights_error=self.weights_error[:, :, columns],
            output_error=self.output_error[:, :, columns],
        )


def _taken(matrix: Field, column: int) -> Field:
    """A column as it was, and zeros in its place."""
    values = matrix[:, :, column].copy()
    matrix[:, :, column] = 0.0
    return values


def _short(rows: Field, errors: Real) -> Field | None:
    """R [F, r, r], lower triangular, with S̃ S̃ᴴ ≤ R Rᴴ for every S̃ within the errors of S; None where LAPACK fails.

    |fl(S Sᴴ) − S̃ S̃ᴴ| ≤ γ_{n+4} |S||S|ᴴ + E|S|ᵀ + |S|Eᵀ + E Eᵀ =: D, and D ≤ diag(Σ_j D_ij d_j / d_i) for any d > 0 (a
    symmetric matrix whose rows, so weighted, are dominated by its diagonal is positive semi-definite); of the
    factorization's own error `proof` tells.
    """
    size, order = np.abs(rows), rows.shape[1]
    gram = rows @ rows.conj().transpose(0, 2, 1)
    weight = 1.0 / np.sqrt(np.maximum(np.einsum("fii->fi", gram).real, TINY))
    both = size + errors
    total = both @ np.einsum("frn,fr->fn", both, weight)[..., None]
    plain = both @ np.einsum("frn,fr->fn", errors, weight)[..., None] + errors @ np.einsum("frn,fr->fn", both, weight)[..., None]
    margin = ((gamma(rows.shape[2] + order + 8) * total + plain)[..., 0] / weight) * (1.0 + 1e-9)
    diagonal = np.arange(order)
    for factor in (2.0, 16.0, 1024.0):
        raised = gram.copy()
        raised[:, diagonal, diagonal] *= 1.0 + 2.0 * order * gamma(order + 4)
        raised[:, diagonal, diagonal] += factor * margin
        try:
            found: Field = np.linalg.cholesky(raised)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(found).all():
            return found
    return None


def _beside(error: Real, inputs: int, short: int) -> Real:
    """The errors of the columns of neurons, beside those of new inputs, which have none."""
    rest = error[:, :, inputs:]
    return np.concatenate([np.zeros((*rest.shape[:2], short)), rest], axis=2)


def _errors(given: float | Real, matrix: Field, where: bool | NDArray[np.bool_]) -> Real:
    error = np.asarray(given, dtype=np.float64)
    if not error.any():
        return np.zeros((1, *matrix.shape[1:]))
    if not np.isfinite(error).all() or (error < 0.0).any():
        raise ValueError("an error is not a finite number from 0 on")
    return np.asarray(np.broadcast_to(error, matrix.shape) * where)


def _earlier(weights: Field) -> NDArray[np.bool_]:
    """Where a neuron may read at all [m, n + m]."""
    count, columns = weights.shape[1:]
    return np.arange(columns)[None, :] < (columns - count + np.arange(count))[:, None]


def _finite(exponent: float) -> float:
    """An exponent, or 0 for that of 0; far from the ends of float64."""
    return float(np.clip(exponent, -400.0, 400.0)) if np.isfinite(exponent) else 0.0


def _grouped_mean(values: Real, tie: NDArray[np.int64]) -> Real:
    return np.asarray((np.bincount(tie, values) / np.maximum(np.bincount(tie), 1))[tie])
