"""Pools: windows over spatial axes.

AveragePool   linear: a matrix along each axis, whose norms are multiplied (a Kronecker product)
MaxPool       |max a − max b| ≤ max |a − b| ≤ ‖a − b‖ over a window; summed over windows, each element counts as often
as windows hold it: √overlap
LpPool        ‖·‖_p ≤ ‖·‖₂ for p ≥ 2, so as MaxPool; ‖·‖₁ ≤ √k ‖·‖₂ for p = 1
Global…       one window
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.steps import UNIT, Array, Call, Made, NoBound, Separable, Shape, product, root
from sn_graph.spectral.convolution import resolve_pads


@dataclass(frozen=True)
class Axis:
    """The windows of one spatial axis.

    Attributes:
        size, count: How many places it has, and windows.
        begin: How much padding there is before it.
        stride, taps, dilation: As the node's attributes say.
        padded: The first place behind the padding.
    """

    size: int
    count: int
    begin: int
    stride: int
    taps: int
    dilation: int
    padded: int

    @cached_property
    def reads(self) -> NDArray[np.int64]:
        """[count, taps], the place that each tap of each window reads; none of the axis in the padding."""
        return np.arange(self.count)[:, None] * self.stride + np.arange(self.taps) * self.dilation - self.begin

    @property
    def inside(self) -> NDArray[np.bool_]:
        """[count, taps], whether a tap reads an element."""
        return (self.reads >= 0) & (self.reads < self.size)

    def overlap(self) -> int:
        """Return how many windows read the element that most of them read."""
        read = self.reads[self.inside]
        return int(np.bincount(read).max(initial=0)) if read.size else 0

    def overlap_over_all_sizes(self) -> int:
        """Return the same, whatever the size: taps that are a whole number of strides apart meet."""
        step = self.stride // math.gcd(self.stride, self.dilation)
        return -(-self.taps // step)


def windows(call: Call, shape: Shape) -> list[Axis]:
    """Return the windows of a pooling node along its spatial axes, as its attributes describe them."""
    node, size = call.node, shape[2:]
    taps = node.integers("kernel_shape") or size
    rank = len(size)
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    pads = node.integers("pads") or (0,) * (2 * rank)
    auto = node.text("auto_pad", "NOTSET")
    if auto != "NOTSET":
        pads = resolve_pads(auto, size, taps, strides, dilations)
    ceiled = bool(node.integer("ceil_mode", 0)) and auto in ("NOTSET", "")
    axes = [_axis(size[i], taps[i], strides[i], dilations[i], pads[i], pads[i + rank], ceiled) for i in range(rank)]
    call.require_room((*shape[:2], *(axis.count for axis in axes)))
    for axis in axes:
        call.require_room((max(1, axis.count), axis.taps), "a table of windows")
    return axes


def _axis(size: int, taps: int, stride: int, dilation: int, begin: int, end: int, ceiled: bool) -> Axis:
    room = size + begin + end - dilation * (taps - 1) - 1
    # Where a window is longer than all it could read, runtimes still make one: they divide as C++ does, towards 0.
    count = max(0, (-(-room // stride) if ceiled else int(room / stride)) + 1)
    if ceiled and (count - 1) * stride >= size + begin:
        count -= 1  # the last window must begin inside the input or before it
    return Axis(size, count, begin, stride, taps, dilation, size + end)


def _average(call: Call) -> Made:
    x = call.varying()
    counted = bool(call.node.integer("count_include_pad", 0))
    matrices: list[Array | None] = [None, None]
    everywhere = 1.0
    plain = True
    for axis in windows(call, x.shape):
        call.require_room((axis.count, axis.size), "a matrix")
        matrix = np.zeros((axis.count, axis.size))
        # A window that leaves the padded input, as the last may with ceil_mode, counts what is left of it.
        held = (axis.reads < axis.padded).sum(axis=1) if counted else axis.inside.sum(axis=1)
        with np.errstate(divide="ignore"):
            share = np.where(held > 0, 1.0 / held, 0.0)
        rows, taps = np.nonzero(axis.inside)
        np.add.at(matrix, (rows, axis.reads[rows, taps]), share[rows])
        matrices.append(matrix)
        # By Schur's test, where all windows are whole: √(row sum 1 · column sum overlap/taps).
        plain &= bool((held == axis.taps).all())
        everywhere = product(everywhere, root(axis.overlap_over_all_sizes() / axis.taps * (1.0 + 4.0 * UNIT)))
    whole = plain and (counted or not any(call.node.integers("pads") or ())) and not call.node.integer("ceil_mode", 0)
    made = Separable.along(x.shape, matrices, 2.0 * UNIT, everywhere if whole else None)
    return call.linear([(x, made)])


def _global_average(call: Call) -> Made:
    x = call.varying()
    if not all(x.shape[2:]):
        raise NoBound("the mean of no elements")
    matrices: list[Array | None] = [None, None, *(np.full((1, size), 1.0 / size) for size in x.shape[2:])]
    # 1/√n is greatest where there is one element.
    return call.linear([(x, Separable.along(x.shape, matrices, 2.0 * UNIT, 1.0))])


@dataclass(frozen=True)
class Windows:
    """The windows of all spatial axes: [P, K] flat spatial places, −1 in the padding, and the result's shape."""

    places: NDArray[np.int64]
    shape: Shape

    @classmethod
    def of(cls, call: Call, axes: Sequence[Axis], lead: Shape) -> "Windows":
        """Combine the axes."""
        call.require_room([axis.count * axis.taps for axis in axes], "a table of windows")
        flat = np.zeros((1, 1), np.int64)
        for axis in axes:
            own = np.where(axis.inside, axis.reads, -1)
            both = np.where(
                (flat[:, None, :, None] < 0) | (own[None, :, None, :] < 0),
                -1,
                flat[:, None, :, None] * axis.size + own[None, :, None, :],
            )
            flat = both.reshape(flat.shape[0] * axis.count, -1)
        return cls(flat, (*lead, *(axis.count for axis in axes)))


