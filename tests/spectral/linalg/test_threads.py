"""How many BLAS threads a product gets, on a machine of eight processors that is told who else runs there."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from sn_graph.spectral.linalg import threads
from sn_graph.spectral.linalg.threads import threads_for

PROCESSORS = 8


class Blas:
    """Two libraries that remember how many threads they were told to run, beside one that is not a BLAS."""

    def __init__(self, first: int = 8, second: int = 8) -> None:
        self.lib_controllers = [SimpleNamespace(user_api="blas", num_threads=n) for n in (first, second)]
        self.lib_controllers.append(SimpleNamespace(user_api="openmp", num_threads=1))
        self.limits: list[int] = []
        self.now = 0.0

    @contextmanager
    def limit(self, limits: int, user_api: str) -> Iterator[None]:
        assert user_api == "blas"
        self.limits.append(limits)
        yield


@pytest.fixture
def blas(monkeypatch: pytest.MonkeyPatch) -> Blas:
    made = Blas()
    monkeypatch.setattr(threads, "_controller", lambda: made)
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(os, "cpu_count", lambda: PROCESSORS)
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    running(monkeypatch, 1, 1)
    return made


def running(monkeypatch: pytest.MonkeyPatch, everything: int, own: int) -> None:
    monkeypatch.setattr(threads, "_running", lambda: (everything, own))


def chosen(blas: Blas, size: int = 1000) -> int:
    blas.limits.clear()
    with threads_for(np.zeros((size, 1000), np.float32)):
        return blas.limits[-1]


def test_small_matrices_get_one(blas: Blas) -> None:
    assert chosen(blas, 100) == 1
    blas.limits.clear()
    with threads_for(np.zeros((63, 65))):
        assert not blas.limits
    with threads_for(np.zeros((64, 64))):
        assert blas.limits == [1]


@pytest.mark.parametrize(("others", "expected"), [(0, 8), (1, 7), (6, 2), (7, 1), (8, 1), (40, 1)])
def test_idle_processors(blas: Blas, monkeypatch: pytest.MonkeyPatch, others: int, expected: int) -> None:
    running(monkeypatch, 1 + others, 1)
    assert chosen(blas) == expected


def test_never_more_than_were_set(blas: Blas) -> None:
    blas.lib_controllers[1].num_threads = 3
    assert chosen(blas) == 3
    blas.lib_controllers[0].num_threads = 1
    assert chosen(blas) == 1


def test_what_spins_after_a_product_of_ours_is_free(blas: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    def after(seconds: float, everything: int, own: int) -> int:
        blas.now += seconds
        running(monkeypatch, everything, own)
        return chosen(blas)

    assert after(0.0, 8, 8) == 1, "seven threads of this process that no product of ours has left"
    assert after(0.1, 1, 1) == 8
    assert after(0.1, 8, 8) == 8
    assert after(0.1, 10, 8) == 6
    assert after(1.0, 8, 8) == 1


def test_a_look_holds_for_a_moment(blas: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(blas) == 8
    running(monkeypatch, 4, 1)
    blas.now += 0.04
    assert chosen(blas) == 8
    blas.lib_controllers[0].num_threads = 2
    assert chosen(blas) == 2, "what BLAS is set to counts at once"
    blas.lib_controllers[0].num_threads = 8
    blas.now += 0.02
    assert chosen(blas) == 5


def test_a_system_that_does_not_tell(blas: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_running", lambda: None)
    assert chosen(blas) == 8


@pytest.mark.parametrize("faster", [False, True])
def test_a_trial_for_large_matrices(blas: Blas, monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    seconds = iter([2.0, 1.0] if faster else [1.0, 2.0])
    monkeypatch.setattr(threads, "_seconds", lambda _: next(seconds))
    assert chosen(blas, 5000) == (1 if faster else 8)


def test_a_product_within_a_product(blas: Blas, monkeypatch: pytest.MonkeyPatch) -> None:
    with threads_for(np.zeros((1000, 1000), np.float32)):
        running(monkeypatch, 8, 8)
        blas.now += 0.1
        with threads_for(np.zeros((1000, 1000), np.float32)):
            assert blas.limits == [8], "the threads that spin are ours, so all are free, and BLAS has them already"
        assert chosen(blas, 100) == 1
    assert chosen(blas) == 8


def test_one_caller_sets_the_number(blas: Blas) -> None:
    def other() -> None:
        with threads_for(np.zeros((1000, 1000), np.float32)):
            pass

    with threads_for(np.zeros((1000, 1000), np.float32)):
        assert blas.limits == [8]
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert blas.limits == [8]
    assert chosen(blas) == 8


def test_16_bit_matrices_count_as_float32(blas: Blas) -> None:
    with threads_for(np.zeros((1000, 1000), np.float16)):
        assert blas.limits == [8]


def test_an_idle_machine_needs_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_read", {"/proc/loadavg": b"0.00 0.01 0.05 1/77 123\n"}.__getitem__)
    assert threads._running() == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_threads_that_wait_do_not_run() -> None:
    over = threading.Event()
    waiting = [threading.Thread(target=over.wait) for _ in range(5)]
    for thread in waiting:
        thread.start()
    try:
        time.sleep(0.05)
        found = threads._running()
        assert found is not None
        assert 1 <= found[1] <= len(os.listdir("/proc/self/task")) - len(waiting)
    finally:
        over.set()
        for thread in waiting:
            thread.join()
