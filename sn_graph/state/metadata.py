"""Metadata: what an inserted model says of itself, where its state is and what it was before.

The key `sn_graph` of the model's metadata_props holds JSON. Besides what runs need it keeps the original's skeleton,
compressed: weights stay in the model as they were, so the skeleton and their names give the original back exactly.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.state.files import skeleton_hash

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
            raise ModelError(
                f"{model.name} was written by another version of sn-graph", do="insert again with this one"
            )
        del content["version"], content["kind"]
        content["state"] = InsertedState(**content["state"])
        content["sites"] = tuple(InsertedSite(**{**site, **_tuples(site)}) for site in content["sites"])
        return Inserted(clip=content.pop("clip", False), **content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{model.name} has metadata of an insertion that can't be read", f"{error!r}") from None


def _tuples(site: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) for key, value in site.items() if isinstance(value, list)}


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
