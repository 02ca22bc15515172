"""Stencils: convolutions, strided and zero-padded, that linear steps between arrays [N, channels, spatial…] compose to.

    y[o, j] = Σ_{i,t} k[o, i, t] x[i, s j + r + t],   x = 0 outside its window                                      (1)

The stencil of B behind A is the stencil of the sequence y = B A x over all of space, with taps at s_A t_B + t_A, from
s_A r_B + r_A on, in steps of s_A s_B. It is that of the node B behind the node A only if B reads nothing of A x outside
its window, where the nodes have zeros and the sequence goes on; or if A is pointwise, because then A x is 0 there too.
Otherwise the two do not compose: `through` returns None.

Rounding is kept as e[o, i] ≥ Σ_t |exact − given|. As a convolution its norm is at most ‖e‖_F, because every element of
its symbol is at most e[o, i] in modulus, and strides and windows leave parts of the map over all of space.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product as cartesian

import numpy as np

from sn_graph.certify.expansion import Forms
from sn_graph.certify.steps import (
    Array,
    Convolved,
    LinearMap,
    Placed,
    Reshaped,
    Scaled,
    Separable,
    Shape,
    Sliced,
    raised,
)
from sn_graph.spectral.convolution import Convolution, operator_norm
from sn_graph.spectral.linalg import UNIT, gamma

# Elements of the largest kernel.
LARGEST = 1 << 23
TINY = 2.0**-1000


@dataclass(frozen=True, eq=False)
class Stencil:
    """A convolution (1) between windows, for each sample by itself.

    Attributes:
        kernel: k [O, I, taps…].
        strides, offsets: s and r, one an axis.
        input_size, output_size: The windows' spatial sizes; both begin at 0.
        error: e [O, I].
    """

    kernel: Array
    strides: tuple[int, ...]
    offsets: tuple[int, ...]
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    error: Array

    @classmethod
    def identity(cls, channels: int, size: tuple[int, ...]) -> "Stencil":
        """Leave arrays [channels, size…] as they are."""
        rank = len(size)
        kernel = np.eye(channels).reshape(channels, channels, *(1,) * rank)
        return cls(kernel, (1,) * rank, (0,) * rank, size, size, np.zeros((channels, channels)))

    @property
    def taps(self) -> tuple[int, ...]:
        """How many taps there are along each axis."""
        return self.kernel.shape[2:]

    @cached_property
    def sizes(self) -> Array:
        """Σ_t |k[o, i, t]| [O, I], raised by its rounding."""
        summed = np.abs(self.kernel).sum(axis=tuple(range(2, self.kernel.ndim)))
        return np.asarray(summed * (1.0 + gamma(math.prod(self.taps) + 2)))

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        square = len(self.kernel) == self.kernel.shape[1] and self.is_pointwise and not self.error.any()
        return square and bool((self.kernel.reshape(len(self.kernel), -1) == np.eye(len(self.kernel))).all())

    @property
    def is_pointwise(self) -> bool:
        """Whether each place is made of the same place alone, so that nothing comes out where nothing goes in."""
        plain = all(n == 1 for n in (*self.taps, *self.strides)) and not any(self.offsets)
        return plain and self.input_size == self.output_size

    def reads(self, axis: int) -> tuple[int, int]:
        """Return the first and the last place that the window's results read along an axis."""
        first = self.offsets[axis]
        return first, first + self.strides[axis] * (self.output_size[axis] - 1) + self.taps[axis] - 1

    @property
    def reads_inside(self) -> bool:
        """Whether nothing outside the input's window is read."""
        ends = (self.reads(axis) for axis in range(len(self.strides)))
        return all(first >= 0 and last < size for (first, last), size in zip(ends, self.input_size, strict=True))

    def trimmed(self) -> "Stencil":
        """Leave out taps at the ends that are 0 for all channels."""
        kernel, offsets = self.kernel, list(self.offsets)
        for axis in range(len(offsets)):
            used = np.flatnonzero(np.abs(kernel).max(axis=tuple(a for a in range(kernel.ndim) if a != axis + 2)))
            first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
            kernel = kernel.take(range(first, last + 1), axis=axis + 2)
            offsets[axis] += first
        return replace(self, kernel=kernel, offsets=tuple(offsets))

    @property
    def seconds(self) -> float:
        """About how long `norm` takes, as that of a convolution does (`Convolved.seconds`)."""
        return 0.01 + 1.5e-8 * self.kernel.size * math.prod(self.output_size)

    def norm(self) -> float:
        """Return a number that the norm of the exact map does not exceed."""
        rank = len(self.strides)
        begins = tuple(-first for first in self.offsets)
        ends = tuple(self.reads(axis)[1] + 1 - self.input_size[axis] for axis in range(rank))
        kernel = np.ascontiguousarray(self.kernel)
        made = Convolution(kernel, self.strides, (1,) * rank, (*begins, *ends), 1, self.input_size)
        upper = operator_norm(made).upper
        return raised(upper + float(np.linalg.norm(self.error)) * (1.0 + gamma(self.error.size + 8)))


