"""Progress: a function that is told how much is done of what."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the task, the amount done, and the total."""


def silent(task: str, done: int, total: int) -> None:
    """Report nothing."""
