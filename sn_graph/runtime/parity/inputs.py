"""Inputs for a model: drawn from its own signature, or read from a file and checked against it.

Floats are standard normal; integers lie within the table that they index (ranges.py), else they are 0 or 1, and so are
floats that are cast to indices; booleans and strings ("a", "b") are drawn evenly. A dynamic dimension has the size that
the first weight which reads it asks for (channels.py), else 2, the same wherever its name stands. An input of unknown
rank gets the shape that its first Conv, ConvTranspose, Gemm or MatMul can take ((2, channels, 16, …) or
(2, features)), else (2, 2). Sizes with which the model runs are looked for in growing.py.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from sn_graph.errors import ModelError, UsageError
from sn_graph.model import MAX_RANK, Model, Value, describe, foreign, open_ordinary, walk_tensors
from sn_graph.runtime.engine import EXTENDED, element_dtype
from sn_graph.runtime.parity.channels import asked_sizes
from sn_graph.runtime.parity.ranges import trace
from sn_graph.runtime.parity.signature import signature

DYNAMIC_SIZE = 2
_MOST_INPUTS = 4096  # onnxruntime takes time that grows with their square
_MOST_BYTES = 1 << 26  # of all inputs, or so many times the bytes of the weights:
_LARGER = 16
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16} | {
    element_type for element_type, name in EXTENDED.items() if "float" in name
}
_COMPLEX = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the dynamic dimensions that nothing decides: of those on axis 0, and of all others."""

    batch: int = DYNAMIC_SIZE
    other: int = DYNAMIC_SIZE


def make_inputs(
    model: Model, *, seed: int = 0, step: int = 0, dims: Mapping[str, int] | None = None, sizes: Sizes | None = None
) -> dict[str, NDArray[Any]]:
    """Draw inputs for one run of a model, by name; the same for the same seed and step.

    Args:
        model: The model; inputs that have defaults, and the state of an insertion, are left out.
        seed: With `step`, the seed of `numpy.random.default_rng`.
        step: Which of several runs the inputs are for, from 0.
        dims: Sizes of dynamic dimensions by name; by default what weights ask for, else 2.
        sizes: What to take in place of 2.

    Raises:
        UsageError: A name in `dims` is not that of a dynamic dimension of an input, or a size is negative.
        ModelError: An input is a sequence, a map or a sparse tensor; there are too many; or they are too large.
    """
    dims, sizes = dims or {}, sizes or Sizes()
    inputs = signature(model).inputs
    _check_dims(dims, inputs)
    _require_possible(inputs)
    known = _resolve(model, inputs, dims, sizes)
    _require_modest(model, inputs, known)
    trails = trace(model, known, sizes.other)
    rng = np.random.default_rng([seed, step])
    drawn = {}
    for value in inputs:
        if value.element_type == TensorProto.UNDEFINED:
            raise ModelError(
                f"input {value.name!r} is a {value.type}", "and inputs can be made for tensors only", "make it a tensor"
            )
        shape = known.get(value.name, trails.shapes.get(value.name, (DYNAMIC_SIZE, DYNAMIC_SIZE)))
        drawn[value.name] = _draw(rng, value.element_type, shape, trails.limits.get(value.name))
    return drawn


def has_open_sizes(model: Model, dims: Mapping[str, int] | None = None) -> bool:
    """Say whether sizes of the inputs are neither in the model, nor in `dims`, nor a batch's.

    An input of unknown rank is one.
    """
    return any(
        value.shape is None
        or any(not isinstance(dim, int) and (dim or "") not in (dims or {}) for dim in value.shape[1:])
        for value in signature(model).inputs
    )


def _require_possible(inputs: tuple[Value, ...]) -> None:
    """Raise ModelError for more inputs, or more axes, than runtimes take, and for two inputs of one name."""
    if len(inputs) > _MOST_INPUTS:
        raise ModelError(
            f"the model has {len(inputs):,} inputs", f"and runtimes take hours for more than {_MOST_INPUTS:,}"
        )
    twice = [name for name, count in Counter(value.name for value in inputs).items() if count > 1]
    if twice:
        raise ModelError(f"the model has two inputs of the name {twice[0]!r}", "and no runtime runs it", "rename one")
    deep = next((value for value in inputs if len(value.shape or ()) > MAX_RANK), None)
    if deep is not None:
        raise ModelError(
            f"input {deep.name!r} has {len(deep.shape or ()):,} axes",
            f"and arrays have {MAX_RANK} at most",
            "reshape it",
        )