class Stencils(Forms[Stencil]):
    """The form of maps that are stencils: see `expansion.Forms`."""

    def identity(self, shape: Shape) -> Stencil | None:
        """See `Forms`."""
        if len(shape) < 3 or shape[0] != 1 or 0 in shape or shape[1] ** 2 > LARGEST:
            return None
        return Stencil.identity(shape[1], tuple(shape[2:]))

    def single(self, part: LinearMap, form: Stencil) -> Stencil | None:
        """See `Forms`."""
        if isinstance(part, Reshaped):
            return form if part.input_shape == part.output_shape else None
        if part.output_shape[:1] != (1,) or len(part.output_shape) != len(part.input_shape) or 0 in part.output_shape:
            return None
        if isinstance(part, Scaled):
            return _scaled(part, form)
        if isinstance(part, Placed):
            return _placed(part, form)
        own = stencil_of(part)
        return None if own is None else behind(own, form)

    def added(self, first: Stencil, second: Stencil) -> Stencil | None:
        """See `Forms`."""
        if first.strides != second.strides:
            return None
        rank = len(first.strides)
        offsets = tuple(min(ends) for ends in zip(first.offsets, second.offsets, strict=True))
        last = [max(one.offsets[axis] + one.taps[axis] for one in (first, second)) for axis in range(rank)]
        shape = (*first.kernel.shape[:2], *(end - begin for begin, end in zip(offsets, last, strict=True)))
        if math.prod(shape) > LARGEST:
            return None
        kernel = np.zeros(shape)
        for one in (first, second):
            kernel[_window(one, offsets)] += one.kernel
        error = first.error + second.error + 2.0 * UNIT * (first.sizes + second.sizes)
        made = replace(first, kernel=kernel, offsets=offsets, error=error * (1.0 + 8.0 * UNIT))
        return made.trimmed()


def _window(one: Stencil, offsets: tuple[int, ...]) -> tuple[slice, ...]:
    places = (own - first for own, first in zip(one.offsets, offsets, strict=True))
    taps = (slice(place, place + count) for place, count in zip(places, one.taps, strict=True))
    return (slice(None), slice(None), *taps)


def behind(second: Stencil, first: Stencil) -> Stencil | None:
    """Compose two stencils; None where the nodes differ from that, or the kernel is too large."""
    if first.is_identity:
        return second
    if not (first.is_pointwise or second.reads_inside):
        return None
    spread = [
        stride * (own - 1) + taps for stride, own, taps in zip(first.strides, second.taps, first.taps, strict=True)
    ]
    outputs, inputs = second.kernel.shape[0], first.kernel.shape[1]
    if outputs * inputs * math.prod(spread) > LARGEST:
        return None
    kernel = np.zeros((outputs, inputs, *spread))
    flat = first.kernel.reshape(len(first.kernel), -1)
    for tap in cartesian(*map(range, second.taps)):
        weight = second.kernel[_at(tap)]
        if not weight.any():
            continue
        starts = [stride * place for stride, place in zip(first.strides, tap, strict=True)]
        own = tuple(slice(start, start + taps) for start, taps in zip(starts, first.taps, strict=True))
        kernel[(slice(None), slice(None), *own)] += (weight @ flat).reshape(outputs, *first.kernel.shape[1:])
    terms = second.kernel.shape[1] + math.prod(second.taps) + 4
    rounding = gamma(terms) * (second.sizes @ first.sizes)
    error = second.sizes @ first.error + second.error @ (first.sizes + first.error) + rounding
    return Stencil(
        kernel=kernel,
        strides=tuple(one * other for one, other in zip(first.strides, second.strides, strict=True)),
        offsets=tuple(s * r + q for s, r, q in zip(first.strides, second.offsets, first.offsets, strict=True)),
        input_size=first.input_size,
        output_size=second.output_size,
        error=error * (1.0 + 2.0 * gamma(2 * second.kernel.shape[1] + 8)) + TINY * (error > 0.0),
    ).trimmed()


