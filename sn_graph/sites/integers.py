"""Integers: weights that an operator takes as integers, whose scale is an input of its own, or a factor behind it.

    QLinearConv, QLinearMatMul, QGemm …    y = (x_scale · w_scale / y_scale) · Op(x − x_zero, w − w_zero)
    MatMulInteger, ConvInteger             y = Op(x − x_zero, w − w_zero), of integers; a Cast and a Mul by x_scale and
                                           w_scale follow
    MatMulNBits                            y = x Wᵀ, W packed, with a scale for each block of columns
    Gather                                 of integers, with a DequantizeLinear behind it, as quantize_dynamic leaves it

https://onnx.ai/onnx/operators/ and https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from sn_graph.model import FLOAT_TYPES, Graph, Node, Scope
from sn_graph.sites.layout import Layout
from sn_graph.sites.operators import Operator
from sn_graph.sites.quantized import SCALE, ZERO_POINT, Packing, Quantization, held_constant, read_scale
from sn_graph.sites.views import Action, Slot

_BIAS = "its bias is stored in steps of the scales of input and weight, so that another scale would change it too"
_FLOAT_FIRST = "fold the floating-point model before quantizing it"


def read_integers(
    graph: Graph, node: Node, operator: Operator, index: int, layout: Layout
) -> tuple[Slot, Quantization] | str:
    """Return what a node does with a weight that it takes as integers, and how those become the weight.

    Args:
        graph: The index of the model.
        node, operator, index: The consumer, its row, and its input.
        layout: What the consumer reads of the stored tensor.

    Returns:
        Both, or why that can't be told.
    """
    if not operator.scales:
        return f"whose form sn-graph does not read; {_FLOAT_FIRST}"
    if operator.packed:
        return _read_packed(graph, node, operator, index, layout)
    slot = operator.integer_slot(node, index, layout.shape)
    if slot is None:
        return f"of rank {len(layout.shape)}, where sn-graph reads {operator.ranks[0]} only; {_FLOAT_FIRST}"
    scale_index, zero_index = operator.scales[operator.integers.index(index)]
    found = (node, scale_index) if scale_index is not None else _scale_behind(graph, node, index)
    if isinstance(found, str):
        return f"{found}; {_FLOAT_FIRST}"
    axis = _channel_axis(slot, len(layout.dims))
    tail = _axes_behind(slot, len(layout.dims)) if scale_index is None else None
    bias = operator.integer_bias
    biased = bias is not None and len(node.proto.input) > bias and node.proto.input[bias] != ""
    read = read_scale(
        graph, node, layout, axis, node.op_type, found, zero_index,
        tail=tail, fixed=f"{_BIAS}; {_FLOAT_FIRST}" if biased else None,
    )  # fmt: skip
    return f"{read}; {_FLOAT_FIRST}" if isinstance(read, str) else (slot, read)


def read_looked_up(graph: Graph, node: Node, layout: Layout) -> Quantization | str | None:
    """Return how the rows are dequantized that a Gather takes out of a table of integers; None where they are not."""
    reader = _only_reader(graph, node.scope, node.proto.output[0])
    if reader is None or reader[1] != 0 or reader[0].op_type != "DequantizeLinear":
        return None
    read = read_scale(graph, reader[0], layout, 0, "DequantizeLinear", (reader[0], SCALE), ZERO_POINT)
    if isinstance(read, Quantization) and read.per_tensor:
        return replace(read, behind=True)
    return f"stored as integers for {node.op_type}, with a scale behind it that is not one constant; {_FLOAT_FIRST}"


def _channel_axis(slot: Slot, rank: int) -> int:
    """Return the axis of the weight that the output has, along which its scales run."""
    if slot.action is not Action.PRODUCT:
        return 0
    axis = rank - 2 if slot.left else rank - 1
    return axis if slot.perm is None else slot.perm[axis]


def _axes_behind(slot: Slot, rank: int) -> int:
    """Return how many axes of the output stand behind the one that the scales run along."""
    if slot.action is not Action.PRODUCT:
        return rank - 2
    return 1 if slot.left else 0


def _scale_behind(graph: Graph, node: Node, index: int) -> tuple[Node, int] | str:
    """Return the Mul that reads a weight's scale behind an integer product, and at which input; or why there is none.

    Dynamic quantization multiplies by the scale that DynamicQuantizeLinear gives for the input and by the weight's.
    """
    given = node.proto.input[1 - index]
    value, constants = node.proto.output[0], list[tuple[Node, int]]()
    dynamic = 0
    cast = _only_reader(graph, node.scope, value)
    if cast is None or cast[0].op_type != "Cast":
        return "with no Cast and Mul right behind it that tell the scale"
    value = cast[0].proto.output[0]
    while not (constants and dynamic):
        reader = _only_reader(graph, node.scope, value)
        if reader is None or not _is_product(reader[0]):
            break
        for place in _factors(graph, reader[0], 1 - reader[1]):
            name = place[0].proto.input[place[1]]
            if graph.holder(node.scope, name) is not None:
                constants.append(place)
            elif _scales(graph, node.scope, name, given):
                dynamic += 1
            else:
                return "and multiplied with what is no scale behind it"
        value = reader[0].proto.output[0]
    if len(constants) == 1 and dynamic == 1:
        return constants[0]
    if constants and not dynamic:
        return "whose scale is multiplied into that of the input, so that neither can be told"
    return "with no Mul behind it that tells the scale"


def _only_reader(graph: Graph, scope: Scope, value: str) -> tuple[Node, int] | None:
    """Return the node, and its input, that alone reads a value; None where others do, or another scope."""
    uses = graph.uses(scope, value)
    node = uses[0].node if len(uses) == 1 else None
    return None if node is None or node.scope is not scope else (node, uses[0].index)


def _is_product(node: Node) -> bool:
    """Whether a node multiplies two values; one of a damaged file may lack an input."""
    return node.is_standard and node.op_type == "Mul" and len(node.proto.input) == 2


def _factors(graph: Graph, node: Node, index: int) -> Iterator[tuple[Node, int]]:
    """Yield where the factors of a node's input are read: by itself, or by the Mul that makes it for it alone."""
    waiting, seen = [(node, index)], set[int]()
    for reader, place in waiting:  # grows as it goes
        name = reader.proto.input[place]
        maker = graph.producer(reader.scope, name)
        alone = maker is not None and _only_reader(graph, maker.scope, name) is not None
        if maker is None or not alone or not _is_product(maker) or id(maker) in seen:
            yield reader, place
            continue
        seen.add(id(maker))
        waiting += [(maker, 0), (maker, 1)]


