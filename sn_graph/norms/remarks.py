"""Remarks: what a reader of a report should know about a weight and its other readings."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.model import Model
from sn_graph.norms.fused import fused
from sn_graph.norms.matrix import exact_sigma
from sn_graph.plan import Plan, Target
from sn_graph.report import Reading
from sn_graph.sites import Convention, MatrixView, WeightUse, is_dequantize

_CALIBRATED = frozenset({"QLinearConv", "QLinearMatMul", "QGemm"})  # whose outputs are integers too
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_DIRECTIONS = 2
_OTHERS = {
    Convention.KERAS: "torch",
    Convention.TORCH: "keras",
    Convention.TORCH_PARAMETRIZATION: "keras",
}
_SAME = 1e-4  # relative: what rounding and the search for σ leave
KERAS_FLOOR = 1e-6  # of tf.keras 2.x; Keras 3 has 1e-7


def readings(model: Model, target: Target, sigma: float | None) -> tuple[Reading, ...]:
    """Return every convention's matrix where they disagree; with σ where the plan's own is known exactly."""
    first = target.uses[0]
    matrices = {
        convention: matrix
        for convention in Convention
        if (matrix := first.matrix(target.shape, convention)) is not None
    }
    if not matrices or matrices[Convention.KERAS].same_singular_values(matrices[Convention.TORCH]):
        return ()
    known = {} if sigma is None else {_without_side(target.view): sigma}
    found: list[Reading] = []
    for convention, matrix in matrices.items():
        view = _without_side(matrix.view)
        if sigma is not None and view not in known:
            known[view] = exact_sigma(target, view.matrix(target.array(model)))
        found.append(Reading(str(convention), (view.rows, view.cols), known.get(view)))
    return tuple(found)


def _without_side(view: MatrixView) -> MatrixView:
    return replace(view, side="rows")  # the side of u does not change the norm


def doubt(plan: Plan, found: Sequence[Reading]) -> tuple[str, ...]:
    """Return a note where a convention that was guessed reads another norm than the others do, with both."""
    sigmas = {reading.convention: reading.sigma for reading in found}
    own, other = sigmas.get(plan.convention), _OTHERS[plan.convention]
    theirs = sigmas.get(other)
    if not plan.guessed or own is None or theirs is None or abs(own - theirs) <= _SAME * max(own, theirs):
        return ()
    return (
        f"its framework is not known: its norm is {own:.6g} by the matrix of {plan.convention}, and {theirs:.6g} by "
        f"that of {other}; --convention {other} takes the latter",
    )


def parts(target: Target, matrix: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the parts of a matrix [rows, columns] that frameworks keep, and normalize, as weights of their own."""
    use = target.uses[0]
    if use.node.op_type in _RECURRENT and target.shape[0] == _DIRECTIONS:
        half = len(matrix) // _DIRECTIONS
        return {"forward": matrix[:half], "backward": matrix[half:]}
    if use.node.op_type == "Attention" and use.index == 1 and len(target.shape) == _DIRECTIONS:
        columns = target.shape[1]
        named = (list(one.ints) for one in use.node.proto.attribute if one.name == "qkv_hidden_sizes")
        widths = next(named, [columns // 3] * 3)
        if sum(widths) == columns == matrix.shape[1] and len(widths) == 3 and min(widths) > 0:
            ends = np.cumsum(widths)[:-1]
            return dict(zip(("query", "key", "value"), np.split(matrix, ends, axis=1), strict=True))
    three = fused(target)
    if three is not None:
        taken = (np.take(matrix, outputs, axis=three.axis) for outputs in three.outputs)
        return dict(zip(("query", "key", "value"), taken, strict=True))
    return {}


def notes(target: Target, sigma: float) -> tuple[str, ...]:
    """Return what a reader should know about a weight of this norm."""
    found = list(held(target))
    if 0.0 < sigma < KERAS_FLOOR:
        found.append(
            f"its norm {sigma:.3g} is so small that Keras's own epsilon would act "
            "(a floor of 1e-6 in 2.x, 1e-7 in 3) and divide by something else"
        )
    fixed = next((use.fixed for use in target.uses if use.fixed), None)
    if fixed is not None:
        found.append(f"fold leaves it as it is: {fixed}")
    elif any(use.node.op_type in _CALIBRATED for use in target.uses if use.takes_integers):
        found.append(
            "its output keeps the scale that it was calibrated with, and so loses bits where the norm was large"
        )
    if any(_has_quantized_bias(use) for use in target.uses if not use.takes_integers and use.quantization is not None):
        found.append(
            "its consumer's bias is quantized by the scales of input and weight; runtimes that fuse the three into an "
            "integer operator do so no more once the weight's scale is another (fold before quantizing to keep that)"
        )
    return tuple(found)


def held(target: Target) -> tuple[str, ...]:
    """Return a note on what one matrix holds that is several weights in the frameworks."""
    operators = {use.node.op_type for use in target.uses}
    if operators & _RECURRENT and target.shape[0] == _DIRECTIONS:
        return ("both directions are one matrix here, where PyTorch and Keras keep and normalize a weight a direction",)
    if "Attention" in operators or fused(target) is not None:
        return ("query, key and value are one matrix here, where many frameworks keep and normalize a weight of each",)
    return ()


def _has_quantized_bias(use: WeightUse) -> bool:
    inputs = use.node.proto.input
    maker = use.node.scope.producers.get(inputs[2]) if len(inputs) > 2 else None
    return maker is not None and is_dequantize(maker)