def _at(tap: tuple[int, ...]) -> tuple[slice | int, ...]:
    return (slice(None), slice(None), *tap)


def stencil_of(part: LinearMap) -> Stencil | None:
    """Return a map of one sample as a stencil; None where it is none."""
    if isinstance(part, Convolved):
        return _of_convolution(part)
    if isinstance(part, Separable):
        return _of_separable(part)
    if isinstance(part, Sliced):
        return _of_slices(part)
    return None


def _of_convolution(part: Convolved) -> Stencil | None:
    given = part.convolution
    if given.transposed:
        if any(stride != 1 for stride in given.strides):
            return None
        given = _turned(given)
    rank, kernel = given.rank, np.asarray(given.kernel, np.float64)
    outputs, inputs, *taps = kernel.shape
    spread = [dilation * (count - 1) + 1 for dilation, count in zip(given.dilations, taps, strict=True)]
    if outputs * inputs * given.group * math.prod(spread) > LARGEST:
        return None
    whole = np.zeros((outputs, inputs * given.group, *spread))
    dilated = tuple(slice(None, None, dilation) for dilation in given.dilations)
    share = outputs // given.group
    for group in range(given.group):
        rows = slice(group * share, (group + 1) * share)
        whole[(rows, slice(group * inputs, (group + 1) * inputs), *dilated)] = kernel[rows]
    made = Stencil(
        kernel=whole,
        strides=tuple(given.strides),
        offsets=tuple(-pad for pad in given.pads[:rank]),
        input_size=tuple(given.input_shape[1:]),
        output_size=tuple(given.output_shape[1:]),
        error=np.zeros(whole.shape[:2]),
    )
    return _with_relative(made, part.relative)


