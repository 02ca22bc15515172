"""Resize and Upsample: a matrix along each axis, whose norms are multiplied.

nearest    √(how often the element that is taken most often is taken): √scale an axis where the scale is whole
linear     the weights 1 − t and t of the two neighbours, t the fraction of the coordinate
cubic      Keys' four weights with a = cubic_coeff_a: Keys, 1981, IEEE Trans. ASSP 29
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from onnx import AttributeProto

from sn_graph.certify.steps import UNIT, Array, Call, LinearMap, Made, NoBound, Reshaped, Separable, product, root


def _resize(call: Call) -> Made:
    x = call.varying()
    rank = len(x.shape)
    node = call.node
    if node.integer("antialias", 0):
        raise NoBound("Resize with antialias has no rule")
    if call.opset < 11:
        return _resampled(call, _numbers(call, 1, "scales"), None, "asymmetric", "floor")
    axes = [axis % rank for axis in (node.integers("axes") or range(rank))]
    scales, sizes = _numbers(call, 2, "scales"), _numbers(call, 3, "sizes")
    mode = node.text("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_crop_and_resize":
        raise NoBound("Resize of a region has no rule", "crop by Slice before")
    if sizes is not None and node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        wanted = [sizes[place] / x.shape[axis] for place, axis in enumerate(axes)]
        policy = min(wanted) if node.text("keep_aspect_ratio_policy", "") == "not_larger" else max(wanted)
        # The sizes are then rounded, and the scales stay.
        sizes = [math.floor(policy * x.shape[axis] + 0.5) for axis in axes]
        return _resampled(
            call,
            _spread([policy] * len(axes), axes, rank, 1.0),
            _spread(sizes, axes, rank, -1.0),
            mode,
            node.text("nearest_mode", "round_prefer_floor"),
        )
    whole_scales = _spread(scales, axes, rank, 1.0)
    whole_sizes = _spread(sizes, axes, rank, -1.0)
    return _resampled(call, whole_scales, whole_sizes, mode, node.text("nearest_mode", "round_prefer_floor"))


def _spread(given: Sequence[float] | None, axes: Sequence[int], rank: int, rest: float) -> list[float] | None:
    if given is None:
        return None
    whole = [rest] * rank
    for axis, number in zip(axes, given, strict=True):
        whole[axis] = number
    return whole


def _numbers(call: Call, place: int, name: str) -> list[float] | None:
    """Return the numbers of an input; None where it is left out, or empty, as exporters write."""
    operand = call.given(place)
    if operand is None or 0 in operand.shape:
        return None
    if name == "sizes" and operand.array is not None:
        # Sizes follow from others where some are dynamic; the matrices are then those at the sizes that are shown.
        return [float(number) for number in operand.array.reshape(-1)]
    return [float(number) for number in np.asarray(call.constant(place, name), np.float64).reshape(-1)]


def _upsample(call: Call) -> Made:
    node = call.node
    scales = node.attribute("scales", AttributeProto.FLOATS)
    if call.opset < 7:
        scales = (1.0, 1.0, node.number("height_scale", 1.0), node.number("width_scale", 1.0))
    given = _numbers(call, 1, "scales") if scales is None else [float(one) for one in scales]
    return _resampled(call, given, None, "asymmetric", "floor")


def _resampled(
    call: Call, scales: Sequence[float] | None, sizes: Sequence[float] | None, where: str, rounding: str
) -> Made:
    x = call.varying()
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(call.node.text("mode", "nearest"), "")
    mode = mode or call.node.text("mode", "nearest")
    matrices: list[Array | None] = []
    everywhere: float | None = 1.0
    for axis, size in enumerate(x.shape):
        if sizes is not None and sizes[axis] >= 0:
            count, scale = int(sizes[axis]), (sizes[axis] / size if size else 1.0)
            scale = scale if scales is None else scales[axis]
        else:
            scale = 1.0 if scales is None else scales[axis]
            count = math.floor(size * scale)
        if count == size and scale == 1.0:
            matrices.append(None)
            continue
        if where == "align_corners" and count != size * scale:
            raise NoBound(
                "with align_corners and a size that is rounded, runtimes do not agree", "give sizes, not scales"
            )
        call.require_room((*x.shape[:axis], count, *x.shape[axis + 1 :]))
        call.require_room((count, size), "a matrix")
        places = _places(count, size, scale, where)
        if mode == "nearest":
            matrices.append(_nearest(places, size, rounding))
        elif mode == "linear":
            matrices.append(_linear(places, size))
        elif mode == "cubic":
            a = call.node.number("cubic_coeff_a", -0.75)
            matrices.append(_cubic(places, size, a, bool(call.node.integer("exclude_outside", 0))))
        else:
            raise NoBound(f"Resize with mode '{mode}' has no rule")
        plain = mode == "nearest" and where == "asymmetric" and scale == int(scale) and scale >= 1 and sizes is None
        everywhere = product(everywhere, root(scale)) if plain and everywhere is not None else None
    # The coordinates are rounded a few times, at their size.
    relative = 0.0 if mode == "nearest" else 64.0 * UNIT * max(1, *x.shape)
    made: LinearMap = Separable.along(x.shape, matrices, relative, everywhere)
    if all(matrix is None for matrix in matrices):
        made = Reshaped.identity(x.shape)
    return call.linear([(x, made)])


def _places(count: int, size: int, scale: float, where: str) -> Array:
    """Return the coordinate in the input of each element of the output."""
    out = np.arange(count, dtype=np.float64)
    if where == "align_corners":
        return out * (size - 1) / (count - 1) if count > 1 else np.zeros(count)
    if where == "asymmetric":
        return out / scale
    if where == "tf_half_pixel_for_nn":
        return (out + 0.5) / scale
    if where == "half_pixel_symmetric":
        adjusted = count / (scale * size)
        return size / 2.0 * (1.0 - adjusted) + (out + 0.5) / scale - 0.5
    if where == "pytorch_half_pixel" and count <= 1:
        return np.zeros(count)
    if where in ("half_pixel", "pytorch_half_pixel"):
        return (out + 0.5) / scale - 0.5
    raise NoBound(f"Resize with coordinates '{where}' has no rule")


def _nearest(places: Array, size: int, rounding: str) -> Array:
    rounded = {
        "round_prefer_floor": lambda: np.ceil(places - 0.5),
        "round_prefer_ceil": lambda: np.floor(places + 0.5),
        "floor": lambda: np.floor(places),
        "ceil": lambda: np.ceil(places),
    }.get(rounding)
    if rounded is None:
        raise NoBound(f"Resize with nearest_mode '{rounding}' has no rule")
    return np.eye(size)[np.clip(rounded().astype(np.int64), 0, size - 1)]


def _linear(places: Array, size: int) -> Array:
    inside = np.clip(places, 0.0, size - 1.0)
    below = np.floor(inside).astype(np.int64)
    share = inside - below
    matrix = (1.0 - share)[:, None] * np.eye(size)[below]
    return np.asarray(matrix + share[:, None] * np.eye(size)[np.minimum(below + 1, size - 1)])


def _cubic(places: Array, size: int, a: float, exclude: bool) -> Array:
    below = np.floor(places).astype(np.int64)
    t = places - below

    def near(d: Array) -> Array:
        return np.asarray(((a + 2.0) * d - (a + 3.0)) * d * d + 1.0)

    def far(d: Array) -> Array:
        return np.asarray(((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a)

    weights = np.stack([far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)], axis=1)
    taps = below[:, None] + np.arange(-1, 3)
    if exclude:
        weights = np.where((taps >= 0) & (taps < size), weights, 0.0)
        weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(places), size))
    np.add.at(matrix, (np.arange(len(places))[:, None], np.clip(taps, 0, size - 1)), weights)
    return matrix


RULES: dict[str, Callable[[Call], Made]] = {"Resize": _resize, "Upsample": _upsample}
