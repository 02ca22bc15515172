"""The walk: from a model's graph to a network's steps, through functions, and the taken branches of If.

What depends on constants alone is evaluated in the graph's own types, as onnx's operators compute it, so that a spectral
norm which an exporter left as arithmetic is the weight that it gives. What has a shape only, as Shape asks for it, is
a constant too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.certify.network import needed
from sn_graph.certify.rules import rule_of
from sn_graph.certify.steps import SIZES, Call, NoBound, Operand, Step, Unbounded
from sn_graph.errors import ModelError
from sn_graph.model import Model, Node, Scope, constant_tensor
from sn_graph.model.randomness import RANDOM_OPS
from sn_graph.recognise import Evaluator, NotComputable

Value = Operand | Unbounded
"""What a name stands for: an operand, or the node that left it without a bound."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A scope that is being walked: what its names stand for.

    Attributes:
        scope: The scope.
        prefix: What its values' names begin with in the network; "" for the main graph.
        path: What its nodes' places begin with; "" for the main graph.
        values: By name in the scope.
        parent: The frame whose names a subgraph may read.
        attributes: What the caller of a function gives.
    """

    scope: Scope
    prefix: str
    path: str
    values: dict[str, Value]
    parent: "Frame | None" = None
    attributes: Mapping[str, onnx.AttributeProto] = field(default_factory=dict)


class Walk:
    """Makes the steps of a model, at known sizes of its inputs.

    Args:
        model: The model.
        inputs: What each input of the main graph stands for.
    """

    def __init__(self, model: Model, inputs: Mapping[str, Operand]) -> None:
        self._model = model
        self._graph = model.graph
        self._evaluator = Evaluator(model, wide=False)
        self._steps: list[Step] = []
        self.dynamic: set[str] = {operand.name for operand in inputs.values() if operand.dynamic}
        self._main = Frame(self._graph.main, "", "", dict(inputs))

    def value(self, output: str) -> Value:
        """Walk to an output of the main graph; its steps are then in `steps`."""
        self._walk(self._main, [output])
        return self._look(self._main, output)

    def steps(self, name: str) -> tuple[Step, ...]:
        """Return the steps that a value of the network needs."""
        return needed(self._steps, name)

    def _walk(self, frame: Frame, wanted: Iterable[str]) -> None:
        """Make what the wanted names of a scope need, in the scope's order."""
        producers = frame.scope.producers
        waiting, nodes = list(wanted), dict[int, Node]()
        while waiting:
            node = producers.get(waiting.pop())
            if node is not None and node.position not in nodes:
                nodes[node.position] = node
                waiting += _read_by(node)
        for position in sorted(nodes):
            node = nodes[position]
            made = self._made(frame, node)
            for name, value in zip(node.proto.output, made, strict=False):
                if name:
                    frame.values[name] = value

    def _look(self, frame: Frame, name: str) -> Value:
        at: Frame | None = frame
        while at is not None:
            if name in at.values:
                return at.values[name]
            if name in at.scope.initializers:
                value = self._held(at, name)
                at.values[name] = value
                return value
            at = at.parent
        raise ModelError(
            f"the value '{name}' is read before it is made", "so the graph is not in order", "export the model again"
        )

    def _held(self, frame: Frame, name: str) -> Operand:
        return _constant(frame.scope.qualified(name), self._model.array(frame.scope.initializers[name]))

    # Nodes

    def _made(self, frame: Frame, node: Node) -> Sequence[Value]:
        """Return what the outputs of a node stand for."""
        bound = _with_attributes(node, frame.attributes)
        path = f"{frame.path}/{node.label}" if frame.path else node.path
        outputs = len(node.proto.output)
        try:
            values = [self._look(frame, name) if name else None for name in node.proto.input]
            function = self._graph.function(node)
            if function is not None:
                return self._called(function, bound, path, values)
            if bound.is_standard and bound.op_type == "If":
                return self._branched(frame, bound, path, values)
            for value in values:
                if isinstance(value, Unbounded):
                    return [value] * outputs
            operands = [value for value in values if not isinstance(value, Unbounded)]
            return self._computed(frame, bound, path, operands)
        except NoBound as error:
            return [Unbounded(node, path, error.reason, error.do)] * outputs

    def _called(self, function: Scope, node: Node, path: str, values: Sequence[Value | None]) -> Sequence[Value]:
        given = {name: value for name, value in zip(function.inputs, values, strict=False) if value is not None}
        attributes = {attribute.name: attribute for attribute in node.proto.attribute}
        defaults = {one.name: one for one in getattr(function.proto, "attribute_proto", ())}
        frame = Frame(function, f"{path}/", path, given, None, {**defaults, **attributes})
        outputs = function.outputs[: len(node.proto.output)]
        self._walk(frame, outputs)
        return [self._look(frame, name) for name in outputs]

    def _branched(self, frame: Frame, node: Node, path: str, values: Sequence[Value | None]) -> Sequence[Value]:
        condition = values[0]
        if not isinstance(condition, Operand) or condition.array is None or condition.depends:
            raise NoBound("which branch is taken depends on an input", "certify each branch by itself")
        taken = "then_branch" if bool(condition.array.reshape(-1)[0]) else "else_branch"
        for scope in node.subgraphs:
            if scope.proto == node.attribute(taken, onnx.AttributeProto.GRAPH):
                inner = Frame(scope, f"{path}/{taken}/", f"{path}/{taken}", {}, frame, frame.attributes)
                self._walk_captures(frame, scope)
                self._walk(inner, scope.outputs)
                return [self._look(inner, name) for name in scope.outputs]
        raise NoBound(f"its {taken} is missing")

    def _walk_captures(self, frame: Frame, scope: Scope) -> None:
        """Nothing to do: `_read_by` counts what subgraphs read among what their node reads."""

    def _computed(self, frame: Frame, node: Node, path: str, operands: Sequence[Operand | None]) -> Sequence[Value]:
        known = [operand for operand in operands if operand is not None]
        if node.is_standard and node.op_type in ("Shape", "Size") and known:
            return [self._shape(node, known[0])]
        if node.op_type in RANDOM_OPS and not (node.op_type == "Dropout"):
            raise NoBound(f"{node.op_type} is random")
        if all(operand.is_constant for operand in known):
            return self._constants(frame, node, path, operands)
        return self._varying(frame, node, path, operands)

    def _shape(self, node: Node, operand: Operand) -> Operand:
        evaluated = [np.array(operand.shape, np.int64)]
        if node.op_type == "Size":
            evaluated = [np.array(int(np.prod(operand.shape, dtype=np.int64)))]
        else:
            start, end = node.integer("start", 0), node.attribute("end", onnx.AttributeProto.INT)
            evaluated = [evaluated[0][start:end]]
        depends = operand.depends | ({SIZES} if operand.dynamic else frozenset())
        return Operand("", evaluated[0].shape, evaluated[0], depends, is_float=False)

    def _constants(
        self, frame: Frame, node: Node, path: str, operands: Sequence[Operand | None]
    ) -> Sequence[Value]:
        """Evaluate a node that reads constants only."""
        names = [f"{frame.prefix}{name}" for name in node.proto.output]
        if node.is_standard and node.op_type == "Constant":
            tensor = constant_tensor(node)
            if tensor is not None:
                return [_constant(names[0], self._model.array(tensor))]
        arrays = [None if operand is None else operand.array for operand in operands]
        try:
            made = self._evaluator.run(node, arrays) if node.op_type != "Constant" else [self._evaluator.held(node)]
        except NotComputable as error:
            raise NoBound(f"the constant that it makes can't be computed ({error})") from None
        depends = frozenset[str]().union(*(operand.depends for operand in operands if operand is not None))
        dynamic = any(operand.dynamic for operand in operands if operand is not None) or SIZES in depends
        return [_constant(name, np.asarray(array), depends, dynamic) for name, array in zip(names, made, strict=False)]

    def _varying(
        self, frame: Frame, node: Node, path: str, operands: Sequence[Operand | None]
    ) -> Sequence[Value]:
        """Ask the rule of a node that reads what depends on the input."""
        rule = rule_of(node.domain, node.op_type)
        if rule is None:
            shown = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise NoBound(f"the operator {shown} has no rule")
        results = tuple(f"{frame.prefix}{name}" if name else "" for name in node.proto.output)
        opset = self._graph.opset(node.domain) or 1
        made = rule(Call(node, path, opset, tuple(operands), results, self._evaluate))
        dynamic = any(operand.dynamic for operand in operands if operand is not None)
        if isinstance(made, Operand):
            return [made]
        steps = [made] if isinstance(made, Step) else list(made)
        self._steps += steps
        found = {step.result: Operand(step.result, step.shape, dynamic=dynamic) for step in steps}
        if dynamic:
            self.dynamic.update(found)
        lost = Unbounded(node, path, "one of its further outputs has no rule")
        return [found.get(name, lost) for name in results]

    def _evaluate(self, node: Node, inputs: Sequence[NDArray[Any] | None]) -> Sequence[NDArray[Any]]:
        try:
            return self._evaluator.run(node, inputs)
        except NotComputable as error:
            raise NoBound(f"what it does can't be computed ({error})") from None


