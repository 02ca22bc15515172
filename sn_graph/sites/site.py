"""Sites: one weight, and every input that reads it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.model import Model, Node, Scope, Use
from sn_graph.report import one_line, sizes
from sn_graph.sites.chain import Step
from sn_graph.sites.layout import Layout
from sn_graph.sites.operators import Operator, operator_of
from sn_graph.sites.quantized import Quantization
from sn_graph.sites.sparse import Sparse
from sn_graph.sites.views import Convention, Slot, SlotMatrix, slot_matrix


@dataclass(frozen=True, eq=False)
class WeightUse:
    """One weight input that a constant reaches.

    Attributes:
        node, index: The consumer and its input.
        slot: What the consumer does with the weight; None where that can't be told.
        steps: The chain operators from the constant to it, each with the layout behind it.
        quantization: How a DequantizeLinear on the way reads the constant, or why that can't be told.
        calls: The calls through which the weight enters local functions on its way, the outermost first.
        reason: Why `slot` is None.
        handed: The nodes whose bodies hand the weight on unchanged on its way: see `sn_graph.sites.pieces`.
    """

    node: Node
    index: int
    slot: Slot | None
    steps: tuple[Step, ...] = ()
    quantization: Quantization | str | None = None
    calls: tuple[Node, ...] = ()
    reason: str | None = None
    handed: tuple[Node, ...] = ()

    @property
    def through_call(self) -> bool:
        """Whether the weight enters a local function on its way."""
        return bool(self.calls)

    @property
    def takes_integers(self) -> bool:
        """Whether the consumer takes the weight as integers, and nothing before it makes a float of them."""
        return self.index in self.operator.integers

    @property
    def is_joined(self) -> bool:
        """Whether the weight is put together of its parts again on its way, so that no chain of copies leads there."""
        return any(step.node.op_type == "Concat" and len(step.node.proto.input) > 1 for step in self.steps)

    @property
    def piece(self) -> Step | None:
        """The first operator that cuts the weight into parts, or joins it with others; None where it stays whole."""
        return next((step for step in self.steps if step.piece is not None), None)

    @property
    def stands_apart(self) -> bool:
        """Whether its reader can't be given a tensor of its own by copies of the operators on the way to it."""
        return self.through_call or self.piece is not None or bool(self.handed)

    @property
    def fixed(self) -> str | None:
        """Why the scale of a quantized weight can't be multiplied for this use without changing more; or None."""
        return self.quantization.fixed if isinstance(self.quantization, Quantization) else None

    @property
    def order(self) -> tuple[int, ...]:
        """What sorts uses in graph order; the body of a function stands where it is called."""
        return (*(call.order for call in self.calls), self.node.order, self.index)

    @property
    def operator(self) -> Operator:
        """The consumer's row of the table of operators."""
        return operator_of(self.node)

    @property
    def rounded_to(self) -> tuple[np.dtype[Any], ...]:
        """The types that the weight is rounded to on its way from the stored tensor, in order."""
        codes = (step.element_type for step in self.steps if step.element_type is not None)
        return tuple(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)) for code in codes)

    def readings(self, weight: NDArray[Any]) -> list[NDArray[Any]]:
        """Return a weight, in the stored shape and type or dequantized, as runtimes read it: rounded on its way.

        There is more than one reading where runtimes differ: onnxruntime's processors round float64 to 16 bits through
        float32, and graphics processors at once.
        """
        read = [weight]
        with np.errstate(over="ignore"):
            for dtype in self.rounded_to:
                wide = [array for array in read if array.dtype == np.float64 and dtype.itemsize == 2]
                read += [array.astype(np.float32) for array in wide]
                read = [array.astype(dtype, copy=False) for array in read]
        return read

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """Return what the consumer reads of a stored tensor of this shape."""
        return self.steps[-1].layout if self.steps else Layout.stored(shape)

    def matrix(self, shape: tuple[int, ...], convention: Convention) -> SlotMatrix | None:
        """Return the matrix that the consumer makes of the stored tensor of this shape; None without a slot."""
        return None if self.slot is None else slot_matrix(self.slot, self.layout(shape), shape, convention)


@dataclass(frozen=True, eq=False, repr=False)
class Site:
    """One weight and all its uses.

    Attributes:
        id: `weight` in the main graph, else `scope::weight`.
        weight: The initializer's name, the Constant node's output, or the computed value at a weight input.
        scope: The scope that holds it.
        dtype, shape: Of the stored tensor; None where the graph computes the weight.
        uses: The weight inputs that it reaches, in graph order; at least one.
        other_uses: Readings that are not weight inputs (arithmetic, graph outputs …).
        tensor: The TensorProto in the model's skeleton; None where the graph computes the weight.
        from_node: Whether a Constant node holds it.
        refusal: Why it can't be normalized, or None.
        notes: What a reader of the report should know.
        is_computed: Whether the graph computes it from constants.
        sparse: Where the elements of `tensor` stand, where that holds no others.
    """

    id: str
    weight: str
    scope: Scope
    dtype: str | None
    shape: tuple[int, ...] | None
    uses: tuple[WeightUse, ...]
    other_uses: tuple[Use, ...] = ()
    tensor: onnx.TensorProto | None = None
    from_node: bool = False
    refusal: str | None = None
    notes: tuple[str, ...] = ()
    is_computed: bool = False
    sparse: Sparse | None = None

    def __repr__(self) -> str:
        return one_line("Site", self.id, "+".join(self.op_types), self.dtype or "computed", sizes(self.shape))

    @property
    def consumers(self) -> tuple[str, ...]:
        """The paths of the nodes that read it, each once."""
        return tuple(dict.fromkeys(use.node.path for use in self.uses))

    @property
    def op_types(self) -> tuple[str, ...]:
        """The operators of the nodes that read it, each once."""
        return tuple(dict.fromkeys(use.node.op_type for use in self.uses))

    @property
    def via(self) -> tuple[str, ...]:
        """The operators between the stored tensor and its consumers."""
        steps = (step.node.op_type for use in self.uses for step in use.steps)
        return tuple(dict.fromkeys((*(("Constant",) if self.from_node else ()), *steps)))

    @property
    def groups(self) -> int:
        """The groups of the first consumer, where that is a convolution; else 1."""
        first = self.uses[0]
        if first.slot is not None:
            return first.slot.group
        return first.node.integer("group", 1) if first.operator.is_convolution else 1

    @property
    def quantization(self) -> Quantization | None:
        """How the weight is dequantized, where it is."""
        found = self.uses[0].quantization
        return found if isinstance(found, Quantization) else None

    def read(self, model: Model, tensor: onnx.TensorProto, factor: float | None = None) -> NDArray[np.generic]:
        """Return the elements of the weight's `tensor`, dequantized or made dense where they must be; read-only.

        Args:
            model, tensor: The model, and the tensor that holds the weight in it.
            factor: What the elements, or the scale of quantized ones, are multiplied by first: see `Model.array`.
        """
        if self.sparse is not None:
            return self.sparse.dense(model, model.array(tensor, factor))
        if self.quantization is None:
            return model.array(tensor, factor)
        return self.quantization.dequantize(model, model.array(tensor), factor)
