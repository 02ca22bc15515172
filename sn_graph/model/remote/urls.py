"""URLs and the stores that they lead to: s3://, gs://, memory:// and whatever else fsspec knows."""

import contextlib
import posixpath
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from sn_graph.errors import EnvironmentUnavailable, ModelError, SnGraphError, UsageError


class FileSystem(Protocol):
    """What is used of fsspec's file systems."""

    @property
    def transaction(self) -> AbstractContextManager[Any]:
        """A block behind which the files written in it are there, whole, or none where it raises."""

    def open(self, path: str, mode: str) -> Any:
        """Return a file that reads or writes bytes."""

    def exists(self, path: str) -> bool:
        """Say whether there is such a file or folder."""

    def isdir(self, path: str) -> bool:
        """Say whether there is such a folder."""

    def isfile(self, path: str) -> bool:
        """Say whether there is such a file."""

    def size(self, path: str) -> int | None:
        """Return a file's bytes, None where nobody knows."""

    def glob(self, path: str) -> list[str]:
        """Return the paths that match a pattern."""

    def find(self, path: str) -> list[str]:
        """Return the files below a folder."""

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:::[A-Za-z][A-Za-z0-9+.-]+)*://")


def is_url(location: object) -> bool:
    """Say whether a location is a URL and not a path.

    >>> is_url("s3://bucket/disc.onnx"), is_url("models/disc.onnx"), is_url("C:/models/disc.onnx")
    (True, False, False)
    """
    return isinstance(location, str) and _URL.match(location) is not None


def local_path(location: str) -> str:
    """Return a `file://` URL as the path that it means; any other location as it is.

    >>> local_path("file:///models/disc%201.onnx"), local_path("memory://disc.onnx")
    ('/models/disc 1.onnx', 'memory://disc.onnx')
    """
    if not location.lower().startswith("file://"):
        return location
    parts = urlsplit(location)
    return unquote(parts.path) if parts.netloc in ("", "localhost") else location


def url_name(url: str) -> str:
    """Return the last part of a URL or path."""
    return posixpath.basename(url.rstrip("/"))


def sibling_url(url: str, name: str) -> str:
    """Return the URL of another file in the folder of one."""
    return f"{url.rpartition('/')[0]}/{name}"


def open_store(url: str) -> tuple[FileSystem, str]:
    """Return the file system of a URL, one of its own, and the path in it.

    Raises:
        EnvironmentUnavailable: fsspec, or what it needs for this store, is not installed.
        UsageError: fsspec knows no such store.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise EnvironmentUnavailable(
            f"{url} can't be opened", "because the package fsspec is missing", "pip install 'sn-graph[remote]'"
        ) from None
    try:
        # One of its own: a transaction belongs to the file system, and several threads may write.
        store, path = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        raise EnvironmentUnavailable(f"{url} can't be opened", str(error), "install what fsspec asks for") from None
    except ValueError as error:
        raise UsageError(f"{url} can't be opened", str(error), "give a path or the URL of a store") from None
    return store, path


@contextlib.contextmanager
def store_errors(url: str, doing: str) -> Iterator[None]:
    """Turn what a store's own library raises into errors of ours: its classes are as many as the stores.

    Raises:
        ModelError: There is no such file.
        EnvironmentUnavailable: The store can't be reached, or refuses.
    """
    try:
        yield
    except SnGraphError:
        raise
    except FileNotFoundError:
        raise ModelError(f"{url} can't be {doing}", "there is no such file", "give the URL of a model") from None
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise EnvironmentUnavailable(f"{url} can't be {doing}", why, "look at its address and credentials") from None
