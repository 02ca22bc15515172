"""What the metadata of an inserted model say: where its state is, and what it was before.

The key `sn_graph` of the model's metadata_props holds JSON. Besides what runs need it keeps the original's skeleton,
compressed: weights stay in the model as they were, so the skeleton and their names give the original back exactly.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from sn_graph.constants import constants
from sn_graph.errors import ModelError
from sn_graph.hoist import Key
from sn_graph.model import Model, wire
from sn_graph.model.external import clear_data
from sn_graph.model.graph import Graph
from sn_graph.model.skeleton import gather
from sn_graph.model.tensors import walk_tensors
from sn_graph.spectral.power import seeded_state
from sn_graph.state import skeleton_hash

KEY = "sn_graph"
VERSION = 1


@dataclass(frozen=True)
class InsertedState:
    """How the state goes in and out of a model.

    Attributes:
        layout: "packed" (one tensor for all sites) or "per-weight".
        mode: "default" (the input has an initializer) or "required".
        input, output, sigma: The packed tensors' names; None where each site has its own.
    """

    layout: str
    mode: str
    input: str | None
    output: str | None
    sigma: str | None


@dataclass(frozen=True)
class InsertedSite:
    """One normalized weight of an inserted model.

    Attributes:
        id, weight: As in `Site`, of the model before the insertion.
        u: (offset, length) in the packed state, or its own (input, output) names.
        sigma: Its place in the packed σ, or the name of its own output.
        length: How many elements u has.
        op_types: The consumers that are normalized.
        split, perm, rows, cols, side: Its matrix.
        power_iterations, per_use: Its own, where a plan said so.
    """

    id: str
    weight: str
    u: tuple[int, int] | tuple[str, str]
    sigma: int | str
    length: int
    op_types: tuple[str, ...]
    split: tuple[int, ...] | None
    perm: tuple[int, ...] | None
    rows: int
    cols: int
    side: str
    power_iterations: int | None = None
    per_use: bool = False


@dataclass(frozen=True)
class Inserted:
    """An inserted model's metadata.

    Attributes:
        convention, power_iterations, bound, clip, norm: What was inserted.
        state, sites: Where the state is.
        model: The hash of the original's skeleton, which state files carry.
        result: The hash of the inserted model's skeleton without this entry; tells whether a tool changed it since.
        original: The original's skeleton, compressed.
    """

    convention: str
    power_iterations: int
    bound: float
    clip: bool
    state: InsertedState
    sites: tuple[InsertedSite, ...]
    model: str
    result: str
    original: str
    norm: str = "matrix"


def read_inserted(model: Model) -> Inserted | None:
    """Return what a model's metadata say of an insertion, or None where there was none.

    Raises:
        ModelError: The entry is there but can't be read.
    """
    text = next((entry.value for entry in model.proto.metadata_props if entry.key == KEY), None)
    if text is None:
        return None
    try:
        content = json.loads(text)
        if content["version"] != VERSION or content["kind"] != "inserted":
            raise ModelError(f"{model.name} was written by another version of sn-graph; insert again with this one")
        del content["version"], content["kind"]
        content["state"] = InsertedState(**content["state"])
        content["sites"] = tuple(InsertedSite(**{**site, **_tuples(site)}) for site in content["sites"])
        return Inserted(clip=content.pop("clip", False), **content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{model.name} has metadata of an insertion that can't be read: {error!r}") from None


def _tuples(site: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) for key, value in site.items() if isinstance(value, list)}


def state_names(inserted: Inserted) -> tuple[dict[str, str], set[str]]:
    """Return which output follows which state input, and the outputs that hold σ."""
    state = inserted.state
    if state.input is not None and state.output is not None and state.sigma is not None:
        return {state.input: state.output}, {state.sigma}
    pairs = {str(site.u[0]): str(site.u[1]) for site in inserted.sites}
    return pairs, {str(site.sigma) for site in inserted.sites}


def initial_state(model: Model, inserted: Inserted, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return what the state inputs hold at the beginning: their defaults, or where there are none the seeded u."""
    defaults = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    drawn = [seeded_state(seed, site.id, site.length).astype(np.float32).reshape(-1, 1) for site in inserted.sites]
    seeded = [np.concatenate(drawn)] if inserted.state.input is not None else drawn
    return {
        name: model.array(defaults[name]).astype(np.float32) if name in defaults else start
        for name, start in zip(state_names(inserted)[0], seeded, strict=True)
    }


