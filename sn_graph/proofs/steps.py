"""Steps: operators whose outputs jump where their inputs hardly move, so that rounding alone can change what follows.

A quantizer rounds to the next quantum, a comparison to true or false, ArgMax chooses a place. Two sound models that
differ in their last bits may land on either side, and all that lies behind is another then. They are compared piece by
piece instead: every step is taken out of both, what goes into it is compared as an output, and what the left one's step
gave is fed to both. So no step is on the way of any comparison, and what is in between is judged as strictly as ever.
Where rounding merely grows, layer by layer, joints between the layers are fed likewise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper

from sn_graph.model import ConstantValues, Graph, Model, Node, subgraphs
from sn_graph.runtime import Side

Feeds = Sequence[Mapping[str, NDArray[Any]]]

# fmt: off
_ALWAYS = frozenset({
    "ArgMax", "ArgMin", "Bernoulli", "BitCast", "Ceil", "DynamicQuantizeLinear", "Equal", "Floor", "Greater",
    "GreaterOrEqual", "Hardmax", "Less", "LessOrEqual", "MaxRoiPool", "Mod", "NonMaxSuppression", "NonZero",
    "QLinearConv", "QLinearMatMul", "QuantizeLinear", "Round", "Shrink", "Sign", "ThresholdedRelu", "TopK", "Unique",
})
_MICROSOFT = frozenset({
    "BeamSearch", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "GreedySearch", "MoE", "NhwcMaxPool", "QAttention",
    "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid",
    "QLinearSoftmax", "QLinearWhere", "QMoE", "QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization",
    "QOrderedLongformerAttention", "QOrderedMatMul", "QuantizeBFP", "QuantizeLinear", "QuantizeWithOrder",
    "WhisperBeamSearch",
})
_LEARNING = frozenset({
    "Binarizer", "LinearClassifier", "SVMClassifier", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor",
})
# fmt: on
_OWN = {"": _ALWAYS, "com.microsoft": _MICROSOFT, "ai.onnx.ml": _LEARNING}
_EXACT = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.COMPLEX64, TensorProto.COMPLEX128}


def is_step(node: Node) -> bool:
    """Say whether the output of a node may jump where its input hardly moves."""
    if node.op_type in _OWN.get(node.domain, ()):
        return True
    if not node.is_standard:
        return False
    if node.op_type == "Cast":  # to integers, or to a type much coarser than what is allowed
        return node.attribute("to", AttributeProto.INT, AttributeProto.STRING) not in _EXACT
    if node.op_type == "MaxPool":
        return len(node.proto.output) > 1 and node.proto.output[1] != ""
    if node.op_type in ("GridSample", "Resize", "Upsample"):
        return node.text("mode", "nearest") == "nearest"
    return node.op_type == "CastLike"


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps that the outputs of a model may pass.

    Attributes:
        nodes: The nodes of the main graph that take a step, themselves or in a subgraph or function.
        hidden: The operators of the steps in subgraphs and functions.
        names: The operators of all, in words.
        reached: The values of the main graph that lie behind any.
    """

    nodes: tuple[Node, ...]
    hidden: tuple[str, ...]
    names: str
    reached: frozenset[str]


def find_steps(model: Model) -> Steps:
    """Return the steps that depend on a model's inputs; what is computed from weights alone is the weights' matter."""
    graph = model.graph
    constant = ConstantValues(graph)
    found = [node for scope in graph.scopes for node in scope.nodes if is_step(node) and not constant.all_inputs(node)]
    inside = {id(node.proto) for node in found}
    nodes, reached = [], set[str]()
    for node in graph.main.nodes:
        taken = id(node.proto) in inside or _holds(graph, node, inside)
        if taken:
            nodes.append(node)
        if taken or not reached.isdisjoint(_read(node.proto)):
            reached.update(filter(None, node.proto.output))
    hidden = dict.fromkeys(node.op_type for node in found if node.scope is not graph.main or node.subgraphs)
    names = ", ".join(dict.fromkeys(node.op_type for node in found))
    return Steps(tuple(nodes), tuple(hidden), names, frozenset(reached))


def _holds(graph: Graph, node: Node, inside: set[int], calls: tuple[Node, ...] = ()) -> bool:
    """Say whether a step stands in a body of a node, or in the function that it calls."""
    function = graph.function(node)
    bodies = [*node.subgraphs, *([function] if function is not None and node not in calls else [])]
    return any(
        id(inner.proto) in inside or _holds(graph, inner, inside, (*calls, node))
        for body in bodies
        for inner in body.nodes
    )


def _read(proto: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node and its bodies read, by names that mean something else in a body where it defines them."""
    yield from proto.input
    for _, body in subgraphs(proto):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from _read(inner)


def cut(left: Side, right: Side, feeds: Feeds, steps: Steps, joints: Sequence[str]) -> tuple[Side, Side, Feeds]:
    """Return both sides in pieces, and the feeds with what the left one has at the cuts.

    Args:
        left: The side whose values are fed to both.
        right: The other, which has every step and joint of the left one under the same names.
        feeds: For each run an array for each input.
        steps: The steps of the model that both were made from. They are taken out.
        joints: Values of the main graph. What makes them stays, and is compared with what is fed on in their place.

    Raises:
        ModelError: The left side can't be run with these values given out.
        KeyError: A side lacks a step or a joint.
    """
    made = [name for node in steps.nodes for name in node.proto.output if name]
    joined = [name for name in dict.fromkeys(joints) if name not in made]
    watched = replace(left, model=_giving_out(left.model, [*made, *joined]))
    forced = [
        {**feed, **{name: outputs[name] for name in (*made, *joined)}}
        for feed, outputs in zip(feeds, watched.run(feeds), strict=True)
    ]
    first, second = (
        replace(side, model=_parted(side.model, made, joined, forced[0]), label=f"{side.label}, piece by piece,")
        for side in (left, right)
    )
    return first, second, forced


def _giving_out(model: Model, names: Sequence[str]) -> Model:
    """Return a model that gives out these values besides its outputs."""
    wider = model.copy()
    given = {value.name for value in wider.proto.graph.output}
    wider.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    wider.edited()
    return wider


def _parted(model: Model, made: Sequence[str], joined: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> Model:
    """Return a model to which steps and joints are fed; what the steps read, and what makes the joints, goes out."""
    parted = model.copy()
    graph, main = parted.proto.graph, parted.graph.main
    taken = {id(node.proto): node.proto for node in (main.producers[name] for name in made)}
    constant = ConstantValues(parted.graph)
    around = {name for node in main.nodes for name in node.proto.output if name}
    watched = [name for node in taken.values() for name in _read(node) if name in around]
    watched = [name for name in watched if name not in made and not constant.holds(main, name)]
    own = {name: parted.graph.fresh_name(f"{name}.made") for name in joined}
    for name in joined:
        maker = main.producers[name].proto
        maker.output[list(maker.output).index(name)] = own[name]
    kept = [value for value in graph.output if value.name not in (*made, *joined)]
    given = {value.name for value in (*kept, *graph.input)}
    names = dict.fromkeys([*own.values(), *(own.get(name, name) for name in watched)])
    kept += [onnx.ValueInfoProto(name=name) for name in names if name not in given]
    rest = onnx.GraphProto(node=[node for node in graph.node if id(node) not in taken], output=kept)
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(rest.node)
    graph.output.extend(rest.output)
    for name in (*made, *joined):
        code = helper.np_dtype_to_tensor_dtype(arrays[name].dtype)
        graph.input.append(helper.make_tensor_value_info(name, code, None))
    parted.edited()
    return parted
