"""MatMul, Gemm and their relatives by a constant: ‖A‖ is the norm of the matrix, certified by `spectral.matrix`.

Where x is the same for a stack of matrices, they count side by side; where it has a part for each, the largest counts.
A product of two values that both depend on the input has no constant: xy changes by x·δ, and x may be large.
"""

from dataclasses import replace

import numpy as np

from sn_graph.certify.rules.activations import fused_activation
from sn_graph.certify.steps import (
    Array,
    Call,
    Composed,
    Linear,
    LinearMap,
    Made,
    Multiplied,
    NoBound,
    Operand,
    Reshaped,
    Scaled,
    Shape,
    Transposed,
    copied_axes,
)

TWO = "product of two values that depend on the input"
ATTENTION = "make one of them a constant, or use L2 attention (Kim et al., 2021, 2006.04710) on a bounded domain"


def matmul(call: Call) -> Made:
    """MatMul."""
    return _product(call, 0, False, False, 1.0)


def fused_matmul(call: Call) -> Made:
    """com.microsoft FusedMatMul and TransposeMatMul: alpha · A' B', either transposed on its last two axes."""
    node = call.node
    if node.integer("transBatchA", 0) or node.integer("transBatchB", 0):
        raise NoBound("transBatchA and transBatchB have no rule")
    return _product(
        call, 0, bool(node.integer("transA", 0)), bool(node.integer("transB", 0)), node.number("alpha", 1.0)
    )


def gemm(call: Call) -> Made:
    """Gemm: alpha · A' B' + beta · C."""
    node = call.node
    trans = bool(node.integer("transA", 0)), bool(node.integer("transB", 0))
    step = _product(call, 0, *trans, node.number("alpha", 1.0))
    if call.given(2) is None or not isinstance(step, Linear):
        return step
    added, beta = call.operand(2), node.number("beta", 1.0)
    if np.broadcast_shapes(added.shape, step.shape) != step.shape:
        raise ValueError(f"C of {list(added.shape)} for {list(step.shape)}")
    if added.is_constant:
        return replace(step, offset=beta * call.offset(2))
    parts: list[LinearMap] = [broadcast(added.shape, step.shape)]
    if beta != 1.0:
        parts.append(Scaled.by(step.shape, np.array(beta)))
    return replace(step, operands=(*step.operands, added.name), parts=(*step.parts, Composed.of(parts)))


def fused_gemm(call: Call) -> Made:
    """com.microsoft FusedGemm: Gemm, then its activation."""
    if not call.node.text("activation", ""):
        return gemm(call)
    before = gemm(call.renamed(0, f"{call.results[0]}~linear"))
    return [before, fused_activation(call, before)] if isinstance(before, Linear) else before


def _product(call: Call, first: int, trans_a: bool, trans_b: bool, alpha: float) -> Made:
    left, right = call.operand(first), call.operand(first + 1)
    if not left.is_constant and not right.is_constant:
        raise NoBound(TWO, ATTENTION)
    on_right = right.is_constant
    x = left if on_right else right
    weight = call.constant(first + 1 if on_right else first, "weight")
    call.require_finite(weight, (right if on_right else left).name)
    if trans_a if not on_right else trans_b:
        weight = np.swapaxes(weight, -1, -2)
    made = multiplied(x, weight, on_right, trans_a if on_right else trans_b)
    if alpha != 1.0:
        made = Composed.of([made, Scaled.by(made.output_shape, np.array(alpha))])
    return call.linear([(x, made)])


def multiplied(x: Operand, weight: Array, on_right: bool, transposed: bool = False) -> LinearMap:
    """Return x W, or W x, as numpy.matmul has it, where x may be a vector and is transposed before if asked for."""
    maps: list[LinearMap] = []
    shape = x.shape
    vector, flat = len(shape) == 1, weight.ndim == 1
    if vector:
        maps.append(Reshaped(shape, (1, shape[0]) if on_right else (shape[0], 1)))
        shape = maps[-1].output_shape
    if flat:
        weight = weight.reshape((-1, 1) if on_right else (1, -1))
    if transposed and not vector:
        maps.append(_swapped(shape))
        shape = maps[-1].output_shape
    if not on_right:
        maps.append(_swapped(shape))
        weight = np.swapaxes(weight, -1, -2)
        shape = maps[-1].output_shape
    maps.append(Multiplied.by(shape, weight))
    if not on_right:
        maps.append(_swapped(maps[-1].output_shape))
    result = list(maps[-1].output_shape)
    if vector:
        del result[-2 if on_right else -1]
    if flat:
        del result[-1 if on_right or vector else -2]
    if tuple(result) != maps[-1].output_shape:
        maps.append(Reshaped(maps[-1].output_shape, tuple(result)))
    return Composed.of(maps)


def _swapped(shape: Shape) -> Transposed:
    return Transposed.of(shape, (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2))


def broadcast(shape: Shape, result: Shape) -> LinearMap:
    """Return the repetition of elements that broadcasting to a result's shape means, if only the identity."""
    if shape == result:
        return Reshaped.identity(shape)
    copied = copied_axes(shape, result)
    ones = np.broadcast_to(1.0, tuple(size if axis in copied else 1 for axis, size in enumerate(result)))
    return Scaled.by(shape, ones)


RULES = {"MatMul": matmul, "Gemm": gemm}
FUSED = {
    "FusedMatMul": fused_matmul,
    "TransposeMatMul": fused_matmul,
    "FusedGemm": fused_gemm,
}