def site_vectors(model: Model, inserted: Inserted, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return the u [n] that each site begins with, by its id."""
    start = initial_state(model, inserted, seed)
    vectors = {}
    for site in inserted.sites:
        first, second = site.u
        if inserted.state.input is None:
            vectors[site.id] = start[str(first)].reshape(-1)
        else:
            vectors[site.id] = start[inserted.state.input].reshape(-1)[int(first) : int(first) + int(second)]
    return vectors


def write_inserted(model: Model, inserted: Inserted) -> None:
    """Put the metadata entry into a model, with the hash of the model as it is."""
    content = asdict(replace(inserted, result=skeleton_hash(model)))
    if not inserted.clip:
        del content["clip"]
    if inserted.norm == "matrix":
        del content["norm"]
    for site in content["sites"]:
        if site["power_iterations"] is None:
            del site["power_iterations"]
        if not site["per_use"]:
            del site["per_use"]
    text = json.dumps({"version": VERSION, "kind": "inserted", **content}, ensure_ascii=False)
    model.proto.metadata_props.add(key=KEY, value=text)


def drop_inserted(proto: onnx.ModelProto) -> None:
    """Take the metadata entry out of a model."""
    kept = [entry for entry in proto.metadata_props if entry.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)


def pack_original(original: Model, inserted: Model, moved: Mapping[Key, Key]) -> str:
    """Compress a model's skeleton, its constants exchanged for where `inserted` holds them.

    Args:
        original: The model before the insertion.
        inserted: The model that will hold the constants.
        moved: For constants that changed their place, the old key and the new.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(original.proto)
    held = constants_by_key(inserted.proto)
    for key, tensor in constants_by_key(proto).items():
        new = moved.get(key, key)
        field = _data_field(original, tensor)
        if new in held and field is not None and _data(held[new]) == _data(tensor):
            clear_data(tensor)
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            tensor.external_data.add(key=_FROM, value=json.dumps([*new, field]))
    for _, tensor in walk_tensors(proto):
        if original.is_large(tensor):  # in a sparse tensor, an odd attribute or a function that nothing calls
            original.embed(tensor)
    return base64.b85encode(zlib.compress(proto.SerializeToString(deterministic=True), 9)).decode()


def unpack_original(inserted: Inserted, model: Model) -> onnx.ModelProto:
    """Return the skeleton of the model before the insertion, its constants those of `model`.

    Raises:
        ModelError: The metadata are damaged, or a constant is gone.
    """
    try:
        proto = onnx.ModelProto.FromString(zlib.decompress(base64.b85decode(inserted.original)))
        held = constants_by_key(model.proto)
        for tensor in constants_by_key(proto).values():
            if tensor.external_data and tensor.external_data[0].key == _FROM:
                *key, field = json.loads(tensor.external_data[0].value)
                _restore(model, held[key[0], key[1]], tensor, field)
    except (ValueError, KeyError, TypeError, zlib.error, DecodeError):
        raise ModelError(f"{model.name} has damaged metadata; take the model from before the insertion") from None
    return proto


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
        tensor.MergeFromString(gather(wire.length_delimited(field, [b"".join(payload.blocks(field))])))


def constants_by_key(proto: onnx.ModelProto) -> dict[Key, onnx.TensorProto]:
    """Return every dense constant of a model by its scope's id and its name there."""
    return {(scope.id, name): tensor for scope, name, tensor, _ in constants(Graph(proto))}
