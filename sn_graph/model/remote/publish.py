"""Publishing: what was written to a temporary folder put on a store, the model last, each file in a transaction.

A transaction of fsspec shows a file when it is whole: an object store completes the upload (S3, GCS, Azure), a host's
file system renames (SFTP, HDFS). A model with a data file is two objects; the data have a name that no object had, and
stand before the model does, so that a reader finds the old model or the new one, each with its own data.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sn_graph.model import temporary_folder
from sn_graph.model.remote.urls import FileSystem, is_url, local_path, open_store, sibling_url, store_errors, url_name
from sn_graph.progress import Progress, silent

_STEP = 1 << 23  # bytes copied at a time


@contextlib.contextmanager
def publish(url: str, progress: Progress = silent) -> Iterator[Path]:
    """Give a local path to write a file to; behind the block it, and what was written beside it, is on the store.

    Nothing is written to the store where the block raises, or has written nothing.

    Args:
        url: Any that fsspec writes.
        progress: Told the bytes copied.

    Raises:
        EnvironmentUnavailable: The store can't be reached or written, or a package is missing.
    """
    store, remote = open_store(url)
    with temporary_folder() as folder:
        path = folder / url_name(url)
        taken = folder / f"{path.name}.data"
        with store_errors(url, "written"):
            if store.exists(sibling_url(remote, taken.name)):
                taken.touch()  # so that the data get a name that no object has
        held = taken.exists()
        yield path
        if not path.exists():
            return
        if held:
            taken.unlink()
        others = sorted(each for each in folder.rglob("*") if each.is_file() and each != path)
        for each in (*others, path):
            name = each.relative_to(folder).as_posix()
            with store_errors(sibling_url(url, name), "written"):
                _put(store, each, sibling_url(remote, name), progress)


@contextlib.contextmanager
def placed(location: str | os.PathLike[str], progress: Progress = silent) -> Iterator[Path]:
    """Give the path to write a file to: `location` itself, or where it is published from; see `publish`."""
    place = local_path(location) if isinstance(location, str) else location
    if isinstance(place, str) and is_url(place):
        with publish(place, progress) as path:
            yield path
    else:
        yield Path(place)


def _put(store: FileSystem, path: Path, remote: str, progress: Progress) -> None:
    total, done = path.stat().st_size, 0
    with store.transaction, open(path, "rb") as source, store.open(remote, "wb") as target:
        while part := source.read(_STEP):
            target.write(part)
            done += len(part)
            progress("publishing", done, total)
