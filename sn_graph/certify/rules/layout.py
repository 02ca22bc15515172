"""Layout: nodes that move elements without changing them.

    Reshape, Transpose, Flatten, Squeeze, Unsqueeze, Identity      1: isometries
    Slice, Split, Pad by a constant                                at most 1
    Gather by constants, Expand, Tile, Pad reflect, edge, wrap     √(how often the element taken most often is taken)

What a node does is asked of the operator itself, with the elements' places in place of the elements.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper

from sn_graph.certify.steps import (
    ROUNDED,
    SIZES,
    Array,
    Call,
    Made,
    NoBound,
    Operand,
    Reshaped,
    Selected,
    Shape,
    Sliced,
    Step,
    Transposed,
)
from sn_graph.errors import ModelError

Places = NDArray[np.int64]


def places_of(shape: Shape) -> Places:
    """Return the flat place of each element of an array."""
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _identity(call: Call) -> Made:
    return call.varying()


def _cast(call: Call) -> Made:
    to = call.node.attribute("to", AttributeProto.INT, AttributeProto.STRING)
    code = TensorProto.DataType.Value(to.decode()) if isinstance(to, bytes) else to
    return _converted(call, code)


def _converted(call: Call, code: int) -> Made:
    # FLOAT, FLOAT16, DOUBLE, BFLOAT16: the function that is certified is that of real numbers, which they round.
    if code in (1, 10, 11, 16):
        return replace(call.varying(), dtype=helper.tensor_dtype_to_np_dtype(code))
    raise NoBound("a cast to whole numbers is a step function, whose value jumps")


def _cast_like(call: Call) -> Made:
    like = call.operand(1)
    x = call.operand(0)
    if x.array is not None:
        return replace(x, array=x.array.astype(like.dtype), dtype=like.dtype)
    if like.is_float:
        return replace(x, dtype=like.dtype)
    raise NoBound("a cast to whole numbers is a step function, whose value jumps")


def _dropout(call: Call) -> Made:
    training = call.given(2)
    if training is not None and (training.array is None or training.depends or bool(training.array.reshape(-1)[0])):
        raise NoBound("Dropout in training mode is random", "export the model for inference")
    if call.opset < 7 and not call.node.integer("is_test", 0) and len([one for one in call.results if one]) > 1:
        raise NoBound("Dropout in training mode is random", "export the model for inference")
    return call.varying()


def _reshape(call: Call) -> Made:
    x = call.varying()
    wanted = call.node.integers("shape")
    if wanted is None:
        target = call.operand(1)
        if target.array is None:
            raise NoBound("its shape depends on the network's input")
        wanted = tuple(int(size) for size in target.array.reshape(-1))
    sizes = list(wanted)
    if not call.node.integer("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if sizes.count(-1) == 1:
        rest = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(x.shape) // rest if rest else 0
    return _reshaped(call, x, tuple(sizes))


def _reshaped(call: Call, x: Operand, shape: Shape) -> Step:
    if math.prod(shape) != math.prod(x.shape):
        raise ModelError(
            f"node '{call.path}' reshapes {list(x.shape)} to {list(shape)}",
            "which holds another number of elements",
            "give the sizes for which the model was made, with --dim name=N",
        )
    return call.linear([(x, Reshaped(x.shape, shape))])


def _flatten(call: Call) -> Made:
    x = call.varying()
    axis = call.node.integer("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    return _reshaped(call, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def axes_of(call: Call, place: int = 1) -> tuple[int, ...] | None:
    """Return the axes that a node names, as an attribute or an input; None where it names none."""
    given = call.node.integers("axes")
    if given is None and (operand := call.given(place)) is not None:
        if operand.array is None:
            raise NoBound("its axes depend on the network's input")
        given = tuple(int(axis) for axis in operand.array.reshape(-1))
    return given


def _squeeze(call: Call) -> Made:
    x, axes = call.varying(), axes_of(call)
    gone = {axis % len(x.shape) for axis in axes} if axes else {i for i, size in enumerate(x.shape) if size == 1}
    return _reshaped(call, x, tuple(size for axis, size in enumerate(x.shape) if axis not in gone))


def _unsqueeze(call: Call) -> Made:
    x, axes = call.varying(), axes_of(call) or ()
    return _reshaped(call, x, np.expand_dims(np.empty(x.shape, bool), tuple(axes)).shape)


def _transpose(call: Call) -> Made:
    x = call.varying()
    perm = call.node.integers("perm") or tuple(reversed(range(len(x.shape))))
    return call.linear([(x, Transposed.of(x.shape, perm))])


def selected(call: Call, x: Operand, places: Places, most: int | None, offset: Array | None = None) -> Step:
    """Make the step that takes elements by their places."""
    return call.linear([(x, Selected.of(x.shape, places, most))], offset=offset)


def _asked(call: Call, most: int | None) -> Made:
    """Ask the operator where the elements go, by their places.

    Args:
        call: The node.
        most: How often it takes an element at most, whatever the sizes.
    """
    x = call.varying()
    given: list[NDArray[np.generic] | None] = [places_of(x.shape)]
    for place, operand in enumerate(call.operands[1:], 1):
        if operand is None:
            given.append(None)
            continue
        if operand.array is None:
            raise NoBound(f"its input {place} depends on the network's input")
        call.require_certain(operand, f"input {place}")
        given.append(operand.array)
    made = call.evaluate(call.node, given)
    steps = [
        call.linear([(x, Selected.of(x.shape, np.asarray(one), most))], output=output)
        for output, one in enumerate(made)
        if output < len(call.results) and call.results[output]
    ]
    return steps[0] if len(steps) == 1 else steps


def _numbers(call: Call, place: int, name: str) -> tuple[int, ...] | None:
    """Return whole numbers that older opsets hold as an attribute and newer ones take as an input."""
    found = call.node.integers(name)
    operand = call.given(place)
    if found is not None or operand is None:
        return found
    if operand.array is None or operand.depends - {SIZES, ROUNDED}:
        raise NoBound(f"its {name} depend on the network's input")
    return tuple(int(number) for number in operand.array.reshape(-1))


def _slice(call: Call) -> Made:
    x = call.varying()
    starts, ends = _numbers(call, 1, "starts") or (), _numbers(call, 2, "ends") or ()
    axes = _numbers(call, 3, "axes") or tuple(range(len(starts)))
    steps = _numbers(call, 4, "steps") or (1,) * len(starts)
    slices = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        slices[axis] = _part(x.shape[axis], start, end, step)
    return call.linear([(x, Sliced.by(x.shape, slices))])


def _part(size: int, start: int, end: int, step: int) -> slice:
    """Return what ONNX means by a start, an end and a step."""
    if step == 0:
        raise ValueError("a step of 0")
    if start == 0 and end >= _WHOLE and step == 1:
        return slice(None)
    last = size if step > 0 else size - 1
    least = 0 if step > 0 else -1
    begin = min(max(start + size if start < 0 else start, 0), last)
    stop = min(max(end + size if end < 0 else end, least), size)
    # Below 0 there is no place that a slice could name.
    return slice(begin, None if stop < 0 else stop, step)


# What exporters write for "to the end".
_WHOLE = (1 << 31) - 1


def _split(call: Call) -> Made:
    x = call.varying()
    axis = call.node.integer("axis", 0) % len(x.shape)
    size, count = x.shape[axis], len(call.results)
    if call.node.integer("num_outputs", count) != count:
        raise ValueError(f"{call.node.integer('num_outputs', count)} parts for {count} outputs")
    sizes = _numbers(call, 1, "split")
    if sizes is None:
        most = -(-size // count)
        sizes = (*(most for _ in range(count - 1)), size - most * (count - 1))
    steps, start = [], 0
    for output, length in enumerate(sizes):
        slices = [slice(None)] * len(x.shape)
        slices[axis] = slice(start, start + length, 1)
        if call.results[output]:
            steps.append(call.linear([(x, Sliced.by(x.shape, slices))], output=output))
        start += length
    if start != size:
        raise ValueError(f"parts of {start} in all where it has {size}")
    return steps


def _gather(call: Call) -> Made:
    x, axis = call.varying(), call.node.integer("axis", 0)
    indices = np.asarray(call.constant(1, "indices"), np.int64)
    axis = axis + len(x.shape) if axis < 0 else axis
    call.require_room((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    places = np.take(places_of(x.shape), indices, axis)
    # An index from the end may be the same as one from the start.
    counts = [
        np.unique(part, return_counts=True)[1].max(initial=0) for part in (indices[indices < 0], indices[indices >= 0])
    ]
    return selected(call, x, places, int(sum(counts)))


def _gather_elements(call: Call) -> Made:
    x, axis = call.varying(), call.node.integer("axis", 0)
    indices = np.asarray(call.constant(1, "indices"), np.int64)
    return selected(call, x, np.take_along_axis(places_of(x.shape), indices % x.shape[axis], axis), None)


def _gather_nd(call: Call) -> Made:
    return _asked(call, None)


def _expand(call: Call) -> Made:
    x = call.varying()
    target = np.asarray(call.constant(1, "shape"), np.int64).reshape(-1)
    shape = np.broadcast_shapes(x.shape, tuple(int(size) for size in target))
    call.require_room(shape)
    most = None if x.dynamic else math.prod(shape) // max(1, math.prod(x.shape))
    return selected(call, x, np.broadcast_to(places_of(x.shape), shape), most)


def _tile(call: Call) -> Made:
    x = call.varying()
    repeats = [int(count) for count in np.asarray(call.constant(1, "repeats")).reshape(-1)]
    lengths = [*(1 for _ in repeats[len(x.shape) :]), *x.shape]
    call.require_room([size * count for size, count in zip(lengths, repeats, strict=True)])
    return selected(call, x, np.tile(places_of(x.shape), repeats), math.prod(repeats))


def _pad(call: Call) -> Made:
    x, rank = call.varying(), 0
    rank = len(x.shape)
    given = call.node.integers("pads") or call.node.integers("paddings")
    if given is None:
        given = tuple(int(one) for one in np.asarray(call.constant(1, "pads")).reshape(-1))
    axes: tuple[int, ...] = tuple(range(rank))
    if call.given(3) is not None:
        axes = tuple(int(axis) % rank for axis in np.asarray(call.constant(3, "axes")).reshape(-1))
    pads = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        pads[axis] = (given[place], given[place + len(axes)])
    mode = call.node.text("mode", "constant")
    places = places_of(x.shape)
    cropped = tuple(
        slice(max(0, -begin), size - max(0, -end)) for (begin, end), size in zip(pads, x.shape, strict=True)
    )
    added = [(max(0, begin), max(0, end)) for begin, end in pads]
    call.require_room([begin + size + end for (begin, end), size in zip(added, x.shape, strict=True)])
    if mode != "constant":
        # Cropping comes last, because what is reflected is the whole input.
        padded = np.pad(places, added, mode="edge" if mode == "edge" else "wrap" if mode == "wrap" else "reflect")
        cut = tuple(
            slice(max(0, -begin), size - max(0, -end)) for (begin, end), size in zip(pads, padded.shape, strict=True)
        )
        return selected(call, x, padded[cut], None)
    padded = np.pad(places[cropped], added, constant_values=-1)
    value = call.node.number("value", 0.0)
    if call.given(2) is not None:
        filling = call.operand(2)
        if filling.array is None:
            raise NoBound("the value that it pads with depends on the network's input")
        value = float(filling.array.reshape(-1)[0]) if filling.array.size else 0.0
    offset = None if value == 0.0 else np.where(padded < 0, value, 0.0)
    return selected(call, x, padded, 1, offset)


def _depth_to_space(call: Call) -> Made:
    x, block = call.varying(), call.node.integer("blocksize", 1)
    n, c, h, w = x.shape
    places = places_of(x.shape)
    if call.node.text("mode", "DCR") == "CRD":
        split = places.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        split = places.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return selected(call, x, split.reshape(n, c // block**2, h * block, w * block), 1)


def _space_to_depth(call: Call) -> Made:
    x, block = call.varying(), call.node.integer("blocksize", 1)
    n, c, h, w = x.shape
    split = places_of(x.shape).reshape(n, c, h // block, block, w // block, block)
    crd = call.node.text("mode", "DCR") == "CRD"  # of newer opsets
    split = split.transpose(0, 1, 3, 5, 2, 4) if crd else split.transpose(0, 3, 5, 1, 2, 4)
    return selected(call, x, split.reshape(n, c * block**2, h // block, w // block), 1)


def _trilu(call: Call) -> Made:
    x, k = call.varying(), 0
    if call.given(1) is not None:
        k = int(np.asarray(call.constant(1, "diagonal")).reshape(-1)[0])
    keep = np.tril if not call.node.integer("upper", 1) else np.triu
    return selected(call, x, keep(places_of(x.shape) + 1, k) - 1, 1)


def _reverse_sequence(call: Call) -> Made:
    return _asked(call, 1)


RULES: dict[str, Callable[[Call], Made]] = {
    "Identity": _identity,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _trilu,
    "ReverseSequence": _reverse_sequence,
}
