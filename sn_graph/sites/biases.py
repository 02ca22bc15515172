"""Biases: stored as int32 in units of the input's scale times the weight's, as integer kernels take for granted.

onnxruntime makes one integer operator, QGemm, of a Gemm and the DequantizeLinear before each of its inputs. That never
sees the scale of the bias: it takes x_scale · w_scale for it. Of a weight whose scale is divided by 3 the bias is then
too. A Conv is left as it is where the scales don't fit (onnxruntime 1.31.1).
"""

from collections.abc import Iterable

import numpy as np
from onnx import TensorProto

from sn_graph.model import Model
from sn_graph.sites.quantized import SCALE, Quantization
from sn_graph.sites.site import WeightUse

_BIAS = 2  # the input of Gemm
_FOLLOWS = (
    "its bias is stored as int32 in units of the input's scale times the weight's, which onnxruntime's QGemm takes for "
    "granted, so the bias would be divided too; fold the floating-point model before quantizing it, or use insert"
)


def unscalable(model: Model, uses: Iterable[WeightUse], *, as_written: bool = False) -> str | None:
    """Return why scaling a weight for these uses would change more than the weight, or None.

    Args:
        model, uses: The model, and what reads the weight.
        as_written: Whether the runtimes that matter follow the file where they differ from onnxruntime.
    """
    uses = tuple(uses)
    fixed = next((use.fixed for use in uses if use.fixed), None)
    follows = not as_written and any(bias_follows_scale(model, use) for use in uses)
    return fixed or (_FOLLOWS if follows else None)


def bias_follows_scale(model: Model, use: WeightUse) -> bool:
    """Say whether runtimes scale a node's bias along with its weight, though the file does not."""
    graph, node, quantization = model.graph, use.node, use.quantization
    names = list(node.proto.input)
    if not isinstance(quantization, Quantization) or len(names) <= _BIAS or not names[_BIAS]:
        return False
    dequantized, bias = (graph.producer(node.scope, names[index]) for index in (0, _BIAS))
    if dequantized is None or bias is None or not node.is_standard or node.op_type != "Gemm":
        return False
    if {dequantized.op_type, bias.op_type} != {"DequantizeLinear"}:
        return False
    stored = graph.constant(bias.scope, bias.proto.input[0])
    scales = [graph.constant(each.scope, each.proto.input[SCALE]) for each in (dequantized, bias)]
    if stored is None or stored.data_type != TensorProto.INT32 or not model.array(stored).any():
        return False
    own, wanted = (None if scale is None else model.array(scale).astype(np.float64).reshape(-1) for scale in scales)
    if own is None or wanted is None or own.size != 1:
        return False
    product = own * model.array(quantization.scale).astype(np.float64).reshape(-1)
    return product.size in (1, wanted.size) and bool(np.allclose(wanted, product, rtol=1e-3, atol=0.0))
