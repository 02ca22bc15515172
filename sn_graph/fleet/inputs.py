"""Inputs: the files that arguments name, be they files, folders, globs or URLs, and where each output goes."""

import glob
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from sn_graph.errors import UsageError
from sn_graph.model.remote import is_url, local_path, open_store, store_errors

_MAGIC = frozenset("*?[")
_INDEX = ".safetensors.index.json"


@dataclass(frozen=True)
class Input:
    """A file to work on.

    Attributes:
        location: Its path or URL.
        name: Its path below the folder that was given, with slashes; else its own name.
        size: Bytes; 0 where nobody knows.
        output: Where what is made of it goes; None where nothing is written.
        missing: Why there is no such file.
    """

    location: str
    name: str
    size: int = 0
    output: str | None = None
    missing: str | None = None


def is_many(arguments: Sequence[str]) -> bool:
    """Say whether arguments stand for more than one file: several, a folder, a glob."""
    return len(arguments) > 1 or any(_is_folder(each) or _is_glob(each) for each in arguments)


def _is_folder(argument: str) -> bool:
    place = local_path(argument)
    if is_url(place):
        return place.endswith("/") or _remote_folder(place)
    return os.path.isdir(place)


def _remote_folder(url: str) -> bool:
    if url.startswith(("http://", "https://")):  # which has none
        return False
    store, path = open_store(url)
    with store_errors(url, "read"):
        return bool(store.isdir(path))


def _is_glob(argument: str) -> bool:
    place = local_path(argument)
    return bool(_MAGIC & set(place)) and (is_url(place) or not os.path.lexists(place))


def find_inputs(
    arguments: Sequence[str], suffixes: Sequence[str], output: str | None = None, *, folder: bool = True
) -> list[Input]:
    """Return the files that arguments stand for, each once, and where each output goes.

    Args:
        arguments: Paths, folders, globs and URLs. A file that is named is taken whatever it is called.
        suffixes: What the names of files that folders are searched for end with.
        output: The folder of the outputs; what is in it is not an input of a folder or glob that it lies in.
        folder: False where `output` is the one output itself.

    Raises:
        UsageError: Two outputs would be one file.
        EnvironmentUnavailable: A store can't be reached.
    """
    found: dict[str, Input] = {}
    for argument in arguments:
        for each in _expanded(local_path(argument), suffixes, output):
            found.setdefault(_key(each.location), each)
    inputs = list(found.values())
    if output is None:
        return inputs
    return _with_outputs(inputs, output) if folder else [replace(each, output=output) for each in inputs]


def _key(location: str) -> str:
    """Return what a file is told by: its name in its folder, links to which a glob's ** has followed."""
    if is_url(location):
        return location
    folder, name = os.path.split(os.path.abspath(location))
    return os.path.join(os.path.realpath(folder), name)


def _expanded(argument: str, suffixes: Sequence[str], output: str | None) -> Iterator[Input]:
    if is_url(argument):
        yield from _remote(argument, suffixes)
        return
    if os.path.isdir(argument):
        places, base = _below(argument, suffixes), Path(argument)
    elif _is_glob(argument):
        # Sorted, so that a run is as the one before it.
        matches = sorted(glob.glob(argument, recursive=True), key=lambda place: (place.count(os.sep), place))
        files = [Path(place) for place in matches if os.path.isfile(place)]
        folders = [Path(place) for place in matches if os.path.isdir(place)] if not files else []
        places = _whole([*files, *(each for folder in folders for each in _below(folder, suffixes))])
        base = Path(_fixed(argument))
    else:
        yield _single(argument)
        return
    own = None if output is None or is_url(output) else Path(output).resolve()
    kept = [each for each in places if own is None or own == base.resolve() or not each.resolve().is_relative_to(own)]
    if not kept:
        yield Input(argument, argument, missing=f"no file in it ends in {', '.join(suffixes)}")
    for each in kept:
        yield Input(str(each), _relative(each, base), each.stat().st_size)


