"""Chains: backwards from a weight input to the node that scales a tensor by a number that depends on it.

What may stand between, the suffix: rearrangements (Transpose, Reshape, Slice and Concat of LSTM gates), Casts, and
factors that no matrix goes into: a gain, BatchNorm's scale of each channel.
"""

from dataclasses import dataclass, replace

from sn_graph.model import Node
from sn_graph.recognise.trace import Tracer, Value

_REARRANGED = frozenset(
    {"Identity", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"}
)
_IN_ORDER = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, eq=False)
class Chain:
    """A tensor scaled by a scalar, and what is done to it behind that.

    Attributes:
        node: The Div or Mul.
        tensor, scalar: What it reads.
        inverse: Whether it divides.
        gain: The product of the constant scalars behind it.
        in_order: Whether what is behind it neither moves an element nor retypes one.
        by_channel: Whether a factor behind it differs from channel to channel.
    """

    node: Node
    tensor: Value
    scalar: Value
    inverse: bool
    gain: float = 1.0
    in_order: bool = True
    by_channel: bool = False

    @property
    def made(self) -> Value:
        """What the node makes."""
        return Value(self.node.scope, self.node.proto.output[0])


def chains(tracer: Tracer, slot: Value) -> list[Chain]:
    """Return the candidates behind a weight input: one; more where gates are joined; none where it is no such thing.

    Raises NotComputable where the arithmetic can't be followed.
    """
    node = tracer.producer(slot)
    if node is None or not node.is_standard:
        return []
    inputs = tracer.inputs(node)
    if node.op_type in _REARRANGED and inputs:
        in_order = node.op_type in _IN_ORDER
        return [replace(one, in_order=one.in_order and in_order) for one in chains(tracer, inputs[0])]
    if node.op_type == "Concat":
        parts = [chains(tracer, one) for one in inputs]
        found = {id(one.node): replace(one, in_order=False) for part in parts for one in part}
        return list(found.values()) if all(parts) else []
    if len(inputs) != 2:  # of a file that lacks one
        return []
    first, second = inputs
    if node.op_type == "Div":
        return _scaled(tracer, node, first, second, inverse=True)
    if node.op_type == "Mul":
        return _scaled(tracer, node, first, second, inverse=False) or _scaled(
            tracer, node, second, first, inverse=False
        )
    return []


def _scaled(tracer: Tracer, node: Node, tensor: Value, scalar: Value, *, inverse: bool) -> list[Chain]:
    if tracer.is_fixed(scalar):
        number = tracer.number(scalar)
        behind = chains(tracer, tensor)
        if number is None:
            return [replace(one, by_channel=True, in_order=False) for one in behind]
        factor = 1.0 / number if inverse and number else number
        return [replace(one, gain=one.gain * factor) for one in behind]
    if sum(size > 1 for size in tracer.shape(scalar)) and tracer.number(scalar) is None:
        return []
    return [Chain(node, tensor, scalar, inverse)] if tracer.shape(tensor) else []
