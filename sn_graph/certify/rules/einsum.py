"""Einsum of one varying operand and constants: a transposition, a matrix product of a batch, a transposition.

    x [batch, free of x, summed] · W [batch, summed, free of W]

so ‖A‖ is the largest norm of the batch's matrices. Letters of x alone that are summed count √n.
"""

import math
from collections.abc import Callable, Sequence
from string import ascii_letters

import numpy as np

from sn_graph.certify.steps import (
    Array,
    Call,
    Composed,
    LinearMap,
    Made,
    Multiplied,
    NoBound,
    Reshaped,
    Separable,
    Shape,
    Transposed,
)

MOST = 1 << 26
"""Elements of the constants' product."""


def einsum(call: Call) -> Made:
    """Einsum."""
    shapes = [operand.shape for operand in call.operands if operand is not None]
    terms, result = _letters(call.node.text("equation", ""), shapes)
    varying = [place for place, operand in enumerate(call.operands) if operand is not None and not operand.is_constant]
    if len(varying) > 1:
        raise NoBound("product of two values that depend on the input", "make one of them a constant")
    x, own = call.operand(varying[0]), terms[varying[0]]
    if any(len(set(term)) < len(term) for term in terms):
        raise NoBound("Einsum with a diagonal has no rule")
    others = [place for place in range(len(terms)) if place != varying[0]]
    weight, letters = _joined(call, [(place, terms[place]) for place in others], own, result)
    return call.linear([(x, _product(x.shape, own, weight, letters, result))])


def _letters(equation: str, shapes: Sequence[Shape]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, an ellipsis as letters that are not in use."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"the equation '{equation}' is not one of {len(shapes)} operands")
    free = [letter for letter in ascii_letters if letter not in equation]
    width = max(len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True))
    hidden = "".join(free[: max(0, width)])
    if not arrow:
        used = sorted(letter for letter in set(left) - {",", "."} if left.count(letter) == 1)
        right = ("..." if "..." in left else "") + "".join(used)
    whole = []
    for term, shape in zip(terms, shapes, strict=True):
        count = len(shape) - len(term.replace("...", ""))
        whole.append(term.replace("...", hidden[len(hidden) - count :] if count else ""))
    return whole, right.replace("...", hidden)


def _joined(call: Call, factors: Sequence[tuple[int, str]], own: str, result: str) -> tuple[Array, str]:
    """Multiply the constants, summed over what only they have."""
    if not factors:
        return np.ones(()), ""
    arrays = [call.finite(place, "factor") for place, _ in factors]
    sizes = {
        letter: size
        for (_, term), array in zip(factors, arrays, strict=True)
        for letter, size in zip(term, array.shape, strict=True)
    }
    letters = "".join(letter for letter in sizes if letter in own or letter in result)
    if math.prod(sizes[letter] for letter in letters) > MOST:
        raise NoBound("the product of its constants is too large to be made")
    made = np.einsum(f"{','.join(term for _, term in factors)}->{letters}", *arrays)
    return np.asarray(made), letters


def _product(shape: Shape, own: str, weight: Array, letters: str, result: str) -> LinearMap:
    sizes = dict(zip(own, shape, strict=True))
    others = dict(zip(letters, weight.shape, strict=True))
    if any(sizes[letter] != others[letter] for letter in own if letter in others):
        raise NoBound("Einsum that broadcasts an axis of 1 has no rule")
    alone = [axis for axis, letter in enumerate(own) if letter not in letters and letter not in result]
    maps: list[LinearMap] = [Reshaped.identity(shape)]
    if alone:
        ones = [np.ones((1, size)) if axis in alone else None for axis, size in enumerate(shape)]
        maps.append(Separable.along(shape, ones))
        kept = tuple(size for axis, size in enumerate(shape) if axis not in alone)
        maps.append(Reshaped(maps[-1].output_shape, kept))
        own = "".join(letter for axis, letter in enumerate(own) if axis not in alone)
    batch = [letter for letter in own if letter in letters and letter in result]
    summed = [letter for letter in own if letter in letters and letter not in result]
    free = [letter for letter in own if letter not in letters]
    added = [letter for letter in letters if letter not in own]
    order = [*batch, *free, *summed]
    maps.append(Transposed.of(maps[-1].output_shape, [own.index(letter) for letter in order]))

    def count(some: Sequence[str]) -> int:
        return math.prod({**others, **sizes}[letter] for letter in some)

    # Axes stay apart, so that samples can be followed along theirs.
    lead, inner = [sizes[letter] for letter in batch], [sizes[letter] for letter in free] or [1]
    maps.append(Reshaped(maps[-1].output_shape, (*lead, *inner, count(summed))))
    turned = weight.transpose([letters.index(letter) for letter in (*batch, *summed, *added)])
    stacked = turned.reshape(*lead, *(1,) * (len(inner) - 1), count(summed), count(added))
    maps.append(Multiplied.by(maps[-1].output_shape, stacked))
    made = [*batch, *free, *added]
    whole = tuple({**others, **sizes}[letter] for letter in made)
    maps.append(Reshaped(maps[-1].output_shape, whole))
    maps.append(Transposed.of(whole, [made.index(letter) for letter in result]))
    return Composed.of(maps[1:])


RULES: dict[str, Callable[[Call], Made]] = {"Einsum": einsum}
