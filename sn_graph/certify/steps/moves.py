"""Moves: linear maps whose coefficients are 0 and 1: reshaping, transposing, selecting, repeating, placing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.steps.maps import Array, LinearMap, Shape
from sn_graph.certify.steps.rounding import root

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reshaped(LinearMap):
    """The same elements in another shape; the identity where the shape stays. An isometry."""

    @classmethod
    def identity(cls, shape: Shape) -> "Reshaped":
        """Leave arrays of a shape as they are."""
        return cls(shape, shape)

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        return x.reshape(self.output_shape)

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        return y.reshape(self.input_shape)

    def norm(self) -> float:
        """See `LinearMap`."""
        return 1.0

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return 1.0

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        if self.input_shape == self.output_shape:
            return axis
        size, before = self.input_shape[axis], math.prod(self.input_shape[:axis])
        # Of several axes that would do, because sizes of 1 stand between, any is right.
        found = (
            place
            for place, other in enumerate(self.output_shape)
            if other == size and math.prod(self.output_shape[:place]) == before
        )
        return next(found, None)


@dataclass(frozen=True, eq=False)
class Transposed(LinearMap):
    """The axes in another order. An isometry.

    Attributes:
        perm: Axis i of the output is axis perm[i] of the input.
    """

    perm: tuple[int, ...]

    @classmethod
    def of(cls, shape: Shape, perm: Sequence[int]) -> "Transposed":
        """Transpose arrays of a shape."""
        if sorted(perm) != list(range(len(shape))):
            raise ValueError(f"{list(perm)} is no order of {len(shape)} axes")
        return cls(shape, tuple(shape[axis] for axis in perm), tuple(perm))

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        return x.transpose(self.perm)

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        return y.transpose(np.argsort(self.perm))

    def norm(self) -> float:
        """See `LinearMap`."""
        return 1.0

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return 1.0

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        return self.perm.index(axis)


@dataclass(frozen=True, eq=False)
class Selected(LinearMap):
    """Elements taken out of the input, by their flat places; some may be left out, and some taken several times.

    ‖A‖ = √(how often the one that is taken most often is taken).

    Attributes:
        places: int64, of the output's shape: the flat index in the input; −1 for a 0.
        most: How often an element is taken at most, whatever the sizes that are dynamic; None where that is not known.
    """

    places: Indices
    most: int | None = None

    @classmethod
    def of(cls, shape: Shape, places: NDArray[Any], most: int | None = None) -> "Selected":
        """Take elements out of arrays of a shape."""
        return cls(shape, places.shape, np.asarray(places, np.int64), most)

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        if not x.size:
            return np.zeros(self.output_shape)
        taken = x.reshape(-1)[self.places]
        return np.where(self.places < 0, 0.0, taken) if self._has_zeros else taken

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        size = math.prod(self.input_shape)
        flat, values = self.places.reshape(-1), y.reshape(-1)
        if self._has_zeros:
            values, flat = values[flat >= 0], flat[flat >= 0]
        return np.bincount(flat, values, size).astype(np.float64).reshape(self.input_shape)

    def norm(self) -> float:
        """See `LinearMap`."""
        return root(float(self._multiplicity))

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return None if self.most is None else root(float(self.most))

    @cached_property
    def _has_zeros(self) -> bool:
        return bool((self.places < 0).any())

    @cached_property
    def _multiplicity(self) -> int:
        flat = self.places.reshape(-1)
        return int(np.bincount(flat[flat >= 0]).max(initial=0)) if flat.size else 0

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        size, stride = self.input_shape[axis], math.prod(self.input_shape[axis + 1 :])
        taken = self.places >= 0
        along = np.where(taken, self.places // stride % size, 0)
        rest = np.where(taken, self.places - along * stride, -1)
        for place, other in enumerate(self.output_shape):
            if other != size:
                continue
            own = np.arange(size).reshape((-1,) + (1,) * (len(self.output_shape) - place - 1))
            same = rest.take([0], axis=place) == rest
            if same.all() and np.where(taken, along == own, True).all():
                return place
        return None

    @property
    def terms(self) -> int:
        """See `LinearMap`."""
        return max(1, self._multiplicity)


@dataclass(frozen=True, eq=False)
class Placed(LinearMap):
    """The input as a part of a longer array that is 0 elsewhere. An isometry.

    Attributes:
        axis: Along which the output is longer.
        start: Where the input begins there.
    """

    axis: int
    start: int

    def _part(self) -> tuple[slice, ...]:
        own = slice(self.start, self.start + self.input_shape[self.axis])
        return (*(slice(None),) * self.axis, own)

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        result = np.zeros(self.output_shape)
        result[self._part()] = x
        return result

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        return y[self._part()]

    def norm(self) -> float:
        """See `LinearMap`."""
        return 1.0

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return 1.0

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        return None if axis == self.axis else axis


@dataclass(frozen=True, eq=False)
class Sliced(LinearMap):
    """Elements at regular places of some axes; ‖A‖ = 1, or 0 where none is left.

    Attributes:
        slices: One an axis; of an axis that is read whole, from 0 on, `slice(None)`.
    """

    slices: tuple[slice, ...]

    @classmethod
    def by(cls, shape: Shape, slices: Sequence[slice]) -> "Sliced":
        """Slice arrays of a shape."""
        result = tuple(len(range(size)[one]) for size, one in zip(shape, slices, strict=True))
        return cls(shape, result, tuple(slices))

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        return x[self.slices]

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        result = np.zeros(self.input_shape)
        result[self.slices] = y
        return result

    def norm(self) -> float:
        """See `LinearMap`."""
        return 0.0 if 0 in self.output_shape else 1.0

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return 1.0

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        # A part that is all of it at one size may be less at another, where samples then stand elsewhere.
        return axis if self.slices[axis] == slice(None) else None
