"""Changes that aim at what sn-graph assumes of a graph: arity, attributes, sizes, names, scopes, scales, opsets, data.

A change takes one place of a model, which is drawn, and does nothing where the model has no such place. Most leave a
file that protobuf reads and that onnxruntime refuses.
"""

import random
from collections.abc import Callable
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto

from tools.fuzz import looking as look
from tools.fuzz import tensors

Change = Callable[[onnx.ModelProto, random.Random], None]

_OPERATORS = """
    Conv ConvTranspose Gemm MatMul Gather LSTM GRU RNN QLinearConv ConvInteger QLinearMatMul MatMulInteger
    DequantizeLinear QuantizeLinear DynamicQuantizeLinear Constant Identity Cast CastLike Transpose Reshape Flatten
    Squeeze Unsqueeze Expand Slice Split Concat Shape ConstantOfShape Pad Resize Mul Div Add Sub Max Min Pow Sqrt
    Abs Neg Reciprocal Clip Where Einsum ReduceL2 ReduceL1 ReduceSum ReduceMax ReduceMean ReduceSumSquare
    LpNormalization BatchNormalization LayerNormalization Softmax InstanceNormalization GroupNormalization MaxPool
    AveragePool LpPool GlobalAveragePool TopK Relu LeakyRelu PRelu Elu Selu Gelu HardSigmoid Sigmoid Tanh Erf
    Dropout DepthToSpace SpaceToDepth ScatterND GatherND Trilu CumSum Tile If Loop Scan OneHot Range RandomNormal
    BlackmanWindow StringNormalizer Upsample GridSample Mod
""".split()  # noqa: SIM905
_FUSED = """
    FusedConv FusedGemm FusedMatMul Attention EmbedLayerNormalization QGemm QAttention MatMulIntegerToFloat
    DynamicQuantizeMatMul DynamicQuantizeLSTM MatMulNBits GatherBlockQuantized MatMulBnb4 QEmbedLayerNormalization
    QLinearConv SkipLayerNormalization BiasGelu NhwcConv
""".split()  # noqa: SIM905
_SETTINGS = """
    axis axes perm group strides pads dilations kernel_shape output_padding output_shape auto_pad transA transB
    transBatchA alpha beta to keepdims block_size bits N K epsilon mode ceil_mode hidden_size direction num_heads
    value value_floats value_ints shape split num_outputs starts ends equation p blocksize allowzero
    count_include_pad num_scan_inputs scan_input_axes then_branch body activations spatial training_mode scales
""".split()  # noqa: SIM905
_TEXTS = (b"", b"VALID", b"SAME_LOWER", b"\xff", b"bi,ij->bj", b"reflect", b"cubic", b"bidirectional")
_KINDS: "dict[AttributeProto.AttributeType, Callable[[AttributeProto, random.Random], None]]" = {
    AttributeProto.INT: lambda a, draw: setattr(a, "i", draw.choice(look.WHOLE)),
    AttributeProto.FLOAT: lambda a, draw: setattr(a, "f", draw.choice(look.REAL)),
    AttributeProto.STRING: lambda a, draw: setattr(a, "s", draw.choice(_TEXTS)),
    AttributeProto.INTS: lambda a, draw: a.ints.extend(draw.choice(look.WHOLE) for _ in range(draw.randrange(6))),
    AttributeProto.FLOATS: lambda a, draw: a.floats.extend(draw.choice(look.REAL) for _ in range(draw.randrange(6))),
    AttributeProto.STRINGS: lambda a, draw: a.strings.extend([b"Relu"] * draw.randrange(4)),
    AttributeProto.TENSOR: lambda a, draw: a.t.CopyFrom(look.small(draw)),
    AttributeProto.GRAPH: lambda a, _: a.g.SetInParent(),
    AttributeProto.SPARSE_TENSOR: lambda a, draw: a.sparse_tensor.values.CopyFrom(look.small(draw)),
}  # fmt: skip


