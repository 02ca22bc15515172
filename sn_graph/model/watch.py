"""Watch: what this process reads and writes, told to the process that looks after it.

A mapped file that is cut off kills its reader with SIGBUS, in numpy and onnxruntime as anywhere. Only another process
can then say which file it was, and remove what the reader left; `sn_graph.cli.start` is that process.
"""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

_READ, _WRITTEN = "r", "w"
_guard: int | None = None
_put_in_place: ContextVar[list[Path] | None] = ContextVar("put_in_place", default=None)


def report_to(descriptor: int) -> None:
    """Tell the process at the other end of a pipe what is mapped, and where temporary files are made, from now on."""
    global _guard
    _guard = descriptor


def tell_read(path: Path, size: int) -> None:
    """Tell that a file of `size` bytes is mapped."""
    _tell(_READ, path, size)


def tell_written(folder: Path) -> None:
    """Tell that temporary files are made in a folder."""
    _tell(_WRITTEN, folder, 0)


def _tell(kind: str, path: Path, size: int) -> None:
    if _guard is not None:
        line = kind.encode() + str(size).encode() + b" " + os.fsencode(os.path.abspath(path)) + b"\0"
        with contextlib.suppress(OSError):  # the pipe is full, or nobody listens: what is known has to do
            os.write(_guard, line)


def understand(told: bytes) -> tuple[dict[Path, int], set[Path]]:
    """Return what was told: the files that were mapped, with their sizes, and the folders written to."""
    read: dict[Path, int] = {}
    folders = set()
    for line in told.split(b"\0")[:-1]:
        head, _, path = line.partition(b" ")
        if head[:1] == _READ.encode():
            read[Path(os.fsdecode(path))] = int(head[1:])
        else:
            folders.add(Path(os.fsdecode(path)))
    return read, folders


@contextlib.contextmanager
def files_put_in_place() -> Iterator[list[Path]]:
    """Give a list that grows by each file that is put in place within the block; that of a block around it, if any."""
    outer = _put_in_place.get()
    if outer is not None:
        yield outer
        return
    written: list[Path] = []
    token = _put_in_place.set(written)
    try:
        yield written
    finally:
        _put_in_place.reset(token)


def note_in_place(path: Path) -> None:
    """Note that a file was put in place."""
    written = _put_in_place.get()
    if written is not None and path not in written:
        written.append(path)
