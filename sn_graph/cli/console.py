"""Where output goes: data to stdout, logs and progress to stderr."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sn_graph.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PATIENCE = 1.0  # seconds of work before a progress bar appears
_PLAIN_WIDTH = 100_000  # a pipe has no width: nothing is wrapped or cut


@dataclass(frozen=True)
class Settings:
    """How much is said."""

    verbose: bool = False
    quiet: bool = False
    debug: bool = False

    def merged(self, verbose: bool, quiet: bool, debug: bool) -> "Settings":
        """Return these settings with those given behind the command."""
        return Settings(self.verbose or verbose, self.quiet or quiet, self.debug or debug)

    def say(self, message: str) -> None:
        """Print a line to stderr, unless --quiet."""
        if not self.quiet:
            print(message, file=sys.stderr)

    def explain(self, message: str) -> None:
        """Print a line to stderr under --verbose."""
        if self.verbose:
            self.say(message)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Give a Progress that draws a bar on a terminal once the work takes over a second."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda task, done, total: None
            return
        from rich.console import Console
        from rich.progress import Progress as Bar

        bar = Bar(console=Console(stderr=True), transient=True)
        started = time.monotonic()
        tasks: dict[str, Any] = {}

        def advance(task: str, done: int, total: int) -> None:
            if not tasks and time.monotonic() - started > _PATIENCE:
                bar.start()
            if bar.live.is_started:
                if task not in tasks:
                    tasks[task] = bar.add_task(task)
                bar.update(tasks[task], completed=done, total=total)

        try:
            yield advance
        finally:
            bar.stop()


def say_error(message: str) -> None:
    """Print an error in one line to stderr."""
    print(f"sn-graph: error: {message}", file=sys.stderr)


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object to stdout."""
    print(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def stdout() -> "Console":
    """Return a console on stdout: as wide as the terminal, or unlimited where it is piped."""
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PLAIN_WIDTH)


def new_table(*headings: str) -> "Table":
    """Return a table: with lines on a terminal, plain columns where it is piped. Numbers' headings end in σ."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading.startswith("σ") else "left", overflow="fold")
    return table


def number(value: float | None) -> str:
    """Return a number as tables show it."""
    return "" if value is None else f"{value:.6g}"