def change(model: onnx.ModelProto, draw: random.Random) -> None:
    """Make one change."""
    draw.choice(CHANGES)(model, draw)


# Nodes


def _arity(model: onnx.ModelProto, draw: random.Random) -> None:
    """Give a node fewer or more inputs or outputs, the same twice, none, or one that it makes itself."""
    node = look.node(model, draw)
    if node is None:
        return
    names = draw.choice([node.input, node.input, node.output])
    match draw.randrange(6):
        case 0:
            del names[draw.randrange(len(names) + 1) :]
        case 1 if names:
            del names[draw.randrange(len(names))]
        case 2 if names:
            names[draw.randrange(len(names))] = draw.choice(["", *look.values(model)])
        case 3:
            names.extend(draw.choices(["", *look.values(model)], k=draw.choice([1, 2, 9])))
        case 4 if names and node.output:
            names[draw.randrange(len(names))] = node.output[0]
        case _:
            names[:] = draw.sample(list(names), len(names))


def _operator(model: onnx.ModelProto, draw: random.Random) -> None:
    """Make another operator of a node, which keeps its inputs and attributes."""
    node = look.node(model, draw)
    if node is not None:
        fused = draw.random() < 0.25
        node.op_type = draw.choice(_FUSED if fused else _OPERATORS)
        node.domain = draw.choice(["", "ai.onnx", "local", "other"]) if draw.random() < 0.1 else "com.microsoft" * fused


def _attribute(model: onnx.ModelProto, draw: random.Random) -> None:
    """Change an attribute's value, type or name; add one, drop one, have one twice, take one from a caller."""
    node = look.node(model, draw)
    if node is None:
        return
    kind = draw.choice(list(_KINDS))
    if not node.attribute or draw.random() < 0.4:
        made = node.attribute.add(name=draw.choice(_SETTINGS), type=kind)
        _KINDS[kind](made, draw)
        return
    one = draw.choice(node.attribute)
    match draw.randrange(7):
        case 0:
            name = one.name
            one.Clear()
            one.name, one.type = name, kind
            _KINDS[kind](one, draw)
        case 1:
            node.attribute.add().CopyFrom(one)
        case 2:
            node.attribute.remove(one)
        case 3:
            one.name = draw.choice(_SETTINGS)
        case 4:
            one.ref_attr_name = draw.choice(["", "turned", "axis", one.name])
        case 5:
            one.type = kind
        case _ if one.type in (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING):
            _KINDS[one.type](one, draw)
        case _ if one.ints:
            one.ints[draw.randrange(len(one.ints))] = draw.choice(look.WHOLE)
        case _:
            del one.ints[1:], one.floats[1:], one.strings[1:]


def _between(model: onnx.ModelProto, draw: random.Random) -> None:
    """Put a node between a value and one of its readers, with whatever constants it may need."""
    node = look.node(model, draw)
    if node is None or not node.input:
        return
    place, name = draw.randrange(len(node.input)), f"between{draw.randrange(10**6)}"
    made = onnx.NodeProto(op_type=draw.choice(_OPERATORS[12:]), input=[node.input[place]], output=[name])
    for _ in range(draw.choice([0, 0, 1, 1, 2, 4])):
        held = look.small(draw)
        held.name = f"held{draw.randrange(10**6)}"
        model.graph.initializer.append(held)
        made.input.append(draw.choice([held.name, held.name, "", node.input[place]]))
    for _ in range(draw.randrange(3)):
        kind = draw.choice([AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT])
        _KINDS[kind](made.attribute.add(name=draw.choice(_SETTINGS), type=kind), draw)
    if draw.random() < 0.3:
        made.input[:] = draw.sample(list(made.input), len(made.input))
    node.input[place] = name
    for graph in look.graphs(model):
        if any(one is node for one in graph.node):
            graph.node.insert(next(at for at, one in enumerate(graph.node) if one is node), made)
            return
    model.graph.node.insert(0, made)


