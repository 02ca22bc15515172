"""Linear maps: what linear nodes do to one of their operands, with its adjoint and a proven norm.

A map knows its own shapes, batch axis and all. `forward` and `adjoint` compute in float64; `norm` is an upper end of
max ‖A x‖/‖x‖ over the real numbers, rounding of the proof included.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.steps.rounding import UNIT, product, total
from sn_graph.spectral.linalg import gamma

Array = NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LinearMap(ABC):
    """A linear map from arrays of one shape to arrays of another.

    Attributes:
        input_shape, output_shape: The shapes.
    """

    input_shape: Shape
    output_shape: Shape

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """Return A x, of `output_shape`, for x of `input_shape`."""

    @abstractmethod
    def adjoint(self, y: Array) -> Array:
        """Return Aᵀ y, of `input_shape`, for y of `output_shape`."""

    @abstractmethod
    def norm(self) -> float:
        """Return a number that ‖A‖₂ does not exceed, proven; NaN where a coefficient is not finite."""

    def supremum(self) -> float | None:
        """Return a number that ‖A‖₂ does not exceed, whatever the sizes that are dynamic; None where none is known."""
        return None

    def quick(self, dynamic: bool) -> float | None:
        """Return what `norm`, or `supremum`, may be bounded by where there is no time for them; proven too."""
        return self.supremum() if dynamic else self.norm()

    @property
    def products(self) -> int:
        """How many products there are in `forward`, which may be too many to compute often; 0 where it is cheap."""
        return 0

    @property
    def slow(self) -> "tuple[LinearMap, ...]":
        """The maps that it is made of whose norms may take long."""
        return (self,) if self.products else ()

    def carry(self, axis: int) -> int | None:
        """Follow an axis along which samples stand.

        Args:
            axis: An axis of the input.

        Returns:
            The axis of the output along which they stand behind the map, if it does the same to each of them by itself;
            else None.
        """
        del axis
        return None

    def magnitude(self) -> float:
        """Return a number that ‖|A|‖₂, of the coefficients without their signs, does not exceed.

        It bounds what rounding may do: a sum of k products is off by γ_k times the sum of their magnitudes at most.
        """
        return self.norm()

    @property
    def terms(self) -> int:
        """How many products an element of A x or Aᵀ y may be summed of."""
        return 1

    @property
    def error(self) -> float:
        """How far the map of `forward`, whose coefficients are rounded, may be from the exact one, ‖·‖₂."""
        return 0.0


@dataclass(frozen=True, eq=False)
class Composed(LinearMap):
    """Maps one behind another, the first to act first; its norm is bounded by the product of theirs."""

    maps: tuple[LinearMap, ...]

    @classmethod
    def of(cls, maps: Sequence[LinearMap]) -> "LinearMap":
        """Put maps behind each other; a single one is returned as it is."""
        flat = [part for one in maps for part in (one.maps if isinstance(one, Composed) else (one,))]
        return flat[0] if len(flat) == 1 else cls(flat[0].input_shape, flat[-1].output_shape, tuple(flat))

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        for one in self.maps:
            x = one.forward(x)
        return x

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        for one in reversed(self.maps):
            y = one.adjoint(y)
        return y

    def norm(self) -> float:
        """See `LinearMap`."""
        return product(*(one.norm() for one in self.maps))

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return self._joined([one.supremum() for one in self.maps])

    @staticmethod
    def _joined(known: Sequence[float | None]) -> float | None:
        found = [one for one in known if one is not None]
        return product(*found) if len(found) == len(known) else None

    def quick(self, dynamic: bool) -> float | None:
        """See `LinearMap`."""
        return self._joined([one.quick(dynamic) for one in self.maps])

    @property
    def products(self) -> int:
        """See `LinearMap`."""
        return sum(one.products for one in self.maps)

    @property
    def slow(self) -> tuple[LinearMap, ...]:
        """See `LinearMap`."""
        return tuple(slow for one in self.maps for slow in one.slow)

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        at: int | None = axis
        for one in self.maps:
            at = None if at is None else one.carry(at)
        return at

    def magnitude(self) -> float:
        """See `LinearMap`."""
        return product(*(one.magnitude() for one in self.maps))

    @property
    def terms(self) -> int:
        """See `LinearMap`."""
        return sum(one.terms for one in self.maps)

    @property
    def error(self) -> float:
        """See `LinearMap`."""
        # ‖Π(A + E) − ΠA‖ ≤ Π(‖A‖ + e) − Π‖A‖, which is bounded by Σ eᵢ Π_{j≠i}(‖A_j‖ + e_j).
        if not any(one.error for one in self.maps):
            return 0.0
        ends = [total((one.norm(), one.error)) for one in self.maps]
        return total(
            product(one.error, *ends[:place], *ends[place + 1 :]) for place, one in enumerate(self.maps) if one.error
        )


@dataclass(frozen=True, eq=False)
class Summed(LinearMap):
    """The sum of maps between the same shapes; its norm is bounded by the sum of theirs."""

    maps: tuple[LinearMap, ...]

    @classmethod
    def of(cls, maps: Sequence[LinearMap]) -> LinearMap:
        """Add maps; a single one is returned as it is."""
        flat = [part for one in maps for part in (one.maps if isinstance(one, Summed) else (one,))]
        return flat[0] if len(flat) == 1 else cls(flat[0].input_shape, flat[0].output_shape, tuple(flat))

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        return _added(one.forward(x) for one in self.maps)

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        return _added(one.adjoint(y) for one in self.maps)

    def norm(self) -> float:
        """See `LinearMap`."""
        return total(one.norm() for one in self.maps)

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        known = [one.supremum() for one in self.maps]
        found = [one for one in known if one is not None]
        return total(found) if len(found) == len(known) else None

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        found = {one.carry(axis) for one in self.maps}
        return found.pop() if len(found) == 1 else None

    def magnitude(self) -> float:
        """See `LinearMap`."""
        return total(one.magnitude() for one in self.maps)

    @property
    def terms(self) -> int:
        """See `LinearMap`."""
        return sum(one.terms for one in self.maps)

    @property
    def error(self) -> float:
        """See `LinearMap`."""
        return total(one.error for one in self.maps)


def _added(arrays: Iterable[Array]) -> Array:
    first, *others = arrays
    result = first.copy() if others else first
    for one in others:
        result += one
    return result


@dataclass(frozen=True, eq=False)
class Scaled(LinearMap):
    """Multiplication by numbers, elementwise, as NumPy broadcasts: x · f.

    An element of x that meets several factors appears several times: ‖A‖ = max over x's elements of √Σ f².

    Attributes:
        factor: f, float64, of a shape that broadcasts with the input.
        relative: By how much of itself each factor may be off from the exact one, where it was computed.
    """

    factor: Array
    relative: float = 0.0

    @classmethod
    def by(cls, shape: Shape, factor: NDArray[Any], relative: float = 0.0) -> "Scaled":
        """Multiply arrays of a shape by factors."""
        wide = np.asarray(factor, np.float64)
        return cls(shape, np.broadcast_shapes(shape, wide.shape), wide, relative)

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        return np.asarray(np.broadcast_to(x * self.factor, self.output_shape))

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        return unbroadcast(y * self.factor, self.input_shape)

    def norm(self) -> float:
        """See `LinearMap`."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        if 0 in self.output_shape:
            return 0.0
        copied = copied_axes(self.input_shape, self.output_shape)
        factor = np.abs(self.factor.reshape((1,) * (len(self.output_shape) - self.factor.ndim) + self.factor.shape))
        largest = float(factor.max(initial=0.0))
        if not copied or largest == 0.0 or not math.isfinite(largest):
            return product(largest, 1.0 + (raised_by(self.relative) if largest else 0.0))
        ratios = factor / largest
        count = math.prod(self.output_shape[axis] for axis in copied)
        # Along a copied axis on which the factors don't vary they are as many as the output is long.
        times = math.prod(self.output_shape[axis] for axis in copied if factor.shape[axis] == 1)
        squares = float(np.square(ratios).sum(axis=copied).max()) * times
        return product(largest, math.sqrt(squares) * (1.0 + gamma(count + 8)), 1.0 + raised_by(self.relative))

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        # A size that is dynamic is that of x, or it would be known from the factors.
        return self.norm() if self.input_shape == self.output_shape else None

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        place = axis + len(self.output_shape) - len(self.input_shape)
        own = place - (len(self.output_shape) - self.factor.ndim)
        return place if own < 0 or self.factor.shape[own] == 1 else None

    @property
    def terms(self) -> int:
        """See `LinearMap`."""
        return max(1, math.prod(self.output_shape) // max(1, math.prod(self.input_shape)))

    @property
    def error(self) -> float:
        """See `LinearMap`."""
        return product(self.norm(), raised_by(self.relative)) if self.relative else 0.0


def raised_by(relative: float) -> float:
    """Return r/(1 − r), by how much of the rounded number the exact one may be above it, where it is off by r."""
    return relative / (1.0 - relative) * (1.0 + 4.0 * UNIT) if relative else 0.0


def unbroadcast(array: Array, shape: Shape) -> Array:
    """Sum an array over the axes along which a shape was repeated to give its own: the adjoint of broadcasting."""
    lead = array.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(array.sum(axis=axes, keepdims=True).reshape(shape))


def copied_axes(shape: Shape, result: Shape) -> tuple[int, ...]:
    """Return the axes of a broadcast result along which elements of an operand are repeated."""
    lead = len(result) - len(shape)
    return tuple(
        axis for axis, size in enumerate(result) if size != 1 and (axis < lead or shape[axis - lead] == 1 != size)
    )
