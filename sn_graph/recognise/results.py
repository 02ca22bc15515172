"""Results: what the arithmetic in front of a weight input gives, as a multiple of a stored tensor, or as an array.

Each step is rounded as the graph rounds it, where σ is the graph's; else all is computed in float64 and rounded once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sn_graph.model import Model
from sn_graph.recognise.evaluate import Evaluator, NotComputable
from sn_graph.recognise.explanation import Explanation
from sn_graph.recognise.trace import Tracer, Value, element_type

_IN_ORDER = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_WIDE = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})


@dataclass(frozen=True, eq=False)
class Multiple:
    """A multiple of a stored tensor, its elements in the order in which they are stored."""

    tensor: Value
    factor: float


def result_of(
    model: Model,
    found: Explanation,
    sigmas: Sequence[float] | None = None,
    multipliers: Sequence[float] | None = None,
) -> Multiple | NDArray[np.generic]:
    """Return what a recognised weight input reads.

    Args:
        model: The model that was recognised.
        found: A spectral norm or a weight normalization.
        sigmas: For each part the σ that counts; None for those that the graph computes.
        multipliers: For each part what its tensor is multiplied by, in place of what follows from σ.

    Raises:
        NotComputable: The arithmetic can't be evaluated, which recognising it has shown that it can.
    """
    tracer = Tracer(model.graph, Evaluator(model))
    own = sigmas is None and multipliers is None
    multipliers = _multipliers(model, found, sigmas) if multipliers is None else multipliers
    chain = found.chain
    if chain is not None and len(found.parts) == 1 and chain.in_order:
        base = multiple_of(tracer, chain.tensor)
        stored = None if base is None else model.graph.constant(base.tensor.scope, base.tensor.name)
        if base is not None and stored is not None and stored.data_type in _WIDE:
            return Multiple(base.tensor, base.factor * multipliers[0] * chain.gain)
    code = element_type(tracer, found.slot)
    dtype = helper.tensor_dtype_to_np_dtype(code)
    if own:
        return Evaluator(model, wide=False).value(found.slot.scope, found.slot.name).astype(dtype)
    known = {}
    for part, multiplier in zip(found.parts, multipliers, strict=True):
        if part.chain is not None:
            known[part.chain.made.place] = _scaled(tracer.array(part.chain.tensor), multiplier, dtype)
    made = Evaluator(model, known=known).value(found.slot.scope, found.slot.name)
    return np.ascontiguousarray(made.astype(dtype))


def _scaled(tensor: NDArray[Any], factor: float, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a multiple, in float64; where that is only to be rounded to float32 later, by blocks in that already."""
    if tensor.size < _LARGE or dtype != np.float32:
        return np.asarray(tensor.astype(np.float64) * factor)
    made = np.empty(tensor.shape, np.float32)
    for row in range(len(tensor)):
        made[row] = tensor[row].astype(np.float64) * factor
    return made


_LARGE = 1 << 20


def _multipliers(model: Model, found: Explanation, sigmas: Sequence[float] | None) -> list[float]:
    """Return what each part's tensor is multiplied by; in the graph's own types, for runtimes compute it so."""
    made, own = [], Tracer(model.graph, Evaluator(model, wide=False))
    for place, part in enumerate(found.parts):
        if part.chain is None or part.divisor is None:
            continue
        if sigmas is not None:
            made.append(part.divisor.multiplier(sigmas[place]))
            continue
        number = own.number(part.chain.scalar)
        if number is None or (part.chain.inverse and number == 0.0) or not math.isfinite(number):
            raise NotComputable(f"{found.slot.name} is divided by {number}")
        made.append(1.0 / number if part.chain.inverse else number)
    return made


def multiple_of(tracer: Tracer, value: Value) -> Multiple | None:
    """Return the stored tensor that a value is a multiple of, in the order in which it is stored; None if it is not."""
    node = tracer.producer(value)
    if node is None or (node.is_standard and node.op_type == "Constant"):
        return Multiple(value, 1.0) if tracer.graph.constant(*value) is not None else None
    if not node.is_standard:
        return None
    inputs = tracer.inputs(node)
    if node.op_type in _IN_ORDER and inputs:
        return multiple_of(tracer, inputs[0])
    if node.op_type in ("Mul", "Div") and len(inputs) == 2:
        for tensor, scalar in ((inputs[0], inputs[1]), (inputs[1], inputs[0])):
            number = tracer.number(scalar) if tracer.is_fixed(scalar) else None
            if number:
                base = multiple_of(tracer, tensor)
                factor = 1.0 / number if node.op_type == "Div" else number
                return None if base is None else Multiple(base.tensor, base.factor * factor)
            if node.op_type == "Div":
                break
    return None