def _order(model: onnx.ModelProto, draw: random.Random) -> None:
    """Put the nodes into another order, take some out, or have one twice."""
    nodes = draw.choice(list(look.graphs(model))).node
    if not nodes:
        return
    match draw.randrange(3):
        case 0:
            mixed = draw.sample([look.copied(one) for one in nodes], len(nodes))
            del nodes[:]
            nodes.extend(mixed)
        case 1:
            del nodes[draw.randrange(len(nodes))]
        case _:
            nodes.add().CopyFrom(draw.choice(nodes))
            if draw.random() < 0.5:
                nodes[-1].output[:] = [f"{name}'" for name in nodes[-1].output]


def _body(model: onnx.ModelProto, draw: random.Random) -> None:
    """Put a node into the branches of an If, or into a function that is called in its place."""
    node = look.node(model, draw)
    if node is None:
        return
    inner, outputs = look.copied(node), [name for name in node.output if name]
    if draw.random() < 0.5:
        attributes = []
        for name in ("then_branch", "else_branch"):
            attribute = AttributeProto(name=name, type=AttributeProto.GRAPH)
            attribute.g.node.add().CopyFrom(inner)
            attribute.g.output.extend(onnx.ValueInfoProto(name=output) for output in outputs)
            if draw.random() < 0.3 and model.graph.initializer:
                attribute.g.initializer.add().CopyFrom(draw.choice(model.graph.initializer))
            attributes.append(attribute)
        condition = draw.choice(["", *look.values(model)])
        node.CopyFrom(onnx.NodeProto(op_type="If", input=[condition], output=outputs, attribute=attributes))
        return
    inputs = list(dict.fromkeys(filter(None, node.input)))
    named = draw.choice(["Made", "MatMul", "Outer", ""])
    function = model.functions.add(domain=draw.choice(["local", "", "other"]), name=named, input=inputs, output=outputs)
    function.node.add().CopyFrom(inner)
    function.opset_import.extend(model.opset_import)
    call = onnx.NodeProto(op_type=named, domain=function.domain, input=inputs, output=outputs)
    if draw.random() < 0.2:
        function.node.add().CopyFrom(call)
    node.CopyFrom(call)


# What a graph declares


def _declared(model: onnx.ModelProto, draw: random.Random) -> None:
    """Declare an input, an output or a value otherwise: its sizes, its type, its name, or none of them."""
    graph = draw.choice(list(look.graphs(model)))
    values = draw.choice([graph.input, graph.input, graph.output, graph.value_info])
    if not values:
        values.add(name=draw.choice([*look.NAMES, *look.values(model)]))
    value = draw.choice(values)
    dims = value.type.tensor_type.shape.dim
    match draw.randrange(9):
        case 0 if dims:
            draw.choice(dims).dim_value = draw.choice(look.WHOLE)
        case 1 if dims:
            draw.choice(dims).dim_param = draw.choice(["N", "", "N+1", "-1", "\x1b[0m"])
        case 2:
            dims.add(dim_value=draw.choice([0, 1, 2, -1]))
        case 3 if dims:
            del dims[draw.randrange(len(dims))]
        case 4:
            value.type.tensor_type.elem_type = draw.choice([*TensorProto.DataType.values(), 77])
        case 5:
            draw.choice([value.type.sequence_type, value.type.map_type, value.type.optional_type]).SetInParent()
        case 6:
            value.ClearField("type")
        case 7:
            values.add().CopyFrom(value)
        case _:
            value.name = draw.choice([*look.NAMES, *look.values(model)])


def _ends(model: onnx.ModelProto, draw: random.Random) -> None:
    """Let another value be the output, or an input that nobody feeds."""
    values, names = draw.choice([model.graph.output, model.graph.output, model.graph.input]), look.values(model)
    if not values or draw.random() < 0.5:
        values.add()
    if names:
        draw.choice(values).name = draw.choice(names)
    if draw.random() < 0.2:
        del values[:]


