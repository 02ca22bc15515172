"""BatchNormalization for inference: (x − mean) γ/√(var + ε) + β, whose norm is max |γ|/√(var + ε).

Ioffe and Szegedy, 2015, 1502.03167. It does not destroy a bound: its factor counts, and is folded into the convolution
before it at level 2.
"""

import numpy as np

from sn_graph.certify.steps import UNIT, Call, Made, NoBound, Scaled
from sn_graph.errors import ModelError


def batch_normalization(call: Call) -> Made:
    """BatchNormalization, whatever the opset."""
    training = (
        call.node.integer("training_mode", 0) if call.opset >= 14 else len([one for one in call.results if one]) > 1
    )
    if training:
        raise NoBound(
            "BatchNormalization in training mode divides by the deviation of the batch",
            "export the model for inference",
        )
    x = call.varying()
    scale, bias, mean, variance = (
        call.finite(place, name) for place, name in enumerate(("scale", "bias", "mean", "variance"), 1)
    )
    inner = (1,) * (len(x.shape) - 2)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + call.node.number("epsilon", float(np.float32(1e-5))))
    if not np.isfinite(factor).all():
        raise ModelError(
            f"node '{call.path}' divides by the root of a variance that is 0 or below", do="repair the model"
        )
    if factor.ndim == 1 and len(x.shape) > 1:
        factor, bias, mean = (one.reshape(-1, *inner) for one in (factor, bias, mean))
    # The sum, the root, the quotient, each rounded once.
    return call.linear([(x, Scaled.by(x.shape, factor, 4.0 * UNIT))], offset=bias - mean * factor)


RULES = {"BatchNormalization": batch_normalization}
