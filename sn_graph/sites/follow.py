"""Following: the weight inputs that a constant reaches.

A constant is followed forwards, through the operators that only rearrange or retype it and into the local functions
that are called with it, to the inputs that the table of operators knows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx

from sn_graph.model import ConstantValues, Model, Node, Reached, Reading, Scope, Use, follow
from sn_graph.sites.chain import CHAIN_OPERATORS, Step, cast_type, chain_step, is_dequantize
from sn_graph.sites.integers import in_function, read_integers, read_looked_up
from sn_graph.sites.layout import Layout
from sn_graph.sites.operators import MICROSOFT, QONNX, operator_of
from sn_graph.sites.pieces import KEEPS_PIECES, hands_on, is_cut, is_joint
from sn_graph.sites.quantized import Quantization, Quantizer, read_quantization
from sn_graph.sites.quantizers import is_quant, is_quantize, read_quant, read_quantizer
from sn_graph.sites.site import WeightUse
from sn_graph.sites.views import Action, Slot

_MANY = 64  # operators of a chain, behind which an Identity more is not told apart
_LONGEST = 256  # operators of a chain; each way to a consumer keeps them all
_VALUE_BLIND = frozenset({"Shape", "Size"})  # what reads a tensor's shape does not read its elements


@dataclass(frozen=True, eq=False)
class _Form:
    """What the chain has made of a constant. `blocked` says why its layout can't be told, which is then the last known.

    The calls that led there are those of the value that has this form; `handed` are nodes whose bodies handed it on.
    """

    layout: Layout
    steps: tuple[Step, ...] = ()
    quantization: Quantization | str | None = None
    quantizer: Quantizer | str | None = None
    blocked: str | None = None
    handed: tuple[Node, ...] = ()

    @property
    def is_piece(self) -> bool:
        return any(step.piece is not None for step in self.steps)


class Follower:
    """Follows the constants of one model."""

    def __init__(self, model: Model, constants: ConstantValues) -> None:
        self._model = model
        self._graph = model.graph
        self._constants = constants
        self._joints: dict[int, bool] = {}

    def follow(self, scope: Scope, name: str, shape: tuple[int, ...]) -> Iterator[WeightUse | Use]:
        """Yield the weight inputs that the constant `name` of `scope` reaches, and every other reading of its value.

        Readings of the shape alone are none. The nearest come first.
        """
        start = Reached(scope, name, _Form(Layout.stored(shape)))
        for reading in sorted(follow(self._graph, start, self._onward, self._through), key=_distance):
            at, node, index = reading.value, reading.use.node, reading.use.index
            if node is not None and self._is_weight_input(at.state, node, index):
                yield self._weight_use(at, node, index)
            elif node is None or not (node.is_standard and node.op_type in _VALUE_BLIND):
                yield reading.use

    def _through(self, reading: Reading[_Form]) -> _Form | None:
        """Return the form inside or behind a body that only hands the constant on."""
        form, use = reading.value.state, reading.use
        node = use.scope.owner if use.node is None else use.node
        if node is None or not hands_on(self._constants, use):
            return None
        return form if node in form.handed else replace(form, handed=(*form.handed, node))

    def _piece(self, form: _Form, node: Node, resolved: Node, index: int) -> Step | None:
        """Return the step of a node that cuts the constant, or joins it with others; None where it does neither."""
        if form.blocked is None and is_cut(self._model, self._graph, resolved, index, form.layout):
            return Step(node, form.layout, entry=index, piece="cut")
        if form.blocked is None and not form.is_piece and self._is_joint(node):
            return Step(node, form.layout, entry=index, piece="joint")
        return None

    def _is_joint(self, node: Node) -> bool:
        if id(node) not in self._joints:  # else each of a thousand weights would ask about all that it is joined with
            self._joints[id(node)] = is_joint(self._graph, node)
        return self._joints[id(node)]

    def _onward(self, at: Reached[_Form], node: Node, index: int) -> _Form | None:
        """Return the form behind a chain operator."""
        form, resolved = at.state, self._resolve(node, at.calls)
        if len(form.steps) >= _MANY and node.op_type == form.steps[-1].node.op_type == "Identity":
            return form if index == 0 and node.is_standard else None  # one step for all that follow each other
        if len(form.steps) >= _LONGEST:
            return _too_long(form, node)
        behind = chain_step(self._model, self._graph, resolved or node, index, form.layout)
        if form.is_piece and node.op_type not in KEEPS_PIECES:
            return None  # what it makes of the part can't be told of the whole
        if behind is None:
            step = None if resolved is None else self._piece(form, node, resolved, index)
            return None if step is None else replace(form, steps=(*form.steps, step))
        if resolved is None:
            behind = _given_by_callers(node)
        if isinstance(behind, str):
            steps = (*form.steps, Step(node, form.layout))
            return replace(form, steps=steps, blocked=form.blocked or behind)
        if resolved is not None:
            form = self._requantized(node, resolved, form)
        return replace(form, layout=behind, steps=(*form.steps, Step(node, behind, _rounded_to(resolved, form))))

    def _is_weight_input(self, form: _Form, node: Node, index: int) -> bool:
        if _is_third_party(node) and not is_quant(node):
            return True  # even where it reads constants only, because what it makes of them need not be one
        if self._constants.all_inputs(node):
            return False
        if form.handed and self._multiplies_a_constant(node, index):
            return False  # a state that the body leaves as it began, whose weight the other operand is
        operator = operator_of(node)
        if index in operator.weights:
            return operator.slot(node, index, None if form.blocked else form.layout.shape) is not None
        return index in operator.integers

    def _weight_use(self, at: Reached[_Form], node: Node, index: int) -> WeightUse:
        form = at.state
        use = WeightUse(node, index, None, form.steps, form.quantization, at.calls, handed=form.handed)
        if node.domain in QONNX:
            return replace(use, reason=f"quantized in the graph by {node.op_type}, which {_FLOAT_FIRST}")
        if _is_third_party(node):
            return replace(use, reason=f"its consumer {node.domain}::{node.op_type} is no operator that sn-graph knows")
        resolved = self._resolve(node, at.calls)
        if form.blocked or resolved is None:
            return replace(use, reason=form.blocked or _given_by_callers(node))
        if form.quantizer is not None and form.quantization is None and index in use.operator.weights:
            return replace(use, reason="quantized in the graph, with no DequantizeLinear behind it")
        if index not in use.operator.weights:
            return self._integer_use(use, resolved, form)
        slot = use.operator.slot(resolved, index, form.layout.shape)
        if use.operator.action is Action.LOOKUP and form.quantization is None and use.piece is None:
            read = read_looked_up(self._graph, resolved, form.layout)
            use = replace(use, quantization=read)
        refusal = None if slot is None or use.piece is None else _no_piece_of(slot, use.piece)
        return replace(use, slot=slot) if refusal is None else replace(use, reason=refusal)

    def _multiplies_a_constant(self, node: Node, index: int) -> bool:
        others = [name for place, name in enumerate(node.proto.input[:2]) if place != index]
        return operator_of(node).action is Action.PRODUCT and any(
            self._constants.holds(node.scope, name) for name in others
        )

    def _integer_use(self, use: WeightUse, resolved: Node, form: _Form) -> WeightUse:
        """Return the use of a weight by an operator that takes it as integers."""
        what = f"stored as integers for {use.node.op_type}"
        if use.operator.packed and form.steps:
            return replace(use, reason=f"{what}, packed and behind other operators; simplify the model first")
        read = read_integers(self._graph, resolved, use.operator, use.index, form.layout)
        if isinstance(read, str):
            return replace(use, reason=f"{what}, {read}")
        slot, found = read
        combined = _combined(in_function(found, resolved, use.node), form.quantizer)
        return replace(use, slot=slot, quantization=combined)

    def _requantized(self, node: Node, resolved: Node, form: _Form) -> _Form:
        """Return a form with what a node that quantizes or dequantizes makes of it; as it is behind any other."""
        read: Quantization | str
        if is_quantize(node):
            quantizer = read_quantizer(self._graph, resolved, form.layout)
            return replace(form, quantizer=_ONCE if form.quantization or form.quantizer else quantizer)
        if is_dequantize(node):
            read = _combined(read_quantization(self._graph, resolved, form.layout), form.quantizer)
        elif is_quant(node):
            read = read_quant(self._model, self._graph, resolved, form.layout)
        else:
            return form
        read = _ONCE if form.quantization else read
        return replace(form, quantization=replace(read, node=node) if isinstance(read, Quantization) else read)

    def _resolve(self, node: Node, calls: tuple[Node, ...]) -> Node | None:
        """Return a node of a function with its attributes as the innermost of `calls` gives them.

        None where an attribute that decides the matrix is given by calls that are not known here.
        """
        if not any(attribute.ref_attr_name for attribute in node.proto.attribute):
            return node
        # Others, such as Gemm's alpha, may be references to a caller's.
        decisive = operator_of(node).decisive | CHAIN_OPERATORS.get(node.op_type, frozenset())
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        del proto.attribute[:]
        for attribute in node.proto.attribute:
            if attribute.ref_attr_name and not calls:
                if attribute.name in decisive:
                    return None
                continue
            given = self._given(attribute, calls) if attribute.ref_attr_name else attribute
            if given is not None:
                copy = proto.attribute.add()
                copy.CopyFrom(given)
                copy.name = attribute.name
        return replace(node, proto=proto)

    def _given(self, attribute: onnx.AttributeProto, calls: tuple[Node, ...]) -> onnx.AttributeProto | None:
        """Return the attribute that a reference stands for; None where nobody gives it, so the operator's default."""
        while attribute.ref_attr_name and calls:
            name, call, calls = attribute.ref_attr_name, calls[-1], calls[:-1]
            function = self._graph.function(call)
            defaults = (
                function.proto.attribute_proto if function and isinstance(function.proto, onnx.FunctionProto) else ()
            )
            found = [a for a in (*call.proto.attribute, *defaults) if a.name == name]
            if not found:
                return None
            attribute = found[0]
        return None if attribute.ref_attr_name else attribute


