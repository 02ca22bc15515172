"""Reading: files are opened so that nothing is waited for that may never come, and nothing read that has no end."""

import os
import stat
from io import BufferedReader

# To open a file for reading: a pipe without a writer would else be waited for.
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def open_ordinary(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading. Raises OSError where that fails, and where it is a folder, a pipe or a device."""
    descriptor = os.open(path, READING)
    try:
        require_ordinary(os.fstat(descriptor))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def require_ordinary(there: os.stat_result) -> None:
    """Raise OSError where what was opened is a folder, a pipe or a device."""
    if not stat.S_ISREG(there.st_mode):
        raise OSError(0, "it is a folder" if stat.S_ISDIR(there.st_mode) else "it is not an ordinary file")


def read_ordinary(path: str | os.PathLike[str]) -> bytes:
    """Return what an ordinary file holds. Raises OSError as `open_ordinary` does."""
    with open_ordinary(path) as file:
        return file.read()
