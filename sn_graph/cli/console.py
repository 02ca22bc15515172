"""Console: data to stdout, logs and progress to stderr."""

import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sn_graph.errors import printable, shortened
from sn_graph.progress import Progress, silent

STDIN, STDOUT = "<stdin>", "<stdout>"
_PATIENCE = 1.0  # seconds of work before a progress bar appears


@dataclass(frozen=True)
class Settings:
    """How much is said, and the answer as data.

    Attributes:
        verbose, quiet, debug: What the flags of these names say.
        json: Whether the answer is printed as data, and not as a table.
        answer: What is known so far.
        urls: What files are called that are at hand as copies, by the copies' paths.
    """

    verbose: bool = False
    quiet: bool = False
    debug: bool = False
    json: bool = False
    answer: dict[str, Any] = field(default_factory=dict, compare=False)
    urls: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def writes_to_stdout(self) -> bool:
        """Whether a file goes to stdout, and so no table."""
        return STDOUT in self.urls.values()

    def merged(self, verbose: bool, quiet: bool, debug: bool, json: bool) -> "Settings":
        """Return these settings with those given behind the command."""
        return Settings(self.verbose or verbose, self.quiet or quiet, self.debug or debug, json)

    def tell(self, **known: Any) -> None:
        """Add to the object that `--json` prints when the command ends, however it ends."""
        self.answer.update(known)

    def say(self, message: str) -> None:
        """Print a line to stderr, unless --quiet."""
        if not self.quiet:
            _to_stderr(self.named(message))

    def named(self, told: Any) -> Any:
        """Return a text, or data with texts in them, in which copies are called by their URLs."""
        if not self.urls:
            return told
        if isinstance(told, str):
            for path, url in self.urls.items():
                told = told.replace(path, url)
            return told
        if isinstance(told, dict):
            return {key: self.named(value) for key, value in told.items()}
        return [self.named(value) for value in told] if isinstance(told, list | tuple) else told

    def explain(self, message: str) -> None:
        """Print a line to stderr under --verbose."""
        if self.verbose:
            self.say(message)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Give a Progress that draws a bar on a terminal once the work takes over a second."""
        if self.quiet or not sys.stderr.isatty():
            yield silent
            return
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress as Bar
        from rich.progress import TaskID

        bar = Bar(console=Console(stderr=True), transient=True)
        tasks: dict[str, TaskID] = {}

        def advance(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bar.add_task(escape(printable(task)))
            bar.update(tasks[task], completed=done, total=total)

        patience = threading.Timer(_PATIENCE, bar.start)  # one long step would else keep the bar from showing
        patience.start()
        try:
            yield advance
        finally:
            patience.cancel()
            patience.join()
            bar.stop()


def say_error(message: str) -> None:
    """Print an error in one line to stderr."""
    _to_stderr(f"sn-graph: error: {message}")


def _to_stderr(line: str) -> None:
    """Print a line to stderr; where that is full or closed nobody can be told, and the work goes on."""
    if sys.stderr is not None:  # or print would take stdout
        with contextlib.suppress(OSError, ValueError):
            print(shortened(printable(line)), file=sys.stderr, flush=True)


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object to stdout."""
    _emit(json.dumps(content, indent=1, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Print a text of our own to stdout."""
    _emit(f"{text.rstrip()}\n")


def _emit(text: str) -> None:
    """Write to stdout; that its reader has gone (`| head`) does not change how the command ends."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        if not isinstance(error, BrokenPipeError):
            raise


def on_terminal() -> bool:
    """Say whether a person reads stdout."""
    return sys.stdout.isatty()


def number(value: float | None) -> str:
    """Return a number as tables show it."""
    return "" if value is None else f"{value:.6g}"
