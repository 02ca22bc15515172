"""Rounding: the types in which a weight is rounded before its consumers read it.

fold rounds W·f to the type that W is stored in, and a Cast on the way rounds it again; insert divides what the consumer
reads, behind all of that. So the two agree to the coarsest of these types, however fine that of the outputs.
"""

from typing import Any

import numpy as np
from onnx import helper

from sn_graph.plan import Plan, Target
from sn_graph.sites import Quantization


def types_passed(plan: Plan) -> frozenset[np.dtype[Any]]:
    """Return the types that the weights of a plan are rounded to: see `target_types`."""
    return frozenset().union(*map(target_types, plan.targets()))


def target_types(target: Target) -> frozenset[np.dtype[Any]]:
    """Return the types that a weight is rounded to: as it is scaled (or its scale is), and on its way to its uses."""
    scaled = {target.tensor.data_type} if target.site.quantization is None else set[int]()
    scaled |= {use.quantization.scale.data_type for use in target.uses if isinstance(use.quantization, Quantization)}
    types = {np.dtype(helper.tensor_dtype_to_np_dtype(code)) for code in scaled}
    return frozenset(types.union(*(use.rounded_to for use in target.uses)))
