"""Tracing: what the arithmetic of a weight is made of, backwards from a value, without computing large tensors."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from onnx import AttributeProto, TensorProto

from sn_graph.model import Graph, Node, Scope
from sn_graph.recognise.evaluate import DEEPEST, Evaluator, NotComputable, Place, defined
from sn_graph.recognise.operations import Array


class Value(NamedTuple):
    """A value of a graph: the scope that defines it, and its name there."""

    scope: Scope
    name: str

    @property
    def place(self) -> Place:
        """What evaluators know it by."""
        return self.scope.id, self.name


_SAME_SHAPE = frozenset({"Identity", "Cast", "CastLike", "Abs", "Clip", "Neg", "Sqrt", "Reciprocal", "Dropout"})
_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"})
_LARGE = 1 << 16


class Tracer:
    """Looks backwards from values of one model.

    Attributes:
        graph: The index of the model.
        evaluator: Evaluates its values, wide.
    """

    def __init__(self, graph: Graph, evaluator: Evaluator) -> None:
        self.graph = graph
        self.evaluator = evaluator
        self._shapes: dict[Place, tuple[int, ...]] = {}
        self._nodes: dict[Place, tuple[Node, ...]] = {}
        self._depth = 0

    def seen(self, scope: Scope, name: str) -> Value:
        """Return the value that a scope sees under a name. Raises NotComputable where there is none."""
        return Value(*defined(self.graph, scope, name))

    def inputs(self, node: Node) -> list[Value]:
        """Return what a node reads, but for inputs that are left out."""
        return [self.seen(node.scope, name) for name in node.proto.input if name]

    def array(self, value: Value) -> Array:
        """Return a value's elements. Raises NotComputable."""
        return self.evaluator.value(value.scope, value.name)

    def producer(self, value: Value) -> Node | None:
        """Return the node that makes a value; None of an initializer or input."""
        return value.scope.producers.get(value.name)

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return a value's shape. Raises NotComputable."""
        if value.place not in self._shapes:
            if self._depth >= DEEPEST:
                raise NotComputable(f"more than {DEEPEST} operators in a row make {value.name}")
            self._depth += 1
            try:
                self._shapes[value.place] = self._shape(value)
            finally:
                self._depth -= 1
        return self._shapes[value.place]

    def _shape(self, value: Value) -> tuple[int, ...]:
        tensor = value.scope.initializers.get(value.name)
        if tensor is not None:
            return tuple(tensor.dims)
        node = self.producer(value)
        if node is None:
            raise NotComputable(value.name)
        if node.is_standard and node.op_type in _SAME_SHAPE:
            return self.shape(self.inputs(node)[0])
        if node.is_standard and node.op_type in _BROADCAST:
            try:
                return tuple(np.broadcast_shapes(*map(self.shape, self.inputs(node))))
            except (ValueError, RuntimeError):  # the second for more axes than NumPy joins
                raise NotComputable(value.name) from None
        return tuple(self.array(value).shape)

    def number(self, value: Value) -> float | None:
        """Return the one number that a value is, or repeats; None where its elements differ."""
        size, node = math.prod(self.shape(value)), self.producer(value)
        if size == 0 or (size > _LARGE and (node is None or node.op_type != "Expand")):
            return None
        array = self.array(value)
        if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
            return None
        first = float(array.reshape(-1)[0]) if size == 1 else float(array[(0,) * array.ndim])
        repeated = size == 1 or not any(
            stride for stride, length in zip(array.strides, array.shape, strict=True) if length > 1
        )
        return first if repeated or bool((array == array[(0,) * array.ndim]).all()) else None

    def nodes(self, value: Value) -> tuple[Node, ...]:
        """Return the nodes that a value is made by, the last first."""
        if value.place not in self._nodes:
            self._nodes[value.place] = tuple(self._behind(value))
        return self._nodes[value.place]

    def _behind(self, value: Value) -> Iterator[Node]:
        waiting, seen = [value], {value.place}
        while waiting:
            node = self.producer(waiting.pop(0))
            if node is None:
                continue
            yield node
            for one in self.inputs(node):
                if one.place not in seen:
                    seen.add(one.place)
                    waiting.append(one)

    def leaves(self, value: Value) -> list[Value]:
        """Return the initializers and Constants that a value is made of, each once."""
        found: dict[Place, Value] = {}
        start = [value] if self.producer(value) is None else []
        for node in self.nodes(value):
            start += [one for one in self.inputs(node) if self.producer(one) is None]
            if node.is_standard and node.op_type == "Constant":
                start.append(Value(node.scope, node.proto.output[0]))
        for one in start:
            found.setdefault(one.place, one)
        return list(found.values())

    def is_fixed(self, value: Value) -> bool:
        """Say whether a value is a constant of its own, such as a gain: nothing in it is summed up, nor a matrix."""
        return not any(map(_sums, self.nodes(value))) and not any(map(self._is_matrix, self._elements(value)))

    def _elements(self, value: Value) -> Iterator[Value]:
        """Yield the leaves whose elements go into a value, and not their shapes alone."""
        waiting, seen = [value], {value.place}
        while waiting:
            one = waiting.pop()
            node = self.producer(one)
            if node is None or (node.is_standard and node.op_type == "Constant"):
                yield one
            elif node.op_type not in ("Shape", "Size"):
                fresh = [each for each in self.inputs(node) if each.place not in seen]
                seen.update(each.place for each in fresh)
                waiting += fresh

    def _is_matrix(self, value: Value) -> bool:
        return sum(size > 1 for size in self.shape(value)) > 1


def _sums(node: Node) -> bool:
    return node.op_type in _SUMS


_SUMS = frozenset(
    {"MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "LpNormalization"}
    | {f"Reduce{kind}" for kind in ("L1", "L2", "Max", "Mean", "Min", "Sum", "SumSquare")}
)


def element_type(tracer: Tracer, value: Value) -> int:
    """Return ONNX's code of a value's element type. Raises NotComputable."""
    seen = set[Place]()
    while value.place not in seen:
        seen.add(value.place)
        tensor = tracer.graph.constant(*value)
        if tensor is not None:
            return _known(tensor.data_type, value)
        node = tracer.producer(value)
        if node is None:
            break
        if node.op_type == "Cast":
            to = node.attribute("to", AttributeProto.INT, AttributeProto.STRING)
            return _known(_NAMED.get(to, 0) if isinstance(to, bytes) else int(to or 0), value)
        inputs = tracer.inputs(node)
        if not inputs:
            return int(TensorProto.FLOAT)
        value = inputs[-1 if node.op_type == "CastLike" else 0]
    raise NotComputable(value.name)


_NAMED = {name.encode(): code for name, code in TensorProto.DataType.items()}  # as Cast has them below opset 6


def _known(code: int, value: Value) -> int:
    """Return the code of an element type; raise NotComputable where it is that of none."""
    if code == TensorProto.UNDEFINED or code not in _NAMED.values():
        raise NotComputable(value.name)
    return code
