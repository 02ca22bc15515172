"""Formulas: what nodes compute elementwise of one value, read back from the graph in a few normal forms.

    Polynomial     c₀ + c₁x + c₂x² + …
    Bent           a + b·f(inner), f a function that has a name, inner a formula

Constants are single numbers, exact in float64 as they are stored; products of them are rounded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from sn_graph.certify.steps import LinearMap, Operand, Unbounded
from sn_graph.model import Node

# How many nodes a formula may go through, which bounds the time that nested ones take.
DEEPEST = 12
HIGHEST = 3


class View(Protocol):
    """A scope as a pattern reads it."""

    def node(self, name: str) -> Node | None:
        """Return the node that makes a value in this scope; None where another scope does, or none."""

    def value(self, name: str) -> Operand | Unbounded | None:
        """Return what a name stands for."""

    def part(self, name: str) -> tuple[Operand, LinearMap] | None:
        """Return the value that a value takes elements out of, and how; None where it does something else."""


@dataclass(frozen=True)
class Polynomial:
    """c₀ + c₁x + …, without trailing zeros."""

    coefficients: tuple[float, ...]

    def times(self, other: "Polynomial") -> "Polynomial | None":
        """Multiply; None where the degree is too high."""
        made = np.convolve(self.coefficients, other.coefficients)
        return Polynomial.of(made) if len(made) <= HIGHEST + 1 else None

    def plus(self, other: "Polynomial") -> "Polynomial":
        """Add."""
        size = max(len(self.coefficients), len(other.coefficients))
        padded = [np.pad(one.coefficients, (0, size - len(one.coefficients))) for one in (self, other)]
        return Polynomial.of(padded[0] + padded[1])

    @classmethod
    def of(cls, coefficients: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> "Polynomial":
        """Drop trailing zeros, but for the constant."""
        kept = [float(one) for one in coefficients]
        while len(kept) > 1 and kept[-1] == 0.0:
            kept.pop()
        return cls(tuple(kept))

    @property
    def slope(self) -> float | None:
        """P where it is p·x; else None."""
        return self.coefficients[1] if len(self.coefficients) == 2 and self.coefficients[0] == 0.0 else None


@dataclass(frozen=True)
class Bent:
    """a + b·f(inner).

    Attributes:
        name: f: an operator's name, "Exp", "Softplus", or "Clip" with its bounds.
        inner: What it is of.
        add, times: a and b.
        low, high: The bounds of Clip.
    """

    name: str
    inner: "Formula"
    add: float = 0.0
    times: float = 1.0
    low: float = -np.inf
    high: float = np.inf


Formula = Polynomial | Bent
X = Polynomial((0.0, 1.0))


def number(view: View, name: str, rank: int) -> float | None:
    """Return the single number that a constant holds; None where it is something else, or has more axes than `rank`."""
    value = view.value(name) if name else None
    if not isinstance(value, Operand) or value.array is None or value.depends or value.array.size != 1:
        return None
    if value.array.ndim > rank:  # broadcasting would give the result more axes
        return None
    found = float(np.asarray(value.array, np.float64).reshape(-1)[0])
    return found if np.isfinite(found) else None


def formula(view: View, name: str, anchor: str, rank: int, depth: int = DEEPEST) -> Formula | None:
    """Return what a value is of the anchor's; None where it is not elementwise, or has no normal form here."""
    if name == anchor:
        return X
    constant = number(view, name, rank)
    if constant is not None:
        return Polynomial((constant,))
    node = view.node(name)
    if node is None or not node.is_standard or depth == 0:
        return None
    maker = _MAKERS.get(node.op_type)
    inputs = list(node.proto.input)
    if maker is None:
        return None
    return maker(view, node, lambda place: formula(view, inputs[place], anchor, rank, depth - 1))


Operands = Callable[[int], Formula | None]


def _sum(sign: float) -> Callable[[View, Node, Operands], Formula | None]:
    def made(_: View, __: Node, operand: Operands) -> Formula | None:
        left, right = operand(0), operand(1)
        if left is None or right is None:
            return None
        return added(left, scaled(right, sign))

    return made


def added(left: Formula, right: Formula) -> Formula | None:
    """Add two formulas."""
    if isinstance(left, Polynomial) and isinstance(right, Polynomial):
        return left.plus(right)
    bent, other = (left, right) if isinstance(left, Bent) else (right, left)
    if isinstance(bent, Bent) and isinstance(other, Polynomial) and len(other.coefficients) == 1:
        return replace(bent, add=bent.add + other.coefficients[0])
    return None


def scaled(one: Formula, factor: float) -> Formula:
    """Multiply by a number."""
    if isinstance(one, Polynomial):
        return Polynomial.of(np.array(one.coefficients) * factor)
    return replace(one, add=one.add * factor, times=one.times * factor)


def _product(_: View, __: Node, operand: Operands) -> Formula | None:
    left, right = operand(0), operand(1)
    if left is None or right is None:
        return None
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Polynomial) and len(one.coefficients) == 1:
            return scaled(other, one.coefficients[0])
    return left.times(right) if isinstance(left, Polynomial) and isinstance(right, Polynomial) else None


def _quotient(_: View, __: Node, operand: Operands) -> Formula | None:
    left, right = operand(0), operand(1)
    if left is None or not isinstance(right, Polynomial) or len(right.coefficients) != 1 or not right.coefficients[0]:
        return None
    return scaled(left, 1.0 / right.coefficients[0])


