"""The walk: from a model's graph to a network's steps, through functions, and the taken branches of If.

What depends on constants alone is evaluated in the graph's own types, as onnx's operators compute it, so that a
spectral norm which an exporter left as arithmetic is the weight that it gives. So is what follows from sizes; where
those are dynamic, each element of such a constant is known to depend on them or not.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.certify.network import needed
from sn_graph.certify.rules import pattern_of, rule_of
from sn_graph.certify.sizes import goes_on, opened
from sn_graph.certify.steps import (
    MOST,
    ROUNDED,
    SIZES,
    Call,
    Linear,
    LinearMap,
    Made,
    NoBound,
    OpenSize,
    Operand,
    Shape,
    Step,
    Unbounded,
)
from sn_graph.errors import ModelError
from sn_graph.model import RANDOM_OPS, Model, Node, Scope, constant_tensor
from sn_graph.recognise import Evaluator, NotComputable, TooLarge
from sn_graph.sites import Sparse

# What makes one of all that is spatial, so that its size is known whatever theirs are.
CLOSING = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})

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


# What Python and NumPy raise where a node is not of the form that its operator has.
_MISSHAPEN = (ValueError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError, RuntimeError)


class Walk:
    """Makes the steps of a model, at known sizes of its inputs.

    Args:
        model: The model.
        inputs: What each input of the main graph stands for.
        others: The shapes of all values where each size that is dynamic is another one; a size is then known to be
            the same always where it is the same there.

    Attributes:
        shapes: The shape of each value that was made, by its name in the network.
        dynamic: The values whose sizes may be others.
    """

    def __init__(self, model: Model, inputs: Mapping[str, Operand], others: Mapping[str, Shape] | None = None) -> None:
        self._model = model
        self._graph = model.graph
        self._evaluator = Evaluator(model, wide=False)
        self._steps: list[Step] = []
        self._by_result: dict[str, Step] = {}
        self._others = others or {}
        self.shapes: dict[str, Shape] = {operand.name: operand.shape for operand in inputs.values()}
        self.dynamic: set[str] = {operand.name for operand in inputs.values() if operand.dynamic}
        self._main = Frame(self._graph.main, "", "", dict(inputs))

    def value(self, output: str) -> Value:
        """Walk to an output of the main graph; its steps are then in `steps`."""
        self._walk(self._main, [output])
        return self.look(self._main, output)

    def steps(self, name: str) -> tuple[Step, ...]:
        """Return the steps that a value of the network needs."""
        return needed(self._steps, name)

    def _walk(self, frame: Frame, wanted: Iterable[str]) -> None:
        """Make what the wanted names of a scope need, in the scope's order where that is one."""
        producers = frame.scope.producers
        waiting, nodes = list(wanted), dict[int, Node]()
        while waiting:
            node = producers.get(waiting.pop())
            if node is not None and node.position not in nodes:
                nodes[node.position] = node
                waiting += _read_by(node)
        for node in _in_order(nodes, producers):
            made = self._made(frame, node)
            for name, value in zip(node.proto.output, made, strict=False):
                if name:
                    frame.values[name] = value

    def look(self, frame: Frame, name: str) -> Value:
        """Return what a name stands for in a scope. Raises ModelError where it is not known yet."""
        at: Frame | None = frame
        while at is not None:
            if name in at.values:
                return at.values[name]
            if name in at.scope.initializers:
                value = self._held(at, name)
                at.values[name] = value
                return value
            if name in at.scope.sparse_initializers:
                value = self._dense(at.scope.sparse_initializers[name], at.scope.qualified(name))
                at.values[name] = value
                return value
            at = at.parent
        raise ModelError(
            f"the value '{name}' is read, and nothing makes it", "or it depends on itself", "export the model again"
        )

    def _held(self, frame: Frame, name: str) -> Operand:
        return _constant(frame.scope.qualified(name), self._model.array(frame.scope.initializers[name]))

    def _dense(self, held: onnx.SparseTensorProto, path: str) -> Operand:
        """Return what a sparse tensor stands for."""
        sparse = Sparse(held.indices, tuple(held.dims))
        reason = sparse.misfit(self._model, held.values)
        if reason is not None:
            raise ModelError(f"the tensor '{path}' can't be read", reason)
        return _constant(path, sparse.dense(self._model, self._model.array(held.values)))

    # Nodes

    def _made(self, frame: Frame, node: Node) -> Sequence[Value]:
        """Return what the outputs of a node stand for."""
        bound = _with_attributes(node, frame.attributes)
        path = f"{frame.path}/{node.label}" if frame.path else node.path
        outputs = len(node.proto.output)
        try:
            values = [self.look(frame, name) if name else None for name in node.proto.input]
            function = self._graph.function(node)
            if function is not None:
                return self._called(function, bound, path, values)
            if bound.is_standard and bound.op_type == "If":
                return self._branched(frame, bound, path, values)
            joined = self._joined(frame, bound, path, values)
            if joined is not None:
                return joined
            for value in values:
                if isinstance(value, Unbounded):
                    return [value] * outputs
            operands = [value for value in values if not isinstance(value, Unbounded)]
            return self._computed(frame, bound, path, operands)
        except NoBound as error:
            return [Unbounded(node, path, error.reason, error.do)] * outputs

    def _joined(self, frame: Frame, node: Node, path: str, values: Sequence[Value | None]) -> Sequence[Value] | None:
        """Make the step of a pattern that ends at a node; None where there is none."""
        if all(isinstance(value, Operand) and value.is_constant for value in values if value is not None):
            return None
        results = self._results(frame, node)
        opset = self._graph.opset(node.domain) or 1
        try:
            found = pattern_of(_Sight(self, frame), Call(node, path, opset, (), results, self._evaluate))
        except _MISSHAPEN:  # then the node's own rule says so
            return None
        if found is None:
            return None
        x, made = found
        return self._taken(made, node, path, results, [x])

    def part(self, name: str) -> tuple[Operand, LinearMap] | None:
        """See `View`, for a value of the network."""
        step = self._by_result.get(name)
        if not isinstance(step, Linear) or len(step.parts) != 1 or step.offset is not None:
            return None
        source, dynamic = step.operands[0], step.operands[0] in self.dynamic
        return Operand(source, step.parts[0].input_shape, dynamic=dynamic), step.parts[0]

    def _results(self, frame: Frame, node: Node) -> tuple[str, ...]:
        names = tuple(f"{frame.prefix}{name}" if name else "" for name in node.proto.output)
        # A function's values are named behind its call, which another value's own name might look like.
        return tuple(f"{name}~{len(self._steps)}" if name in self.shapes else name for name in names)

    def _called(self, function: Scope, node: Node, path: str, values: Sequence[Value | None]) -> Sequence[Value]:
        given = {name: value for name, value in zip(function.inputs, values, strict=False) if value is not None}
        attributes = {attribute.name: attribute for attribute in node.proto.attribute}
        defaults = {one.name: one for one in getattr(function.proto, "attribute_proto", ())}
        frame = Frame(function, f"{path}/", path, given, None, {**defaults, **attributes})
        outputs = function.outputs[: len(node.proto.output)]
        self._walk(frame, outputs)
        return [self.look(frame, name) for name in outputs]

    def _branched(self, frame: Frame, node: Node, path: str, values: Sequence[Value | None]) -> Sequence[Value]:
        condition = values[0]
        if isinstance(condition, Operand) and condition.depends and not condition.depends - {SIZES, ROUNDED}:
            raise OpenSize(f"which branch {path} takes follows from a size that is dynamic")
        if not isinstance(condition, Operand) or condition.array is None or condition.depends:
            raise NoBound("which branch is taken depends on an input", "certify each branch by itself")
        taken = "then_branch" if bool(condition.array.reshape(-1)[0]) else "else_branch"
        for scope in node.subgraphs:
            if scope.proto == node.attribute(taken, onnx.AttributeProto.GRAPH):
                inner = Frame(scope, f"{path}/{taken}/", f"{path}/{taken}", {}, frame, frame.attributes)
                self._walk(inner, scope.outputs)
                return [self.look(inner, name) for name in scope.outputs]
        raise NoBound(f"its {taken} is missing")

    def _computed(self, frame: Frame, node: Node, path: str, operands: Sequence[Operand | None]) -> Sequence[Value]:
        known = [operand for operand in operands if operand is not None]
        results = self._results(frame, node)
        if node.is_standard and node.op_type in ("Shape", "Size") and known:
            return [self._shape(node, results[0], known[0])]
        if node.op_type in RANDOM_OPS:
            raise NoBound(f"{node.op_type} is random", "export the model for inference")
        if all(operand.is_constant for operand in known):
            made = self._constants(node, path, results, operands)
            self.shapes.update((operand.name, operand.shape) for operand in made)
            return made
        if any(operand.depends & {ROUNDED} for operand in known):
            raise OpenSize(f"what {path} does follows from a size that is dynamic, in steps")
        return self._varying(node, path, results, operands)

    def _shape(self, node: Node, result: str, operand: Operand) -> Operand:
        sizes = np.array(operand.shape, np.int64)
        open_ = np.zeros(sizes.shape, bool)
        if operand.dynamic:
            other = self._others.get(operand.name, ())
            open_ = sizes != other if len(other) == len(sizes) else np.ones(sizes.shape, bool)
        if node.op_type == "Size":
            array, open_ = np.array(sizes.prod()), np.array(open_.any())
        else:
            start, end = node.integer("start", 0), node.attribute("end", onnx.AttributeProto.INT)
            array, open_ = sizes[start:end], open_[start:end]
        depends = frozenset({SIZES}) if open_.any() else frozenset[str]()
        return Operand(result, array.shape, array, depends, dtype=array.dtype, open=open_)

    def _constants(
        self, node: Node, path: str, results: Sequence[str], operands: Sequence[Operand | None]
    ) -> Sequence[Operand]:
        """Evaluate a node that reads constants only."""
        if node.is_standard and node.op_type == "Constant":
            tensor = constant_tensor(node)
            if tensor is not None:
                return [_constant(results[0], self._model.array(tensor))]
            sparse = node.attribute("sparse_value", onnx.AttributeProto.SPARSE_TENSOR)
            if sparse is not None:
                return [self._dense(sparse, results[0])]
        arrays = [None if operand is None else operand.array for operand in operands]
        try:
            made = self._evaluator.run(node, arrays) if node.op_type != "Constant" else [self._evaluator.held(node)]
        except TooLarge as error:
            if error.elements <= MOST:
                raise NoBound(f"the constant that it makes can't be computed ({error})") from None
            raise ModelError(
                f"the constant that node '{path}' ({node.op_type}) makes can't be computed",
                f"it may have {error.elements:,} elements",
                "repair what it reads, or its attributes",
            ) from None
        except NotComputable as error:
            raise NoBound(f"the constant that it makes can't be computed ({error})") from None
        known = [operand for operand in operands if operand is not None]
        depends = frozenset[str]().union(*(operand.depends for operand in known)) - {SIZES, ROUNDED}
        dynamic = any(operand.dynamic for operand in known)
        found = []
        for place, (name, array) in enumerate(zip(results, map(np.asarray, made), strict=False)):
            open_, own = None, depends
            if any(SIZES in operand.depends for operand in known):
                open_ = opened(self._evaluator, node, operands, place, array.shape)
                if open_.any():
                    own = own | {SIZES}
                    if not goes_on(node, operands) or any(ROUNDED in operand.depends for operand in known):
                        own = own | {ROUNDED}
            found.append(_constant(name, array, own, dynamic or SIZES in own, open_))
        return found

    def _varying(
        self, node: Node, path: str, results: tuple[str, ...], operands: Sequence[Operand | None]
    ) -> Sequence[Value]:
        """Ask the rule of a node that reads what depends on the input."""
        rule = rule_of(node.domain, node.op_type)
        if rule is None:
            shown = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise NoBound(f"the operator {shown} has no rule")
        opset = self._graph.opset(node.domain) or 1
        try:
            made = rule(Call(node, path, opset, tuple(operands), results, self._evaluate))
        except _MISSHAPEN as error:
            raise ModelError(
                f"node '{path}' ({node.op_type}) can't read what it is given",
                " ".join(str(error).split()),
                "give the sizes for which the model was made, with --dim name=N",
            ) from None
        return self._taken(made, node, path, results, operands)

    def _taken(
        self, made: Made, node: Node, path: str, results: Sequence[str], operands: Sequence[Operand | None]
    ) -> Sequence[Value]:
        """Take the steps of a node into the network."""
        if isinstance(made, Operand):
            return [made]
        steps = [made] if isinstance(made, Step) else list(made)
        dynamic = any(operand.dynamic for operand in operands if operand is not None)
        if node.op_type in CLOSING and self._others.get(steps[0].result) == steps[0].shape:
            dynamic = False
        self._steps += steps
        self._by_result.update((step.result, step) for step in steps)
        dtype = next(one.dtype for one in operands if one is not None and not one.is_constant)
        found = {step.result: Operand(step.result, step.shape, dynamic=dynamic, dtype=dtype) for step in steps}
        self.shapes.update((step.result, step.shape) for step in steps)
        if dynamic:
            self.dynamic.update(found)
        lost = Unbounded(node, path, "one of its further outputs has no rule")
        return [found.get(name, lost) for name in results]

    def _evaluate(self, node: Node, inputs: Sequence[NDArray[Any] | None]) -> Sequence[NDArray[Any]]:
        try:
            return self._evaluator.run(node, inputs)
        except NotComputable as error:
            raise NoBound(f"what it does can't be computed ({error})") from None