class Largest:
    """The largest element of each window."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def _found(self, x: Array) -> tuple[Array, NDArray[np.int64]]:
        """The largest of each window, and the flat spatial place that it stands at."""
        flat = x.reshape(math.prod(x.shape[:2]), -1)
        places = self.windows.places
        best = np.full((len(flat), len(places)), -np.inf)
        where = np.zeros(best.shape, np.int64)
        for tap in range(places.shape[1]):
            at = places[:, tap]
            values = np.where(at < 0, -np.inf, flat[:, at])
            better = values > best
            best = np.where(better, values, best)
            where = np.where(better, at, where)
        return best, where

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return self._found(operands[0])[0].reshape(self.windows.shape)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        _, where = self._found(operands[0])
        flat = tangents[0].reshape(len(where), -1)
        return np.take_along_axis(flat, where, 1).reshape(self.windows.shape)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        x = operands[0]
        _, where = self._found(x)
        size = math.prod(x.shape[2:])
        rows = np.arange(len(where))[:, None] * size + where
        found = np.bincount(rows.reshape(-1), cotangent.reshape(-1), len(where) * size)
        return (found.astype(np.float64).reshape(x.shape),)


class Lengths:
    """The p-norm of each window."""

    def __init__(self, windows: Windows, p: int) -> None:
        self._windows, self._p = windows, p

    def _taken(self, x: Array) -> Array:
        flat = x.reshape(math.prod(x.shape[:2]), -1)
        places = self._windows.places
        return np.where(places < 0, 0.0, flat[:, places])

    def _slopes(self, x: Array) -> Array:
        taken = self._taken(x)
        length = np.linalg.norm(taken, self._p, axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.sign(taken) * (np.abs(taken) / length) ** (self._p - 1)
        return np.where(length > 0.0, slopes, 0.0)

    def forward(self, *operands: Array) -> Array:
        """See `Function`."""
        return np.asarray(np.linalg.norm(self._taken(operands[0]), self._p, axis=-1)).reshape(self._windows.shape)

    def push(self, operands: Sequence[Array], tangents: Sequence[Array]) -> Array:
        """See `Function`."""
        moved = (self._slopes(operands[0]) * self._taken(tangents[0])).sum(axis=-1)
        return np.asarray(moved).reshape(self._windows.shape)

    def pull(self, operands: Sequence[Array], cotangent: Array) -> tuple[Array, ...]:
        """See `Function`."""
        x, places = operands[0], self._windows.places
        parts = self._slopes(x) * cotangent.reshape(math.prod(x.shape[:2]), -1, 1)
        size = math.prod(x.shape[2:])
        rows = np.arange(len(parts))[:, None, None] * size + places
        kept = np.broadcast_to(places >= 0, rows.shape)
        found = np.bincount(rows[kept], parts[kept], len(parts) * size)
        return (found.astype(np.float64).reshape(x.shape),)


def _max(call: Call) -> Made:
    if len(call.results) > 1 and call.results[1]:
        raise NoBound("its second output, the places of the largest elements, jumps")
    x = call.varying()
    axes = windows(call, x.shape)
    if any(axis.count and not axis.inside.any(axis=1).all() for axis in axes):
        raise NoBound("a window of it lies in the padding as a whole")
    made = Windows.of(call, axes, x.shape[:2])
    factor = root(float(math.prod(axis.overlap() for axis in axes)))
    everywhere = root(float(math.prod(axis.overlap_over_all_sizes() for axis in axes)))
    mixed = frozenset(range(1, len(x.shape)))
    return call.bounded([x], made.shape, Largest(made), [factor], over_all_sizes=[everywhere], mixed=mixed)


def _lp(call: Call) -> Made:
    x, p = call.varying(), call.node.integer("p", 2)
    axes = windows(call, x.shape)
    made = Windows.of(call, axes, x.shape[:2])
    overlap = math.prod(axis.overlap() for axis in axes)
    everywhere = math.prod(axis.overlap_over_all_sizes() for axis in axes)
    return _lengths(call, made, p, overlap, everywhere)


def _lengths(call: Call, made: Windows, p: int, overlap: int, everywhere: int | None) -> Made:
    if p < 1:
        raise NoBound(f"a norm of order {p} is none")
    x, taps = call.varying(), made.places.shape[1] if p == 1 else 1
    over_all = [None if everywhere is None else root(float(everywhere * taps))]
    mixed = frozenset(range(1, len(x.shape)))
    factor = root(float(overlap * taps))
    return call.bounded([x], made.shape, Lengths(made, p), [factor], over_all_sizes=over_all, mixed=mixed)


def _whole(shape: Shape) -> Windows:
    """One window of all that is spatial."""
    return Windows(np.arange(math.prod(shape[2:]), dtype=np.int64)[None, :], (*shape[:2], *(1,) * (len(shape) - 2)))


def _global_max(call: Call) -> Made:
    x = call.varying()
    if not all(x.shape[2:]):
        raise NoBound("the largest of no elements")
    mixed = frozenset(range(1, len(x.shape)))
    made = _whole(x.shape)
    return call.bounded([x], made.shape, Largest(made), [1.0], over_all_sizes=[1.0], mixed=mixed)


def _global_lp(call: Call) -> Made:
    p = call.node.integer("p", 2)
    return _lengths(call, _whole(call.varying().shape), p, 1, None if p == 1 else 1)


RULES: dict[str, Callable[[Call], Made]] = {
    "AveragePool": _average,
    "GlobalAveragePool": _global_average,
    "MaxPool": _max,
    "GlobalMaxPool": _global_max,
    "LpPool": _lp,
    "GlobalLpPool": _global_lp,
}
