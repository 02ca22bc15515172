"""Chains: the operators that a weight may pass on its way to its consumer."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from onnx import AttributeProto, TensorProto

from sn_graph.model import FLOAT_TYPES, Graph, Model, Node
from sn_graph.sites.layout import Layout
from sn_graph.sites.operators import MICROSOFT, QUANTS
from sn_graph.sites.quantizers import is_quant, is_quantize
from sn_graph.sites.same import given_integers, not_stored, same_elements


class Step(NamedTuple):
    """An operator between a weight and its consumer.

    Attributes:
        node: The operator.
        layout: The layout behind it.
        element_type: ONNX's code of the type that it rounds to; None where it keeps the elements as they are.
        entry: The input at which the weight enters it.
        piece: "cut" where its output is a part of the weight, whose layout is told as if it were whole, "joint" where
            the weight is a part of its output; else None.
    """

    node: Node
    layout: Layout
    element_type: int | None = None
    entry: int = 0
    piece: Literal["cut", "joint"] | None = None


CHAIN_OPERATORS: dict[str, frozenset[str]] = {
    "Identity": frozenset(),
    "Cast": frozenset({"to"}),
    "Transpose": frozenset({"perm"}),
    "Reshape": frozenset({"allowzero", "shape"}),
    "Flatten": frozenset({"axis"}),
    "Squeeze": frozenset({"axes"}),
    "Unsqueeze": frozenset({"axes"}),
    "Slice": frozenset({"starts", "ends", "axes"}),
    "Split": frozenset({"axis", "split"}),
    "Concat": frozenset({"axis"}),
    "Expand": frozenset(),
    "Tile": frozenset(),
    "Pad": frozenset({"pads", "paddings"}),
    "DequantizeLinear": frozenset({"axis", "block_size", "output_dtype"}),
    "QuantizeLinear": frozenset({"axis", "block_size", "output_dtype"}),
    **dict.fromkeys(QUANTS, frozenset({"signed", "narrow", "rounding_mode"})),
}
"""The operators of a chain, each with the attributes that decide what it makes of a weight."""

_WORDS = {bytes(TensorProto.DataType.Name(code), "ascii"): code for code in FLOAT_TYPES}  # below opset 6


def chain_step(model: Model, graph: Graph, node: Node, index: int, layout: Layout) -> Layout | str | None:
    """Return what a chain operator makes of a weight that enters it at input `index`.

    Returns:
        The layout behind it; why that can't be told; or None where this is not an operator of a chain.
    """
    retypes = is_dequantize(node) or is_quantize(node) or is_quant(node)
    if index != 0 or not (node.is_standard or retypes):
        return None
    rank = len(layout.dims)
    if node.op_type == "Identity" or retypes:
        return layout
    if node.op_type == "Cast":
        return layout if cast_type(node) is not None else None
    if node.op_type == "Transpose":
        given = node.integers("perm")
        perm = tuple(reversed(range(rank))) if given is None else given
        return layout.transpose(perm) if sorted(perm) == list(range(rank)) else "its Transpose does not fit its shape"
    if node.op_type == "Reshape":
        wanted = given_integers(model, graph, node, "shape", 1)
        if wanted is None:
            return not_stored(node, "shape")
        shape = _resolve_sizes(wanted, layout.shape, bool(node.integer("allowzero", 0)))
        if shape is None:
            return f"its Reshape to {list(wanted)} does not fit its shape"
        return (
            layout.reshape(shape) or "its Reshape cuts across the axes of a Transpose, which no matrix view can follow"
        )
    return same_elements(model, graph, node, layout)


def cast_type(node: Node) -> int | None:
    """Return the element type that a Cast gives; None where that is no float, or not told."""
    to = node.attribute("to", AttributeProto.INT, AttributeProto.STRING)
    code = _WORDS.get(to) if isinstance(to, bytes) else to
    return code if code in FLOAT_TYPES else None


def is_dequantize(node: Node) -> bool:
    """Say whether a node is DequantizeLinear, ONNX's or onnxruntime's."""
    return node.op_type == "DequantizeLinear" and node.domain in ("", MICROSOFT)


def _resolve_sizes(wanted: Sequence[int], shape: Sequence[int], allow_zero: bool) -> tuple[int, ...] | None:
    """Return the shape that Reshape gives a tensor of `shape`: 0 copies a size, one -1 is what is left."""
    if any(size < -1 or (size == 0 and not allow_zero and axis >= len(shape)) for axis, size in enumerate(wanted)):
        return None
    sizes = [shape[axis] if size == 0 and not allow_zero else size for axis, size in enumerate(wanted)]
    total, known = math.prod(shape), math.prod(size for size in sizes if size != -1)
    if -1 in sizes and known and total % known == 0:
        sizes[sizes.index(-1)] = total // known
    return tuple(sizes) if -1 not in sizes and math.prod(sizes) == total else None
