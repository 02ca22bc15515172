"""A piece of a convolution as products with arrays: forward, adjoint, dense matrix.

With i = s a + r − p the input falls into s phases per axis, and tap t = s u + r into the coefficient B_u of phase r, so
the strided correlation is one of stride 1 with more input channels:

    y[j] = Σ_u B_u z[j + u],   z_r[a] = x[s a + r − p],   0 ≤ u ≤ D = ⌊(taps − 1)/s⌋

(the polyphase form; Vaidyanathan, 1993, Multirate Systems and Filter Banks, §4.3). All spatial axes are walked as one
flat axis: rows of z are D longer than rows of y, so that a shift by u is one offset into memory and every term of the
sum one matrix product, whose values at the rows' ends are thrown away.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from sn_graph.spectral.convolution.geometry import Piece

Array = NDArray[Any]
"""float64 or float32."""

# Elements of one block of shifted rows, which stays in the cache, and the fewest places that are worth a call.
BLOCK = 1 << 17
LEAST = 512
# mypy knows no tuple that begins with an ellipsis as an index.
_ALL = (slice(None),) * 5


@dataclass(frozen=True)
class Correlation:
    """A stride-s, dilation-1 correlation, zero outside its input, block diagonal over groups.

    Attributes:
        kernel: [groups, S, L, taps…], float64; S and L are the channels of a group on the small and the large side.
        axes: The geometry of each spatial axis.
        coefficients: [U, groups, S, P], the B_u, u in lexicographic order; P = L · the phases of all axes.
        shifts: [U, rank], the u.
    """

    kernel: Array
    axes: tuple[Piece, ...]
    coefficients: Array
    shifts: NDArray[np.int64]

    @classmethod
    def of(cls, kernel: Array, axes: Sequence[Piece]) -> "Correlation":
        """Take the taps that the axes are left with from a whole kernel [groups, S, L, taps…]."""
        taken = np.ascontiguousarray(kernel[(*_ALL[:3], *(axis.tap_slice for axis in axes))])
        counts = [axis.degree + 1 for axis in axes]
        shifts = np.array(list(product(*map(range, counts))), dtype=np.int64).reshape(-1, len(axes))
        return cls(taken, tuple(axes), _polyphase(taken, axes), shifts)

    def of_groups(self, groups: NDArray[np.intp]) -> "Correlation":
        """Keep these groups only."""
        return replace(self, kernel=self.kernel[groups], coefficients=self.coefficients[:, groups])

    def scaled(self, exponent: int) -> "Correlation":
        """Multiply by 2 to the power of an exponent; nothing is rounded."""
        kernel, coefficients = (np.ldexp(array, exponent) for array in (self.kernel, self.coefficients))
        return replace(self, kernel=kernel, coefficients=coefficients)

    def in_single(self) -> "Correlation":
        """Compute forward and adjoint in float32."""
        return replace(self, coefficients=self.coefficients.astype(np.float32))

    @property
    def degrees(self) -> tuple[int, ...]:
        """D of each axis."""
        return tuple(axis.degree for axis in self.axes)

    @property
    def extents(self) -> tuple[int, ...]:
        """How many places z has along each axis."""
        return tuple(axis.small + axis.degree for axis in self.axes)

    @property
    def small_shape(self) -> tuple[int, ...]:
        """[groups · S, m…], the shape of y."""
        groups, small, *_ = self.kernel.shape
        return groups * small, *(axis.small for axis in self.axes)

    @property
    def large_shape(self) -> tuple[int, ...]:
        """[groups · L, n…], the shape of x."""
        groups, _, large, *_ = self.kernel.shape
        return groups * large, *(axis.large for axis in self.axes)

    def forward(self, x: Array) -> Array:
        """Return A x [groups · S, m…] for x [groups · L, n…], in the coefficients' precision."""
        phases = self._phases(x)
        outputs = self._places()
        _, _, small, phase_count = self.coefficients.shape
        if phase_count <= small:
            self._gather(self.coefficients, phases, 1, outputs[:, :, self._lead() :])
        else:
            self._scatter(self.coefficients, phases, outputs, -1)
        return self._rows(outputs)[self._inner()].reshape(self.small_shape)

    def adjoint(self, y: Array) -> Array:
        """Return Aᵀ y [groups · L, n…] for y [groups · S, m…], in the coefficients' precision."""
        outputs = self._places()
        rows = self._rows(outputs)
        rows[self._inner()] = y.reshape(rows[self._inner()].shape)
        _, groups, small, phase_count = self.coefficients.shape
        phases = np.zeros((groups, phase_count, math.prod(self.extents)), outputs.dtype)
        terms = self.coefficients.transpose(0, 1, 3, 2)
        if small <= phase_count:
            self._gather(terms, outputs, -1, phases)
        else:
            self._scatter(terms, outputs[:, :, self._lead() :], phases, 1)
        return self.from_phases(phases)

    def _gather(self, terms: Array, source: Array, sign: int, target: Array) -> None:
        """target[j] = Σ_u T_u source[j + u], or source[j − u + lead] for a sign of −1, on the flat axis, in blocks."""
        groups, rows, length = source.shape
        offsets = self._offsets()
        weights = terms.transpose(1, 2, 0, 3).reshape(groups, -1, len(offsets) * rows)
        # Offsets are linear in u, so that all shifts of the source are one view of it.
        counts = [degree + 1 for degree in self.degrees]
        jumps = [sign * width * source.strides[2] for width in self._widths()]
        start = source[:, :, offsets[-1] if sign < 0 else 0 :]
        count = length - offsets[-1]
        shape = (groups, *counts, rows, count)
        shifted = as_strided(start, shape, (source.strides[0], *jumps, *source.strides[1:]), writeable=False)
        for block in _blocks(count, groups * len(offsets) * rows):
            stack = shifted[..., block].reshape(groups, len(offsets) * rows, -1)
            np.matmul(weights, stack, out=target[:, :, block])

    def _scatter(self, terms: Array, source: Array, target: Array, sign: int) -> None:
        """target[j + u] += T_u source[j], or target[j − u + lead] for a sign of −1, on the flat axis, in blocks."""
        groups, rows, length = len(source), target.shape[1], source.shape[2]
        offsets = self._offsets()
        weights = terms.transpose(1, 0, 2, 3).reshape(groups, len(offsets) * rows, -1)
        starts = offsets if sign > 0 else [offsets[-1] - offset for offset in offsets]
        # Behind the last place that all shifts can read or write, there is noise between rows only.
        for block in _blocks(min(length, target.shape[2] - offsets[-1]), groups * len(offsets) * rows):
            stack = np.matmul(weights, source[:, :, block]).reshape(groups, len(offsets), rows, -1)
            for shift, start in enumerate(starts):
                target[:, :, start + block.start : start + block.stop] += stack[:, shift]

    def _places(self) -> Array:
        """Zeros [groups, S, lead + flat places of z]: y, with room before it for what is shifted out."""
        _, groups, small, _ = self.coefficients.shape
        return np.zeros((groups, small, self._lead() + math.prod(self.extents)), self.coefficients.dtype)

    def _rows(self, outputs: Array) -> Array:
        """The part of `_places` behind the lead, as a view [groups, S, extents…]."""
        return outputs[:, :, self._lead() :].reshape(*outputs.shape[:2], *self.extents)

    def _inner(self) -> tuple[slice, ...]:
        return (*_ALL[:2], *(slice(axis.small) for axis in self.axes))

    def _widths(self) -> list[int]:
        """How far one place of each axis is on the flat one."""
        extents = self.extents
        return [math.prod(extents[axis + 1 :]) for axis in range(len(extents))]

    def _lead(self) -> int:
        """How far the greatest shift reaches on the flat axis."""
        return sum(degree * width for degree, width in zip(self.degrees, self._widths(), strict=True))

    def _offsets(self) -> list[int]:
        """How far each shift u reaches on the flat axis, in ascending order."""
        return [int(offset) for offset in self.shifts @ np.array(self._widths())]

    def dense(self) -> Array:
        """Write out the matrices of the groups: [groups, S · m…, L · n…]."""
        groups, small, large, *taps = self.kernel.shape
        rank = len(self.axes)
        sizes = [axis.small for axis in self.axes] + [axis.large for axis in self.axes]
        matrix = np.zeros((*sizes, groups, small, large))
        for tap in product(*map(range, taps)):
            outputs, inputs = [], []
            for axis, (piece, index) in enumerate(zip(self.axes, tap, strict=True)):
                places = np.arange(piece.small)
                reached = piece.stride * places + index - piece.offset
                inside = (reached >= 0) & (reached < piece.large)
                along = [1] * rank
                along[axis] = -1
                outputs.append(places[inside].reshape(along))
                inputs.append(reached[inside].reshape(along))
            weights = self.kernel.transpose(*range(3, 3 + rank), 0, 1, 2)[tap]
            matrix[(*outputs, *inputs)] = weights
        order = (2 * rank, 2 * rank + 1, *range(rank), 2 * rank + 2, *range(rank, 2 * rank))
        rows, columns = math.prod(self.small_shape) // groups, math.prod(self.large_shape) // groups
        return matrix.transpose(order).reshape(groups, rows, columns)

    def _phases(self, x: Array) -> Array:
        """z: [groups, P, flat]."""
        padded = self._padded()
        padded[self._inside()] = x
        _, groups, _, phases = self.coefficients.shape
        return self._split(padded).reshape(groups, phases, -1)

    def from_phases(self, phases: Array) -> Array:
        """Return the x [groups · L, n…] of phases z [groups, P, flat places]; what z has in the padding is lost."""
        padded = self._padded()
        split = self._split(padded)
        split[...] = phases.reshape(split.shape)
        return padded[self._inside()].copy()

    def _padded(self) -> Array:
        lengths = (axis.stride * extent for axis, extent in zip(self.axes, self.extents, strict=True))
        return np.zeros((self.large_shape[0], *lengths), self.coefficients.dtype)

    def _inside(self) -> tuple[slice, ...]:
        return slice(None), *(slice(axis.offset, axis.offset + axis.large) for axis in self.axes)

    def _split(self, padded: Array) -> Array:
        """A view [groups, L, phases…, places…] of a padded input."""
        groups, _, large, *_ = self.kernel.shape
        rank = len(self.axes)
        split = padded.reshape(groups, large, *_interleaved(self.extents, [axis.stride for axis in self.axes]))
        order = (0, 1, *range(3, 3 + 2 * rank, 2), *range(2, 2 + 2 * rank, 2))
        return split.transpose(order)[(*_ALL[:2], *(slice(_phase_count(axis)) for axis in self.axes))]


def _blocks(count: int, rows: int) -> Iterator[slice]:
    """Cut so many places of the flat axis; what is read for one block stays in the cache until its product."""
    step = max(LEAST, BLOCK // rows)
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def _phase_count(axis: Piece) -> int:
    # A stride beyond the kernel has phases that no tap reads.
    return min(axis.stride, axis.taps)


def _interleaved(outer: Sequence[int], inner: Sequence[int]) -> list[int]:
    return [size for pair in zip(outer, inner, strict=True) for size in pair]


def _polyphase(kernel: Array, axes: Sequence[Piece]) -> Array:
    groups, small, large, *taps = kernel.shape
    rank = len(axes)
    counts = [axis.degree + 1 for axis in axes]
    phases = [_phase_count(axis) for axis in axes]
    padding = [(0, count * phase - tap) for count, phase, tap in zip(counts, phases, taps, strict=True)]
    padded = np.pad(kernel, [(0, 0)] * 3 + padding)
    split = padded.reshape(groups, small, large, *_interleaved(counts, phases))
    order = (*range(3, 3 + 2 * rank, 2), 0, 1, 2, *range(4, 4 + 2 * rank, 2))
    return np.ascontiguousarray(split.transpose(order).reshape(math.prod(counts), groups, small, -1))
