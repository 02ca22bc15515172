"""How a stored tensor W becomes the matrix M whose spectral norm is taken.

    M = W.reshape(split).transpose(perm).reshape(rows, cols)

The convention chooses M by the framework that the weight came from, and the side on which the iteration's state u
lives: Keras flattens its kernel to (-1, kernel.shape[-1]) (keras/layers/core/spectral_normalization... as measured on
3.15), PyTorch moves `dim` first (torch/nn/utils/spectral_norm.py, 2.13), Miyato et al. take (out, -1),
https://arxiv.org/abs/1802.05957.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Side = Literal["rows", "cols"]


class Convention(StrEnum):
    """The framework whose matrix and state a view follows."""

    KERAS = "keras"
    TORCH = "torch"
    TORCH_PARAMETRIZATION = "torch-parametrization"


@dataclass(frozen=True)
class MatrixView:
    """`M = W.reshape(split).transpose(perm).reshape(rows, cols)`, and the side of u.

    Attributes:
        split: The shape that W is given first; None where it keeps its own.
        perm: The order of axes after that; None where it stays.
        rows, cols: The shape of M.
        side: "rows" where u has `rows` elements, "cols" where it has `cols`.
    """

    split: tuple[int, ...] | None
    perm: tuple[int, ...] | None
    rows: int
    cols: int
    side: Side

    @property
    def state_length(self) -> int:
        """How many elements u has."""
        return self.rows if self.side == "rows" else self.cols

    def matrix(self, weight: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return M, of shape (rows, cols): a view of `weight` where numpy can make one."""
        split = weight if self.split is None else weight.reshape(self.split)
        moved = split if self.perm is None else split.transpose(self.perm)
        return moved.reshape(self.rows, self.cols)

    def fits(self, shape: Sequence[int]) -> bool:
        """Say whether the view can be taken of a tensor of this shape."""
        split = self.split if self.split is not None else tuple(shape)
        perm = self.perm if self.perm is not None else tuple(range(len(split)))
        sizes = {math.prod(shape), math.prod(split), self.rows * self.cols}
        return len(sizes) == 1 and min(self.rows, self.cols) > 0 and sorted(perm) == list(range(len(split)))


