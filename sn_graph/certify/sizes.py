"""Sizes: which elements of the constants of a graph follow from sizes that are dynamic."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.steps import SIZES, Operand, Shape
from sn_graph.model import Node
from sn_graph.recognise import Evaluator, NotComputable

# What moves elements, whose masks move as they do; what computes each by itself.
MOVING = frozenset({"Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Transpose", "Split"})
ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Mod", "Where", "Equal", "Neg", "Min", "Max", "Floor", "Ceil"})
# What goes on in the same way whatever a size is; others may do something else from some size on.
UNROUNDED = MOVING | {"Add", "Sub", "Mul", "Cast", "ReduceProd", "ReduceSum", "ConstantOfShape", "Range", "Expand"}


def opened(
    evaluator: Evaluator, node: Node, operands: Sequence[Operand | None], place: int, shape: Shape
) -> NDArray[np.bool_]:
    """Say which elements of an output of a node follow from sizes that are dynamic.

    Args:
        evaluator: Runs the node on masks.
        node: The node.
        operands: What it reads: constants.
        place: Which output.
        shape: The output's shape.
    """
    given = [operand is not None and SIZES in operand.depends for operand in operands]
    if node.op_type == "Equal" and any(_is_negative(operand) for operand in operands):
        return np.zeros(shape, bool)  # no size is, so that expand's question for −1 has one answer
    masks = [None if operand is None else _mask(operand) for operand in operands]
    if node.op_type in MOVING and (node.op_type == "Concat" or not any(given[1:])):
        moved = [
            operand.array if place and node.op_type != "Concat" and operand is not None else mask
            for place, (operand, mask) in enumerate(zip(operands, masks, strict=True))
        ]
        try:
            return np.asarray(evaluator.run(node, moved)[place]).astype(bool)
        except NotComputable:
            return np.ones(shape, bool)
    if node.op_type == "Cast":
        (mask, *_) = masks
        return np.ones(shape, bool) if mask is None else mask
    if node.op_type in ELEMENTWISE:
        known = [mask for mask in masks if mask is not None]
        return np.broadcast_to(np.logical_or.reduce(np.broadcast_arrays(*known)), shape)
    return np.ones(shape, bool)


def goes_on(node: Node, operands: Sequence[Operand | None]) -> bool:
    """Say whether a node does the same to sizes whatever they are."""
    opened = [operand is not None and SIZES in operand.depends for operand in operands]
    if node.op_type in ("Gather", "Slice", "Split") and any(opened[1:]):
        return False  # what is read at a place that follows from a size may be anything of it
    condition = operands[0] if node.op_type == "Where" else None
    return node.op_type in UNROUNDED or (condition is not None and SIZES not in condition.depends)


def _is_negative(operand: Operand | None) -> bool:
    return operand is not None and operand.array is not None and not operand.depends and bool((operand.array < 0).all())


def _mask(operand: Operand) -> NDArray[np.bool_]:
    if operand.open is not None:
        return operand.open
    return np.full(operand.shape, SIZES in operand.depends)
