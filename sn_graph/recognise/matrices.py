"""Matrices: which matrix of a tensor the arithmetic multiplies, read from the operands of its products."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sn_graph.recognise.evaluate import NotComputable, Place
from sn_graph.recognise.operations import Array
from sn_graph.recognise.trace import Tracer, Value
from sn_graph.sites import MatrixView

PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})
_NORMS = frozenset({"ReduceL2", "Sqrt", "LpNormalization"})  # what ends the norm of a vector
_SAMPLE = 257
_CLOSE = 1e-6  # of the largest element: exporters that fold c·W round it themselves


@dataclass(frozen=True)
class Operands:
    """The matrices of a tensor that products take.

    Attributes:
        views: Each matrix once, that of the last product first.
        depth: How many norms of vectors follow each other at most: the half-steps of an iteration.
    """

    views: tuple[MatrixView, ...]
    depth: int


def operands(tracer: Tracer, scalar: Value, tensor: Array) -> Operands:
    """Return the matrices of `tensor` that the arithmetic of a scalar multiplies."""
    found: dict[tuple[Any, ...], MatrixView] = {}
    tried: dict[Place, bool] = {}
    nodes = tracer.nodes(scalar)
    for node in nodes:
        if not (node.is_standard and node.op_type in PRODUCTS):
            continue
        for value in tracer.inputs(node):
            if value.place in tried:
                continue
            view = _view_of(tracer, value, tensor)
            tried[value.place] = view is not None
            if view is not None:
                found.setdefault((view.perm, view.rows, view.cols), view)
    depths: dict[Place, int] = {}
    for node in sorted(nodes, key=lambda node: node.order):
        depth = (node.op_type in _NORMS) + max((depths.get(one.place, 0) for one in tracer.inputs(node)), default=0)
        depths.update((Value(node.scope, name).place, depth) for name in node.proto.output)
    return Operands(tuple(found.values()), depths.get(scalar.place, 0))


def _view_of(tracer: Tracer, value: Value, tensor: Array) -> MatrixView | None:
    try:
        shape = tuple(size for size in tracer.shape(value) if size != 1)
        if math.prod(shape) != tensor.size or len(tracer.shape(value)) < 2:
            return None
        operand = tracer.array(value)
    except NotComputable:
        return None
    if len(shape) > 2:
        return None
    operand = operand.reshape(_two(operand.shape))
    for view in _views(tensor.shape):
        matrix = view.matrix(tensor)
        if _same(matrix, operand) or _same(matrix.T, operand):
            return view
    return None


def _two(shape: Sequence[int]) -> tuple[int, int]:
    """Return the shape of a matrix whose other axes are 1."""
    ones = len(shape) - 2
    places = [axis for axis, size in enumerate(shape) if size != 1][:2]
    if len(places) == 2 or ones == 0:
        sizes = [shape[axis] for axis in places] if len(places) == 2 else list(shape)
        return sizes[0], sizes[1]
    rest = list(shape)
    while len(rest) > 2:
        rest.remove(1)
    return rest[0], rest[1]


def _views(shape: Sequence[int]) -> Iterator[MatrixView]:
    """Yield the matrices that frameworks make of a tensor: one axis first, the others behind; or cut in two."""
    rank, size = len(shape), math.prod(shape)
    for axis in range(rank if rank > 2 else 1):
        perm = (axis, *(other for other in range(rank) if other != axis))
        yield MatrixView(None, perm if axis else None, shape[axis], size // shape[axis], "rows")
    for cut in range(2, rank - 1):
        rows = math.prod(shape[:cut])
        yield MatrixView(None, None, rows, size // rows, "rows")


def _same(left: Array, right: Array) -> bool:
    if left.shape != right.shape:
        return False
    if left.dtype == right.dtype and left.strides == right.strides and _start(left) == _start(right):
        return True  # two views of one tensor
    rows = max(1, len(left) // _SAMPLE)
    if not _close(left[::rows, :_SAMPLE], right[::rows, :_SAMPLE]):
        return False
    step = max(1, (1 << 20) // left.shape[1])
    return all(_close(left[at : at + step], right[at : at + step]) for at in range(0, len(left), step))


def _start(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _close(left: Array, right: Array) -> bool:
    wide = right.astype(np.float64)
    difference = np.abs(left.astype(np.float64) - wide)
    unit = 0.0 if left.dtype.itemsize > 2 else 1e-2  # a multiple that was rounded to 16 bits
    return bool(difference.max(initial=0.0) <= max(_CLOSE, unit) * np.abs(wide).max(initial=0.0))


def view_as(tensor: Array, matrix: Array, scale: float = 1.0) -> MatrixView | None:
    """Return the view under which a tensor is `scale` times a matrix; None where none is.

    Its side is "cols" where it gives the transposed matrix, whose rows are its columns.
    """
    for view in _views(tensor.shape):
        taken = view.matrix(tensor)
        for other, side in ((matrix, "rows"), (matrix.T, "cols")):
            if _same(taken, other if scale == 1.0 else other * scale):
                return replace(view, side="rows" if side == "rows" else "cols")
    return None


def rows_as(tensor: Array, matrix: Array) -> tuple[MatrixView, Array] | None:
    """Return the view under which a tensor is a matrix with its rows in another order, and which row stands where.

    Such are the gates of recurrent cells, which ONNX orders otherwise than PyTorch. None where there is none.
    """
    wanted = np.lexsort(matrix.T[::-1])
    for view in _views(tensor.shape):
        taken = view.matrix(tensor)
        if taken.shape != matrix.shape:
            continue
        given = np.lexsort(taken.T[::-1])
        if _same(taken[given], matrix[wanted]):
            order = np.empty(len(given), np.int64)
            order[given] = wanted
            return view, order
    return None


def transposed(view: MatrixView, shape: Sequence[int]) -> MatrixView:
    """Return the view of the transposed matrix, of a tensor of this shape."""
    order = view.perm or tuple(range(len(shape)))
    cut = next(cut for cut in range(len(order) + 1) if math.prod(shape[axis] for axis in order[:cut]) == view.rows)
    turned = (*order[cut:], *order[:cut])
    plain = turned == tuple(range(len(shape)))
    return replace(view, split=None, perm=None if plain else turned, rows=view.cols, cols=view.rows)