def _single(argument: str) -> Input:
    try:
        return Input(argument, os.path.basename(argument), os.stat(argument).st_size)
    except OSError as error:
        return Input(argument, os.path.basename(argument), missing=str(error.strerror))


def _relative(path: Path, base: Path) -> str:
    try:
        return path.relative_to(base).as_posix()
    except ValueError:
        return path.name


def _fixed(pattern: str) -> str:
    """Return the folder that every match of a pattern lies below.

    >>> _fixed("models/*/disc.onnx"), _fixed("*.onnx")
    ('models', '')
    """
    parts = pattern.split("/")
    count = next(number for number, part in enumerate(parts) if _MAGIC & set(part))
    return "/".join(parts[:count]) or ("/" if pattern.startswith("/") else "")


def _below(folder: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files below a folder, links to folders not followed, hidden ones left out."""
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(here, name) for name in sorted(files) if _is_model(name, suffixes) and os.path.isfile(Path(here, name))
        ]
    return _whole(found) if _INDEX in suffixes else found


def _is_model(name: str, suffixes: Sequence[str]) -> bool:
    """Say whether a file of a folder is meant: neither hidden nor the state that lies beside a model."""
    return name.lower().endswith(tuple(suffixes)) and not name.startswith(".") and not name.endswith(".u.safetensors")


def _whole(places: Sequence[Path]) -> list[Path]:
    """Return files without the shards that an index among them stands for."""
    kept = _without_shards([each.as_posix() for each in places])
    return [each for each in places if each.as_posix() in kept]


def _without_shards(names: Iterable[str]) -> set[str]:
    """Return names but for `STEM-00001-of-00002.safetensors` beside a `STEM.safetensors.index.json`."""
    known = set(names)
    stems = {name.removesuffix(_INDEX) for name in known if name.endswith(_INDEX)}
    return {name for name in known if not (name.endswith(".safetensors") and name[: -len(_SHARD)] in stems)}


_SHARD = "-00001-of-00002.safetensors"


def _remote(url: str, suffixes: Sequence[str]) -> Iterator[Input]:
    store, path = open_store(url)
    with store_errors(url, "read"):
        if _is_glob(url):
            names, base = sorted(store.glob(path)), _fixed(path)
            names = [name for name in names if store.isfile(name)]
        elif _is_folder(url):
            base = path.rstrip("/")
            names = sorted(name for name in store.find(path) if _is_model(posixpath.basename(name), suffixes))
        else:
            yield Input(url, posixpath.basename(path), int(store.size(path) or 0) if store.exists(path) else 0)
            return
        kept = [name for name in names if name in _without_shards(names)]
        if not kept:
            yield Input(url, url, missing=f"no file in it ends in {', '.join(suffixes)}")
        for name in kept:
            inside = PurePosixPath(name)
            short = inside.relative_to(base).as_posix() if base and inside.is_relative_to(base) else inside.name
            yield Input(store.unstrip_protocol(name), short, int(store.size(name) or 0))


def _with_outputs(inputs: Sequence[Input], folder: str) -> list[Input]:
    names = [each.name for each in inputs]
    if len(set(names)) < len(names):  # a/model.onnx and b/model.onnx: told apart by what their paths don't share
        names = _apart(inputs)
    twice = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    if twice:
        raise UsageError(f"two outputs would be {folder}/{twice[0]}", do="give their folders apart")
    base = folder.rstrip("/") if is_url(folder) else folder
    placed = []
    for each, name in zip(inputs, names, strict=True):
        place = f"{base}/{name}" if is_url(base) else str(Path(base, name))
        placed.append(each if each.missing else replace(each, output=place))
    return placed


def _apart(inputs: Sequence[Input]) -> list[str]:
    whole = [PurePosixPath(_key(each.location).replace(os.sep, "/")) for each in inputs]
    shared = 0
    while all(len(each.parts) > shared + 1 for each in whole) and len({each.parts[shared] for each in whole}) == 1:
        shared += 1
    return [posixpath.join(*each.parts[shared:]) for each in whole]
