"""Steps: what the nodes of a network compute, each with its Jacobian and a proven Lipschitz constant.

A step makes one value out of its operands. Norms are Euclidean, of all elements of a value together. Everything is of
real functions: a weight is exactly the element that is stored, and nothing is rounded but for the proofs' own numbers,
which are rounded upwards.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from sn_graph.certify.steps.maps import Array, LinearMap, Shape, copied_axes
from sn_graph.certify.steps.rounding import product, root, root_of_squares, total
from sn_graph.model import Node


class NoBound(Exception):
    """Raised by a rule: no Lipschitz constant exists, or none is known.

    Attributes:
        reason: Why, as a phrase: "product of two values that depend on the input".
        do: What would change it; "" where nothing is known that would.
    """

    def __init__(self, reason: str, do: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.do = do


@dataclass(frozen=True, eq=False)
class Unbounded:
    """The node at which a network stops having a Lipschitz constant, or a known one.

    Attributes:
        node: The node.
        path: Its place as reports write it; that of a function's body stands behind the call.
        reason, do: See `NoBound`.
    """

    node: Node
    path: str
    reason: str
    do: str = ""


class OpenSize(Exception):
    """A size that is not known decides the answer, and the rule knows no supremum over all sizes."""


class Joined(StrEnum):
    """How the changes of a step's operands add up in its result."""

    SUM = "sum"  # ‖δ‖ ≤ Σ cᵢ‖δᵢ‖
    ROOT = "root"  # ‖δ‖ ≤ √Σ cᵢ²‖δᵢ‖², because the parts that they change are disjoint, or each element is one of them


