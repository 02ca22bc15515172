"""Rounding: the types in which a weight is rounded before its consumers read it.

fold rounds W·f to the type that W is stored in, and a Cast on the way rounds it again; insert divides what the consumer
reads, behind all of that. So the two agree to the coarsest of these types, however fine that of the outputs.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from sn_graph.plan import Plan
from sn_graph.sites import Quantization


def types_passed(plan: Plan) -> frozenset[np.dtype[Any]]:
    """Return the types that the weights of a plan pass: as stored, as scaled back, and behind each Cast."""
    return frozenset(np.dtype(helper.tensor_dtype_to_np_dtype(code)) for code in _codes(plan))


def _codes(plan: Plan) -> Iterator[int]:
    for target in plan.targets():
        yield target.tensor.data_type
        for use in target.uses:
            if isinstance(use.quantization, Quantization):
                yield use.quantization.scale.data_type
            for step in use.steps:
                if step.node.op_type == "Cast":
                    to = step.node.attribute("to")
                    yield TensorProto.DataType.Value(to.decode()) if isinstance(to, bytes) else to
