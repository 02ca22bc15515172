"""A family reduced and scaled before it is solved.

Each step gives a family whose Lipschitz constant, times `scale`, is at least the constant of the one it was made of:

    linear neurons   a = b: z_i = a w_iᵀ[x; z] is put in where z_i is read; its rounding is added to the errors
    dead neurons     those that no output depends on, and those that depend on nothing, are left out: both are exact
    inputs           rows S = [W_x; C_x] of more columns than rows: with S Sᵀ ≤ R Rᵀ there is a K, ‖K‖ ≤ 1, S = R K
                     (Douglas's lemma, 1966, Proc. AMS 17), so S x = R u with ‖u‖ ≤ ‖x‖, and R takes the place of S
    scales           x, y and each z_i are multiplied by powers of two, which keeps every slope and rounds nothing
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import UNIT, gamma
from sn_graph.spectral.lmi.family import TINY, Family, without_nothing
from sn_graph.spectral.lmi.problem import Field, Real

# What the margin of the inputs' factor is multiplied by until there is one.
MARGINS = (2.0, 16.0, 1024.0)
# Rows of S are weighted as if their squares were at least this part of the largest one.
FAINTEST = 1e-8
# Exponents stay this far from the ends of float64.
FARTHEST = 400.0


def reduced(family: Family, alive: NDArray[np.int64] | None = None) -> Family:
    """Leave out what takes no part, put linear neurons in, shorten long inputs, and scale.

    Args:
        family: All frequencies of a problem, or some of them.
        alive: For some of them, the neurons that take part at any: what a neuron does at one frequency says nothing
            about another, so that its term has to stand in all blocks or in none.
    """
    return balanced(with_short_input(without_dead(without_linear(family), alive)))


def without_linear(family: Family, chosen: NDArray[np.bool_] | None = None) -> Family:
    """Put every neuron with a = b in where it is read, or those that are chosen."""
    linear = np.flatnonzero(family.low == family.high if chosen is None else chosen)
    if not len(linear):
        return family
    weights, output = family.weights.copy(), family.output.copy()
    weights_error = np.broadcast_to(family.weights_error, weights.shape).copy()
    output_error = np.broadcast_to(family.output_error, output.shape).copy()
    for index in linear.tolist():
        slope = float(family.low[index])
        row, size = slope * weights[:, index], abs(slope) * np.abs(weights[:, index])
        row_error = abs(slope) * weights_error[:, index]
        for matrix, error in ((weights, weights_error), (output, output_error)):
            column = np.abs(taken := _taken(matrix, family.inputs + index))[..., None]
            column_error = _taken(error, family.inputs + index)[..., None]
            touched = (column != 0.0) & (weights[:, None, index] != 0.0) & (slope != 0.0)
            error += column * row_error[:, None] + column_error * (size + row_error)[:, None]
            error += (8.0 * UNIT * (column * size[:, None] + np.abs(matrix)) + TINY * (1.0 + column)) * touched
            error *= 1.0 + 16.0 * UNIT
            matrix += taken[..., None] * row[:, None]
    weights, weights_error = without_nothing(weights, weights_error)
    output, output_error = without_nothing(output, output_error)
    put_in = replace(family, weights=weights, output=output, weights_error=weights_error, output_error=output_error)
    return put_in.of_neurons(np.setdiff1d(np.arange(len(family.low)), linear))


def without_dead(family: Family, alive: NDArray[np.int64] | None = None) -> Family:
    """Leave out the neurons and inputs that nothing depends on, and neurons that depend on nothing.

    Neurons of one multiplier are left out together, or not at all: their inequality holds for the sum over them. A
    neuron at a frequency that its argument lacks is not 0 for that, because it is bent in space.
    """
    reads = (family.weights != 0.0).any(axis=0) | (family.weights_error != 0.0).any(axis=0)
    read = (family.output != 0.0).any(axis=(0, 1)) | (family.output_error != 0.0).any(axis=(0, 1))
    inputs = family.inputs
    if alive is None:
        fed, used = reads[:, :inputs].any(axis=1), read[inputs:]
        living = _reached(family, fed, reads[:, inputs:]) & _reached(family, used, reads[:, inputs:].T)
    else:
        living = np.isin(family.neurons, alive)
    kept = family if living.all() else family.of_neurons(np.flatnonzero(living))
    seen = read[:inputs] | reads[living, :inputs].any(axis=0)
    return kept if seen.all() else kept.of_columns(np.concatenate([seen, np.ones(len(kept.low), dtype=np.bool_)]))


def _reached(family: Family, first: NDArray[np.bool_], reads: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The neurons that are reached from the first ones by reading those reached, with all of their multiplier's."""
    reached = np.zeros(len(first), dtype=np.bool_)
    new = first
    while new.any():
        groups = np.zeros(family.groups, dtype=np.bool_)
        groups[family.tie[new]] = True
        added = groups[family.tie] & ~reached
        reached |= added
        new = reads[:, added].any(axis=1) & ~reached
    return reached


def with_short_input(family: Family) -> Family:
    """Replace an input of more elements than there are rows which read it by one of as many as those."""
    inputs, count = family.inputs, len(family.low)
    rows = np.concatenate([family.weights[:, :, :inputs], family.output[:, :, :inputs]], axis=1)
    errors = np.concatenate(
        [
            np.broadcast_to(family.weights_error, family.weights.shape)[:, :, :inputs],
            np.broadcast_to(family.output_error, family.output.shape)[:, :, :inputs],
        ],
        axis=1,
    )
    reading = ((rows != 0.0) | (errors != 0.0)).any(axis=(0, 2))
    if not count or reading.sum() >= inputs:
        return family
    factor = short_factor(rows[:, reading], errors[:, reading])
    if factor is None:
        return family
    short = np.zeros((len(rows), rows.shape[1], factor.shape[2]), dtype=factor.dtype)
    short[:, reading] = factor
    return replace(
        family,
        weights=np.concatenate([short[:, :count], family.weights[:, :, inputs:]], axis=2),
        output=np.concatenate([short[:, count:], family.output[:, :, inputs:]], axis=2),
        weights_error=_beside(family.weights_error, inputs, factor.shape[2]),
        output_error=_beside(family.output_error, inputs, factor.shape[2]),
    )


