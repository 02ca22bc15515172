"""Matrices: linear maps written out, with a proven bound of what rounding did to them.

Let M be the exact map and M̂ the matrix held, ‖M − M̂‖₂ ≤ e. Behind it comes A, which `forward` computes with Â,
‖A − Â‖₂ ≤ ε, every element a sum of at most t products. Then the computed ÂM̂ is off by

    ‖AM − fl(ÂM̂)‖₂ ≤ ‖A‖ e + ε ‖M̂‖_F + γ_t ‖|Â|‖₂ ‖M̂‖_F

because |ÂM̂ − fl(ÂM̂)| ≤ γ_t |Â||M̂| element by element, in any order of summation (Higham, 2002, Accuracy and Stability
of Numerical Algorithms, §3.1), and ‖ |Â||M̂| ‖_F ≤ ‖|Â|‖₂ ‖M̂‖_F.
"""

import math
from dataclasses import dataclass

import numpy as np

from sn_graph.certify.expansion import Forms
from sn_graph.certify.steps import (
    Array,
    Composed,
    LinearMap,
    Multiplied,
    Placed,
    Reshaped,
    Scaled,
    Selected,
    Shape,
    Summed,
    total,
)
from sn_graph.spectral.linalg import UNIT, gamma
from sn_graph.spectral.matrix import upper_bound

# Elements of the largest matrix that is written out, 128 MB.
LARGEST = 1 << 24
# What a product loses that falls below the exponents of float64, raised.
UNDERFLOW = 2.0**-1070
# Elements of columns that are taken through a map together.
CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Matrix:
    """A linear map between arrays taken as vectors.

    Attributes:
        input_size, output_size: How many elements they have.
        values: [output size, input size]; None for the identity.
        error: How far it may be from the exact map, ‖·‖₂.
    """

    input_size: int
    output_size: int
    values: Array | None = None
    error: float = 0.0

    def dense(self) -> Array:
        """Return the matrix [output size, input size]."""
        return np.eye(self.output_size) if self.values is None else self.values

    @property
    def frobenius(self) -> float:
        """‖·‖_F, raised by its rounding."""
        if self.values is None:
            return math.sqrt(self.input_size) * (1.0 + 4.0 * UNIT)
        return float(np.linalg.norm(self.values)) * (1.0 + gamma(self.values.size + 8))

    @property
    def seconds(self) -> float:
        """About how long `norm` takes: a Gram matrix and its factorizations."""
        return 1e-3 + 5e-10 * float(min(self.input_size, self.output_size)) ** 2 * max(
            self.input_size, self.output_size
        )

    def norm(self) -> float:
        """Return a number that ‖M‖₂ of the exact map does not exceed."""
        if self.values is None:
            return 1.0
        return total((upper_bound(self.values), self.error))


class Matrices(Forms[Matrix]):
    """The form of maps that are written out: see `expansion.Forms`.

    Args:
        largest: Elements of the largest matrix.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest

    def identity(self, shape: Shape) -> Matrix | None:
        """See `Forms`."""
        size = math.prod(shape)
        return Matrix(size, size) if 0 < size**2 <= self._largest else None

    def single(self, part: LinearMap, form: Matrix) -> Matrix | None:
        """See `Forms`."""
        if isinstance(part, Reshaped):
            return form
        size = math.prod(part.output_shape)
        if not 0 < size * form.input_size <= self._largest:
            return None
        factor = _written_out(part) if form.values is None else None
        if factor is not None:
            return Matrix(form.input_size, size, factor, part.error)
        norm, frobenius = part.norm(), form.frobenius
        rounding = gamma(part.terms + 2) * part.magnitude() * (1.0 + 4.0 * UNIT)
        lost = UNDERFLOW * part.terms * size * form.input_size
        error = total((norm * form.error, (part.error + rounding) * frobenius, lost)) * (1.0 + 16.0 * UNIT)
        values = _columns(part, form)
        return Matrix(form.input_size, size, values, error) if math.isfinite(error) else None

    def added(self, first: Matrix, second: Matrix) -> Matrix | None:
        """See `Forms`."""
        values = first.dense() + second.dense()
        made = Matrix(first.input_size, first.output_size, values)
        error = total((first.error, second.error, UNIT * made.frobenius * (1.0 + 4.0 * UNIT)))
        return Matrix(first.input_size, first.output_size, values, error)


def _written_out(part: LinearMap) -> Array | None:
    """The coefficients of a map that holds them as a matrix, so that no product rounds; None for others."""
    if isinstance(part, Multiplied) and part.weight.ndim == 2 and math.prod(part.input_shape[:-1]) == 1:
        return np.ascontiguousarray(np.asarray(part.weight, np.float64).T)
    return None


def _columns(part: LinearMap, form: Matrix) -> Array:
    """A times each column of a matrix [output size of A, columns]."""
    values = form.dense()
    count = values.shape[1]
    result = np.empty((math.prod(part.output_shape), count))
    step = max(1, CHUNK // max(1, len(values) + len(result)))
    for start in range(0, count, step):
        columns = np.ascontiguousarray(values[:, start : start + step].T).reshape(-1, *part.input_shape)
        result[:, start : start + step] = many(part, columns).reshape(len(columns), -1).T
    return result


def many(part: LinearMap, arrays: Array) -> Array:
    """Apply a map to arrays [count, input shape…]: [count, output shape…]."""
    if isinstance(part, Composed):
        for one in part.maps:
            arrays = many(one, arrays)
        return arrays
    if isinstance(part, Summed):
        return np.asarray(sum(many(one, arrays) for one in part.maps))
    if isinstance(part, Reshaped):
        return arrays.reshape(-1, *part.output_shape)
    if isinstance(part, Scaled) and part.factor.ndim <= len(part.input_shape):
        return np.broadcast_to(arrays * part.factor, (len(arrays), *part.output_shape))
    if isinstance(part, Multiplied) and part.weight.ndim == 2:
        return np.asarray(np.matmul(arrays, np.asarray(part.weight, np.float64)))
    if isinstance(part, Placed):
        result = np.zeros((len(arrays), *part.output_shape))
        own = slice(part.start, part.start + part.input_shape[part.axis])
        result[(slice(None), *(slice(None),) * part.axis, own)] = arrays
        return result
    if isinstance(part, Selected) and arrays[0].size:
        taken = arrays.reshape(len(arrays), -1)[:, part.places]
        return np.where(part.places < 0, 0.0, taken)
    return np.stack([part.forward(one) for one in arrays])
