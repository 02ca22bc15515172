"""Networks of slope-restricted neurons, as the matrices that a linear matrix inequality (LMI) is made of.

    z_i = φ_i(w_iᵀ [x; z]),   y = C [x; z],   a_i ≤ (φ_i(s) − φ_i(t)) / (s − t) ≤ b_i

x are the inputs [n], z the neurons [m], each of which reads x and neurons before it. Biases are left out: they cancel
in differences, and nothing else is looked at. Every feed-forward graph of affine maps and such neurons has this form,
residual, skip and concatenating ones too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Field = NDArray[Any]
"""float64 or complex128."""


FLOAT, COMPLEX = np.dtype(np.float64), np.dtype(np.complex128)


@dataclass(frozen=True)
class SlopeProblem:
    """A network whose Lipschitz constant is asked for.

    Attributes:
        weights: W [m, n + m], float64; row i is zero from column n + i on.
        low, high: a and b [m], finite.
        output: C [k, n + m], float64.
        weights_error, output_error: Bounds of |exact − given|, element by element: a number (a bound of the 2-norm of
            the difference will do), or an array that broadcasts to the matrix. Where it is 0 the element is exact.
    """

    weights: Real
    low: Real
    high: Real
    output: Real
    weights_error: float | Real = 0.0
    output_error: float | Real = 0.0

    def __post_init__(self) -> None:
        if COMPLEX in (self.weights.dtype, self.output.dtype):
            raise ValueError("complex matrices are those of a FrequencyProblem")
        _check(self.weights[None], self.low, self.high, self.output[None])


@dataclass(frozen=True)
class FrequencyProblem:
    """A network that falls apart into one of matrices for every frequency, the neurons' slopes being shared by all.

    Attributes:
        weights: W [F, m, n + m], complex128 or float64.
        low, high: a and b [m].
        output: C [F, k, n + m].
        tie: [m], integers: neurons of one number have one multiplier, and the same slopes. None: each its own.
        weights_error, output_error: As for `SlopeProblem`, of the moduli.
    """

    weights: Field
    low: Real
    high: Real
    output: Field
    tie: NDArray[np.int64] | None = None
    weights_error: float | Real = 0.0
    output_error: float | Real = 0.0

    def __post_init__(self) -> None:
        _check(self.weights, self.low, self.high, self.output)
        if self.tie is not None and self.tie.shape != self.low.shape:
            raise ValueError(f"tie has shape {self.tie.shape} for {len(self.low)} neurons")
        if self.tie is not None:
            # A place has one slope at all frequencies.
            for number in np.unique(self.tie):
                for ends in (self.low, self.high):
                    if np.ptp(ends[self.tie == number]) != 0.0:
                        raise ValueError(f"the neurons of tie {number} have different slopes")


@dataclass(frozen=True)
class LmiBound:
    """A bound of the Lipschitz constant between Euclidean norms.

    Attributes:
        value: The constant is at most this, rounding errors included; infinity where nothing was proven.
        multipliers: [m], of the neurons (0 for those that take no part), of the LMI that was proven, to a rounding.
        iterations: Steps of the solver.
        proven_by: What the proof rests on, or why there is none.
    """

    value: float
    multipliers: Real
    iterations: int
    proven_by: str


def _check(weights: Field, low: Real, high: Real, output: Field) -> None:
    # Proofs count the roundings of float64.
    if {weights.dtype, output.dtype} - {FLOAT, COMPLEX} or {low.dtype, high.dtype} != {FLOAT}:
        raise ValueError(f"matrices of {weights.dtype} and {output.dtype}, slopes of {low.dtype} are not of float64")
    count, neurons, columns = weights.shape
    if output.ndim != 3 or output.shape[0] != count or output.shape[2] != columns or columns < neurons:
        raise ValueError(f"weights {weights.shape[1:]} and output {output.shape[1:]} do not belong together")
    if low.shape != (neurons,) or high.shape != (neurons,):
        raise ValueError(f"slopes {low.shape} and {high.shape} are not those of {neurons} neurons")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise ValueError("a neuron's slopes are not an interval of finite numbers")
    later = np.triu(np.ones((neurons, neurons), dtype=np.bool_))
    if weights[:, :, columns - neurons :][:, later].any():
        raise ValueError("a neuron reads itself or one that comes after it")