def _constant(
    name: str, array: NDArray[Any], depends: frozenset[str] = frozenset(), dynamic: bool = False
) -> Operand:
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return Operand(name, array.shape, array, depends, dynamic, is_float)


def _read_by(node: Node) -> Iterator[str]:
    """Yield the names that a node reads, those that its subgraphs capture included."""
    yield from (name for name in node.proto.input if name)
    waiting = list(node.subgraphs)
    while waiting:
        scope = waiting.pop()
        for inner in scope.nodes:
            yield from (name for name in inner.proto.input if name and not scope.defines(name))
            waiting += inner.subgraphs
        yield from (name for name in scope.outputs if not scope.defines(name))


def _with_attributes(node: Node, given: Mapping[str, onnx.AttributeProto]) -> Node:
    """Return a node of a function's body with the attributes that the caller gives."""
    if not any(attribute.ref_attr_name for attribute in node.proto.attribute):
        return node
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.attribute[:]
    for attribute in node.proto.attribute:
        if not attribute.ref_attr_name:
            proto.attribute.append(attribute)
        elif attribute.ref_attr_name in given:
            copied = onnx.AttributeProto()
            copied.CopyFrom(given[attribute.ref_attr_name])
            copied.name = attribute.name
            proto.attribute.append(copied)
    return Node(proto, node.scope, node.position, node.order, node.subgraphs)