def balanced(family: Family) -> Family:
    """Scale x, y and the neurons by powers of two, so that none of them stands out.

    A neuron is measured in units between what x makes of it, and what y makes of it.
    """
    inputs, count = family.inputs, len(family.low)
    if not count or not inputs:
        return family
    slope = np.maximum(np.abs(family.low), np.abs(family.high))
    with np.errstate(divide="ignore"):
        reads = np.log2(np.abs(family.weights).max(axis=0) * slope[:, None])
        written = np.log2(np.abs(family.output).max(axis=(0, 1), initial=0.0))
    size = np.zeros(inputs + count)
    for index in range(count):
        size[inputs + index] = _finite((reads[index] + size)[: inputs + index].max(initial=-np.inf))
    counts = written[inputs:].copy()
    for index in reversed(range(count)):
        counts[index] = _finite(counts[index])
        counts = np.maximum(counts, reads[index, inputs:] + counts[index])
    size[inputs:] = exponent = np.round(_grouped_mean((size[inputs:] - counts) / 2.0, family.tie))
    size[:inputs] = x = -_finite(np.round((reads[:, :inputs] - exponent[:, None]).max(initial=-np.inf)))
    y = _finite((written + size).max())
    return scaled(family, round(x), round(y), exponent.astype(np.int64))


def scaled(family: Family, x: int, y: int, exponents: NDArray[np.int64]) -> Family:
    """Measure x in units of 2^x, y in units of 2^y and neuron i in 2^(exponents_i) of what they are now."""
    columns = np.concatenate([np.full(family.inputs, x), exponents])
    by_row = columns - exponents[:, None]
    weights, output = shifted(family.weights, by_row), shifted(family.output, columns - y)
    weights_error, output_error = shifted(family.weights_error, by_row), shifted(family.output_error, columns - y)
    # Only what underflows is not shifted exactly.
    return replace(
        family,
        weights=weights,
        output=output,
        weights_error=weights_error + 2.0 * TINY * ((np.abs(weights) < TINY) & (family.weights != 0.0)).any(axis=0),
        output_error=output_error + 2.0 * TINY * ((np.abs(output) < TINY) & (family.output != 0.0)).any(axis=0),
        units=np.ldexp(family.units, exponents),
        output_unit=float(np.ldexp(family.output_unit, y)),
        scale=float(np.ldexp(family.scale, y - x)),
    )


def shifted(matrix: Field, exponents: NDArray[np.int64]) -> Field:
    """Multiply by powers of two."""
    if np.iscomplexobj(matrix):
        return np.asarray(np.ldexp(matrix.real, exponents) + 1j * np.ldexp(matrix.imag, exponents))
    return np.asarray(np.ldexp(matrix, exponents))


def _taken(matrix: Field, column: int) -> Field:
    """A column as it was, and zeros in its place."""
    values = matrix[:, :, column].copy()
    matrix[:, :, column] = 0.0
    return values


def short_factor(rows: Field, errors: Real) -> Field | None:
    """Find R [F, r, r], lower triangular, with S̃ S̃ᴴ ≤ R Rᴴ for every S̃ within the errors of S; None where LAPACK fails.

    |fl(S Sᴴ) − S̃ S̃ᴴ| ≤ γ_{n+4} |S||S|ᴴ + E|S|ᵀ + |S|Eᵀ + E Eᵀ =: D, and D ≤ diag(Σ_j D_ij d_j / d_i) for any d > 0 (a
    symmetric matrix whose rows, so weighted, are dominated by its diagonal is positive semi-definite). Of the
    factorization's own error, at most r γ' of the diagonal, `proof` tells: 2 r γ are added for it.
    """
    size, order = np.abs(rows), rows.shape[1]
    twice = 2 if np.iscomplexobj(rows) else 1
    gram = rows @ rows.conj().transpose(0, 2, 1)
    places = np.arange(order)
    diagonal = gram[:, places, places].real
    # A row that is no more than errors must not weigh as much as it is small: it would raise all others.
    weight = 1.0 / np.sqrt(np.maximum(diagonal, FAINTEST * diagonal.max(initial=0.0) + TINY))
    both = size + errors
    total = both @ np.einsum("frn,fr->fn", both, weight)[..., None]
    plain = both @ np.einsum("frn,fr->fn", errors, weight)[..., None]
    plain += errors @ np.einsum("frn,fr->fn", both, weight)[..., None]
    margin = (gamma(twice * (rows.shape[2] + order + 8)) * total + plain)[..., 0] / weight
    # A row that is 0 at some frequency has to be of full rank too.
    margin = margin * (1.0 + 1e-9) + 2.0**-100 * diagonal.max(initial=0.0)
    for factor in MARGINS:
        raised = gram.copy()
        raised[:, places, places] = diagonal * (1.0 + 2.0 * order * gamma(twice * (order + 4))) + factor * margin
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


def _finite(exponent: float) -> float:
    """An exponent, or 0 for that of 0; far from the ends of float64."""
    return float(np.clip(exponent, -FARTHEST, FARTHEST)) if np.isfinite(exponent) else 0.0


def _grouped_mean(values: Real, tie: NDArray[np.int64]) -> Real:
    return np.asarray((np.bincount(tie, values) / np.maximum(np.bincount(tie), 1))[tie])
