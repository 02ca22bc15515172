"""Weight normalization: w = g · V / ‖V‖, with a length g for each row of one axis, or one for all.

Salimans and Kingma, 2016, https://arxiv.org/abs/1602.07868; torch.nn.utils.weight_norm and its parametrization.
Exporters write the norm as ReduceL2, or as Pow, ReduceSum and Sqrt, and the quotient in either order; so what is looked
at is the number: each row has the length that a stored g gives it, and the direction of the stored V.
"""

import numpy as np

from sn_graph.recognise.operations import Array
from sn_graph.recognise.trace import Tracer, Value

_CLOSE = 1e-6
_LARGEST = 1 << 26
_REARRANGED = frozenset({"Identity", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def normalized_weight(tracer: Tracer, slot: Value) -> Value | None:
    """Return the V that a weight is g · V / ‖V‖ of; None where it is no such thing. Raises NotComputable."""
    node = tracer.producer(slot)
    while node is not None and node.is_standard and node.op_type in _REARRANGED:
        slot = tracer.inputs(node)[0]
        node = tracer.producer(slot)
    if node is None or node.op_type not in ("Mul", "Div") or not _takes_a_norm(tracer, slot):
        return None
    shape = tracer.shape(slot)
    size = int(np.prod(shape))
    if not 0 < size <= _LARGEST:
        return None
    leaves = tracer.leaves(slot)
    directions = [leaf for leaf in leaves if tracer.shape(leaf) == shape]
    lengths = [leaf for leaf in leaves if int(np.prod(tracer.shape(leaf))) in {1, *shape}]
    if not directions or not lengths:
        return None
    made = tracer.array(slot).astype(np.float64)
    for leaf in directions:
        direction = tracer.array(leaf).astype(np.float64)
        for axis in (None, *range(len(shape))):
            if any(_is_normalized(made, direction, tracer.array(length), axis) for length in lengths):
                return leaf
    return None


def _takes_a_norm(tracer: Tracer, slot: Value) -> bool:
    kinds = {node.op_type for node in tracer.nodes(slot)}
    return bool(kinds & {"ReduceL2", "ReduceSum", "ReduceSumSquare", "LpNormalization"})


def _is_normalized(made: Array, direction: Array, length: Array, axis: int | None) -> bool:
    rows = 1 if axis is None else made.shape[axis]
    if length.size != rows:
        return False
    left, right = (
        one.reshape(1, -1) if axis is None else np.moveaxis(one, axis, 0).reshape(rows, -1) for one in (made, direction)
    )
    wanted = length.reshape(-1, 1).astype(np.float64) * right
    norms = np.linalg.norm(right, axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        wanted = wanted / norms
    return bool(np.isfinite(wanted).all() and np.abs(left - wanted).max() <= _CLOSE * np.abs(wanted).max())
