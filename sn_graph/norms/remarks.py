"""Remarks: what a reader of a report should know about a weight and its other readings."""

from dataclasses import replace

from sn_graph.model import Model
from sn_graph.norms.matrix import exact_sigma
from sn_graph.plan import Target
from sn_graph.report import Reading
from sn_graph.sites import Convention, MatrixView, WeightUse, is_dequantize

_CALIBRATED = frozenset({"QLinearConv", "QLinearMatMul", "QGemm"})  # whose outputs are integers too
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


def notes(target: Target, sigma: float) -> tuple[str, ...]:
    """Return what a reader should know about a weight of this norm."""
    found: list[str] = []
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


def _has_quantized_bias(use: WeightUse) -> bool:
    inputs = use.node.proto.input
    maker = use.node.scope.producers.get(inputs[2]) if len(inputs) > 2 else None
    return maker is not None and is_dequantize(maker)
