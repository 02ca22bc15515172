"""As many BLAS threads as there are idle processors.

OpenBLAS's threads wait for their next product by spinning, for a tenth of a second. Two threads on a processor that
something else runs on take 2 to 15 times as long as one thread (256×2304: 73 ms against 12; 4096²: 8.1 s against 0.5),
and win a third to a half on idle ones. What spins there may be numpy's own pool: only the BLAS of scipy is used here.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from sn_graph.spectral.blocks import BlockedMatrix

# Elements of a matrix that OpenBLAS does not give to several threads; to set their number takes 20 µs.
TINY = 1 << 12
# Bytes up to which one thread is best: to look for idle processors takes 50 µs, and what there is to win is no more.
SMALL = 1 << 21
# Bytes from which three products more are a few per cent of what is to come. A trial knows what a look doesn't: a
# quota on a container, or processors that are two halves of one.
LARGE = 1 << 24
# Seconds in which threads once used may still spin.
SPIN = 0.2


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run BLAS on one thread."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


@contextmanager
def threads_for(matrix: NDArray[Any]) -> Iterator[None]:
    """Run products with a matrix [rows, columns] on one BLAS thread or on more, what is faster now."""
    if matrix.size <= TINY:
        yield
        return
    threads = 1 if matrix.nbytes < SMALL else _pool.free_threads()
    if threads > 1 and matrix.nbytes >= LARGE and _one_is_faster(matrix, threads):
        threads = 1
    with _controller().limit(limits=threads, user_api="blas"):
        try:
            yield
        finally:
            _pool.used(threads)


class _Pool:
    """What is known of the threads of BLAS: how many there are at most, and which of them may be spinning."""

    def __init__(self) -> None:
        self._spinning = 0
        self._until = 0.0

    def used(self, threads: int) -> None:
        if threads > 1:
            self._spinning, self._until = threads - 1, time.monotonic() + SPIN

    def free_threads(self) -> int:
        """How many threads find an idle processor, the calling one's included; never more than BLAS is set to."""
        threads = min((library.num_threads for library in _controller().lib_controllers), default=1)
        if threads < 2:
            return 1
        running = _running()
        if running is None:
            return threads
        everything, own = running
        # Threads of ours that still spin from the last product are the ones that will do the next.
        ours = min(own - 1, self._spinning if time.monotonic() < self._until else 0)
        return max(1, min(threads, (os.cpu_count() or 1) - (everything - 1 - ours)))


_pool = _Pool()


def _running() -> tuple[int, int] | None:
    """How many threads run on this machine at this moment, and how many of them in this process; None if unknown.

    From Linux's /proc, see proc(5). Both count the calling thread.
    """
    with suppress(OSError, ValueError, IndexError):
        everything = int(Path("/proc/loadavg").read_bytes().split()[3].split(b"/")[0])
        own = 0
        for task in os.scandir("/proc/self/task"):
            with suppress(OSError):  # it has ended since
                # The name before the state may hold anything, but its parenthesis is the last.
                own += Path(task.path, "stat").read_bytes().rpartition(b")")[2].split()[0] == b"R"
        return max(1, everything), max(1, own)
    return None


def _one_is_faster(matrix: NDArray[Any], threads: int) -> bool:
    operand = BlockedMatrix.of(matrix, np.float64 if matrix.dtype == np.float64 else np.float32)
    product = partial(operand.multiply, np.ones(operand.shape[1]))
    with _controller().limit(limits=threads, user_api="blas"):
        product()  # pages are mapped, caches filled
        several = _seconds(product)
    with one_thread():
        return _seconds(product) <= several


def _seconds(product: Callable[[], object]) -> float:
    begin = time.perf_counter()
    product()
    return time.perf_counter() - begin
