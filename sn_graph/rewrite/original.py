"""The original of an inserted model: packed into its metadata, and restored from them."""

import base64
import json
import zlib
from collections.abc import Mapping

import onnx
from google.protobuf.message import DecodeError

from sn_graph.errors import ModelError
from sn_graph.model import Graph, Key, Model, Scope, clear_data, constants, constants_by_key, put_data, walk_tensors
from sn_graph.state import Inserted, drop_inserted, skeleton_hash


def pack_original(original: Model, inserted: Model, moved: Mapping[Key, Key]) -> str:
    """Compress a model's skeleton, its constants exchanged for where `inserted` holds them.

    Args:
        original: The model before the insertion.
        inserted: The model that will hold the constants: hoisted already, and to get the nodes of the iteration.
        moved: For constants that changed their place, the old key and the new.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(original.proto)
    held = {(scope.id, name): (scope, tensor) for scope, name, tensor, _ in constants(inserted.graph)}
    for key, tensor in constants_by_key(Graph(proto)).items():
        new = moved.get(key, key)
        field = _data_field(original, tensor)
        if new in held and field is not None and _data(held[new][1]) == _data(tensor):
            clear_data(tensor)
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            place = [_address(held[new][0]), new[1], field]
            tensor.external_data.add(key=_FROM, value=json.dumps(place))
    for _, tensor in walk_tensors(proto):
        if original.is_large(tensor):  # in a sparse tensor, an odd attribute or a function that nothing calls
            original.embed(tensor)
    return base64.b85encode(zlib.compress(proto.SerializeToString(deterministic=True), 9)).decode()


def restore(model: Model, inserted: Inserted) -> Model:
    """Return the model before the insertion: its skeleton as it was, its constants those of the inserted model.

    Args:
        model, inserted: An inserted model, which stays as it is, and its metadata.

    Raises:
        ModelError: Another tool changed the model since, its metadata are damaged, or a constant is gone.
    """
    restored = model.copy()
    drop_inserted(restored.proto)
    if skeleton_hash(restored) != inserted.result:
        raise ModelError(
            f"{model.name} was changed by another tool since the insertion",
            "and strip would lose that change",
            "take the model from before the insertion",
        )
    restored.proto.CopyFrom(_unpack(model, inserted))
    return restored


def _unpack(model: Model, inserted: Inserted) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto.FromString(_unzipped(base64.b85decode(inserted.original), _most(model)))
        held = {(_address(scope), name): tensor for scope, name, tensor, _ in constants(model.graph)}
        for tensor in constants_by_key(Graph(proto)).values():
            if tensor.external_data and tensor.external_data[0].key == _FROM:
                address, name, field = json.loads(tensor.external_data[0].value)
                _restore(model, held[address, name], tensor, field)
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error, DecodeError):
        raise ModelError(f"{model.name} has damaged metadata", do="take the model from before the insertion") from None
    return proto


def _address(scope: Scope) -> str:
    """Return where a scope stands, by what insert leaves alone.

    A scope's id tells an unnamed node by its position, which every node that is put before it moves. What a node with
    a body gives out keeps its name.
    """
    if scope.parent is None or scope.owner is None:
        return scope.id
    silent = [node for node in scope.parent.nodes if not any(node.proto.output)]  # which insert adds none of
    given = next(filter(None, scope.owner.proto.output), None)
    output = silent.index(scope.owner) if given is None else given
    return json.dumps([_address(scope.parent), output, scope.owner.subgraphs.index(scope)])


def _most(model: Model) -> int:
    """Return a size that no original's skeleton has: insertion adds, and what it inlines was there once at least."""
    sizes = (payload.size for _, tensor in walk_tensors(model.proto) if (payload := model.payload(tensor)) is not None)
    return 8 * (model.proto.ByteSize() + sum(sizes)) + (1 << 20)


def _unzipped(data: bytes, most: int) -> bytes:
    """Return what is compressed in `data`. Raises ValueError past `most` bytes, zlib.error for what is not whole."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, most)
    if not unpacker.eof:
        raise ValueError("larger than any original, or cut off")
    return content


_FROM = "sn_graph.from"  # the entry that stands for a constant's data in a packed skeleton
_LITTLE = 64  # bytes; a reference would take as much


def _data_field(model: Model, tensor: onnx.TensorProto) -> int | None:
    """Return the field that a tensor's data stand in; None where they had better stay in the skeleton."""
    payload = model.payload(tensor)
    if payload is None or (payload.size < _LITTLE and not model.is_large(tensor)):
        return None
    return payload.field


def _data(tensor: onnx.TensorProto) -> bytes:
    """Return a tensor without its name and documentation, serialized: equal for equal data."""
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    bare.ClearField("name")
    bare.ClearField("doc_string")
    return bare.SerializeToString(deterministic=True)


def _restore(model: Model, source: onnx.TensorProto, tensor: onnx.TensorProto, field: int) -> None:
    """Give a tensor of a packed skeleton the data of one of `model`, in the field where they stood."""
    payload = model.payload(source)
    if payload is None:
        raise ValueError
    model.share(source, tensor)
    if payload.field != field:  # a tool, or saving as external data, has made raw bytes of them
        clear_data(tensor)
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        put_data(tensor, payload, field)
