"""Dask: tasks done by the workers of a cluster, which see the same files, or reach the same stores.

The scheduler gives what a worker had in hand when it died to another; each result is taken once, by the client, which
alone writes the lines.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sn_graph.errors import EnvironmentUnavailable
from sn_graph.fleet.task import Ending, Result, Task, error_of, line_of, perform

if TYPE_CHECKING:
    from distributed import Client, Future

_PATIENCE = "20s"  # for the scheduler to answer
_RETRIES = 2  # of a task that raises what `perform` doesn't: a worker's own failure


class DaskWorkers:
    """The workers of a Dask scheduler.

    Args:
        address: That of the scheduler, as in tcp://host:8786.

    Raises:
        EnvironmentUnavailable: distributed is not installed, or the scheduler can't be reached.
    """

    def __init__(self, address: str) -> None:
        self._client = _connected(address)
        self._futures: dict[Future, Task] = {}
        self._given: list[Task] = []

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._given.append(replace(task, base=os.getcwd()))

    def results(self) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result as it is done; more may be given meanwhile."""
        from distributed import as_completed

        with self._client.as_current():
            coming = as_completed(self._mapped())
        for future in coming:
            task = self._futures.pop(future)
            yield task, _result(task, future)
            future.release()
            if self._given:
                coming.update(self._mapped())

    def close(self) -> None:
        """Give up what is not done, and leave the cluster as it was."""
        self._client.cancel(list(self._futures))
        self._client.close()

    def _mapped(self) -> "Sequence[Future]":
        """Hand the tasks given so far to the scheduler, the largest first."""
        tasks = sorted(self._given, key=lambda task: -task.size)
        self._given.clear()
        futures = self._client.map(_perform, tasks, pure=False, retries=_RETRIES, priority=0)
        self._futures |= dict(zip(futures, tasks, strict=True))
        return list(futures)


def _connected(address: str) -> "Client":
    try:
        from distributed import Client
    except ImportError:
        raise EnvironmentUnavailable(
            "no Dask cluster can be used", "because the package distributed is missing", "pip install 'sn-graph[dask]'"
        ) from None
    try:
        return Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        why = " ".join(str(error).split())[:300]
        raise EnvironmentUnavailable(
            f"the Dask scheduler {address} can't be reached", why, "look at its address"
        ) from None


def _result(task: Task, future: "Future") -> Result:
    try:
        result: Result = future.result()
    except Exception as error:  # a worker that died with it again and again, or that can't import sn-graph
        told: dict[str, Any] = error_of(
            EnvironmentUnavailable(
                "no worker of the cluster could do it", " ".join(str(error).split())[:300], "look at the workers' logs"
            )
        )
        ending = Ending({}, told)
        return ending if task.part is not None else line_of(task, None, ending, 0.0)
    return result


def _perform(task: Task) -> Result:
    """Do a task on a worker, with BLAS on one thread: workers have as many threads as they are given processors."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return perform(task, divide=True)