def _scales(graph: Graph, scope: Scope, name: str, given: str) -> bool:
    """Say whether a value is the scale that DynamicQuantizeLinear gives beside the integers `given`."""
    maker = graph.producer(scope, name)
    if maker is None or maker.op_type != "DynamicQuantizeLinear":
        return False
    return list(maker.proto.output[:2]) == [given, name]


def _read_packed(
    graph: Graph, node: Node, operator: Operator, index: int, layout: Layout
) -> tuple[Slot, Quantization] | str:
    """Read MatMulNBits: W [N, K] in blocks of columns, a row of bytes for each of its rows."""
    rows, size, bits, block = (node.integer(name, 0) for name in ("N", "K", "bits", "block_size"))
    bits = bits or 4
    if bits not in (2, 4, 8) or min(rows, size, block) < 1 or block * bits % 8:
        return f"in {bits} bits and blocks of {block}, which sn-graph does not read; {_FLOAT_FIRST}"
    blocks = -(-size // block)
    if math.prod(layout.shape) != rows * blocks * block * bits // 8 or layout.shape[0] != rows:
        return f"in shape {list(layout.shape)}, which does not fit its N, K and block_size"
    if len(node.proto.input) > 4 and node.proto.input[4]:
        return f"and reordered by its g_idx, which sn-graph does not read; {_FLOAT_FIRST}"
    scale_index, zero_index = operator.scales[0]
    assert scale_index is not None, "the table gives a packed operator's scale as an input"
    scale, owner, name = held_constant(graph, node, scale_index)
    zero, zero_owner, zero_name = held_constant(graph, node, zero_index)
    if scale is None or owner is None or (zero is None and _has_input(node, zero_index)):
        return "whose scale or zero point is not a constant"
    if scale.data_type not in FLOAT_TYPES or math.prod(scale.dims) != rows * blocks:
        return f"with a scale of shape {list(scale.dims)}, which does not fit its N, K and block_size"
    packed_zero = zero is not None and zero.data_type not in FLOAT_TYPES
    wanted = rows * (-(-blocks * bits // 8) if packed_zero else blocks)
    if zero is not None and math.prod(zero.dims) != wanted:
        return f"with a zero point of shape {list(zero.dims)}, which does not fit its N, K and block_size"
    slot = operator.integer_slot(node, index, (rows, size))
    assert slot is not None, "a matrix is of a rank that every packed operator takes"
    return slot, Quantization(
        node, scale, owner, name, zero, 1, block, scale.data_type, Layout.stored((rows, size)).dims, scale_index,
        zero_owner, zero_name, Packing(bits, rows, size), Packing(bits, rows, blocks) if packed_zero else None,
    )  # fmt: skip


def _has_input(node: Node, index: int) -> bool:
    return len(node.proto.input) > index and node.proto.input[index] != ""


def in_function(read: Quantization, resolved: Node, node: Node) -> Quantization:
    """Return a reading of a node whose attributes its callers give, as one of the node itself."""
    return replace(read, node=node) if read.node is resolved else read
