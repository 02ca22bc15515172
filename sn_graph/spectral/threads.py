"""One BLAS thread where more cost time.

OpenBLAS's threads wait for their next product by spinning. On a machine that does something else besides, products
then take 2 to 15 times as long with two threads as with one (256×2304: 73 ms against 12; 4096²: 8.1 s against 0.5), and
those with matrices that fit the cache gain a third at best on an idle one. So small matrices get one thread, and large
ones, where memory's bandwidth is what counts, what is faster in a trial.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from sn_graph.spectral.blocks import BlockedMatrix

# Elements of a matrix that OpenBLAS does not give to several threads; to set their number takes 20 µs.
TINY = 1 << 12
# Bytes of the matrix; from there on, three products more are a few per cent of what is to come.
LARGE = 1 << 24


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
    """Run products with a matrix [rows, columns] on one BLAS thread or on all, what is faster."""
    if matrix.size <= TINY:
        yield
    elif matrix.nbytes < LARGE or _one_is_faster(matrix):
        with one_thread():
            yield
    else:
        yield


def _one_is_faster(matrix: NDArray[Any]) -> bool:
    if max((library.num_threads for library in _controller().lib_controllers), default=1) < 2:
        return False
    operand = BlockedMatrix.of(matrix, np.float64 if matrix.dtype == np.float64 else np.float32)
    product = partial(operand.multiply, np.ones(operand.shape[1]))
    product()  # pages are mapped, caches filled
    everything = _seconds(product)
    with one_thread():
        return _seconds(product) <= everything


def _seconds(product: Callable[[], object]) -> float:
    begin = time.perf_counter()
    product()
    return time.perf_counter() - begin
