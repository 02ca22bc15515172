"""Conv and ConvTranspose: ‖A‖ is the certified norm of the node at its input's size, padding and strides counted.

The bias moves the result and changes no difference. Source of the norm: `spectral.convolution`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sn_graph.certify.rules.activations import fused_activation
from sn_graph.certify.steps import Array, Call, Convolved, Linear, Made, NoBound, Reshaped
from sn_graph.errors import ModelError
from sn_graph.norms import convolution_of, with_resolved_pads
from sn_graph.spectral.convolution import Convolution


def conv(call: Call) -> Made:
    """Conv and FusedConv of a varying input by a constant weight."""
    return _convolution(call, transposed=False)


def conv_transpose(call: Call) -> Made:
    """ConvTranspose of a varying input by a constant weight."""
    return _convolution(call, transposed=True)


def fused_conv(call: Call) -> Made:
    """com.microsoft FusedConv: Conv, then its Z added, then its activation."""
    name = call.node.text("activation", "")
    inner = call if not name else call.renamed(0, f"{call.results[0]}~linear")
    made = _convolution(inner, transposed=False)
    added = call.given(3)
    if added is not None and np.broadcast_shapes(added.shape, made.shape) != made.shape:
        raise ValueError(f"Z of {list(added.shape)} for {list(made.shape)}")
    if added is not None:
        if added.is_constant:
            own = call.offset(3)
            made = replace(made, offset=own if made.offset is None else made.offset + own)
        else:
            same = Reshaped.identity(added.shape)
            made = replace(made, operands=(*made.operands, added.name), parts=(*made.parts, same))
    return [made, fused_activation(call, made)] if name else made


def _convolution(call: Call, transposed: bool) -> Linear:
    x = call.varying(0)
    weight = call.constant(1, "weight")
    if call.operand(1).is_constant and not x.is_constant and weight.ndim != len(x.shape):
        raise ModelError(f"node '{call.path}' convolves rank {len(x.shape)} by a weight of rank {weight.ndim}")
    call.require_finite(np.asarray(weight, np.float64), call.operand(1).name)
    made = Convolved.by(x.shape[0], of_node(call, weight, x.shape[2:], transposed))
    if made.input_shape != x.shape:
        raise ModelError(
            f"node '{call.path}' reads {x.shape[1]} channels where its weight takes {made.input_shape[1]}",
            do="export or download the model again",
        )
    return call.linear([(x, made)], offset=bias_of(call, 2, len(x.shape)))


def bias_of(call: Call, place: int, rank: int) -> Array | None:
    """Return a bias of one number a channel as it broadcasts to a result of a rank; None where there is none."""
    given = call.given(place)
    if given is None:
        return None
    if not given.is_constant:
        raise NoBound("its bias depends on the network's input")
    return call.offset(place).reshape(-1, *(1,) * (rank - 2))


def of_node(call: Call, weight: Array, size: Sequence[int], transposed: bool) -> Convolution:
    """Return the convolution that a node's attributes describe, at an input size."""
    node, rank = call.node, weight.ndim - 2
    if not 1 <= rank <= 3:
        raise NoBound(f"convolutions with {rank} spatial axes have no rule")
    made = convolution_of(node, weight, tuple(size), transposed=transposed)
    lengths = len(made.strides), len(made.dilations), len(made.pads) // 2
    if lengths != (rank,) * 3 or min(*made.strides, *made.dilations, made.group) < 1 or weight.shape[0] % made.group:
        raise ValueError(f"strides, dilations, pads or groups that do not fit a weight of {list(weight.shape)}")
    return with_resolved_pads(node, made, tuple(size))


RULES = {"Conv": conv, "ConvTranspose": conv_transpose}
FUSED = {"FusedConv": fused_conv}