def _power(_: View, __: Node, operand: Operands) -> Formula | None:
    base, exponent = operand(0), operand(1)
    if not isinstance(base, Polynomial) or not isinstance(exponent, Polynomial) or len(exponent.coefficients) != 1:
        return None
    wanted, found = exponent.coefficients[0], base
    if wanted not in (1.0, 2.0, 3.0):
        return None
    for _times in range(int(wanted) - 1):
        made = found.times(base)
        if made is None:
            return None
        found = made
    return found


def _named(name: str) -> Callable[[View, Node, Operands], Formula | None]:
    def made(_: View, __: Node, operand: Operands) -> Formula | None:
        inner = operand(0)
        return None if inner is None else Bent(name, inner)

    return made


def _logarithm(_: View, __: Node, operand: Operands) -> Formula | None:
    inner = operand(0)
    if isinstance(inner, Bent) and inner.name == "Exp" and inner.add == 1.0 and inner.times == 1.0:
        return Bent("Softplus", inner.inner)
    return None


def _clip(view: View, node: Node, operand: Operands) -> Formula | None:
    inner = operand(0)
    low, high = node.number("min", -np.inf), node.number("max", np.inf)
    for place, which in ((1, "low"), (2, "high")):
        if len(node.proto.input) > place and node.proto.input[place]:
            found = number(view, node.proto.input[place], 1)
            if found is None:
                return None
            low, high = (found, high) if which == "low" else (low, found)
    return None if inner is None else Bent("Clip", inner, low=low, high=high)


def _relu(_: View, __: Node, operand: Operands) -> Formula | None:
    inner = operand(0)
    return None if inner is None else Bent("Clip", inner, low=0.0)


def _extreme(largest: bool) -> Callable[[View, Node, Operands], Formula | None]:
    """Max and Min with a number: Clip from one side, or from the other too."""

    def made(_: View, node: Node, operand: Operands) -> Formula | None:
        if len(node.proto.input) != 2:
            return None
        left, right = operand(0), operand(1)
        for one, other in ((left, right), (right, left)):
            if one is None or not isinstance(other, Polynomial) or len(other.coefficients) != 1:
                continue
            bound = other.coefficients[0]
            if isinstance(one, Bent) and one.name == "Clip" and one.add == 0.0 and one.times == 1.0:
                if largest:
                    return replace(one, low=max(one.low, bound), high=max(one.high, bound))
                return replace(one, low=min(one.low, bound), high=min(one.high, bound))
            return Bent("Clip", one, low=bound) if largest else Bent("Clip", one, high=bound)
        return None

    return made


def _hard_sigmoid(_: View, node: Node, operand: Operands) -> Formula | None:
    inner = operand(0)
    if inner is None:
        return None
    alpha, beta = node.number("alpha", float(np.float32(0.2))), node.number("beta", 0.5)
    made = added(scaled(inner, alpha), Polynomial((beta,)))
    return None if made is None else Bent("Clip", made, low=0.0, high=1.0)


def _same(_: View, __: Node, operand: Operands) -> Formula | None:
    return operand(0)


def _negative(_: View, __: Node, operand: Operands) -> Formula | None:
    inner = operand(0)
    return None if inner is None else scaled(inner, -1.0)


_MAKERS: dict[str, Callable[[View, Node, Operands], Formula | None]] = {
    "Add": _sum(1.0),
    "Sub": _sum(-1.0),
    "Mul": _product,
    "Div": _quotient,
    "Pow": _power,
    "Log": _logarithm,
    "Clip": _clip,
    "Relu": _relu,
    "Max": _extreme(largest=True),
    "Min": _extreme(largest=False),
    "HardSigmoid": _hard_sigmoid,
    "Identity": _same,
    "Neg": _negative,
    **{name: _named(name) for name in ("Sigmoid", "Tanh", "Erf", "Exp", "Softplus")},
}


def varying(view: View, name: str) -> Operand | None:
    """Return a value that depends on the network's input; None where a name stands for something else."""
    value = view.value(name) if name else None
    return value if isinstance(value, Operand) and not value.is_constant else None


def anchors(view: View, names: Sequence[str]) -> Iterator[str]:
    """Yield the values of which a product's factors may be made: the factors, and what they are multiples of."""
    for first in names:
        name: str | None = first
        for _ in range(3):
            if name is None:
                break
            if varying(view, name) is not None:
                yield name
            name = _multiple_of(view, name)


def _multiple_of(view: View, name: str) -> str | None:
    node = view.node(name)
    if node is None or node.op_type not in ("Mul", "Div") or len(node.proto.input) != 2:
        return None
    left, right = node.proto.input
    if number(view, right, _ANY) is not None:
        return str(left)
    return str(right) if node.op_type == "Mul" and number(view, left, _ANY) is not None else None


# More axes than a value has; where an anchor is only looked for.
_ANY = 64


def kept_axes(view: View, node: Node, rank: int) -> tuple[int, ...] | None:
    """Return the axes of a reduction that keeps its dimensions; None where it does not, or they are not known."""
    if not node.integer("keepdims", 1):
        return None
    axes = node.integers("axes")
    if axes is None and len(node.proto.input) > 1:
        value = view.value(node.proto.input[1])
        if not isinstance(value, Operand) or value.array is None or value.depends:
            return None
        axes = tuple(int(axis) for axis in value.array.reshape(-1))
    return tuple(sorted({axis % rank for axis in axes})) if axes else None
