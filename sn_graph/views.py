"""How a stored tensor W becomes the matrix M whose spectral norm is taken.

    M = W.reshape(split).transpose(perm).reshape(rows, cols)

The convention chooses M by the framework that the weight came from, and the side on which the iteration's state u
lives: Keras flattens its kernel to (-1, kernel.shape[-1]) (keras/src/layers/normalization/spectral_normalization.py,
3.15), PyTorch moves `dim` first (torch/nn/utils/spectral_norm.py, 2.13), Miyato et al. take (out, -1),
https://arxiv.org/abs/1802.05957.
"""

import math
from collections.abc import Iterable, Sequence
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
        atoms = [Atom(math.prod(shape[axis + 1 :]), size) for axis, size in enumerate(shape)]
        return cls(tuple((atom,) if atom.size != 1 else () for atom in atoms))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(atom.size for atom in dim) for dim in self.dims)

    def array(self, stored: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return the tensor that the chain has made of a stored one; a view where numpy can make one."""
        atoms = [atom for dim in self.dims for atom in dim]
        flat = np.ascontiguousarray(stored).reshape(-1)
        sizes, strides = [atom.size for atom in atoms], [atom.stride * flat.itemsize for atom in atoms]
        return np.lib.stride_tricks.as_strided(flat, sizes, strides, writeable=False).reshape(self.shape)

    def transpose(self, perm: Sequence[int]) -> "Layout":
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

    def matrix(self, row_axes: int, side: Side, shape: Sequence[int]) -> "SlotMatrix":
        """Return the matrix whose rows are the first `row_axes` axes; `shape` is the stored tensor's."""
        rows, cols = ([atom for dim in dims for atom in dim] for dims in (self.dims[:row_axes], self.dims[row_axes:]))
        order = [*rows, *cols]
        stored = sorted(order, reverse=True)
        split: tuple[int, ...] | None = None
        perm: tuple[int, ...] | None = None
        if order != stored:
            split = tuple(atom.size for atom in stored)
            perm = tuple(map(stored.index, order))
            axes = [axis for axis, size in enumerate(shape) if size != 1]
            if split == tuple(shape[axis] for axis in axes):  # no axis is cut: the tensor's own do
                ones = (axis for axis in range(len(shape)) if axis not in axes)
                split, perm = None, (*(axes[axis] for axis in perm), *ones)
        height, width = (math.prod(atom.size for atom in group) for group in (rows, cols))
        runs = [(atom, True) for atom in rows] + [(atom, False) for atom in cols]
        return SlotMatrix(MatrixView(split, perm, height, width, side), _partition(runs))


def _merged(atoms: Iterable[Atom]) -> list[Atom]:
    """Join atoms that follow each other in stored order."""
    merged: list[Atom] = []
    for atom in atoms:
        if merged and merged[-1].stride == atom.stride * atom.size:
            merged[-1] = Atom(atom.stride, merged[-1].size * atom.size)
        else:
            merged.append(atom)
    return merged


@dataclass(frozen=True)
class SlotMatrix:
    """A view, and what decides its singular values: which runs of the stored tensor are rows and which columns."""

    view: MatrixView
    partition: tuple[tuple[bool, int], ...]

    def same_singular_values(self, other: "SlotMatrix") -> bool:
        """Say whether the two matrices are equal up to transposition and the order of rows and columns."""
        swapped = tuple((not is_row, size) for is_row, size in other.partition)
        return self.partition in (other.partition, swapped)


def _partition(runs: Iterable[tuple[Atom, bool]]) -> tuple[tuple[bool, int], ...]:
    """Return (whether it is of the rows, its size) for each longest run, in stored order."""
    joined: list[tuple[bool, int]] = []
    for atom, is_row in sorted(runs, reverse=True):
        if joined and joined[-1][0] == is_row:
            joined[-1] = (is_row, joined[-1][1] * atom.size)
        else:
            joined.append((is_row, atom.size))
    return tuple(joined)


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
        split = _depthwise(slot, layout) if keras and is_depthwise(slot, shape) else None
        return (split or layout).matrix(1, "rows", stored_shape)
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
    if output_axis == 0 and rank == 2:
        return layout.matrix(1, "rows", stored_shape)
    others = [axis for axis in range(rank) if axis != output_axis]
    return layout.transpose((*others, output_axis)).matrix(rank - 1, "cols", stored_shape)


def is_depthwise(slot: Slot, shape: Sequence[int]) -> bool:
    """Say whether a Conv may be Keras's DepthwiseConv: one input channel a group, and a group for each channel."""
    return slot.kind == "conv" and slot.group > 1 and shape[1] == 1 and shape[0] % slot.group == 0


def _depthwise(slot: Slot, layout: Layout) -> Layout | None:
    """Return (C·m, 1, k…) as (m, C, k…); None where the chain mixed C and m, and only the grouped reading is left."""
    shape = layout.shape
    split = layout.reshape((slot.group, shape[0] // slot.group, *shape[2:]))
    return split.transpose((1, 0, *range(2, len(shape)))) if split else None
