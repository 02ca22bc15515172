"""Here: tasks done by this process itself, because it alone sees the files: those of `memory://`."""

from collections.abc import Iterator

from sn_graph.fleet.task import Result, Task, perform


class Here:
    """This process as the one that does the tasks, in the order in which they are given."""

    def __init__(self) -> None:
        self._given: list[Task] = []

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._given.append(task)

    def results(self) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result as it is done; more may be given meanwhile."""
        while self._given:
            task = self._given.pop(0)
            yield task, perform(task)

    def close(self) -> None:
        """End nothing: there is no other process."""
