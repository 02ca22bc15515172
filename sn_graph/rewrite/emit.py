"""Emission: nodes in the making, with their names, constants and the differences between opsets."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sn_graph.model import Graph


class Emitter:
    """Makes nodes for the main opset of a model. Nothing is in the model until the caller puts `nodes` there.

    Attributes:
        opset: The main opset.
        nodes: What was made since the list was last taken, in topological order.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.opset = graph.opset() or 1
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def take(self) -> list[onnx.NodeProto]:
        """Return the nodes made so far and begin a new list."""
        taken, self.nodes = self.nodes, []
        return taken

    def op(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Make a node with one output; the node and the value get `name`, or a free one like it."""
        return self.ops(op_type, inputs, [name], name, **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any
    ) -> list[str]:
        """Make a node with several outputs."""
        fresh = [self._graph.fresh_name(output) for output in outputs]
        node_name = fresh[0] if list(outputs) == [name] else self._graph.fresh_name(name)
        self.nodes.append(helper.make_node(op_type, inputs, fresh, name=node_name, **attributes))
        return fresh

    def again(self, node: onnx.NodeProto, inputs: Sequence[str], name: str) -> str:
        """Make a node like another, with one output, of other inputs; its attributes may be of any form."""
        made = helper.make_node(node.op_type, inputs, [self._graph.fresh_name(name)], domain=node.domain or None)
        made.name = made.output[0]
        made.attribute.extend(node.attribute)
        self.nodes.append(made)
        return made.output[0]

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer to the main graph, one for all equal values."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = self._graph.fresh_name(name)
            self._graph.model.graph.initializer.append(numpy_helper.from_array(values, self._constants[key]))
        return self._constants[key]

    def copy(self, name: str, tensor: onnx.TensorProto) -> str:
        """Add a copy of a tensor of the model to the main graph's initializers."""
        copied = self._graph.model.graph.initializer.add()
        copied.CopyFrom(tensor)
        copied.name = self._graph.fresh_name(name)
        return copied.name

    def reshape(self, value: str, shape: Sequence[int], name: str) -> str:
        """Give a value another shape."""
        return self.op("Reshape", [value, self._shape(shape)], name)

    def reshape_to(self, value: str, shape: Sequence[int], output: str) -> None:
        """Reshape into the value `output`, whose name the caller has reserved."""
        inputs = [value, self._shape(shape)]
        self.nodes.append(helper.make_node("Reshape", inputs, [output], name=self._graph.fresh_name(f"sn/{output}")))

    def _shape(self, shape: Sequence[int]) -> str:
        return self.constant(f"sn/shape_{'x'.join(map(str, shape))}", np.array(shape, np.int64))

    def cast(self, value: str, data_type: int, name: str) -> str:
        """Give a value another element type."""
        return self.op("Cast", [value], name, to=data_type)

    def gemv(self, matrix: str, column: str, name: str, *, transposed: bool, double: bool) -> str:
        """Emit M v or Mᵀ v: the matrix as operand A of a Gemm, the vector a column [n, 1].

        As operand B the weight would be packed a second time; a MatMul with a 1-D vector is 9 to 12 times slower.
        """
        return self.gemm(matrix, column, name, transposed=(transposed, False), double=double)

    def gemm(self, left: str, right: str, name: str, *, transposed: tuple[bool, bool], double: bool) -> str:
        """Emit the product of two matrices, either of them transposed."""
        inputs = [left, right]
        if self.opset < 11:  # C is optional from there on
            inputs.append(self.constant("sn/zero", np.zeros(1, np.float64 if double else np.float32)))
        flags = {key: 1 for key, flag in zip(("transA", "transB"), transposed, strict=True) if flag}
        return self.op("Gemm", inputs, name, **flags)

    def norm(self, value: str, size: int, name: str) -> str:
        """Emit ‖v‖ of a column or a matrix of `size` elements, as [1, 1]; of a long one, the norm of its rows' norms.

        onnxruntime adds float32 squares in so few running sums that of 3·10⁶ elements the norm came out 8e-4 too small.
        """
        rows = _divisor_near_root(size) if size > LONG_SUM else 1
        if rows > 1:
            value = self.reshape(value, (rows, size // rows), f"{name}_rows")
            if self.opset < 18:  # an attribute below, an input from there on
                value = self.op("ReduceL2", [value], f"{name}_by_row", axes=[1], keepdims=1)
            else:
                axes = self.constant("sn/last_axis", np.array([1], np.int64))
                value = self.op("ReduceL2", [value, axes], f"{name}_by_row", keepdims=1)
        return self.op("ReduceL2", [value], name, keepdims=1)  # without `axes`, the same in every opset

    def maximum(self, value: str, least: str, name: str, *, double: bool) -> str:
        """Emit the larger of two [1, 1]; onnxruntime has no Max of float64 below opset 8."""
        if self.opset >= 8 or not double:
            return self.op("Max", [value, least], name)
        above = self.op("Relu", [self.op("Sub", [value, least], f"{name}_difference")], f"{name}_above")
        return self.op("Add", [above, least], name)

    def select(self, condition: str, chosen: str, other: str, name: str) -> str:
        """Emit the one of two columns [n, 1] that a condition [1, 1] chooses."""
        if self.opset >= 9:
            return self.op("Where", [condition, chosen, other], name)
        # Not If: CUDA graphs take no control flow, and its condition would be copied to the host.
        flat = self.reshape(condition, (1,), f"{name}_condition")
        index = self.cast(flat, onnx.TensorProto.INT64, f"{name}_index")
        both = self.op("Concat", [other, chosen], f"{name}_both", axis=1)
        return self.op("Gather", [both, index], name, axis=1)

    def split_column(self, column: str, lengths: Sequence[int], names: Sequence[str]) -> list[str]:
        """Cut a column [N, 1] into columns of these lengths, in several steps where there are more than `WIDEST`."""
        if len(lengths) == 1:
            return [column]
        if len(lengths) <= WIDEST:
            return self._split(column, lengths, names)
        groups = _groups(len(lengths))
        totals = [sum(lengths[group]) for group in groups]
        parts = self.split_column(column, totals, [f"sn/part_{number}" for number in range(len(groups))])
        pairs = zip(parts, groups, strict=True)
        return [name for part, group in pairs for name in self.split_column(part, lengths[group], names[group])]

    def _split(self, column: str, lengths: Sequence[int], names: Sequence[str]) -> list[str]:
        if self.opset < 13:  # the lengths are an attribute below, an input from there on
            return self.ops("Split", [column], names, "sn/split", axis=0, split=list(lengths))
        sizes = self.constant("sn/lengths", np.array(lengths, np.int64))
        return self.ops("Split", [column, sizes], names, "sn/split", axis=0)

    def crop(self, image: str, ranges: Sequence[tuple[int, int]], name: str) -> str:
        """Cut an image [1, channels, spatial…] to a range (begin, end) on each spatial axis."""
        starts, ends = ([one[side] for one in ranges] for side in (0, 1))
        axes = list(range(2, 2 + len(ranges)))
        if self.opset < 10:  # attributes below, inputs from there on
            return self.op("Slice", [image], name, axes=axes, starts=starts, ends=ends)
        lists = {"starts": starts, "ends": ends, "axes": axes}
        inputs = [self.constant(f"sn/{key}", np.array(values, np.int64)) for key, values in lists.items()]
        return self.op("Slice", [image, *inputs], name)

    def join(self, values: Sequence[str], name: str) -> str:
        """Join values along axis 0; a single one is returned as it is."""
        return values[0] if len(values) == 1 else self.op("Concat", self._few(values, name), name, axis=0)

    def join_to(self, values: Sequence[str], output: str, name: str) -> None:
        """Join values along axis 0 into the value `output`, whose name the caller has reserved."""
        few = self._few(values, name)
        self.nodes.append(helper.make_node("Concat", few, [output], name=self._graph.fresh_name(name), axis=0))

    def _few(self, values: Sequence[str], name: str) -> Sequence[str]:
        """Join neighbours until no more than `WIDEST` are left."""
        if len(values) <= WIDEST:
            return values
        groups = _groups(len(values))
        parts = [self.join(values[group], f"{name}_part_{number}") for number, group in enumerate(groups)]
        return self._few(parts, name)


# Values that a node joins or cuts at most: onnxruntime's CUDA provider captures no Concat of more in a CUDA graph.
WIDEST = 32


def _groups(count: int) -> list[slice]:
    """Cut `count` values into groups of `WIDEST`."""
    return [slice(start, start + WIDEST) for start in range(0, count, WIDEST)]


# Elements of which onnxruntime's sum of squares is good to 1e-6 in float32.
LONG_SUM = 1 << 14


def _divisor_near_root(number: int) -> int:
    """The largest divisor up to the square root: 1 of a prime."""
    return next(divisor for divisor in range(math.isqrt(number), 0, -1) if number % divisor == 0)
