"""Fetching: a remote model brought to a temporary folder, with the files beside it that belong to it.

An ONNX model brings its data files, the index of a checkpoint its shards, a checkpoint the config.json that tells of
heads. The copies are mapped as any local file is, so that a model takes disk and no memory.
"""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sn_graph.model import temporary_folder
from sn_graph.model.checkpoint import HEADER_LIMIT, LENGTH_BYTES, Checkpoint, shards_of
from sn_graph.model.remote.beside import files_beside
from sn_graph.model.remote.urls import FileSystem, open_store, sibling_url, store_errors, url_name
from sn_graph.progress import Progress, silent

_CONFIG = "config.json"
_STEP = 1 << 23  # bytes copied at a time


@dataclass(frozen=True)
class Fetched:
    """A model on this machine.

    Attributes:
        url: Where it came from.
        path: Where its copy is.
        beside: The copies of what belongs to it.
    """

    url: str
    path: Path
    beside: tuple[Path, ...]


@contextlib.contextmanager
def fetched(url: str, progress: Progress = silent) -> Iterator[Fetched]:
    """Give a local copy of a remote model, removed behind the block.

    Args:
        url: Any that fsspec reads.
        progress: Told the bytes copied.

    Raises:
        ModelError: There is no such file, or it is the index of a checkpoint and not a sound one.
        EnvironmentUnavailable: The store can't be reached, or a package is missing.
    """
    store, remote = open_store(url)
    with temporary_folder() as folder:
        path = folder / (url_name(url) or "model")
        _copy(store, remote, path, url, progress)
        beside = []
        for name, required in files_beside(path).items():
            place, there = folder / name, sibling_url(remote, name)
            with store_errors(sibling_url(url, name), "read"):
                if not store.exists(there) and not required:
                    continue
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy(store, there, place, sibling_url(url, name), progress)
            beside.append(place)
        yield Fetched(url, path, tuple(beside))


def _copy(store: FileSystem, remote: str, path: Path, url: str, progress: Progress) -> None:
    with store_errors(url, "read"), store.open(remote, "rb") as source, open(path, "xb") as target:
        total = source.size or 0
        done = 0
        while part := source.read(_STEP):
            target.write(part)
            done += len(part)
            progress("fetching", done, max(total, done))


class Held:
    """A fetched model that stays as long as anything holds this object.

    Args:
        url: Where it is.

    Attributes:
        url: The same.
        path: Where its copy is.

    Raises:
        ModelError, EnvironmentUnavailable: As `fetched` does.
    """

    def __init__(self, url: str) -> None:
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(fetched(url))
            weakref.finalize(self, stack.pop_all().close)
        self.url = url
        self.path = found.path


@contextlib.contextmanager
def fetched_slice(url: str, names: Sequence[str] = ()) -> Iterator[Fetched]:
    """Give a local copy of a remote checkpoint, safetensors or an index of such, that holds some of its tensors.

    The headers are there whole, so that it opens; all else of the copy is a hole, which takes no disk, and of which
    nothing is fetched.

    Raises:
        ModelError: There is no such file, or its header is not a sound one.
        EnvironmentUnavailable: The store can't be reached, or a package is missing.
    """
    store, remote = open_store(url)
    with temporary_folder() as folder:
        path = folder / url_name(url)
        _copy_config(store, remote, folder, url)
        if not path.name.lower().endswith(".json"):
            _slice(store, remote, path, url, names)
            yield Fetched(url, path, ())
            return
        _copy(store, remote, path, url, silent)
        shards: dict[Path, list[str]] = {}
        for name, shard in shards_of(path).items():
            shards.setdefault(shard, []).extend([name] if name in names else [])
        for shard, chosen in shards.items():
            _slice(store, sibling_url(remote, shard.name), shard, sibling_url(url, shard.name), chosen)
        yield Fetched(url, path, tuple(shards))


def _copy_config(store: FileSystem, remote: str, folder: Path, url: str) -> None:
    """Bring what tells of heads, where there is such a file."""
    there = sibling_url(remote, _CONFIG)
    with store_errors(sibling_url(url, _CONFIG), "read"):
        known = store.exists(there)
    if known:
        _copy(store, there, folder / _CONFIG, sibling_url(url, _CONFIG), silent)


def _slice(store: FileSystem, remote: str, path: Path, url: str, names: Sequence[str]) -> None:
    with store_errors(url, "read"), store.open(remote, "rb") as source, open(path, "xb") as target:
        target.truncate(source.size)

        def copy(start: int, size: int) -> None:
            source.seek(start)
            target.seek(start)
            while size and (part := source.read(min(size, _STEP))):
                target.write(part)
                size -= len(part)
            target.flush()

        copy(0, min(source.size, LENGTH_BYTES))
        with open(path, "rb") as written:
            announced = int.from_bytes(written.read(LENGTH_BYTES), "little")
        if announced <= min(source.size, HEADER_LIMIT):  # opening tells what is wrong with any other
            copy(LENGTH_BYTES, announced)
        for tensor in Checkpoint.open_safetensors(path).tensors:
            if tensor.name in names:
                copy(tensor.payload.start, tensor.payload.size)
