"""Native output: what libraries write to stderr below Python, TensorFlow's log above all, kept off the terminal."""

import contextlib
import os
import sys
from collections.abc import Iterator

from sn_graph.cli.console import Settings


@contextlib.contextmanager
def quiet_libraries(settings: Settings) -> Iterator[None]:
    """Send the process's stderr to nowhere, but for what Python itself writes there; under --verbose nothing is lost.

    TensorFlow writes while it is imported, before any setting of its own counts, so the file descriptor is exchanged.
    """
    if settings.verbose or settings.debug:
        yield
        return
    with _native_stderr_closed():
        yield


@contextlib.contextmanager
def _native_stderr_closed() -> Iterator[None]:
    try:
        own = sys.stderr.fileno() == _STDERR
    except (OSError, ValueError, AttributeError):  # replaced by something that is not a file
        own = False
    try:
        kept = os.dup(_STDERR)
    except OSError:  # closed, and so nothing would be seen anyway
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    python = os.fdopen(os.dup(kept), "w", encoding=sys.stderr.encoding or "utf-8", errors="replace", buffering=1)
    before = sys.stderr
    before.flush()
    try:
        os.dup2(nowhere, _STDERR)
        if own:
            sys.stderr = python
        yield
    finally:
        python.flush()
        if own:
            sys.stderr = before
        os.dup2(kept, _STDERR)
        python.close()
        os.close(kept)
        os.close(nowhere)


_STDERR = 2
