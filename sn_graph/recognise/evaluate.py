"""Evaluation: the values that a graph computes from constants alone, wide in float64 or in the graph's own types.

Wide values tell what the arithmetic means, without the rounding of its steps; own values are what a runtime gives that
rounds each step to its type, as for float16. Large tensors stay views of the file as long as operators only rearrange
them, and products with them are taken by blocks of rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, helper, numpy_helper

from sn_graph.errors import ModelError
from sn_graph.model import Graph, Model, Node, Scope, constant_tensor, walk_tensors
from sn_graph.recognise.operations import OPERATIONS, REARRANGE, Array, narrow
from sn_graph.sites import cast_type

_LARGE = 1 << 16  # elements that are made float64 where they are used, not where they are read
_KEPT = 1 << 20  # elements of values that are kept for the next one to ask

_LEAST_ROOM, _TIMES = 1 << 22, 4  # elements of a result: so many, and this for each byte of the model's tensors
DEEPEST = 250  # operators in a row that are computed, each of which takes three of Python's 1,000 frames
# What takes numbers that multiply the size of its result.
_SIZED = frozenset(
    {
        "ConstantOfShape", "Tile", "Expand", "Pad", "Resize", "Upsample", "Range", "CenterCropPad", "Col2Im",
        "HannWindow", "HammingWindow", "BlackmanWindow",
    }
)  # fmt: skip

Place = tuple[str, str]
"""A value: the id of the scope that defines it, and its name there; the same in a copy of the model."""


class NotComputable(Exception):
    """A value that can't be computed from constants: it depends on an input, or on an unknown operator."""


class TooLarge(NotComputable):
    """A value that is not computed because it may be far larger than the model.

    Attributes:
        elements: How many it may have.
    """

    def __init__(self, op_type: str, elements: int, most: int) -> None:
        super().__init__(f"{op_type} would make more than {most} elements")
        self.elements = elements


