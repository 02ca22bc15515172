"""Products: linear maps by matrices: batches of products, convolutions, and matrices along single axes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.steps.maps import Array, LinearMap, Shape, raised_by, unbroadcast
from sn_graph.certify.steps.rounding import product, raised, root
from sn_graph.spectral.convolution import Convolution, adjoint, forward, operator_norm
from sn_graph.spectral.linalg import gamma
from sn_graph.spectral.matrix import bracket


@dataclass(frozen=True, eq=False)
class Multiplied(LinearMap):
    """x W on the last two axes as numpy.matmul does, batches broadcast: [..., M, K] by [..., K, N].

    Where x is the same for several matrices, ‖A‖ is that of the matrices side by side; where it differs, the largest.

    Attributes:
        weight: W, any float type, rank 2 at least.
        relative: By how much of itself each element may be off from the exact one, where it was computed.
    """

    weight: NDArray[Any]
    relative: float = 0.0

    @classmethod
    def by(cls, shape: Shape, weight: NDArray[Any], relative: float = 0.0) -> "Multiplied":
        """Multiply arrays of a shape, of rank 2 at least, from the right."""
        if shape[-1] != weight.shape[-2]:
            raise ValueError(f"a product of {list(shape)} by {list(weight.shape)}")
        batch = np.broadcast_shapes(shape[:-2], weight.shape[:-2])
        return cls(shape, (*batch, shape[-2], weight.shape[-1]), weight, relative)

    @cached_property
    def _wide(self) -> Array:
        return np.asarray(self.weight, np.float64)

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        return np.asarray(np.matmul(x, self._wide))

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        return unbroadcast(np.matmul(y, np.swapaxes(self._wide, -1, -2)), self.input_shape)

    def norm(self) -> float:
        """See `LinearMap`."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        if 0 in self.output_shape or 0 in self.input_shape:
            return 0.0
        found = [bracket(matrix) for matrix in self.matrices()]
        slack = raised_by(self.relative)
        if not slack:
            return float(np.max([one.upper for one in found]))
        return max(product(1.0, one.upper) + raised(slack * one.frobenius * 1.1) for one in found)

    def matrices(self) -> Iterator[NDArray[Any]]:
        """Yield the matrices [K, N'] that act on different parts of x; those on the same part side by side."""
        *batch, inner, outer = self.weight.shape
        lead = self.input_shape[:-2]
        own = (*(1,) * (len(batch) - len(lead)), *lead)[-len(batch) :] if batch else ()
        same = [axis for axis, size in enumerate(own) if size == 1 and batch[axis] != 1]
        apart = [axis for axis in range(len(batch)) if axis not in same]
        moved = self.weight.transpose(*apart, len(batch), *same, len(batch) + 1)
        yield from moved.reshape(-1, inner, outer * math.prod(batch[axis] for axis in same))

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        # Sizes that are dynamic are those of x; where x has 1 and the weight has more, x has it for certain.
        return self.norm() if self.output_shape[:-1] == self.input_shape[:-1] else None

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        rank = len(self.input_shape)
        place = axis + len(self.output_shape) - rank
        if axis == rank - 1:
            return None
        if axis == rank - 2:
            return place
        own = axis - rank + self.weight.ndim
        return place if own < 0 or self.weight.shape[own] == 1 else None

    def magnitude(self) -> float:
        """See `LinearMap`."""
        # By Schur's test: √(largest row sum · largest column sum) of each.
        largest = 0.0
        for matrix in self.matrices():
            sizes = np.abs(matrix).astype(np.float64)
            squared = float(sizes.sum(axis=0).max(initial=0.0)) * float(sizes.sum(axis=1).max(initial=0.0))
            largest = max(largest, squared)
        return math.sqrt(largest) * (1.0 + gamma(self.terms + 8))

    @property
    def terms(self) -> int:
        """See `LinearMap`."""
        *batch, inner, outer = self.weight.shape
        return int(max(inner, outer * max(1, math.prod(batch))))

    @property
    def products(self) -> int:
        """See `LinearMap`."""
        return int(math.prod(self.output_shape) * self.weight.shape[-2])

    @property
    def error(self) -> float:
        """See `LinearMap`."""
        if not self.relative:
            return 0.0
        return product(raised_by(self.relative), max(bracket(matrix).frobenius for matrix in self.matrices()), 1.1)


