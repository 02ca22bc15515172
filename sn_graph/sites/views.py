"""Matrix views: how a stored tensor W becomes the matrix M whose spectral norm is taken.

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
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sn_graph.sites.layout import Atom, Layout

Side = Literal["rows", "cols"]


class Convention(StrEnum):
    """The framework whose matrix and state a view follows."""

    KERAS = "keras"
    TORCH = "torch"
    TORCH_PARAMETRIZATION = "torch-parametrization"


class Action(StrEnum):
    """What an operator computes of its weight W and its other input X.

    CONVOLUTION, TRANSPOSED_CONVOLUTION: W of [out, in/group, k…], or [in, out/group, k…], slid over X.
    PRODUCT: X W, or W X where W is input 0; `transA`, `transB`, `transBatchA` and `transBatchB` transpose them first.
    LOOKUP: The rows of W that X names, along axis 0.
    RECURRENCE: A recurrent cell with W of [directions, gates, inputs].
    """

    CONVOLUTION = "convolution"
    TRANSPOSED_CONVOLUTION = "transposed convolution"
    PRODUCT = "product"
    LOOKUP = "lookup"
    RECURRENCE = "recurrence"


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


@dataclass(frozen=True)
class SlotMatrix:
    """A view, and what decides its singular values: which runs of the stored tensor are rows and which columns."""

    view: MatrixView
    partition: tuple[tuple[bool, int], ...]

    def same_singular_values(self, other: "SlotMatrix") -> bool:
        """Say whether the two matrices are equal up to transposition and the order of rows and columns."""
        swapped = tuple((not is_row, size) for is_row, size in other.partition)
        return self.partition in (other.partition, swapped)


def matrix_of(layout: Layout, row_axes: int, side: Side, shape: Sequence[int]) -> SlotMatrix:
    """Return the matrix whose rows are the first `row_axes` axes of a layout; `shape` is the stored tensor's."""
    rows, cols = ([atom for dim in dims for atom in dim] for dims in (layout.dims[:row_axes], layout.dims[row_axes:]))
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
        action: What it computes.
        left: Whether the weight is a product's left operand.
        perm: How a product transposes the weight first (Gemm's transA and transB); None where it does not.
        group: A convolution's attribute.
    """

    action: Action
    left: bool = False
    perm: tuple[int, ...] | None = None
    group: int = 1


@dataclass(frozen=True)
class _Rule:
    """How a convention reads a tensor: `rows` are the axes that become rows, in order, the others columns."""

    rows: tuple[int, ...]
    side: Side


_BY_ROWS = _Rule((0,), "rows")
# What an operator's weight is to Keras, and to PyTorch. Products have one rule for both, by which operand W is.
_RULES: dict[Action, dict[Convention, _Rule]] = {
    Action.CONVOLUTION: {Convention.KERAS: _BY_ROWS, Convention.TORCH: _BY_ROWS},
    Action.TRANSPOSED_CONVOLUTION: {Convention.KERAS: _BY_ROWS, Convention.TORCH: _Rule((1,), "rows")},
    Action.LOOKUP: {Convention.KERAS: _Rule((0,), "cols"), Convention.TORCH: _BY_ROWS},
    Action.RECURRENCE: dict.fromkeys((Convention.KERAS, Convention.TORCH), _Rule((0, 1), "rows")),
}


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
        return replace(found, view=replace(found.view, side="cols" if found.view.side == "rows" else "rows"))
    if convention is Convention.KERAS and is_depthwise(slot, layout.shape):
        layout = _depthwise(slot, layout) or layout
    rank = len(layout.dims)
    rule = _product_rule(slot, rank) if slot.action is Action.PRODUCT else _RULES[slot.action][convention]
    order = (*rule.rows, *(axis for axis in range(rank) if axis not in rule.rows))
    return matrix_of(layout.transpose(order), len(rule.rows), rule.side, stored_shape)


def _product_rule(slot: Slot, rank: int) -> _Rule:
    """The axis that the product's output has becomes the columns, with u on them; of Wᵀ and of W x the rows."""
    output_axis = rank - 2 if slot.left and rank == 2 else rank - 1
    if slot.perm is not None:  # M is taken of the tensor as it stands before the operator transposes it
        output_axis = slot.perm[output_axis]
    if output_axis == 0 and rank == 2:
        return _BY_ROWS
    return _Rule(tuple(axis for axis in range(rank) if axis != output_axis), "cols")


def is_depthwise(slot: Slot, shape: Sequence[int]) -> bool:
    """Say whether a Conv may be Keras's DepthwiseConv: one input channel a group, and a group for each channel."""
    return slot.action is Action.CONVOLUTION and slot.group > 1 and shape[1] == 1 and shape[0] % slot.group == 0


def _depthwise(slot: Slot, layout: Layout) -> Layout | None:
    """Return (C·m, 1, k…) as (m, C, k…); None where the chain mixed C and m, and only the grouped reading is left."""
    shape = layout.shape
    split = layout.reshape((slot.group, shape[0] // slot.group, *shape[2:]))
    return split.transpose((1, 0, *range(2, len(shape)))) if split else None