def _turned(given: Convolution) -> Convolution:
    """A transposed convolution of stride 1 as a plain one: the taps turned around, each side of channels the other."""
    rank, kernel = given.rank, np.asarray(given.kernel, np.float64)
    inputs, outputs, *taps = kernel.shape
    grouped = kernel.reshape(given.group, inputs // given.group, outputs, *taps).swapaxes(1, 2)
    turned = np.flip(grouped, tuple(range(3, 3 + rank))).reshape(-1, inputs // given.group, *taps)
    reach = [dilation * (count - 1) for dilation, count in zip(given.dilations, taps, strict=True)]
    extra = given.output_padding or (0,) * rank
    begins = [far - pad for far, pad in zip(reach, given.pads[:rank], strict=True)]
    ends = [far - pad + more for far, pad, more in zip(reach, given.pads[rank:], extra, strict=True)]
    return replace(given, kernel=turned, pads=(*begins, *ends), transposed=False, output_padding=())


def _of_separable(part: Separable) -> Stencil | None:
    if part.matrices[0] is not None or part.matrices[1] is not None:
        return None
    channels = part.input_shape[1]
    taps, strides, offsets = np.ones(()), [], []
    for matrix in part.matrices[2:]:
        found = (1, 0, np.ones(1)) if matrix is None else shifted_taps(matrix)
        if found is None:
            return None
        strides.append(found[0])
        offsets.append(found[1])
        taps = np.multiply.outer(taps, found[2])
    if channels**2 * taps.size > LARGEST:
        return None
    kernel = np.eye(channels).reshape(channels, channels, *(1,) * taps.ndim) * taps
    made = Stencil(
        kernel=kernel,
        strides=tuple(strides),
        offsets=tuple(offsets),
        input_size=tuple(part.input_shape[2:]),
        output_size=tuple(part.output_shape[2:]),
        error=np.zeros((channels, channels)),
    )
    # Each coefficient is a product of one an axis, off by `relative` each, and rounded.
    relative = (taps.ndim * part.relative + taps.ndim * UNIT) * (1.0 + 1e-6)
    return _with_relative(made, relative).trimmed()


def shifted_taps(matrix: Array) -> tuple[int, int, Array] | None:
    """Return (s, r, k) with matrix[j, a] = k[a − s j − r], 0 where k has no such tap; None where there are none.

    Some row holds all of k: otherwise every matrix would be a stencil whose stride is as long as its input.
    """
    rows, columns = np.nonzero(matrix)
    count = len(matrix)
    if not len(rows):
        return None
    if count == 1:
        first, last = int(columns.min()), int(columns.max())
        return matrix.shape[1], first, np.array(matrix[0, first : last + 1])
    places = np.arange(matrix.shape[1])[None, :]
    spans = [np.ptp(columns[rows == row]) for row in np.unique(rows)]
    for stride in range(1, matrix.shape[1] + 1):
        lags = columns - stride * rows
        first, last = int(lags.min()), int(lags.max())
        if last - first > max(spans):
            continue
        taps = np.zeros(last - first + 1)
        taps[lags - first] = matrix[rows, columns]
        wanted = places - stride * np.arange(count)[:, None] - first
        inside = (wanted >= 0) & (wanted < len(taps))
        made = np.where(inside, taps[np.clip(wanted, 0, len(taps) - 1)], 0.0)
        if (made == matrix).all():
            return stride, first, taps
    return None


def _of_slices(part: Sliced) -> Stencil | None:
    ranges = [range(size)[one] for size, one in zip(part.input_shape, part.slices, strict=True)]
    if any(one.step < 1 or not len(one) for one in ranges[2:]) or part.input_shape[1] ** 2 > LARGEST:
        return None
    rank = len(ranges) - 2
    kernel = np.eye(part.input_shape[1])[list(ranges[1])]
    return Stencil(
        kernel=kernel.reshape(*kernel.shape, *(1,) * rank),
        strides=tuple(one.step for one in ranges[2:]),
        offsets=tuple(one.start for one in ranges[2:]),
        input_size=tuple(part.input_shape[2:]),
        output_size=tuple(part.output_shape[2:]),
        error=np.zeros(kernel.shape),
    )


def _with_relative(made: Stencil, relative: float) -> Stencil:
    slack = relative / (1.0 - relative) * (1.0 + 8.0 * UNIT)
    return replace(made, error=made.sizes * slack) if relative else made


def _scaled(part: Scaled, form: Stencil) -> Stencil | None:
    """A factor for each channel."""
    if part.input_shape != part.output_shape:
        return None
    wide = np.asarray(part.factor).reshape((1,) * (len(part.input_shape) - part.factor.ndim) + part.factor.shape)
    if math.prod(wide.shape) != wide.shape[1]:
        return None
    factor = np.broadcast_to(wide.reshape(-1), (part.input_shape[1],))
    rank = len(form.strides)
    relative = part.relative / (1.0 - part.relative) + 2.0 * UNIT
    slack = np.abs(factor)[:, None] * (form.error * (1.0 + relative) + relative * form.sizes) * (1.0 + 8.0 * UNIT)
    return replace(form, kernel=form.kernel * factor.reshape(-1, 1, *(1,) * rank), error=slack + TINY * (slack > 0.0))


def _placed(part: Placed, form: Stencil) -> Stencil | None:
    """Channels beside others that are 0."""
    if part.axis != 1:
        return None
    rows = slice(part.start, part.start + part.input_shape[1])
    kernel = np.zeros((part.output_shape[1], *form.kernel.shape[1:]))
    error = np.zeros(kernel.shape[:2])
    kernel[rows], error[rows] = form.kernel, form.error
    return replace(form, kernel=kernel, error=error)