class Evaluator:
    """Evaluates values of one model; what it has found it keeps.

    Args:
        model: The model.
        wide: Whether floats are float64 throughout, Casts between floats included.
        known: Values that are given, in place of what the graph computes.
    """

    def __init__(self, model: Model, *, wide: bool = True, known: Mapping[Place, Array] | None = None) -> None:
        self._model = model
        self._graph: Graph = model.graph
        self._scopes = {scope.id: scope for scope in self._graph.scopes}
        self._wide = wide
        self._values: dict[Place, Array] = dict(known or {})
        self._asked: set[Place] = set()
        self._most: int | None = None

    def value(self, scope: Scope, name: str) -> Array:
        """Return a value that `scope`, of this model or a copy of it, sees; read-only. Raises NotComputable."""
        owner, name = defined(self._graph, self._scopes[scope.id], name)
        place = (owner.id, name)
        if place in self._values:
            return self._values[place]
        if place in self._asked:
            raise NotComputable(f"{name} depends on itself")
        if len(self._asked) >= DEEPEST:
            raise NotComputable(f"more than {DEEPEST} operators in a row make {name}")
        self._asked.add(place)
        try:
            found = self._made(owner, name)
        finally:
            self._asked.discard(place)
        if found.size <= _KEPT or not found.flags.owndata:
            self._values[place] = found
        return found

    def _made(self, owner: Scope, name: str) -> Array:
        node = owner.producers.get(name)
        if node is None:
            tensor = owner.initializers.get(name)
            if tensor is None:
                raise NotComputable(name)
            return self._loaded(tensor)
        if node.is_standard and node.op_type == "Constant":
            return self.held(node)
        if node.subgraphs or not node.is_standard:
            raise NotComputable(f"{node.op_type} is no operator that is computed here")
        inputs = [self.value(node.scope, one) if one else None for one in node.proto.input]
        outputs = self.run(node, inputs)
        made = dict(zip(node.proto.output, outputs, strict=False))
        if name not in made:
            raise NotComputable(name)
        return made[name]

    def run(self, node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
        """Return the outputs of one of ONNX's own operators for arrays. Raises NotComputable."""
        operation = OPERATIONS.get(node.op_type)
        self._require_small(node, inputs)
        try:
            with np.errstate(all="ignore"):
                if operation is None:
                    return [self._typed(array) for array in self._by_reference(node, inputs)]
                if self._wide and node.op_type in ("Cast", "CastLike") and self._keeps_width(node, inputs):
                    return [self._typed(array) for array in inputs[:1] if array is not None]
                found = operation(node, self._widened(node, inputs))
        except NotComputable:
            raise
        except Exception as error:  # whatever NumPy says of shapes that don't fit
            raise NotComputable(f"{node.op_type}: {error}") from None
        arrays = found if isinstance(found, tuple) else (found,)
        if node.op_type == "Cast":  # from integers
            arrays = tuple(map(self._typed, arrays))
        elif not self._wide:
            arrays = tuple(narrow(array, inputs) for array in arrays)
        return arrays

    def _require_small(self, node: Node, inputs: Sequence[Array | None]) -> None:
        """Raise NotComputable where a result may be far larger than the model: a few bytes can ask for terabytes."""
        if self._most is None:
            payloads = (self._model.payload(tensor) for _, tensor in walk_tensors(self._model.proto))
            self._most = _LEAST_ROOM + _TIMES * sum(payload.size for payload in payloads if payload is not None)
        largest = _largest_result(node, inputs)
        if largest > self._most:
            raise TooLarge(node.op_type, largest, self._most)

    def _keeps_width(self, node: Node, inputs: Sequence[Array | None]) -> bool:
        """Say whether a Cast is one from floats to floats, which rounds nothing where all are wide."""
        if inputs[0] is None or not _is_float(inputs[0]):
            return False
        if node.op_type == "CastLike":
            return len(inputs) > 1 and inputs[1] is not None and _is_float(inputs[1])
        return cast_type(node) is not None

    def _widened(self, node: Node, inputs: Sequence[Array | None]) -> list[Array | None]:
        """Return what an operation computes with: float64 throughout, but for large tensors that it only moves."""
        if not self._wide or node.op_type in REARRANGE:
            return list(inputs)
        return [None if array is None else self._typed(array) for array in inputs]

    def _by_reference(self, node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
        """Return the outputs of an operator that is not among ours, by onnx's own evaluator."""
        if any(array is not None and array.size > _KEPT for array in inputs):
            raise NotComputable(f"{node.op_type} of a large tensor")
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        proto.output[:] = [output or f"unused{place}" for place, output in enumerate(node.proto.output)]
        named = {name: array for name, array in zip(proto.input, inputs, strict=True) if array is not None}
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in named.items()
        ]
        wanted = [helper.make_value_info(name, onnx.TypeProto()) for name in proto.output]
        from onnx.reference import ReferenceEvaluator  # 14 ms to import, for the few models that need it

        graph = helper.make_graph([proto], "one", given, wanted)
        version = self._graph.opset() or 1
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
        found: list[Array] = ReferenceEvaluator(model).run(None, named)  # type: ignore[assignment]
        return found

    def _loaded(self, tensor: onnx.TensorProto) -> Array:
        try:
            array = self._model.array(tensor)
        except ModelError as error:
            raise NotComputable(str(error)) from None
        if array.dtype.kind == "f" and array.size > _LARGE:
            return array
        return self._typed(array)

    def _typed(self, array: Array) -> Array:
        wide = self._wide and _is_float(array) and array.dtype != np.float64
        if wide and array.strides and not any(array.strides):  # one element, repeated
            return np.broadcast_to(array.reshape(-1)[:1].astype(np.float64).reshape((1,) * array.ndim), array.shape)
        return array.astype(np.float64) if wide else array

    def held(self, node: Node) -> Array:
        """Return what a Constant node holds. Raises NotComputable."""
        tensor = constant_tensor(node)
        if tensor is not None:
            return self._loaded(tensor)
        for name, (kind, dtype) in _HELD.items():
            value = node.attribute(name, kind)
            if value is not None:
                return self._typed(np.asarray(value, dtype))
        raise NotComputable("a Constant of another form")


_HELD = {
    "value_float": (AttributeProto.FLOAT, np.float32),
    "value_floats": (AttributeProto.FLOATS, np.float32),
    "value_int": (AttributeProto.INT, np.int64),
    "value_ints": (AttributeProto.INTS, np.int64),
}


def defined(graph: Graph, scope: Scope, name: str) -> tuple[Scope, str]:
    """Return the scope that makes the value that `scope` sees as `name`, and its name there; through a single call.

    Raises NotComputable where there is none, or several calls give a function's input.
    """
    seen = set[int]()
    owner = graph.owner(scope, name)
    while owner is not None and owner.is_function and name in owner.inputs and id(owner) not in seen:
        seen.add(id(owner))
        calls, place = graph.calls(owner), owner.inputs.index(name)
        if len(calls) != 1 or place >= len(calls[0].proto.input):
            raise NotComputable(f"{name} is given by {len(calls)} calls")
        name = calls[0].proto.input[place]
        owner = graph.owner(calls[0].scope, name)
    if owner is None:
        raise NotComputable(name)
    return owner, name


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def tensor_of(array: Array, name: str) -> onnx.TensorProto:
    """Return an array as a tensor of this name."""
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def _largest_result(node: Node, inputs: Sequence[Array | None]) -> int:
    """Return how many elements an operator's result may have, by what it is given."""
    arrays = [array for array in inputs if array is not None]
    most = sum(array.size for array in arrays) * _asked_for(node)
    if node.op_type in ("MatMul", "Gemm", "Einsum"):
        sides = [array.size // max(1, min(array.shape, default=1)) for array in arrays[:2]]
        return max(most, int(math.prod(sides)) if node.op_type != "MatMul" else _product_size(arrays))
    if node.op_type == "Range" and len(arrays) == 3 and all(map(_is_number, arrays)):
        start, limit, delta = (float(array.reshape(-1)[0]) for array in arrays)
        length = (limit - start) / delta if delta else 0.0
        return math.ceil(length) if 0.0 < length < math.inf else most
    if node.op_type == "OneHot" and len(arrays) == 3 and _is_number(arrays[1]):
        depth = float(arrays[1].reshape(-1)[0])
        return arrays[0].size * int(max(1.0, depth)) if depth < math.inf else most
    if node.op_type in ("Resize", "Upsample"):  # the numbers are scales
        for array in arrays[1:]:
            if array.dtype.kind == "f" and array.size == arrays[0].ndim:
                most *= math.prod(math.ceil(one) for one in array.reshape(-1) if 1.0 < one < math.inf)
    if node.op_type in _SIZED:
        for array in arrays:
            if node.op_type == "Resize" and array.dtype.kind in "iu" and array.size == arrays[0].ndim:
                most = max(most, math.prod(map(int, array.reshape(-1))))  # the sizes of all axes
            elif array.dtype.kind in "iu" and array.size <= _AXES:
                most *= math.prod(max(1, abs(int(number))) for number in array.reshape(-1))
        return most
    try:
        return max(most, int(math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))))
    except (ValueError, RuntimeError):  # the second for more axes than NumPy joins
        return most


def _is_number(array: Array) -> bool:
    return array.size == 1 and array.dtype.kind in "iuf"


_AXES = 64
# Attributes that multiply the size of a result, or of a table on its way, and the least number that is beyond any use.
_SIZING = frozenset(
    {
        "pads", "paddings", "output_padding", "output_shape", "kernel_shape", "strides", "dilations", "scales",
        "height_scale", "width_scale", "blocksize", "size",
    }
)  # fmt: skip
_ABSURD = 1 << 20


def _asked_for(node: Node) -> int:
    """Return by how much the attributes of a node may multiply what it makes; 1 where their numbers are ordinary."""
    most = 1
    for attribute in node.proto.attribute:
        if attribute.name in _SIZING:
            numbers = (attribute.i, attribute.f, *attribute.ints, *attribute.floats)
            most *= math.prod(int(abs(one)) for one in numbers if _ABSURD < abs(one) < math.inf)
    return most


def _product_size(arrays: Sequence[Array]) -> int:
    if len(arrays) < 2 or not all(array.ndim for array in arrays[:2]):
        return 0
    left, right = arrays[:2]
    inner = max(1, left.shape[-1])
    return int(left.size // inner) * int(right.size // inner)