@dataclass(frozen=True, eq=False)
class Convolved(LinearMap):
    """A Conv or ConvTranspose of each sample of [N, channels, spatial…], without its bias.

    Attributes:
        convolution: Its map of one sample, of known input size.
        relative: By how much of itself each element of the kernel may be off from the exact one.
    """

    convolution: Convolution
    relative: float = 0.0

    @classmethod
    def by(cls, samples: int, convolution: Convolution, relative: float = 0.0) -> "Convolved":
        """Convolve that many samples."""
        shapes = (samples, *convolution.input_shape), (samples, *convolution.output_shape)
        return cls(*shapes, convolution, relative)

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        return np.stack([forward(self.convolution, sample) for sample in x]) if len(x) else np.zeros(self.output_shape)

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        return np.stack([adjoint(self.convolution, one) for one in y]) if len(y) else np.zeros(self.input_shape)

    def norm(self) -> float:
        """See `LinearMap`."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        if 0 in self.output_shape or 0 in self.input_shape:
            return 0.0
        upper = operator_norm(self.convolution).upper
        return upper + self.error if self.relative and math.isfinite(upper) else upper

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return self._supremum

    @cached_property
    def _supremum(self) -> float:
        upper = operator_norm(replace(self.convolution, input_size=None)).upper
        return upper + self.error if self.relative and math.isfinite(upper) else upper

    def quick(self, dynamic: bool) -> float | None:
        """Return what was taken of norm and supremum, and where neither was, bound them by the kernel as a matrix.

        Each output is the matrix M [O, I·taps] times a patch of the input. Summed over patches, an element of the input
        counts as often as patches hold it, so ‖A‖ ≤ √overlap · ‖M‖; the same for each group, and for the adjoint.
        Source: Tsuzuku et al., 2018, 1802.04034, theorem 2.
        """
        names = ("_supremum",) if dynamic else ("_norm", "_supremum")
        kept = self.__dict__  # where cached_property keeps what it was asked for
        known = [float(kept[name]) for name in names if name in kept]
        return min(known) if known else self._quick

    @cached_property
    def _quick(self) -> float:
        made = self.convolution
        first, *_ = made.kernel.shape
        groups = np.asarray(made.kernel).reshape(made.group, first // made.group, -1)
        overlap = 1
        for taps, stride, dilation in zip(made.kernel.shape[2:], made.strides, made.dilations, strict=True):
            # Taps that are a whole number of strides apart meet.
            overlap *= -(-taps // (stride // math.gcd(stride, dilation)))
        upper = max(bracket(group).upper for group in groups)
        found = product(upper, root(float(overlap)))
        return raised(found + self.error) if self.relative and math.isfinite(found) else found

    @property
    def products(self) -> int:
        """See `LinearMap`."""
        first, second, *taps = self.convolution.kernel.shape
        outputs = self.input_shape if self.convolution.transposed else self.output_shape
        return int(math.prod(outputs[2:])) * int(first * second * math.prod(taps))

    def seconds(self, dynamic: bool) -> float:
        """Estimate how long `norm` takes, or `supremum`: the second does not depend on the size.

        Measured on one thread: 0.7e-8 to 1.5e-8 s for each product of the map, of which Lanczos takes many; 1.2e-7 s
        for each of the symbol's, which is m²n of its m × n blocks.
        """
        if not dynamic:
            return 0.01 + 1.5e-8 * self.products
        first, second, *_ = self.convolution.kernel.shape
        first //= self.convolution.group
        small, large = sorted((int(first), int(second) * math.prod(self.convolution.strides)))
        return 0.1 + 1.2e-7 * self.convolution.group * small * small * large

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        return 0 if axis == 0 else None

    def magnitude(self) -> float:
        """See `LinearMap`."""
        return self._magnitude

    @cached_property
    def _magnitude(self) -> float:
        # By Schur's test: no output sums more than a row of taps, and no input gives to more than all taps.
        kernel = np.abs(np.asarray(self.convolution.kernel)).astype(np.float64)
        by_first = float(kernel.sum(axis=tuple(range(1, kernel.ndim))).max(initial=0.0))
        groups = kernel.reshape(self.convolution.group, -1, *kernel.shape[1:])
        by_second = float(groups.sum(axis=(1, *range(3, groups.ndim))).max(initial=0.0))
        return math.sqrt(by_first * by_second) * (1.0 + gamma(self.terms + 8))

    @property
    def terms(self) -> int:
        """See `LinearMap`."""
        first, second, *taps = self.convolution.kernel.shape
        return int(max(first // self.convolution.group, second) * math.prod(taps))

    @property
    def error(self) -> float:
        """See `LinearMap`."""
        return product(raised_by(self.relative), self.magnitude()) if self.relative else 0.0


@dataclass(frozen=True, eq=False)
class Separable(LinearMap):
    """A matrix along each of some axes: averages, sums, resampling, cumulative sums.

    The norm of a Kronecker product is the product of the norms.

    Attributes:
        matrices: One [output size, input size] for each axis, float64; None for an axis that is left alone.
        factor: What all is multiplied by besides; 1 for most.
        relative: By how much of itself each coefficient may be off from the exact one.
        over_all_sizes: A proven norm, whatever the sizes that are dynamic; None where none is known.
    """

    matrices: tuple[Array | None, ...]
    relative: float = 0.0
    over_all_sizes: float | None = None

    @classmethod
    def along(
        cls, shape: Shape, matrices: Sequence[Array | None], relative: float = 0.0, over_all_sizes: float | None = None
    ) -> "Separable":
        """Apply matrices along the axes of arrays of a shape."""
        pairs = zip(shape, matrices, strict=True)
        result = tuple(size if matrix is None else matrix.shape[0] for size, matrix in pairs)
        return cls(shape, result, tuple(matrices), relative, over_all_sizes)

    def forward(self, x: Array) -> Array:
        """See `LinearMap`."""
        for axis, matrix in enumerate(self.matrices):
            if matrix is not None:
                x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
        return x

    def adjoint(self, y: Array) -> Array:
        """See `LinearMap`."""
        for axis, matrix in enumerate(self.matrices):
            if matrix is not None:
                y = np.moveaxis(np.tensordot(matrix, y, (0, axis)), 0, axis)
        return y

    def norm(self) -> float:
        """See `LinearMap`."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        if 0 in self.output_shape or 0 in self.input_shape:
            return 0.0
        return product(*(self._end(matrix) for matrix in self.matrices if matrix is not None))

    def _end(self, matrix: Array) -> float:
        if matrix.min() == matrix.max():  # one number everywhere, so of rank 1
            return product(abs(float(matrix.flat[0])), root(float(matrix.size)), 1.0 + raised_by(self.relative))
        ends = bracket(matrix)
        return raised(ends.upper + ends.frobenius * raised_by(self.relative))

    def supremum(self) -> float | None:
        """See `LinearMap`."""
        return self.over_all_sizes

    def carry(self, axis: int) -> int | None:
        """See `LinearMap`."""
        return axis if self.matrices[axis] is None else None

    def magnitude(self) -> float:
        """See `LinearMap`."""
        used = [np.abs(matrix) for matrix in self.matrices if matrix is not None]
        squared = math.prod(
            float(one.sum(axis=0).max(initial=0.0)) * float(one.sum(axis=1).max(initial=0.0)) for one in used
        )
        return math.sqrt(squared) * (1.0 + gamma(self.terms + 8))

    @property
    def terms(self) -> int:
        """See `LinearMap`."""
        return sum(max(matrix.shape) for matrix in self.matrices if matrix is not None) or 1

    @property
    def error(self) -> float:
        """See `LinearMap`."""
        if not self.relative:
            return 0.0
        frobenius = product(*(bracket(matrix).frobenius for matrix in self.matrices if matrix is not None))
        count = sum(matrix is not None for matrix in self.matrices)
        return product(raised_by(self.relative), 1.1 * count, frobenius)
