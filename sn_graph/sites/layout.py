"""Layouts: what operators that only rearrange have made of a stored tensor's axes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Atom(NamedTuple):
    """A run of the stored tensor's elements that an axis walks: `size` of them, `stride` apart in stored order."""

    stride: int
    size: int


@dataclass(frozen=True)
class Layout:
    """What a chain of ops has made of a stored tensor: for each axis the atoms that it walks, none of size 1."""

    dims: tuple[tuple[Atom, ...], ...]

    @classmethod
    def stored(cls, shape: Sequence[int]) -> "Layout":
        """Return the layout of a tensor as it is stored."""
        strides = [1, *accumulate(reversed(shape[1:]), mul)]
        atoms = [Atom(stride, size) for stride, size in zip(reversed(strides), shape, strict=False)]
        return cls(tuple((atom,) if atom.size != 1 else () for atom in atoms))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(math.prod(atom.size for atom in dim) for dim in self.dims)

    def array(self, stored: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return the tensor that the chain has made of a stored one; a view where numpy can make one."""
        atoms = [atom for dim in self.dims for atom in dim]
        flat = np.ascontiguousarray(stored).reshape(-1)
        sizes, strides = [atom.size for atom in atoms], [atom.stride * flat.itemsize for atom in atoms]
        return np.lib.stride_tricks.as_strided(flat, sizes, strides, writeable=False).reshape(self.shape)

    def stored_array(self, made: NDArray[np.generic], shape: Sequence[int]) -> NDArray[Any]:
        """Return what a chain has made of a stored tensor of `shape` as it was stored: the inverse of `array`."""
        sizes, order = self.split()
        return made.reshape(sizes).transpose(order).reshape(shape)

    def split(self) -> tuple[list[int], list[int]]:
        """Return the sizes of the runs that the axes walk, and their places in stored order."""
        atoms = [atom for dim in self.dims for atom in dim]
        return [atom.size for atom in atoms], sorted(range(len(atoms)), key=lambda place: atoms[place], reverse=True)

    def transpose(self, perm: Sequence[int]) -> "Layout":
        """Return the layout with its axes in another order."""
        return Layout(tuple(self.dims[axis] for axis in perm))

    def reshape(self, shape: Sequence[int]) -> "Layout | None":
        """Return the layout of this shape, of as many elements.

        None where an axis would walk the stored elements in no regular way, as when a transposed matrix is cut across.
        """
        if 0 in shape:
            return Layout.stored(shape)
        waiting = _merged(atom for dim in self.dims for atom in dim)[::-1]
        dims = []
        for size in shape:
            dim: list[Atom] = []
            while size > 1:
                atom = waiting.pop()
                if atom.size > size and atom.size % size == 0:
                    waiting.append(Atom(atom.stride, atom.size // size))
                    atom = Atom(atom.stride * (atom.size // size), size)
                if size % atom.size:
                    return None
                size //= atom.size
                dim.append(atom)
            dims.append(tuple(dim))
        return Layout(tuple(dims))


def _merged(atoms: Iterable[Atom]) -> list[Atom]:
    """Join atoms that follow each other in stored order."""
    merged: list[Atom] = []
    for atom in atoms:
        if merged and merged[-1].stride == atom.stride * atom.size:
            merged[-1] = Atom(atom.stride, merged[-1].size * atom.size)
        else:
            merged.append(atom)
    return merged
