"""Progress: a callable that is told how much is done of what, and the two libraries whose bars fit it."""

from typing import Any, Protocol


class Progress(Protocol):
    """What every long function calls with the name of the task, the amount done, and the total."""

    def __call__(self, task: str, done: int, total: int, /) -> None:
        """Tell how far a task is."""


def silent(task: str, done: int, total: int) -> None:
    """Report nothing."""


class TqdmBar(Protocol):
    """What `on_tqdm` needs of a `tqdm.tqdm`."""

    n: Any
    total: Any

    def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Name the task."""

    def refresh(self) -> Any:
        """Draw the bar."""


class RichBar(Protocol):
    """What `on_rich` needs of a `rich.progress.Progress`."""

    def add_task(self, description: str) -> Any:
        """Add a bar."""

    def update(self, task_id: Any, *, total: float | None = None, completed: float | None = None) -> None:
        """Move a bar."""


def on_tqdm(bar: TqdmBar) -> Progress:
    """Return the progress that a bar of tqdm shows, one task after the other.

    >>> import sys, tqdm, sn_graph as sn
    >>> with tqdm.tqdm(file=sys.stdout, disable=True) as bar:
    ...     result = sn.fold("models/keras_dcgan_discriminator.onnx", progress=sn.on_tqdm(bar))
    """

    def tell(task: str, done: int, total: int, /) -> None:
        bar.set_description(task, refresh=False)
        bar.total, bar.n = total, done
        bar.refresh()

    return tell


def on_rich(bars: RichBar) -> Progress:
    """Return the progress that a `rich.progress.Progress` shows, a bar a task.

    >>> import rich.progress, sn_graph as sn
    >>> with rich.progress.Progress(disable=True) as bars:
    ...     result = sn.fold("models/keras_dcgan_discriminator.onnx", progress=sn.on_rich(bars))
    >>> bars.finished
    True
    """
    tasks: dict[str, Any] = {}

    def tell(task: str, done: int, total: int, /) -> None:
        if task not in tasks:
            tasks[task] = bars.add_task(task)
        bars.update(tasks[task], total=total, completed=done)

    return tell