class Atom(NamedTuple):
    """A run of a stored axis that reshapes have not cut yet. Atoms sort in stored order."""

    place: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Layout:
    """A tensor as an arrangement of the stored tensor's axes, cut into atoms: what a chain of ops has made of it."""

    dims: tuple[tuple[Atom, ...], ...]

    @classmethod
    def stored(cls, shape: Sequence[int]) -> "Layout":
        return cls(tuple((Atom((axis,), size),) for axis, size in enumerate(shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(atom.size for atom in dim) for dim in self.dims)

    def transpose(self, perm: Sequence[int]) -> "Layout":
        return Layout(tuple(self.dims[axis] for axis in perm))

    def reshape(self, shape: Sequence[int]) -> "Layout | None":
        """Return the layout of this shape, or None where the new axes cut across the old ones' order."""
        waiting = [atom for dim in reversed(self.dims) for atom in reversed(dim)]
        dims = []
        for size in shape:
            dim: list[Atom] = []
            missing = size
            while missing > 1 or (waiting and waiting[-1].size == 1 and not dim):
                if not waiting:
                    return None
                atom = waiting.pop()
                if missing % atom.size:
                    if atom.size % missing:
                        return None
                    waiting.append(Atom((*atom.place, 1), atom.size // missing))
                    atom = Atom((*atom.place, 0), missing)
                missing //= atom.size
                dim.append(atom)
            dims.append(dim)
        if any(atom.size != 1 for atom in waiting) or (waiting and not dims):
            return None
        if waiting:
            dims[-1] += reversed(waiting)
        return Layout(tuple(map(tuple, dims)))

    def matrix(self, row_axes: int, side: Side, shape: Sequence[int]) -> "SlotMatrix":
        """Return the matrix whose rows are the first `row_axes` axes; `shape` is the stored tensor's."""
        rows = [atom for dim in self.dims[:row_axes] for atom in dim]
        cols = [atom for dim in self.dims[row_axes:] for atom in dim]
        order = [*rows, *cols]
        stored = sorted(order)
        if tuple(atom.size for atom in stored) != tuple(shape):
            order = [atom for atom in order if atom.size > 1]
            stored = sorted(order)
        perm: tuple[int, ...] | None = tuple(map(stored.index, order))
        split: tuple[int, ...] | None = tuple(atom.size for atom in stored)
        if order == stored:
            split = perm = None
        elif split == tuple(shape):
            split = None
        size_rows, size_cols = (math.prod(atom.size for atom in group) for group in (rows, cols))
        return SlotMatrix(MatrixView(split, perm, size_rows, size_cols, side), _partition(rows, cols))


@dataclass(frozen=True)
class SlotMatrix:
    """A view, and what decides its singular values: which runs of the stored tensor are rows and which columns."""

    view: MatrixView
    partition: tuple[tuple[bool, int], ...]

    def same_singular_values(self, other: "SlotMatrix") -> bool:
        """Say whether the two matrices are equal up to transposition and the order of rows and columns."""
        swapped = tuple((not is_row, size) for is_row, size in other.partition)
        return self.partition in (other.partition, swapped)


def _partition(rows: list[Atom], cols: list[Atom]) -> tuple[tuple[bool, int], ...]:
    runs: list[tuple[bool, int]] = []
    for atom, is_row in sorted([(atom, True) for atom in rows] + [(atom, False) for atom in cols]):
        if atom.size == 1:
            continue
        if runs and runs[-1][0] == is_row:
            runs[-1] = (is_row, runs[-1][1] * atom.size)
        else:
            runs.append((is_row, atom.size))
    return tuple(runs)


@dataclass(frozen=True)
class Slot:
    """What a consumer does with the weight, as far as its matrix goes.

    Attributes:
        kind: "conv", "conv_transpose", "matmul_right", "matmul_left", "gather" or "rnn".
        perm: How the op transposes the weight first (Gemm's transA and transB); None where it does not.
        group: Conv's and ConvTranspose's attribute.
    """

    kind: Literal["conv", "conv_transpose", "matmul_right", "matmul_left", "gather", "rnn"]
    perm: tuple[int, ...] | None = None
    group: int = 1


def slot_matrix(slot: Slot, layout: Layout, stored_shape: Sequence[int], convention: Convention) -> SlotMatrix:
    """Return the matrix that a convention takes of a weight in a slot.

    Args:
        slot: The consumer.
        layout: What the consumer reads, in terms of the stored tensor.
        stored_shape: The stored tensor's shape.
        convention: Whose matrix.
    """
    if convention is Convention.TORCH_PARAMETRIZATION:
        # parametrizations.spectral_norm updates u from v first, so its state is v, on the other side.
        found = slot_matrix(slot, layout, stored_shape, Convention.TORCH)
        other: Side = "cols" if found.view.side == "rows" else "rows"
        return replace(found, view=replace(found.view, side=other))
    keras = convention is Convention.KERAS
    shape = layout.shape
    rank = len(shape)
    if slot.kind == "conv":
        if keras and is_depthwise(slot, shape):
            multiplier = shape[0] // slot.group
            split = layout.reshape((slot.group, multiplier, *shape[2:]))
            assert split is not None
            return split.transpose((1, 0, *range(2, rank))).matrix(1, "rows", stored_shape)
        return layout.matrix(1, "rows", stored_shape)
    if slot.kind == "conv_transpose":
        moved = layout if keras else layout.transpose((1, 0, *range(2, rank)))
        return moved.matrix(1, "rows", stored_shape)
    if slot.kind == "gather":
        return layout.matrix(1, "cols" if keras else "rows", stored_shape)
    if slot.kind == "rnn":
        return layout.matrix(2, "rows", stored_shape)
    # The op multiplies by the layout transposed by slot.perm; M is taken of the tensor as it stands before that.
    output_axis = rank - 1 if rank > 2 or slot.kind == "matmul_right" else rank - 2
    if slot.perm is not None:
        output_axis = slot.perm[output_axis]
    if output_axis == 0:
        return layout.matrix(1, "rows", stored_shape)
    others = [axis for axis in range(rank) if axis != output_axis]
    return layout.transpose((*others, output_axis)).matrix(rank - 1, "cols", stored_shape)


def is_depthwise(slot: Slot, shape: Sequence[int]) -> bool:
    """Say whether a Conv may be Keras's DepthwiseConv: one input channel a group, and a group for each channel."""
    return slot.kind == "conv" and slot.group > 1 and shape[1] == 1 and shape[0] % slot.group == 0