def _no_piece_of(slot: Slot, step: Step) -> str | None:
    """Return why a consumer that reads a part has no matrix of the whole, or None."""
    if slot.action is Action.RECURRENCE or slot.group > 1:
        what = "a recurrent cell" if slot.action is Action.RECURRENCE else "a convolution with groups"
        return f"its {step.node.op_type} takes it to pieces or joins it for {what}; simplify the model first"
    return None


def _too_long(form: _Form, node: Node) -> _Form | None:
    """Return the form behind one more operator of a chain whose steps are not told any more."""
    if node.op_type not in CHAIN_OPERATORS or not (node.is_standard or is_dequantize(node)):
        return None
    return replace(form, blocked=form.blocked or f"more than {_LONGEST} operators stand between it and its consumer")


_FLOAT_FIRST = "sn-graph does not read; fold the floating-point model before quantizing it"
_ONCE = "quantized twice on its way, which sn-graph does not follow; fold before quantizing"


def _combined(read: Quantization | str, quantizer: Quantizer | str | None) -> Quantization | str:
    """Return how a weight is dequantized that may be quantized in the graph first."""
    if isinstance(read, str) or quantizer is None:
        return read
    if isinstance(quantizer, str):
        return quantizer
    if quantizer.reading.dims != read.dims and not (quantizer.reading.per_tensor and read.per_tensor):
        return "its QuantizeLinear and what dequantizes it read it in different layouts"
    return replace(read, quantizer=quantizer)


def _rounded_to(node: Node | None, form: _Form) -> int | None:
    """Return the element type that an operator of a chain rounds to; None where it does not."""
    if node is None:
        return None
    if is_dequantize(node) or is_quant(node):
        return form.quantization.output_type if isinstance(form.quantization, Quantization) else None
    return cast_type(node) if node.op_type == "Cast" else None


def _distance(reading: Reading[_Form]) -> int:
    return len(reading.value.state.steps) + len(reading.value.calls)


def _given_by_callers(node: Node) -> str:
    return f"its {node.op_type} stands in a local function whose callers give its attributes; inline it first"


def _is_third_party(node: Node) -> bool:
    return not (node.is_standard or node.domain == MICROSOFT or node.domain.startswith("ai.onnx."))
