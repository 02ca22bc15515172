"""Changes of a model's tensors: their sizes, data, numbers, scales, and where they are kept."""

import random
import re
import struct

import onnx
from onnx import AttributeProto, TensorProto

from tools.fuzz import looking as look

_LOCATIONS = (
    "case.onnx",
    "output.onnx",
    "case.onnx.data",
    "..",
    "../case.onnx",
    "/dev/zero",
    "/etc/passwd",
    "",
    "a\0b",
    ".",
)
_QUANTIZED = re.compile("Quant|Linear|NBits|Integer")  # in whatever domain


def _sizes(model: onnx.ModelProto, draw: random.Random) -> None:
    """Change a tensor's sizes, with its data as they are."""
    tensor = look.tensor(model, draw)
    if tensor is None:
        return
    dims = tensor.dims
    match draw.randrange(7):
        case 0 if dims:
            dims[draw.randrange(len(dims))] = draw.choice(look.WHOLE)
        case 1:
            dims.insert(draw.randrange(len(dims) + 1), draw.choice([0, 1, 1, 1, -1]))
        case 2 if dims:
            del dims[draw.randrange(len(dims))]
        case 3:
            dims[:] = draw.sample(list(dims), len(dims))
        case 4:
            dims.extend([1] * draw.choice([1, 30, 62, 65]))
        case 5:
            dims[:] = [0] * draw.randrange(4)
        case _ if len(dims) > 1:
            dims[:] = [dims[0] * dims[1], *dims[2:]]


def _data(model: onnx.ModelProto, draw: random.Random) -> None:
    """Change how a tensor's data are stored, how long they are, and of what type."""
    tensor = look.tensor(model, draw)
    if tensor is None:
        return
    match draw.randrange(8):
        case 0:
            tensor.data_type = draw.choice(TensorProto.DataType.values())
        case 1:
            tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
        case 2:
            tensor.raw_data += draw.randbytes(draw.choice([1, 4, 64]))
        case 3 if tensor.data_type == TensorProto.FLOAT and len(tensor.raw_data) % 4 == 0:
            tensor.float_data.extend(struct.unpack(f"<{len(tensor.raw_data) // 4}f", tensor.raw_data))
            if draw.random() < 0.8:
                tensor.ClearField("raw_data")
        case 4:
            field = draw.choice([tensor.int32_data, tensor.int64_data, tensor.uint64_data])
            field.extend([draw.choice([0, 1, 255, 2**31 - 1])] * draw.choice([1, 5, 100]))
        case 5:
            tensor.double_data.extend([draw.choice(look.REAL)] * draw.choice([1, 5, 100]))
        case 6:
            for name in ("raw_data", "float_data", "int32_data", "int64_data"):
                tensor.ClearField(name)
        case _:
            tensor.string_data.extend([b"text"] * draw.choice([1, 12]))


def _numbers(model: onnx.ModelProto, draw: random.Random) -> None:
    """Put numbers into a float tensor that arithmetic fears: not finite, subnormal, huge, all the same, all zero."""
    tensor = look.tensor(model, draw, TensorProto.FLOAT)
    if tensor is None or not tensor.raw_data:
        return
    count = len(tensor.raw_data) // 4
    made = struct.pack("<f", draw.choice(look.REAL))
    if draw.random() < 0.5:
        tensor.raw_data = made * count
    elif count:
        place = 4 * draw.randrange(count)
        tensor.raw_data = tensor.raw_data[:place] + made + tensor.raw_data[place + 4 :]


def _external(model: onnx.ModelProto, draw: random.Random) -> None:
    """Say that a tensor's data are in another file, with entries that lack, repeat or contradict."""
    tensor = look.tensor(model, draw)
    if tensor is None:
        return
    tensor.data_location = draw.choice([TensorProto.EXTERNAL] * 4 + [TensorProto.DEFAULT])
    entries = [("location", draw.choice(_LOCATIONS))]
    entries += [(name, str(draw.choice([*look.WHOLE, "x", "1e9", "", " 4"]))) for name in ("offset", "length")]
    for key, value in draw.choices(entries, k=draw.randrange(1, 5)) if draw.random() < 0.3 else entries:
        tensor.external_data.add(key=key, value=value)
    if draw.random() < 0.5:
        tensor.ClearField("raw_data")


def _scale(model: onnx.ModelProto, draw: random.Random) -> None:
    """Give what a quantized node reads as scale or zero point other sizes, another type or other values."""
    quantized = [node for node in look.nodes(model) if _QUANTIZED.search(node.op_type)]
    names = {name for node in quantized for name in node.input}
    for tensor in draw.sample(list(model.graph.initializer), len(model.graph.initializer)):
        if tensor.name in names:
            made = look.small(draw)
            made.name = tensor.name
            if draw.random() < 0.5:
                made.data_type = tensor.data_type
            tensor.CopyFrom(made)
            return


def _kept(model: onnx.ModelProto, draw: random.Random) -> None:
    """Keep an initializer elsewhere: as a Constant, an input too, a sparse tensor, twice, or in a body."""
    held = model.graph.initializer
    if not held:
        return
    tensor = draw.choice(held)
    match draw.randrange(6):
        case 0:
            node = onnx.NodeProto(op_type="Constant", output=[tensor.name])
            node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor)
            model.graph.node.insert(0, node)
            held.remove(tensor)
        case 1:
            value = model.graph.input.add(name=tensor.name)
            value.type.tensor_type.elem_type = draw.choice([tensor.data_type, 1, 0, 99])
            for size in tensor.dims if draw.random() < 0.7 else ():
                value.type.tensor_type.shape.dim.add(dim_value=size)
        case 2:
            sparse = model.graph.sparse_initializer.add(dims=draw.choice([list(tensor.dims), [2, 2], [], [-1, 3]]))
            sparse.values.CopyFrom(tensor)
            sparse.indices.CopyFrom(draw.choice([look.small(draw), draw.choice(held)]))
            held.remove(tensor)
        case 3:
            held.add().CopyFrom(tensor)
        case 4:
            tensor.name = draw.choice([*look.NAMES, *look.values(model)])
        case _:
            draw.choice(list(look.graphs(model))).initializer.add().CopyFrom(tensor)


CHANGES = (_sizes, _data, _numbers, _external, _scale, _kept)