def _versions(model: onnx.ModelProto, draw: random.Random) -> None:
    """Import other versions of operator sets, none, or one twice; name another IR."""
    imports = draw.choice([model.opset_import, *(one.opset_import for one in model.functions)])
    match draw.randrange(5):
        case 0 if imports:
            draw.choice(imports).version = draw.choice(
                [0, 1, 6, 7, 9, 10, 12, 13, 18, 21, 23, 25, 99, -1, 2**31, 2**63 - 1]
            )
        case 1:
            del imports[:]
        case 2:
            imports.add(
                domain=draw.choice(["", "ai.onnx", "local", "com.microsoft"]), version=draw.choice([0, 1, 9, 13, 21])
            )
        case 3:
            model.ir_version = draw.choice([0, 1, 3, 4, 8, 11, 99, -1, 2**40])
        case _ if imports:
            draw.choice(imports).domain = draw.choice(["", "ai.onnx", "ai.onnx.ml", "other"])


def _named(model: onnx.ModelProto, draw: random.Random) -> None:
    """Call a value by another name everywhere, or a node, a function or the graph."""
    if draw.random() < 0.5 and look.values(model):
        old, new = draw.choice(look.values(model)), draw.choice([*look.NAMES, "w" * 5000])
        for graph in look.graphs(model):
            for values in (graph.input, graph.output, graph.initializer):
                for value in values:
                    value.name = new if value.name == old else value.name
        for node in look.nodes(model):
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        return
    thing: Any = draw.choice([*look.nodes(model), *model.functions, model.graph])
    thing.name = draw.choice([*look.NAMES, *(node.name for node in look.nodes(model))])


def _function(model: onnx.ModelProto, draw: random.Random) -> None:
    """Change what a function declares: its inputs, outputs, attributes, name; have it twice, or none."""
    if not model.functions:
        return
    one = draw.choice(model.functions)
    match draw.randrange(6):
        case 0:
            model.functions.add().CopyFrom(one)
        case 1:
            model.functions.remove(one)
        case 2:
            names = draw.choice([one.input, one.output, one.attribute])
            names.append(draw.choice([*names, "w", "", "more"]))
        case 3:
            names = draw.choice([one.input, one.output, one.attribute])
            del names[draw.randrange(len(names) + 1) :]
        case 4:
            one.overload = draw.choice(["", "own", "x"])
        case _:
            one.domain, one.name = draw.choice(
                [("", "MatMul"), ("local", "Layer"), ("com.microsoft", "QGemm"), ("", "")]
            )


def _inserted(model: onnx.ModelProto, draw: random.Random) -> None:
    """Change a part that an insertion wrote and its metadata speak of; or say that a plain model is an inserted one."""
    if not model.metadata_props:
        content = '{"version": 1, "kind": "inserted", "sites": []}'
        model.metadata_props.add(key="sn_graph", value=draw.choice([content, "{}", "[]", "", "1", "null"]))
        return
    parts: list[Any] = [one for one in model.graph.node if one.name.startswith("sn/") or one.op_type == "Concat"]
    for values in (model.graph.input, model.graph.output, model.graph.initializer):
        parts += [one for one in values if "sn_" in one.name]
    if not parts:
        return
    part = draw.choice(parts)
    match draw.randrange(4):
        case 0:
            part.name = draw.choice([*look.NAMES, part.name + "_1"])
        case 1:
            held: Any
            for held in (model.graph.node, model.graph.input, model.graph.output, model.graph.initializer):
                if any(one is part for one in held):
                    held.remove(part)
                    return
        case 2 if isinstance(part, TensorProto):
            part.CopyFrom(look.small(draw))
        case _ if isinstance(part, onnx.ValueInfoProto):
            part.type.tensor_type.shape.dim.add(dim_value=draw.choice(look.WHOLE))


CHANGES: tuple[Change, ...] = (
    *(_arity, _operator, _attribute, _attribute, _between, _between, _order, _body),
    *tensors.CHANGES,
    *(_declared, _ends, _versions, _named, _function, _inserted),
)
