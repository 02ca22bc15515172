"""Channels: the sizes of inputs' axes that the first weights which read them decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sn_graph.model import Model, Node, Reached, Reading, follow
from sn_graph.runtime.parity.ranges import Shape, Shapes

# Which axis of the graph input each axis of a value is, size and all; None where it is none of them.
_Axes = tuple[int | None, ...]

_KEEP_AXES = {
    *("Abs", "Cast", "CastLike", "Clip", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "LogSoftmax", "Neg", "QuantizeLinear", "Relu", "Selu", "Sigmoid", "Sign"),
    *("Softmax", "Softplus", "Sqrt", "Tanh"),
}
_WITH_A_CONSTANT = {"Add", "Div", "Mul", "Pow", "PRelu", "Sub"}
_KEEP_CHANNELS = {"AveragePool", "GlobalAveragePool", "LpPool", "MaxPool"}  # N, C, and others of other sizes
_STACKS = {"Loop", "Scan", "SequenceMap"}  # a value has one axis less inside
# op -> position of the value, that of the weight
_CONVOLUTIONS = {"Conv": (0, 1), "FusedConv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
_PRODUCTS = {"MatMul": (0, 1), "FusedMatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
_RECURRENT = {"GRU", "LSTM", "RNN"}
_PER_CHANNEL = {"BatchNormalization", "InstanceNormalization"}


def asked_sizes(model: Model, shapes: Mapping[str, Shape]) -> dict[tuple[str, int], int]:
    """Return the sizes that weights ask of the axes of graph inputs, by name and axis.

    An axis is followed through what keeps or turns the axes, into bodies and functions; the weight that reads it first
    in graph order counts.

    Args:
        model: The model.
        shapes: Those of the inputs, None for the sizes that are not known.
    """
    graph, asked = model.graph, dict[tuple[str, int], int]()
    known = Shapes(graph, shapes)
    for name, shape in shapes.items():
        if None not in shape:
            continue

        def onward(value: Reached[_Axes], node: Node, index: int) -> _Axes | None:
            return _behind(value, node, index, known)

        start = Reached[_Axes](graph.main, name, tuple(range(len(shape))))
        for reading in follow(graph, start, onward, _through):
            for axis, size in _asked(reading, known):
                axes = reading.value.state
                own = axes[axis] if -len(axes) <= axis < len(axes) else None
                if own is not None and size is not None and size > 0 and shape[own] is None:
                    asked.setdefault((name, own), size)
    return asked


def _through(reading: Reading[_Axes]) -> _Axes | None:
    scope, node = reading.use.scope, reading.use.node
    owner = scope.owner if node is None else node
    return None if owner is not None and owner.op_type in _STACKS else reading.value.state


def _behind(value: Reached[_Axes], node: Node, index: int, known: Shapes) -> _Axes | None:
    axes = value.state
    if node.op_type in _WITH_A_CONSTANT and len(node.proto.input) == 2:
        other = known.of(node, 1 - index, value.calls)
        return axes if other is not None and len(other) <= len(axes) else None
    if index != 0:
        return None
    if node.op_type in _KEEP_AXES:
        return axes
    if node.op_type in _KEEP_CHANNELS:
        return (*axes[:2], *[None] * (len(axes) - 2))
    if node.op_type == "Transpose":
        perm = node.integers("perm")
        if perm is None:
            return axes[::-1]
        return tuple(axes[axis] for axis in perm) if sorted(perm) == list(range(len(axes))) else None
    return None


def _asked(reading: Reading[_Axes], known: Shapes) -> Iterator[tuple[int, int | None]]:
    """Yield axes of the value that a use reads, and the sizes that they must have there."""
    node, index, calls = reading.use.node, reading.use.index, reading.value.calls
    if node is None:
        return
    op_type, count = node.op_type, len(node.proto.input)

    def weight(place: int, rank: int) -> Shape | None:
        shape = known.of(node, place, calls) if place < count else None
        return shape if shape is not None and len(shape) >= rank else None

    if op_type in _CONVOLUTIONS and index == _CONVOLUTIONS[op_type][0]:
        shape = weight(_CONVOLUTIONS[op_type][1], 3)
        if shape is not None and shape[1] is not None:
            yield 1, shape[1] * node.integer("group", 1)
    elif op_type == "ConvTranspose" and index == 0 and (shape := weight(1, 3)) is not None:
        yield 1, shape[0]
    elif op_type in ("Gemm", "FusedGemm") and index in (0, 1) and (shape := weight(1 - index, 2)) is not None:
        ours, theirs = ("transA", "transB") if index == 0 else ("transB", "transA")
        inner = 1 - index  # the axis of ours that is contracted, unless it is transposed
        yield (1 - inner if node.integer(ours, 0) else inner, shape[inner if node.integer(theirs, 0) else 1 - inner])
    elif op_type in _PRODUCTS and index == _PRODUCTS[op_type][0]:
        if (shape := weight(_PRODUCTS[op_type][1], 1)) is not None and not node.integer("transA", 0):
            transposed = len(shape) > 1 and node.integer("transB", 0)
            yield -1, shape[-1] if transposed or len(shape) == 1 else shape[-2]
    elif op_type == "MatMul" and index == 1 and (shape := weight(0, 1)) is not None:
        yield -2, shape[-1]
    elif op_type in _RECURRENT and index == 0 and (shape := weight(1, 3)) is not None:
        yield 2, shape[2]
    elif op_type in _PER_CHANNEL and index == 0 and (shape := weight(1, 1)) is not None:
        yield 1, shape[0]
    elif op_type == "LayerNormalization" and index == 0 and (shape := weight(1, 1)) is not None:
        yield -1, shape[-1]
