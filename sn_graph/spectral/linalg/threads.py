"""BLAS threads, as many as there are idle processors.

OpenBLAS's threads wait for their next product by spinning, for a tenth of a second. Two threads on a processor that
something else runs on take 2 to 15 times as long as one thread (256×2304: 73 ms against 12; 4096²: 8.1 s against 0.5),
and win a third to a half on idle ones. What runs there may be the spinning threads of numpy's own BLAS (`blas.py`).

The number of threads that BLAS runs is a setting of the whole process. Where several threads of a process come here at
once, one of them sets it, and the others run with what they find.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg.blocks import BlockedMatrix

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

# Elements below which OpenBLAS does not use several threads for a Gram matrix, because then n(n + 1)m < 2^18. To set
# their number takes 20 µs; to wait for a thread whose processor is taken, 16 ms (64 × 64).
TINY = 1 << 12
# Bytes up to which one thread is best: to look for idle processors takes 40 to 80 µs, and there is no more to win.
SMALL = 1 << 20
# Bytes from which three products more are a few per cent of what is to come. A trial knows what a look doesn't: a
# quota on a container, or processors that are two halves of one.
LARGE = 1 << 24
# Seconds in which threads once used may still spin.
SPIN = 0.2
# Seconds for which a look holds: one is a tenth of the time of a matrix of `SMALL` bytes, and a model has many.
LOOK = 0.05


@cache
def _controller() -> "ThreadpoolController":
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run BLAS on one thread."""
    with _limited(lambda: 1):
        yield


@contextmanager
def threads_for(matrix: NDArray[Any]) -> Iterator[None]:
    """Run products with a matrix [rows, columns] on one BLAS thread or on more, whichever is faster now."""
    if matrix.size < TINY:
        yield
        return
    with _limited(lambda: _chosen(matrix)):
        yield


@contextmanager
def _limited(threads: Callable[[], int]) -> Iterator[None]:
    if not _turn.acquire(blocking=False):
        yield
        return
    try:
        count = threads()
        if count == _pool.limit:
            yield
            return
        with _controller().limit(limits=count, user_api="blas"), _pool.using(count):
            yield
    finally:
        _turn.release()


def _chosen(matrix: NDArray[Any]) -> int:
    # 16-bit types are multiplied as float32.
    size = matrix.size * max(4, matrix.dtype.itemsize)
    threads = 1 if size < SMALL else _pool.free_threads()
    return 1 if threads > 1 and size >= LARGE and _one_is_faster(matrix, threads) else threads


class _Pool:
    """Which threads of BLAS may be spinning since a product of ours.

    Attributes:
        limit: How many we limit BLAS to at this moment; 0 if we don't.
    """

    def __init__(self) -> None:
        self.limit = 0
        self._spinning = 0
        self._until = 0.0
        self._idle = 1
        self._stale = -math.inf

    @contextmanager
    def using(self, threads: int) -> Iterator[None]:
        """Note that BLAS runs so many threads meanwhile, which go on to spin for a while."""
        before, self.limit = self.limit, threads
        if threads > 1:
            self._spinning, self._until = threads - 1, math.inf
        try:
            yield
        finally:
            self.limit = before
            if threads > 1:
                self._until = time.monotonic() + SPIN

    def free_threads(self) -> int:
        """Return how many threads, the calling one included, find an idle processor; at most what BLAS is set to."""
        libraries = (library for library in _controller().lib_controllers if library.user_api == "blas")
        threads = min((library.num_threads for library in libraries), default=1)
        if threads < 2:
            return 1
        now = time.monotonic()
        if now >= self._stale:
            running = _running()
            if running is None:
                return threads
            everything, own = running
            # Our threads that still spin from the last product are the ones that will do the next.
            ours = min(own - 1, self._spinning if now < self._until else 0)
            self._idle, self._stale = (os.cpu_count() or 1) - (everything - 1 - ours), now + LOOK
        return max(1, min(threads, self._idle))


_pool = _Pool()
_turn = threading.RLock()


def _running() -> tuple[int, int] | None:
    """How many threads run on this machine at this moment, and how many of them in this process; None if unknown.

    By Linux's /proc, see proc(5). Both count the calling thread.
    """
    with suppress(OSError, ValueError, IndexError):
        everything = int(_read("/proc/loadavg").split()[3].split(b"/")[0])
        if everything <= 1:
            return 1, 1
        own = 0
        for task in os.listdir("/proc/self/task"):
            with suppress(OSError, IndexError):  # it has ended since
                # The name before the state may hold anything, but its parenthesis is the last.
                own += _read(f"/proc/self/task/{task}/stat").rpartition(b")")[2].split()[0] == b"R"
        return everything, max(1, own)
    return None


def _read(path: str) -> bytes:
    # Half the time of open(), which counts here: a look takes as long as the products of a small matrix.
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 1024)
    finally:
        os.close(file)


def _one_is_faster(matrix: NDArray[Any], threads: int) -> bool:
    operand = BlockedMatrix.of(matrix, np.float64 if matrix.dtype == np.float64 else np.float32)
    if matrix.dtype.itemsize < 4:  # conversions run on one thread, and are made once
        rows = max(1, 2 * LARGE // (operand.dtype.itemsize * operand.shape[1]))
        operand = replace(operand, storage=operand.storage[:rows]).converted()
    product = partial(operand.multiply, np.ones(operand.shape[1]))
    with _limited(lambda: threads):
        product()  # pages are mapped, caches filled
        several = _seconds(product)
    with one_thread():
        return _seconds(product) <= several


def _seconds(product: Callable[[], object]) -> float:
    begin = time.perf_counter()
    product()
    return time.perf_counter() - begin