def _require_modest(model: Model, inputs: tuple[Value, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelError for inputs that a small file asks for and no ordinary machine holds."""
    stored = (model.payload(tensor) for _, tensor in walk_tensors(model.proto))
    most = max(_MOST_BYTES, _LARGER * sum(payload.size for payload in stored if payload is not None))
    size = 0
    for value in inputs:
        if value.name in shapes and value.element_type != TensorProto.UNDEFINED:
            size += math.prod(shapes[value.name]) * element_dtype(value.element_type).itemsize
    if size > most:
        raise ModelError(
            f"the model's inputs take {size / 1e6:,.0f} MB",
            f"and sn-graph draws no more than {most / 1e6:,.0f} MB for a model of its size",
            "give inputs of your own with verify --inputs",
        )


def load_inputs(path: str | os.PathLike[str], model: Model) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file, and check them against a model's signature.

    Every input must be there under its name, with its dtype (bfloat16 also as the raw 2-byte items that numpy makes
    of it), its rank and its static dimensions. Inputs with a default may be there too.

    Raises:
        ModelError: The file can't be read, or does not fit; the message names what is wrong.
    """
    path = Path(path)
    arrays = _read_npz(path)
    required = {value.name for value in signature(model).inputs}
    accepted = {info.name: describe(info) for info in model.proto.graph.input}
    if missing := sorted(required - arrays.keys()):
        raise ModelError(f"{path} lacks the input {missing[0]!r}", do=f"it must hold {_listing(required)}")
    if unknown := sorted(arrays.keys() - accepted.keys()):
        raise ModelError(
            f"{path} holds {unknown[0]!r}, which is not an input of the model",
            do=f"its inputs: {_listing(accepted)}",
        )
    return {name: _fit(array, accepted[name], path) for name, array in arrays.items()}


def _listing(names: Mapping[str, object] | set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _check_dims(dims: Mapping[str, int], inputs: tuple[Value, ...]) -> None:
    names = {dim for value in inputs for dim in value.shape or () if isinstance(dim, str)}
    for name, size in dims.items():
        if name not in names:
            known = f"choose from {', '.join(sorted(names))}" if names else "it has no named dynamic dimension"
            raise UsageError(f"no input of the model has a dynamic dimension {name!r}", do=known)
        if size < 0:
            raise UsageError(f"dimension {name!r} can't have the size {size}", do="give 0 or more")


def _resolve(
    model: Model, inputs: tuple[Value, ...], dims: Mapping[str, int], sizes: Sizes
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs whose rank is known."""
    shapes = {value.name: value.shape for value in inputs if value.shape is not None}
    if all(isinstance(dim, int) for shape in shapes.values() for dim in shape):
        return {name: tuple(dim for dim in shape if isinstance(dim, int)) for name, shape in shapes.items()}
    static = {
        name: tuple(dim if isinstance(dim, int) else dims.get(dim or "") for dim in shape)
        for name, shape in shapes.items()
    }
    asked = asked_sizes(model, static)
    named: dict[str, int] = {}  # what is decided at one place holds wherever the name stands
    for (name, axis), size in asked.items():
        named.setdefault(str(shapes[name][axis] or ""), size)
    for shape in shapes.values():
        if shape and isinstance(shape[0], str):
            named.setdefault(shape[0], sizes.batch)
    named.pop("", None)

    def size_of(name: str, axis: int, dim: int | str | None) -> int:
        known = static[name][axis]
        if known is not None:
            return known
        usual = sizes.other if axis else sizes.batch
        return named.get(str(dim or ""), asked.get((name, axis), usual))

    return {name: tuple(size_of(name, axis, dim) for axis, dim in enumerate(shape)) for name, shape in shapes.items()}


def _draw(rng: np.random.Generator, element_type: int, shape: tuple[int, ...], limit: int | None) -> NDArray[Any]:
    dtype = element_dtype(element_type)
    if element_type == TensorProto.STRING:
        return rng.choice(np.array(["a", "b"], dtype=object), shape)
    if limit is None and element_type in _FLOATS:
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    if limit is None and element_type in _COMPLEX:
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    count = 2 if limit is None else max(1, min(limit, _exact_below(dtype)))
    return np.asarray(rng.integers(0, count, shape)).astype(dtype)


def _exact_below(dtype: np.dtype[Any]) -> int:
    """Return the integer below which all are exact in a dtype: an index rounded up could leave its table."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).max)
    return {"float64": 2**53, "float32": 2**24, "float16": 2**11, "bfloat16": 2**8}.get(dtype.name, 2)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # Opened here, because numpy leaves the file open where it is not a zip archive.
        with open_ordinary(path) as file:
            if not zipfile.is_zipfile(file):  # or numpy takes what is no array for a pickle, and advises to trust it
                raise ValueError(
                    f"it is {kind.what if (kind := foreign(path)) else 'not whole, or no archive of arrays'}"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", do="write it with numpy.savez") from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        detail = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ModelError(f"{path} can't be read as .npz", detail, "write it with numpy.savez, no objects") from error


def _fit(array: NDArray[Any], value: Value, path: Path) -> NDArray[Any]:
    def refuse(must: str, found: str) -> ModelError:
        return ModelError(f"{path}: input {value.name!r} must {must}", f"and {found}", "write it so with numpy.savez")

    dtype = element_dtype(value.element_type)
    if value.element_type in EXTENDED and array.dtype == np.dtype(f"V{dtype.itemsize}"):
        array = array.view(dtype)
    if value.element_type == TensorProto.STRING and array.dtype.kind == "U":
        array = array.astype(object)
    if array.dtype != dtype:
        raise refuse(f"be {dtype.name}", f"is {array.dtype.name}")
    if value.shape is None:
        return array
    if array.ndim != len(value.shape):
        raise refuse(f"have rank {len(value.shape)}", f"has shape {array.shape}")
    for axis, (size, dim) in enumerate(zip(array.shape, value.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise refuse(f"have size {dim} on axis {axis}", f"has {size}")
    return array
