"""Rounding: the types in which a weight is rounded before its consumers read it.

fold rounds W·f to the type that W is stored in, and a Cast on the way rounds it again; insert divides what the consumer
reads, behind all of that. So the two agree to the coarsest of these types, however fine that of the outputs.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import helper

from sn_graph.plan import Plan
from sn_graph.sites import Quantization


def types_passed(plan: Plan) -> frozenset[np.dtype[Any]]:
    """Return the types that the weights of a plan pass: as stored, as scaled back, and behind each Cast."""
    return frozenset(_types(plan))


def _types(plan: Plan) -> Iterator[np.dtype[Any]]:
    for target in plan.targets():
        yield np.dtype(helper.tensor_dtype_to_np_dtype(target.tensor.data_type))
        for use in target.uses:
            if isinstance(use.quantization, Quantization):
                yield np.dtype(helper.tensor_dtype_to_np_dtype(use.quantization.scale.data_type))
            yield from use.rounded_to
