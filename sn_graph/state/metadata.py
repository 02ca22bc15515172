"""Metadata: what an inserted model says of itself, where its state is and what it was before.

The key `sn_graph` of the model's metadata_props holds JSON. Besides what runs need it keeps the original's skeleton,
compressed: weights stay in the model as they were, so the skeleton and their names give the original back exactly.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import onnx

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.state.entries import Entry
from sn_graph.state.files import skeleton_hash

KEY = "sn_graph"


VERSION = 1
MOST_ELEMENTS = 1 << 25
"""Elements of all u together; a shape costs a file nothing, and the state is drawn from it."""
_MOST_ITERATIONS = 1 << 20


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
        power_iterations, per_use, bound, clip: Its own, where a plan said so.
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
    bound: float | None = None
    clip: bool | None = None


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
        ModelError: The entry is there, but is not what an insertion writes of this model.
    """
    text = next((entry.value for entry in model.proto.metadata_props if entry.key == KEY), None)
    if text is None:
        return None
    try:
        entry = Entry(json.loads(text))
        if entry.take("version", int) != VERSION or entry.take("kind", str) != "inserted":
            raise ModelError(
                f"{model.name} was written by another version of sn-graph", do="insert again with this one"
            )
        inserted = _inserted(entry)
        _require_fit(inserted, model)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{model.name} has damaged metadata", str(error), "take the model from before the insertion"
        ) from None
    return inserted


def _inserted(entry: Entry) -> Inserted:
    state = entry.inner("state")
    layout = state.one_of("layout", ("packed", "per-weight"))
    packed = layout == "packed"
    sites = entry.list("sites")
    named = packed and bool(sites)  # where every weight was left as it is, there is no state
    names = {key: state.name(key) if named else None for key in ("input", "output", "sigma")}
    if not named:
        state.require_none("input", "output", "sigma")
    found = Inserted(
        convention=entry.one_of("convention", ("keras", "torch", "torch-parametrization")),
        power_iterations=entry.whole("power_iterations", 1, _MOST_ITERATIONS),
        bound=entry.positive("bound"),
        clip=entry.flag("clip"),
        norm=entry.one_of("norm", ("matrix", "operator"), "matrix"),
        state=InsertedState(layout, state.one_of("mode", ("default", "required")), **names),
        sites=tuple(_site(site, packed) for site in sites),
        model=entry.take("model", str),
        result=entry.take("result", str),
        original=entry.take("original", str),
    )
    state.require_end()
    entry.require_end()
    return found


def _site(entry: Entry, packed: bool) -> InsertedSite:
    u: tuple[int, int] | tuple[str, str]
    sigma: int | str
    if packed:
        offset, size = entry.wholes("u", 0, MOST_ELEMENTS, count=2)
        u, sigma = (offset, size), entry.whole("sigma", 0)
    else:
        first, second = entry.names("u", count=2)
        u, sigma = (first, second), entry.name("sigma")
    found = InsertedSite(
        id=entry.name("id"),
        weight=entry.name("weight"),
        u=u,
        sigma=sigma,
        length=entry.whole("length", 1, MOST_ELEMENTS),
        op_types=entry.names("op_types"),
        split=entry.wholes("split", 1) if entry.holds("split") else None,
        perm=entry.wholes("perm", 0) if entry.holds("perm") else None,
        rows=entry.whole("rows", 1),
        cols=entry.whole("cols", 1),
        side=entry.one_of("side", ("rows", "cols")),
        power_iterations=entry.whole("power_iterations", 1, _MOST_ITERATIONS)
        if entry.holds("power_iterations")
        else None,
        per_use=entry.flag("per_use"),
        bound=entry.positive("bound") if entry.holds("bound") else None,
        clip=entry.flag("clip") if entry.holds("clip") else None,
    )
    entry.require_end()
    return found


def _require_fit(inserted: Inserted, model: Model) -> None:
    """Raise ValueError where the parts of the metadata do not fit each other, or the state's tensors in the model."""
    sites, state = inserted.sites, inserted.state
    _require_distinct("id", [site.id for site in sites])
    if sum(site.length for site in sites) > MOST_ELEMENTS:
        raise ValueError(f"its u have more than {MOST_ELEMENTS} elements")
    sizes: dict[str, int] = {}
    if state.input is not None:
        _require_distinct("σ", [site.sigma for site in sites])
        _require_distinct("tensor", [state.input, state.output, state.sigma])
        for site in sites:
            if site.u != (sizes.get(state.input, 0), site.length):
                raise ValueError(f"the u of site {site.id!r} is not where it belongs")
            if not isinstance(site.sigma, int) or site.sigma >= len(sites):
                raise ValueError(f"the σ of site {site.id!r} is not where it belongs")
            sizes[state.input] = sizes.get(state.input, 0) + site.length
    else:
        _require_distinct("tensor", [name for site in sites for name in (*site.u, site.sigma)])
        sizes = {str(site.u[0]): site.length for site in sites}
    for site in sites:
        if inserted.norm == "matrix" and site.length != (site.rows if site.side == "rows" else site.cols):
            raise ValueError(f"the u of site {site.id!r} does not fit its matrix")
    for name, dims in _declared(model.proto.graph, sizes):
        if math.prod(dims) != sizes[name]:
            raise ValueError(f"{name!r} has shape {list(dims)}, not {sizes[name]} elements")


def _declared(graph: onnx.GraphProto, names: Iterable[str]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Yield the shapes that a graph gives its inputs and initializers of these names, where they are known."""
    wanted = set(names)
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in wanted and len(dims) == 2 and all(dim.HasField("dim_value") for dim in dims):
            yield value.name, tuple(dim.dim_value for dim in dims)
    for tensor in graph.initializer:
        if tensor.name in wanted:
            yield tensor.name, tuple(tensor.dims)


def _require_distinct(what: str, values: Iterable[object]) -> None:
    found = list(values)
    if len(set(found)) != len(found):
        raise ValueError(f"a {what} is there twice")


def write_inserted(model: Model, inserted: Inserted) -> None:
    """Put the metadata entry into a model, with the hash of the model as it is."""
    content = asdict(replace(inserted, result=skeleton_hash(model)))
    if not inserted.clip:
        del content["clip"]
    if inserted.norm == "matrix":
        del content["norm"]
    for site in content["sites"]:
        for key in ("power_iterations", "bound", "clip"):
            if site[key] is None:
                del site[key]
        if not site["per_use"]:
            del site["per_use"]
    text = json.dumps({"version": VERSION, "kind": "inserted", **content}, ensure_ascii=False)
    model.proto.metadata_props.add(key=KEY, value=text)


def drop_inserted(proto: onnx.ModelProto) -> None:
    """Take the metadata entry out of a model."""
    kept = [entry for entry in proto.metadata_props if entry.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
