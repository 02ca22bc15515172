"""State files: the vectors u, and with them σ, of a model's sites, as safetensors.

`<id>.u` holds n elements, `<id>.sigma` one. The header's metadata name the model by the hash of its skeleton, so that
a state of another model is refused; a file without the header is checked by names and lengths alone.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sn_graph.errors import ModelError, UsageError
from sn_graph.model import Model, foreign, open_ordinary, without_data, write_file

VERSION = "1"


_DIGITS = 19  # more runs than anybody makes
SHORTEST, LONGEST = 1e-9, 1e9
"""What the length of a u lies between; those of frameworks have length 1. An inserted graph starts anew beyond."""
_FLOATS = ("F16", "BF16", "F32", "F64")  # safetensors' names of the element types


@dataclass(frozen=True, eq=False, repr=False)
class State:
    """What a state file holds for the sites asked for.

    Attributes:
        u: For each site's id, the vector u, float32 or float64 [n].
        sigma: For each site's id that has one, σ of the last run.
        step: Runs since the state was reset.
        convention: Whose matrices u belongs to, where the file says so.
    """

    u: Mapping[str, NDArray[np.floating]]
    sigma: Mapping[str, float]
    step: int = 0
    convention: str | None = None

    def __repr__(self) -> str:
        return f"<State of {len(self.u)} weights, {len(self.sigma)} with σ, step {self.step}>"


def skeleton_hash(model: Model) -> str:
    """Return the sha256 of a model without its tensors' data, wherever and however that is stored."""
    return hashlib.sha256(without_data(model.proto).SerializeToString(deterministic=True)).hexdigest()


StateSource = str | os.PathLike[str] | Mapping[str, ArrayLike]
"""A state file, or arrays by site id, as `StatefulSession.state()` returns them; `<id>.u` and `<id>.sigma` do too."""


def load_state(source: StateSource, model: Model, lengths: Mapping[str, int]) -> State:
    """Read the u of each site in `lengths` (id to number of elements) from a state of a plain model.

    Raises:
        ModelError: The file can't be read, is of another model, lacks a site, or holds a vector of another length, or
            numbers that can't be a u or a σ.
    """
    return read_state(source, lengths, skeleton_hash(model), model.name)


def read_state(source: StateSource, lengths: Mapping[str, int], model_hash: str | None, name: str) -> State:
    """Read a state of the model that has this hash, as `load_state` does; messages call the model `name`.

    The hash of an inserted model's state is that of the model before the insertion, `Inserted.model`. None: of any
    model, checked by names and lengths alone, as arrays are.
    """
    if isinstance(source, Mapping):
        return _of_arrays(source, lengths)
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"a {type(source).__name__} is not a state", do="give a path, or arrays u by site id")
    path = Path(source)
    from safetensors import SafetensorError, safe_open

    try:
        with open_ordinary(path):  # the library's own reader would wait for the writer of a pipe, deaf to Ctrl-C
            pass
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            step = _check_header(path, header, model_hash, name)
            names = set(file.keys())
            for name in names & {f"{site}.{kind}" for site in lengths for kind in ("u", "sigma")}:
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _FLOATS:
                    raise ModelError(f"state {path}: '{name}' has element type {dtype}", do="store it as F32")
            u = {}
            for site, length in lengths.items():
                if f"{site}.u" not in names:
                    raise ModelError(f"state {path} holds no '{site}.u'", do="leave that weight out, or save its state")
                u[site] = _vector(path, site, file.get_tensor(f"{site}.u"), length)
            sigma = {
                site: _scalar(path, site, file.get_tensor(f"{site}.sigma"))
                for site in lengths
                if f"{site}.sigma" in names
            }
    except OSError as error:
        raise ModelError(
            f"state {path} can't be read", str(error.strerror or "no such file"), "give a state file"
        ) from None
    except SafetensorError as error:
        kind = foreign(path, by_name=False)
        why = str(error) if kind is None or "safetensors" in kind.what else f"it is {kind.what}"
        raise ModelError(f"state {path} is not a whole safetensors file", why, "give one of save_state") from None
    return State(u, sigma, step, header.get("convention"))