@dataclass(frozen=True, eq=False)
class _Sight:
    """A scope that is being walked, as a pattern reads it."""

    walk: Walk
    frame: Frame

    def node(self, name: str) -> Node | None:
        """See `View`."""
        node = self.frame.scope.producers.get(name)
        return None if node is None else _with_attributes(node, self.frame.attributes)

    def value(self, name: str) -> Value | None:
        """See `View`."""
        try:
            return self.walk.look(self.frame, name)
        except ModelError:
            return None

    def part(self, name: str) -> tuple[Operand, LinearMap] | None:
        """See `View`."""
        value = self.value(name)
        return self.walk.part(value.name) if isinstance(value, Operand) else None


def _constant(
    name: str,
    array: NDArray[Any],
    depends: frozenset[str] = frozenset(),
    dynamic: bool = False,
    open_: NDArray[np.bool_] | None = None,
) -> Operand:
    return Operand(name, array.shape, array, depends, dynamic, array.dtype, open_)


def _in_order(nodes: Mapping[int, Node], producers: Mapping[str, Node]) -> Iterator[Node]:
    """Yield nodes, by position, each behind those that make what it reads; as onnxruntime does, whatever their order.

    Nodes that are in order stay in it. Those that depend on themselves come last.
    """
    readers, missing = defaultdict[int, list[int]](list), dict[int, int]()
    for position, node in nodes.items():
        makers = {maker.position for name in _read_by(node) if (maker := producers.get(name)) is not None}
        missing[position] = len(makers & nodes.keys())
        for made_at in makers:
            readers[made_at].append(position)
    ready = sorted(position for position, count in missing.items() if not count)
    while ready:
        position = heapq.heappop(ready)
        yield nodes[position]
        for reader in readers[position]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    yield from (nodes[position] for position in sorted(missing) if missing[position])


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
