"""Operator norms: what the consumers of a weight do to their input, as linear maps, and the norm of that.

    Conv, ConvTranspose    the convolution with its strides, padding, dilation and groups, at its input's size
    Gemm, FusedMatMul      alpha · x W
    MatMul by [b, K, N]    a block for each b; the blocks side by side where x is the same for all of them
    others                 x W, so that it is the norm of the matrix

Where a weight has several consumers, the largest norm counts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError, leave_out
from sn_graph.model import Model, Node, Shapes, walk_tensors
from sn_graph.norms.convolution import convolution_of, with_resolved_pads
from sn_graph.plan import Target
from sn_graph.sites import Action, WeightUse, product_perm
from sn_graph.spectral.matrix import bracket

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution

# Why a weight stays as it is where its consumers make 0 of every input.
MADE_ZERO = (
    "its consumers make 0 of every input (an alpha of 0, or no tap that meets one), so they have no norm to divide by"
)
# What float64 sums of fewer than 2^40 numbers may lose.
_SUMMED = 1.0 + 2.0**-10
# Elements of an input or output at a fixed size, about 75 bytes of memory each; or so many for a byte of the weights.
_MOST, _LARGER = 1 << 23, 8


@dataclass(frozen=True)
class Enclosure:
    """Where a norm lies: `lower` is within 1e-5 of it or 2e-4 of `upper`, which is proven."""

    lower: float
    upper: float

    def times(self, factor: float) -> "Enclosure":
        """Return where the norm lies times a factor that is not negative."""
        upper = self.upper * factor
        if factor not in (0.0, 1.0) and self.upper:
            # The product rounds once, to the nearest number, which among the subnormals no relative margin covers.
            upper = math.nextafter(upper, math.inf)
        return Enclosure(self.lower * factor, upper)


class Operators:
    """The maps of one model's nodes; asks for the model's shapes once, when the first convolution is met."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._shapes: Shapes | None = None

    def enclose(self, target: Target) -> Enclosure:
        """Compute the norm of what a site's consumers do to their input, of the weight as it is stored.

        Args:
            target: The site; its weight must be finite.
        """
        stored = target.array(self._model)
        return self.enclose_read(target, lambda _: [stored])

    def enclose_read(self, target: Target, read: Callable[[WeightUse], Iterable[NDArray[Any]]]) -> Enclosure:
        """Compute the norm of what a site's consumers do to their input, with other elements than those stored.

        Args:
            target: The site.
            read: Returns what one of its uses reads as the weight, in the stored shape, all that it may be.
        """
        found = [self._enclose(target, use, weight) for use in _different(target) for weight in read(use)]
        # NaN, of a weight that is not finite as it is read, is the largest.
        return Enclosure(float(np.max([one.lower for one in found])), float(np.max([one.upper for one in found])))

    def convolution(self, target: Target, use: WeightUse, stored: NDArray[Any] | None = None) -> "Convolution":
        """Return the map of a Conv or ConvTranspose; of unknown size where any part of that is not known."""
        kernel = _read(use, target.array(self._model) if stored is None else stored)
        transposed = use.operator.action is Action.TRANSPOSED_CONVOLUTION
        node = use.node
        made = convolution_of(node, kernel, self._input_size(use, kernel.ndim - 2), transposed=transposed)
        if made.group < 1 or kernel.shape[0] % made.group:
            raise ModelError(
                f"node '{node.path}' has {made.group} groups",
                f"into which the {kernel.shape[0]} channels of its weight can't be divided",
                leave_out(target.site.weight),
            )
        if made.input_size is None:
            return made
        made = with_resolved_pads(node, made, made.input_size)
        if max(math.prod(made.input_shape), math.prod(made.output_shape)) > self._most:
            raise ModelError(
                f"node '{node.path}' maps {list(made.input_shape)} to {list(made.output_shape)}",
                f"where at most {self._most:,} elements are measured in a model of this size",
                f"export it with dynamic sizes, of which the largest norm is taken, or {leave_out(target.site.weight)}",
            )
        return made

    @cached_property
    def _most(self) -> int:
        """How many elements an input or output may have: its size costs a file nothing."""
        stored = (self._model.payload(tensor) for _, tensor in walk_tensors(self._model.proto))
        return max(_MOST, _LARGER * sum(payload.size for payload in stored if payload is not None))

    def magnitude(self, target: Target) -> float:
        """Bound the norm of what the consumers would do with |W|: rounding each element of W adds a fraction of it.

        By Schur's test, √(most that an output sums · most that an input gives); for a product Frobenius' norm.
        """
        stored = np.abs(target.array(self._model)).astype(np.float64)
        bounds = []
        for use in target.uses:
            if use.operator.is_convolution:
                kernel = use.layout(stored.shape).array(stored)
                by_first = kernel.sum(axis=tuple(range(1, kernel.ndim))).max()
                groups = kernel.reshape(use.node.integer("group", 1), -1, *kernel.shape[1:])
                by_second = groups.sum(axis=(1, *range(3, groups.ndim))).max()
                bounds.append(math.sqrt(by_first * by_second))
            else:
                bounds.append(abs(alpha(use)) * math.sqrt(np.vdot(stored, stored)))
        return max(bounds) * _SUMMED

    def is_zero(self, target: Target) -> bool:
        """Say whether the consumers make 0 of every input, though the weight is not zero."""
        stored = np.abs(target.array(self._model))  # of which nothing cancels
        return not any(self._passes(target, use, stored) for use in target.uses)

    def _passes(self, target: Target, use: WeightUse, stored: NDArray[Any]) -> bool:
        if not use.operator.is_convolution:
            return alpha(use) != 0.0
        from sn_graph.spectral.convolution import forward

        made = self.convolution(target, use, stored)
        return made.input_size is None or bool(np.any(forward(made, np.ones(made.input_shape))))

    def refusal(self, target: Target) -> str | None:
        """Return why no single power iteration estimates the norm of what a site's consumers do, or None."""
        convolutions = [use for use in target.uses if use.operator.is_convolution]
        if not convolutions:
            if any(_is_stacked(target, use) for use in target.uses):
                return "it is a stack of matrices, of which each has a norm of its own"
            return "its consumers differ in alpha" if len(set(map(alpha, target.uses))) > 1 else None
        if len(convolutions) < len(target.uses):
            return "not all of its consumers are convolutions"
        maps = [self.convolution(target, use) for use in convolutions]
        for one, use in zip(maps, convolutions, strict=True):
            if one.input_size is None:
                return f"the input size of {use.node.path} is dynamic, and u has the shape of its output"
            if 0 in one.output_shape:
                return f"the output of {use.node.path} is empty"
            if min(one.pads) < 0 and not (one.transposed and min(one.pads[: one.rank]) >= 0):
                return f"{use.node.path} crops its input, for which it has no transpose as a node"
        layouts = [use.layout(target.shape) for use in convolutions]
        geometries = [{**vars(one), "kernel": None} for one in maps]
        alike = all(one == geometries[0] for one in geometries) and len(set(layouts)) == 1
        return None if alike else "its consumers are different convolutions"

    def iterated(self, target: Target) -> "Convolution | None":
        """Return the convolution that the power iteration of a site goes through; None where it is the matrix."""
        use = target.uses[0]
        return self.convolution(target, use) if use.operator.is_convolution else None

    def state_length(self, target: Target, norm: str) -> int:
        """Return how many elements u has: those of a side of the matrix, or of the convolution's output."""
        return state_length(target, None if norm == "matrix" or self.refusal(target) else self.iterated(target))

    def _input_size(self, use: WeightUse, rank: int) -> tuple[int, ...] | None:
        if self._shapes is None:
            self._shapes = Shapes(self._model)
        dims = self._shapes.of(use.node.scope, use.node.proto.input[0])
        size = (dims or ())[2:]
        known = tuple(length for length in size if length)
        return known if len(known) == len(size) == rank else None

    def _enclose(self, target: Target, use: WeightUse, stored: NDArray[Any]) -> Enclosure:
        if use.operator.is_convolution:
            from sn_graph.spectral.convolution import operator_norm

            found = operator_norm(self.convolution(target, use, stored))
            return Enclosure(found.lower, found.upper)
        matrices = self._blocks(use, stored) if _is_stacked(target, use) else [target.view.matrix(stored)]
        brackets = [bracket(matrix) for matrix in matrices]
        norm = Enclosure(max(one.lower for one in brackets), max(one.upper for one in brackets))
        return norm.times(abs(alpha(use)))

    def _blocks(self, use: WeightUse, stored: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Yield the matrices of a MatMul by a weight of rank above 2, one for each part of x."""
        if self._shapes is None:
            self._shapes = Shapes(self._model)
        weight = _transposed(use.node, use.index, _read(use, stored))
        if use.index == 0:  # W x: as xᵀ Wᵀ
            weight = np.swapaxes(weight, -1, -2)
        *batch, inner, outer = weight.shape
        dims = self._shapes.of(use.node.scope, use.node.proto.input[1 - use.index])
        if dims is not None and (perm := product_perm(use.node, 1 - use.index, len(dims))) is not None:
            dims = tuple(dims[axis] for axis in perm)
        lead = () if dims is None else dims[:-2]
        own = (*(1,) * (len(batch) - len(lead)), *lead)[-len(batch) :] if dims is not None else tuple(batch)
        same = [axis for axis, size in enumerate(own) if size == 1 and batch[axis] != 1]
        apart = [axis for axis in range(len(batch)) if axis not in same]
        moved = weight.transpose(*apart, len(batch), *same, len(batch) + 1)
        yield from moved.reshape(-1, inner, outer * math.prod(batch[axis] for axis in same))


def state_length(target: Target, through: "Convolution | None") -> int:
    """Return how many elements u has where the iteration goes through a convolution, or with None the matrix."""
    return target.view.state_length if through is None else math.prod(through.output_shape)


def alpha(use: WeightUse) -> float:
    """Return what the consumer multiplies the product by: the attribute of Gemm and its relatives."""
    return use.node.number("alpha", 1.0) if use.operator.alpha else 1.0


def _different(target: Target) -> Sequence[WeightUse]:
    """Return the uses, but of plain products that read the same only the first: they have the norm of the matrix."""
    plain = {use.rounded_to: use for use in reversed(target.uses) if _is_plain(target, use)}
    return [use for use in target.uses if not _is_plain(target, use) or plain[use.rounded_to] is use]


def _is_plain(target: Target, use: WeightUse) -> bool:
    return not use.operator.is_convolution and alpha(use) == 1.0 and not _is_stacked(target, use)


def _is_stacked(target: Target, use: WeightUse) -> bool:
    return use.operator.action is Action.PRODUCT and len(use.layout(target.shape).dims) > 2


def _read(use: WeightUse, stored: NDArray[Any]) -> NDArray[Any]:
    """Return the weight as the consumer reads it."""
    return use.layout(stored.shape).array(stored)


def _transposed(node: Node, index: int, operand: NDArray[Any]) -> NDArray[Any]:
    """Return an operand of a product as the node's attributes transpose it."""
    perm = product_perm(node, index, operand.ndim)
    return operand if perm is None else operand.transpose(perm)
