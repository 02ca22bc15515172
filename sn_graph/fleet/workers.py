"""Workers: processes of this machine that do tasks, each with BLAS on one thread.

Each has a pipe of its own, so that of one that dies it is known what it did: that task is done once more by another,
and reported if that dies as well; nobody else notices. They end when this process does, however it ends.
"""

import contextlib
import heapq
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from sn_graph.fleet.task import Ending, Result, Task, line_of, perform

_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_TELLING = 0.2  # seconds between two words on progress
_PATIENCE = 5.0  # seconds for a worker to tidy up
_TRIES = 2
_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    task: Task | None = None


@dataclass(order=True)
class _Waiting:
    rank: tuple[int, int]
    task: Task = field(compare=False)
    tries: int = field(compare=False, default=0)


class Workers:
    """A number of processes that do tasks, the largest first.

    Args:
        count: How many there are at most.
        progress: Told of a task how many of its bytes are done, from 0 to 1.
    """

    def __init__(self, count: int, progress: Callable[[Task, float], None]) -> None:
        self._count = count
        self._progress = progress
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._waiting: list[_Waiting] = []
        self._running: dict[int, _Waiting] = {}
        self._given = 0

    def submit(self, task: Task) -> None:
        """Take a task, to be done when its turn comes."""
        heapq.heappush(self._waiting, _Waiting((-task.size, self._given), task))
        self._given += 1

    def results(self) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result as it is done; more may be given meanwhile."""
        while self._waiting or self._running:
            self._hand_out()
            yield from self._heard()

    def close(self) -> None:
        """End the processes, whatever they do."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.process.is_alive():
                worker.process.terminate()
        until = time.monotonic() + _PATIENCE
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def _hand_out(self) -> None:
        while self._waiting:
            worker = next((each for each in self._workers if each.task is None), None)
            if worker is None:
                if len(self._workers) >= self._count:
                    return
                worker = self._started()
            waiting = heapq.heappop(self._waiting)
            worker.task = waiting.task
            self._running[id(worker)] = waiting
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died: its sentinel tells
                worker.pipe.send((waiting.task, self._count > 1))

    def _started(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=serve, args=(there,), daemon=True)
        with _environment(dict.fromkeys(_BLAS, "1")):
            process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def _heard(self) -> Iterator[tuple[Task, Result]]:
        busy = {each.pipe: each for each in self._workers}
        ends = {each.process.sentinel: each for each in self._workers}
        for ready in wait([*busy, *ends]):
            worker = busy.get(ready) or ends[ready]  # type: ignore[call-overload, index]
            if worker not in self._workers:
                continue
            try:
                while worker.pipe.poll():
                    kind, value = worker.pipe.recv()
                    task = self._running[id(worker)].task
                    if kind == "progress":
                        self._progress(task, value)
                        continue
                    worker.task = None
                    del self._running[id(worker)]
                    yield task, value
            except (EOFError, ConnectionResetError):
                yield from self._died(worker)

    def _died(self, worker: _Worker) -> Iterator[tuple[Task, Result]]:
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        waiting = self._running.pop(id(worker), None)
        if waiting is None:
            return
        waiting.tries += 1
        if waiting.tries < _TRIES:
            heapq.heappush(self._waiting, waiting)
            return
        ending = Ending({}, _explained(worker.process.exitcode or 0))
        task = waiting.task
        yield task, ending if task.part is not None else line_of(task, None, ending, 0.0)


def _explained(code: int) -> dict[str, Any]:
    if -code == getattr(signal, "SIGKILL", 9):
        why, do = "for want of memory perhaps", "run it where there is more, or with fewer --jobs"
    elif -code == getattr(signal, "SIGBUS", 7):
        why, do = "because a file was cut off while it was read", "run it again when nobody writes to it any more"
    else:
        why, do = "in a library that it uses", "try --no-verify, or report it"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
    return {"what": f"the process that worked on it died of {name} twice", "why": why, "do": do, "exit_code": 4}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(pipe: Connection) -> None:
    """Do the tasks that come through a pipe until it is closed: what a worker process is."""
    _bind_to_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # temporary files are removed
    os.dup2(2, 1)  # what a library prints is no data
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task, divide = pipe.recv()
            pipe.send(("done", perform(task, _teller(pipe), divide=divide)))


def _bind_to_parent() -> None:
    """Die when the parent does, in the middle of a file too; on Linux."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _teller(pipe: Connection) -> Callable[[str, int, int], None]:
    told = 0.0

    def tell(task: str, done: int, total: int) -> None:
        nonlocal told
        if task == "measuring" and total and time.monotonic() > told + _TELLING:
            told = time.monotonic()
            pipe.send(("progress", done / total))

    return tell
