"""Scratch arrays: values that no file holds as they are, in a mapped temporary file where they are many.

The pages of a mapped file can be written out and taken back by the system, those of anonymous memory can't; so what a
weight of gigabytes takes meanwhile is disk, not memory. The file has no name from the beginning.
"""

import math
import mmap
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sn_graph.errors import EnvironmentUnavailable

IN_MEMORY = 1 << 25  # bytes up to which an array is ordinary memory


def scratch(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return a writable array of zeros that takes at most `IN_MEMORY` bytes of anonymous memory.

    Raises:
        EnvironmentUnavailable: There is no room for it on the disk of temporary files.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, kind)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # or a full disk would kill whoever writes to the map
            else:
                file.truncate(size)
            content = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise EnvironmentUnavailable(
            f"{size:,} bytes of temporary space can't be had in {tempfile.gettempdir()}",
            str(error.strerror),
            "make room, or set TMPDIR to a folder that has it",
        ) from None
    return np.frombuffer(content, kind).reshape(shape)