def _of_arrays(arrays: Mapping[str, ArrayLike], lengths: Mapping[str, int]) -> State:
    """Return the state that arrays hold. Raises ModelError as `load_state` does."""
    label = Path("in memory")
    u, sigma = {}, {}
    for site, length in lengths.items():
        given = arrays.get(site, arrays.get(f"{site}.u"))
        if given is None:
            raise ModelError(f"the state {label} holds no '{site}'", do="leave that weight out, or give its u")
        u[site] = _vector(label, site, _floats(site, given), length)
        if (last := arrays.get(f"{site}.sigma")) is not None:
            sigma[site] = _scalar(label, site, _floats(f"{site}.sigma", last))
    return State(u, sigma)


def _floats(name: str, given: ArrayLike) -> NDArray[np.floating]:
    try:
        found = np.asarray(given)
        if found.dtype.kind == "c":
            raise TypeError("its numbers are complex")
        return found if found.dtype.kind == "f" else found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the state in memory: '{name}' is not an array of numbers", str(error)) from None


def save_state(path: Path, state: State, model_hash: str | None, convention: str) -> None:
    """Write a state file, atomically: what `read_state` gives back, as float32.

    Args:
        path: The file to come.
        state: u [n] and, where known, σ of each site.
        model_hash: The `skeleton_hash` of the model before any insertion; None: for any model of these names.
        convention: Whose matrices u belongs to.

    Raises:
        EnvironmentUnavailable: The folder can't be written.
    """
    from safetensors.numpy import save

    tensors = {f"{site}.u": np.asarray(u, np.float32).reshape(-1) for site, u in state.u.items()}
    tensors |= {f"{site}.sigma": np.array(sigma, np.float32) for site, sigma in state.sigma.items()}
    header = {"sn_graph": VERSION, "convention": convention, "step": str(state.step)}
    if model_hash is not None:
        header["model"] = model_hash
    write_file(path, save(tensors, header))


def _check_header(path: Path, header: Mapping[str, str], model_hash: str | None, name: str) -> int:
    """Refuse a state of another version or model; return its step."""
    version, step = header.get("sn_graph", VERSION), header.get("step", "0")
    if version != VERSION:
        raise ModelError(
            f"state {path} has version {version!r}",
            "which this sn-graph does not read",
            f"it reads {VERSION}",
        )
    if model_hash is not None and header.get("model", model_hash) != model_hash:
        raise ModelError(f"state {path} belongs to another model", do=f"use the state saved with {name}")
    if not (step.isascii() and step.isdecimal() and len(step) < _DIGITS):
        told = step if len(step) < _DIGITS else f"{step[:_DIGITS]}…"
        raise ModelError(f"state {path} has step {told!r}", "which is not a number of runs", "save the state again")
    return int(step)


def _vector(path: Path, site: str, stored: NDArray[np.floating], length: int) -> NDArray[np.floating]:
    if stored.shape not in ((length,), (length, 1), (1, length)):
        raise ModelError(f"state {path}: '{site}.u' has shape {list(stored.shape)}, where [{length}] is needed")
    flat = stored.reshape(-1)
    if flat.dtype not in (np.float32, np.float64):
        flat = flat.astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        norm = np.float32(np.linalg.norm(flat.astype(np.float32).astype(np.float64)))  # as a graph can hold it
    if not SHORTEST < norm < LONGEST:
        raise ModelError(
            f"state {path}: '{site}.u' has the norm {norm:g}, from which no iteration can start",
            do="reset it, or scale it to length 1",
        )
    return flat


def _scalar(path: Path, site: str, stored: NDArray[np.floating]) -> float:
    if stored.size != 1:
        raise ModelError(f"state {path}: '{site}.sigma' has shape {list(stored.shape)}, where one number is needed")
    sigma = float(stored.reshape(()))
    if not 0.0 <= sigma < np.inf:
        raise ModelError(
            f"state {path}: '{site}.sigma' is {sigma}", "which is not a norm", "save the state of a good run"
        )
    return sigma