@dataclass(frozen=True, eq=False, kw_only=True)
class Step(ABC):
    """One value of a network, and how it is made.

    Attributes:
        node: The node that makes it; of several that a pattern joins, the last.
        rule: What the report calls the rule: "Conv", "swish".
        operands: The names of the values that it is made of; one may stand there twice.
        result: The value's name in the network.
        shape: Its shape.
        note: What the report says besides; "" for nothing.
        path: The node's place as reports write it.
    """

    node: Node
    rule: str
    operands: tuple[str, ...]
    result: str
    shape: Shape
    note: str = ""
    path: str = ""

    @abstractmethod
    def forward(self, *operands: Array) -> Array:
        """Return the value, float64 of `shape`, for those of the operands."""

    @abstractmethod
    def push(self, operands: Sequence[Array], tangents: Sequence[Array | None]) -> Array:
        """Return the Jacobian at `operands` times tangents, one an operand, None for 0."""

    @abstractmethod
    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """Return the transposed Jacobian at `operands` times a cotangent: one array an operand."""

    @abstractmethod
    def factors(self) -> tuple[float, ...]:
        """Return the proven Lipschitz constants in each operand by itself."""

    @abstractmethod
    def suprema(self) -> tuple[float | None, ...]:
        """Return `factors` over all sizes that are dynamic; None where none is known."""

    @abstractmethod
    def carry(self, axes: Sequence[int | None]) -> int | None:
        """Follow the axis along which samples stand: see `LinearMap.carry`.

        Args:
            axes: That axis of each operand; None where the operand does not hold a sample for each of the input's.
        """

    @property
    def joined(self) -> Joined:
        """How the operands' changes add up."""
        return Joined.SUM

    def bound(self, constants: Sequence[float]) -> float:
        """Return a Lipschitz constant of the value, given those of the operands, rounded upwards."""
        return self.combined(self.factors(), constants)

    def combined(self, factors: Sequence[float], constants: Sequence[float]) -> float:
        """Join constants of the operands by factors."""
        terms = [product(factor, constant) for factor, constant in zip(factors, constants, strict=True)]
        return total(terms) if self.joined is Joined.SUM else root_of_squares(terms)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Step):
    """Σ Aᵢ xᵢ + offset.

    Attributes:
        parts: The Aᵢ, one an operand.
        offset: A constant that broadcasts to the result; None for 0.
        disjoint: Whether no two parts reach the same element of the result.
    """

    parts: tuple[LinearMap, ...]
    offset: Array | None = None
    disjoint: bool = False

    def forward(self, *operands: Array) -> Array:
        """See `Step`."""
        result = self._applied(operands)
        return result if self.offset is None else result + self.offset

    def _applied(self, operands: Sequence[Array | None]) -> Array:
        terms = [part.forward(one) for part, one in zip(self.parts, operands, strict=True) if one is not None]
        if not terms:
            return np.zeros(self.shape)
        result = terms[0]
        for term in terms[1:]:
            result = result + term
        return result

    def push(self, operands: Sequence[Array], tangents: Sequence[Array | None]) -> Array:
        """See `Step`."""
        del operands
        return self._applied(tangents)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Step`."""
        del operands
        return tuple(part.adjoint(cotangent) for part in self.parts)

    def factors(self) -> tuple[float, ...]:
        """See `Step`."""
        return tuple(part.norm() for part in self.parts)

    def suprema(self) -> tuple[float | None, ...]:
        """See `Step`."""
        return tuple(part.supremum() for part in self.parts)

    @property
    def joined(self) -> Joined:
        """See `Step`."""
        return Joined.ROOT if self.disjoint else Joined.SUM

    def carry(self, axes: Sequence[int | None]) -> int | None:
        """See `Step`."""
        found = {None if axis is None else part.carry(axis) for part, axis in zip(self.parts, axes, strict=True)}
        if len(found) != 1:
            return None
        axis = found.pop()
        return axis if axis is not None and not varies(self.offset, self.shape, axis) else None


def varies(offset: Array | None, shape: Shape, axis: int) -> bool:
    """Say whether a constant that broadcasts to a shape differs along an axis of it."""
    if offset is None:
        return False
    place = axis - len(shape) + offset.ndim
    if place < 0 or offset.shape[place] == 1:
        return False
    return bool((offset != offset.take([0], axis=place)).any())


Univariate = Callable[[Array], Array]


@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Step):
    """φ(x), one function of one number for each element: a slope-restricted neuron.

    low ≤ (φ(a) − φ(b))/(a − b) ≤ high for all a ≠ b.

    Attributes:
        low, high: Numbers, or arrays that broadcast to the value's shape; proven, low rounded down, high up.
        apply: Returns φ of each element.
        derivative: Returns φ' of each element, one of the subgradients where φ has a kink.
        parameters: Arrays that broadcast to the value's shape, where φ differs from element to element by them.
    """

    low: float | Array
    high: float | Array
    apply: Univariate = field(repr=False)
    derivative: Univariate = field(repr=False)
    parameters: tuple[Array, ...] = field(default=(), repr=False)

    def forward(self, *operands: Array) -> Array:
        """See `Step`."""
        (x,) = operands
        return self.apply(x)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array | None]) -> Array:
        """See `Step`."""
        (x,), (tangent,) = operands, tangents
        return np.zeros(self.shape) if tangent is None else self.derivative(x) * tangent

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Step`."""
        (x,) = operands
        return (self.derivative(x) * cotangent,)

    def factors(self) -> tuple[float, ...]:
        """See `Step`."""
        if 0 in self.shape:
            return (0.0,)
        return (max(float(np.abs(self.low).max()), float(np.abs(self.high).max())),)

    def suprema(self) -> tuple[float | None, ...]:
        """See `Step`."""
        return self.factors()

    def carry(self, axes: Sequence[int | None]) -> int | None:
        """See `Step`."""
        (axis,) = axes
        if axis is None:
            return None
        ends = (np.asarray(self.low), np.asarray(self.high), *self.parameters)
        return None if any(varies(end, self.shape, axis) for end in ends) else axis


class Function(Protocol):
    """A function of arrays with its Jacobian, as a `Bounded` step computes it."""

    def forward(self, *operands: Array) -> Array:
        """Return the value."""

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """Return the Jacobian at `operands` times tangents."""

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """Return the transposed Jacobian at `operands` times a cotangent."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Bounded(Step):
    """A function that is neither linear nor elementwise, with a constant for each operand.

    Attributes:
        function: What it computes.
        constants: Proven, one an operand.
        over_all_sizes: The same over all sizes that are dynamic; None where it is not known.
        join: How the operands' changes add up.
        mixed: The axes of the result along which elements are made of elements at several places; the axes of all
            operands are the result's, broadcast as NumPy does. None where all axes may be mixed.
    """

    function: Function = field(repr=False)
    constants: tuple[float, ...]
    over_all_sizes: tuple[float | None, ...] | None = None
    join: Joined = Joined.SUM
    mixed: frozenset[int] | None = None

    def forward(self, *operands: Array) -> Array:
        """See `Step`."""
        return self.function.forward(*operands)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array | None]) -> Array:
        """See `Step`."""
        filled = [np.zeros_like(x) if t is None else t for x, t in zip(operands, tangents, strict=True)]
        return self.function.push(operands, filled)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Step`."""
        return self.function.pull(operands, cotangent)

    def factors(self) -> tuple[float, ...]:
        """See `Step`."""
        return (0.0,) * len(self.operands) if 0 in self.shape else self.constants

    def suprema(self) -> tuple[float | None, ...]:
        """See `Step`."""
        return (None,) * len(self.operands) if self.over_all_sizes is None else self.over_all_sizes

    @property
    def joined(self) -> Joined:
        """See `Step`."""
        return self.join

    def carry(self, axes: Sequence[int | None]) -> int | None:
        """See `Step`."""
        found = set(axes)
        if self.mixed is None or len(found) != 1:
            return None
        axis = found.pop()
        return None if axis is None or axis in self.mixed else axis


def repeated(shape: Shape, result: Shape) -> float:
    """Return √ of how often broadcasting to a result's shape repeats an element, rounded upwards."""
    count = 1
    for axis in copied_axes(shape, result):
        count *= result[axis]
    return root(float(count))
