"""Divisors: what a weight is divided by, one of three estimates of one of two norms.

    exact    σ, within 1e-6 (the operator norm within 1e-5, or proven within 2e-4)
    power    k power iterations from u, as the frameworks do
    upper    a proven upper bound, so large that the weight is within the bound as stored, rounding included

of the matrix (`sn_graph.sites.views`), or of what the consumers do (`sn_graph.norms.operator`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.errors import ModelError, leave_out
from sn_graph.model import Model
from sn_graph.norms.matrix import exact_leading, require_finite_norm
from sn_graph.norms.operator import Operators, alpha, state_length
from sn_graph.plan import Plan, Target
from sn_graph.spectral.matrix import (
    ROUNDING,
    bracket,
    certified_divisor,
    operator_power_iteration,
    power_iteration,
    raised_divisor,
    seeded_state,
    upper_bound,
)
from sn_graph.state import State

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution


class SigmaMethod(StrEnum):
    """How a norm is estimated."""

    EXACT = "exact"
    POWER = "power"
    UPPER = "upper"


@dataclass(frozen=True, eq=False)
class Divisors:
    """What was measured of a weight, and what to divide it by.

    Attributes:
        used: One divisor, or one for each use.
        sigma, upper: The norm of the matrix, and a proven bound of it; None where they were not computed.
        operator, operator_upper: The same of what the consumers do.
        right: The right singular vector of the matrix [cols], where it was found on the way.
    """

    used: tuple[float, ...]
    sigma: float | None = None
    upper: float | None = None
    operator: float | None = None
    operator_upper: float | None = None
    right: NDArray[np.float64] | None = None


class Divider:
    """Measures the weights of one model as a plan and a method say."""

    def __init__(self, model: Model, plan: Plan, method: SigmaMethod, state: State, seed: int = 0) -> None:
        self._model = model
        self._plan = plan
        self._method = method
        self._state = state
        self._seed = seed
        self._operators = Operators(model)

    def measure(self, target: Target, matrix: NDArray[Any]) -> Divisors:
        """Measure one weight, whose matrix [rows, cols] is given.

        Raises:
            ModelError: It holds NaN or infinity, passes the range of its type, or has no power iteration.
        """
        if self._method is SigmaMethod.POWER:
            if self._plan.norm == "operator" and self._operators.is_zero(target):
                return Divisors((0.0,), operator=0.0, operator_upper=0.0)
            return Divisors(tuple(self._power(target, matrix)))
        found = self._matrix_norm(target, matrix)
        return found if self._plan.norm == "matrix" else self._operator_norm(target, matrix, found)

    def _matrix_norm(self, target: Target, matrix: NDArray[Any]) -> Divisors:
        if self._method is SigmaMethod.EXACT:
            sigma, right = exact_leading(target, matrix)
            return Divisors((sigma,), sigma, right=right)
        found = bracket(matrix)
        sigma = require_finite_norm(target, matrix, found.lower)
        if self._plan.norm == "operator":
            return Divisors((), sigma, found.upper)
        if found.upper == 0.0 or self._is_rounded_once(target):
            divisor = certified_divisor(matrix, self._plan.bound_of(target), found)
        else:
            divisor = self._raised(target, found.upper, partial(self._read_bound, target))
        return Divisors((self._certified(target, divisor),), sigma, found.upper)

    def _operator_norm(self, target: Target, matrix: NDArray[Any], found: Divisors) -> Divisors:
        enclosed = self._operators.enclose(target)
        known = replace(found, operator=enclosed.lower, operator_upper=enclosed.upper)
        if self._method is SigmaMethod.EXACT:
            return replace(known, used=(enclosed.lower,))
        if enclosed.upper == 0.0:
            return replace(known, used=(0.0,))
        if self._is_rounded_once(target) and self._plan.bound_of(target) > _NO_UNDERFLOW:
            unit = ROUNDING[matrix.dtype]
            divisor = (enclosed.upper + 2.0 * unit * self._operators.magnitude(target)) * (1.0 + 4.0 * unit)
        else:
            divisor = self._raised(target, enclosed.upper, partial(self._read_operator_bound, target))
        return replace(known, used=(self._certified(target, divisor),))

    def _is_rounded_once(self, target: Target) -> bool:
        """Say whether runtimes read W · factor, each element rounded once to float32 or float64, as it is stored."""
        tensor = target.tensor
        stored = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return (
            target.site.quantization is None
            and stored in ROUNDING
            and not self._model.is_scaled(tensor)
            and all(np.can_cast(stored, dtype) for use in target.uses for dtype in use.rounded_to)
        )

    def _raised(self, target: Target, divisor: float, proven: Callable[[float | None], float]) -> float:
        """Return a divisor with which what runtimes read is proven to be within the bound; or one that keeps it so.

        Args:
            target: The weight.
            divisor: Where to begin: a bound of the norm.
            proven: Returns a proven bound of the norm of what runtimes read after a factor; after none if it is None.
        """
        bound = self._plan.bound_of(target)
        if self._plan.clips(target) and divisor <= bound:
            if proven(None) <= bound:
                return divisor
            divisor = math.nextafter(bound, math.inf)  # it passes the bound where it is read: not one to keep
        return raised_divisor(divisor, bound, proven)

    def _read_bound(self, target: Target, factor: float | None) -> float:
        """Return a proven bound of the norm of a weight's matrix as runtimes read it after a factor."""
        uses = {use.rounded_to: use for use in target.uses}
        bounds = [
            upper_bound(target.view.matrix(read))
            for use in uses.values()
            for read in target.readings(self._model, use, factor)
        ]
        return float(np.max(bounds))  # NaN, of a weight that is not finite as it is read, is the largest

    def _read_operator_bound(self, target: Target, factor: float | None) -> float:
        """Return a proven bound of the norm of what the consumers do with a weight as runtimes read it."""
        return self._operators.enclose_read(target, lambda use: target.readings(self._model, use, factor)).upper

    def _certified(self, target: Target, divisor: float) -> float:
        if np.isfinite(divisor):
            return divisor
        raise ModelError(
            f"no divisor takes weight '{target.id}' below {self._plan.bound_of(target):g} in {target.site.dtype}",
            "whose numbers end above it",
            "give a larger --bound",
        )

    def _power(self, target: Target, matrix: NDArray[Any]) -> list[float]:
        """Return σ after k iterations; where each use has its own, after k, 2k, … of them."""
        through = self._iterated(target)
        length = state_length(target, through)
        u: NDArray[Any] = self._state.u.get(target.id, seeded_state(self._seed, target.id, length))
        count = self._plan.iterations(target)
        factor = abs(alpha(target.uses[0])) if self._plan.norm == "operator" else 1.0
        step: Callable[..., Any] = partial(power_iteration, matrix, iterations=count, side=target.view.side)
        if through is not None:
            step = partial(_convolution_power, through, iterations=count)
        sigmas = []
        for _ in target.turns:
            result = step(state=u)
            sigmas.append(require_finite_norm(target, matrix, result.sigma * factor))
            u = result.state
        return sigmas

    def _iterated(self, target: Target) -> "Convolution | None":
        """Return the convolution that the power iteration goes through; None where it is the matrix."""
        if self._plan.norm == "matrix":
            return None
        reason = self._operators.refusal(target)
        if reason is not None:
            raise ModelError(
                f"weight '{target.id}' has no power iteration of its operator norm",
                reason,
                f"give --sigma exact, or {leave_out(target.site.weight)}",
            )
        return self._operators.iterated(target)


def require_divisor(target: Target, matrix: NDArray[Any], divisor: float) -> None:
    """Raise ModelError where an estimate of the norm is 0 though the matrix is not."""
    if divisor == 0.0 and np.any(matrix):
        raise ModelError(
            f"the u of weight '{target.id}' is orthogonal to it",
            "so its estimate of the norm is 0",
            "start from another --seed or --state, or use --sigma exact",
        )


# Above it, elements that are rounded to 0 add less to a norm than the margins have.
_NO_UNDERFLOW = 1e-20


def _convolution_power(through: "Convolution", state: NDArray[Any], iterations: int) -> Any:
    from sn_graph.spectral.convolution import adjoint, forward

    u = state.reshape(through.output_shape)
    return operator_power_iteration(partial(forward, through), partial(adjoint, through), u, iterations)
