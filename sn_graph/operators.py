"""What the consumers of a weight do to their input, as linear maps, and the norm of that.

    Conv, ConvTranspose    the convolution with its strides, padding, dilation and groups, at its input's size
    Gemm, FusedMatMul      alpha · x W
    MatMul by [b, K, N]    a block for each b; the blocks side by side where x is the same for all of them
    others                 x W, so that it is the norm of the matrix

Where a weight has several consumers, the largest norm counts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.decisions import PlannedSite
from sn_graph.model import Model
from sn_graph.model.shapes import Shapes
from sn_graph.uses import WeightUse
from sn_graph.views import Layout

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution

# Why a weight stays as it is where its consumers make 0 of every input.
MADE_ZERO = (
    "its consumers make 0 of every input (an alpha of 0, or no tap that meets one), so they have no norm to divide by"
)
# A bound times alpha rounds once.
_ROUNDED = 1.0 + 2.0**-52
# What float64 sums of fewer than 2^40 numbers may lose.
_SUMMED = 1.0 + 2.0**-10


@dataclass(frozen=True)
class Enclosure:
    """Where a norm lies: `lower` is within 1e-5 of it or 2e-4 of `upper`, which is proven."""

    lower: float
    upper: float

    def times(self, factor: float) -> "Enclosure":
        raised = 1.0 if factor == 1.0 else _ROUNDED
        return Enclosure(self.lower * factor, self.upper * factor * raised)


class Operators:
    """The maps of one model's nodes; asks for the model's shapes once, when the first convolution is met."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._shapes: Shapes | None = None

    def enclose(self, planned: PlannedSite, array: NDArray[Any] | None = None) -> Enclosure:
        """Compute the norm of what a site's consumers do to their input.

        Args:
            planned: The site; its weight must be finite.
            array: Elements in place of the stored ones, of their shape and type.
        """
        stored = planned.site.array(self._model) if array is None else array
        found = [self._enclose(planned, use, stored) for use in _different(planned)]
        return Enclosure(max(one.lower for one in found), max(one.upper for one in found))

    def convolution(self, planned: PlannedSite, use: WeightUse, stored: NDArray[Any] | None = None) -> "Convolution":
        """Return the map of a Conv or ConvTranspose; of unknown size where any part of that is not known."""
        from sn_graph.spectral.convolution import Convolution

        kernel = _read(use, planned.site.array(self._model) if stored is None else stored)
        rank = kernel.ndim - 2
        plain = (1,) * rank
        node = use.node
        made = Convolution(
            kernel=kernel,
            strides=tuple(node.attribute("strides") or plain),
            dilations=tuple(node.attribute("dilations") or plain),
            pads=tuple(node.attribute("pads") or (0,) * (2 * rank)),
            group=int(node.attribute("group", 1)),
            input_size=self._input_size(use, rank),
            transposed=_is_transposed(use),
            output_padding=tuple(node.attribute("output_padding") or (0,) * rank) if _is_transposed(use) else (),
        )
        return made if made.input_size is None else replace(made, pads=_pads(use, made))

    def magnitude(self, planned: PlannedSite) -> float:
        """Bound the norm of what the consumers would do with |W|: rounding each element of W adds a fraction of it.

        By Schur's test, √(most that an output sums · most that an input gives); for a product Frobenius' norm.
        """
        stored = np.abs(planned.site.array(self._model)).astype(np.float64)
        bounds = []
        for use in planned.uses:
            if "Conv" in use.node.op_type:
                kernel = _read(use, stored)
                by_first = kernel.sum(axis=tuple(range(1, kernel.ndim))).max()
                groups = kernel.reshape(planned.site.groups, -1, *kernel.shape[1:])
                by_second = groups.sum(axis=(1, *range(3, groups.ndim))).max()
                bounds.append(math.sqrt(by_first * by_second))
            else:
                bounds.append(abs(alpha(use)) * math.sqrt(np.vdot(stored, stored)))
        return max(bounds) * _SUMMED

    def is_zero(self, planned: PlannedSite) -> bool:
        """Say whether the consumers make 0 of every input, though the weight is not zero."""
        stored = np.abs(planned.site.array(self._model))  # of which nothing cancels
        return not any(self._passes(planned, use, stored) for use in planned.uses)

    def _passes(self, planned: PlannedSite, use: WeightUse, stored: NDArray[Any]) -> bool:
        if "Conv" not in use.node.op_type:
            return alpha(use) != 0.0
        from sn_graph.spectral.convolution import forward

        made = self.convolution(planned, use, stored)
        return made.input_size is None or bool(np.any(forward(made, np.ones(made.input_shape))))

    def refusal(self, planned: PlannedSite) -> str | None:
        """Return why no single power iteration estimates the norm of what a site's consumers do, or None."""
        convolutions = [use for use in planned.uses if "Conv" in use.node.op_type]
        if not convolutions:
            if any(_is_stacked(planned, use) for use in planned.uses):
                return "it is a stack of matrices, of which each has a norm of its own"
            return "its consumers differ in alpha" if len(set(map(alpha, planned.uses))) > 1 else None
        if len(convolutions) < len(planned.uses):
            return "not all of its consumers are convolutions"
        maps = [self.convolution(planned, use) for use in convolutions]
        for one, use in zip(maps, convolutions, strict=True):
            if one.input_size is None:
                return f"the input size of {use.node.path} is dynamic, and u has the shape of its output"
            if 0 in one.output_shape:
                return f"the output of {use.node.path} is empty"
            if min(one.pads) < 0 and not (one.transposed and min(one.pads[: one.rank]) >= 0):
                return f"{use.node.path} crops its input, for which it has no transpose as a node"
        layouts = [_layout(use, planned.site.shape or ()) for use in convolutions]
        geometries = [{**vars(one), "kernel": None} for one in maps]
        alike = all(one == geometries[0] for one in geometries) and len(set(layouts)) == 1
        return None if alike else "its consumers are different convolutions"

    def iterated(self, planned: PlannedSite) -> "Convolution | None":
        """Return the convolution that the power iteration of a site goes through; None where it is the matrix."""
        use = planned.uses[0]
        return self.convolution(planned, use) if "Conv" in use.node.op_type else None

    def state_length(self, planned: PlannedSite, norm: str) -> int:
        """Return how many elements u has: those of a side of the matrix, or of the convolution's output."""
        return state_length(planned, None if norm == "matrix" or self.refusal(planned) else self.iterated(planned))

    def _input_size(self, use: WeightUse, rank: int) -> tuple[int, ...] | None:
        if self._shapes is None:
            self._shapes = Shapes(self._model)
        dims = self._shapes.of(use.node.scope, use.node.proto.input[0])
        size = (dims or ())[2:]
        known = tuple(length for length in size if length)
        return known if len(known) == len(size) == rank else None

    def _enclose(self, planned: PlannedSite, use: WeightUse, stored: NDArray[Any]) -> Enclosure:
        if "Conv" in use.node.op_type:
            from sn_graph.spectral.convolution import operator_norm

            found = operator_norm(self.convolution(planned, use, stored))
            return Enclosure(found.lower, found.upper)
        from sn_graph.spectral.bound import bracket

        assert planned.view is not None
        matrices = self._blocks(use, stored) if _is_stacked(planned, use) else [planned.view.matrix(stored)]
        brackets = [bracket(matrix) for matrix in matrices]
        norm = Enclosure(max(one.lower for one in brackets), max(one.upper for one in brackets))
        return norm.times(abs(alpha(use)))

    def _blocks(self, use: WeightUse, stored: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Yield the matrices of a MatMul by a weight of rank above 2, one for each part of x."""
        if self._shapes is None:
            self._shapes = Shapes(self._model)
        weight = _read(use, stored)
        if use.index == 0:  # W x: as xᵀ Wᵀ
            weight = np.swapaxes(weight, -1, -2)
        *batch, inner, outer = weight.shape
        dims = self._shapes.of(use.node.scope, use.node.proto.input[1 - use.index])
        lead = () if dims is None else dims[:-2]
        own = (*(1,) * (len(batch) - len(lead)), *lead)[-len(batch) :] if dims is not None else tuple(batch)
        same = [axis for axis, size in enumerate(own) if size == 1 and batch[axis] != 1]
        apart = [axis for axis in range(len(batch)) if axis not in same]
        moved = weight.transpose(*apart, len(batch), *same, len(batch) + 1)
        yield from moved.reshape(-1, inner, outer * math.prod(batch[axis] for axis in same))


def state_length(planned: PlannedSite, through: "Convolution | None") -> int:
    """Return how many elements u has where the iteration goes through a convolution, or with None the matrix."""
    assert planned.view is not None
    return planned.view.state_length if through is None else math.prod(through.output_shape)


def alpha(use: WeightUse) -> float:
    """Return what the consumer multiplies the product by: the attribute of Gemm and its relatives."""
    return float(use.node.attribute("alpha", 1.0)) if use.node.op_type in _WITH_ALPHA else 1.0


_WITH_ALPHA = frozenset({"Gemm", "FusedGemm", "FusedMatMul", "TransposeMatMul"})


def _different(planned: PlannedSite) -> Sequence[WeightUse]:
    """Return the uses, but of those that are plain products only the first: they have the norm of the one matrix."""
    plain = [use for use in planned.uses if _is_plain(planned, use)]
    return [use for use in planned.uses if use not in plain[1:]]


def _is_plain(planned: PlannedSite, use: WeightUse) -> bool:
    return "Conv" not in use.node.op_type and alpha(use) == 1.0 and not _is_stacked(planned, use)


def _is_stacked(planned: PlannedSite, use: WeightUse) -> bool:
    return use.node.op_type == "MatMul" and len(_layout(use, planned.site.shape or ()).dims) > 2


def _is_transposed(use: WeightUse) -> bool:
    return "Transpose" in use.node.op_type


def _read(use: WeightUse, stored: NDArray[Any]) -> NDArray[Any]:
    """Return the weight as the consumer reads it."""
    return _layout(use, stored.shape).array(stored)


def _layout(use: WeightUse, shape: tuple[int, ...]) -> Layout:
    return use.steps[-1].layout if use.steps else Layout.stored(shape)


def _pads(use: WeightUse, made: "Convolution") -> tuple[int, ...]:
    """Return the pads that the attributes stand for at a known input size."""
    from sn_graph.spectral.geometry import resolve_pads, resolve_transposed_pads

    node = use.node
    auto_pad = node.attribute("auto_pad", b"NOTSET").decode()
    size, taps = made.input_size, made.kernel.shape[2:]
    assert size is not None
    if made.transposed:
        shape = node.attribute("output_shape")
        if auto_pad == "NOTSET" and not shape:
            return made.pads
        given = tuple(shape)[-made.rank :] if shape else None
        return resolve_transposed_pads(auto_pad, size, taps, made.strides, made.dilations, made.output_padding, given)
    if auto_pad == "NOTSET":
        return made.pads
    return resolve_pads(auto_pad, size, taps, made.strides, made.dilations)
